"""Hungarian matching of queries to labelled cells (Carion et al. 2020) with partial labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .hemax import BOX_UNIT_PX

#: DETR's weights, as in the code of the HemaX paper.
CLASS_COST, L1_COST, GIOU_COST = 1.0, 5.0, 2.0
#: Replaces a cost that is not a number, so an assignment always exists.
WORST_COST = 1e6


@dataclass
class Targets:
    """Labels of B patches of H x W px, each padded to N >= 1 cells.

    Padding rows are never read: a batch with more padding has the same losses.

    Attributes
    ----------
    present : Tensor of bool [B, N]
        Which rows are cells. The rest is padding.
    boxes_cxcywh : Tensor [B, N, 4]
        Boxes in pixels.
    box_weight : Tensor [B, N]
        0 where only the cell's centre is known and the box is nominal.
    allowed : Tensor of bool [B, N, K]
        Classes that the label allows; all True means any class.
    attributes : Tensor of int64 [B, N, attributes]
        Index of the state, -1 where unknown.
    nc_class : Tensor of int64 [B, N]
        Nuclear:cytoplasmic ratio as experts judged it: 0 low, 1 high, -1 unknown.
    labels : Tensor of uint8 [B, H/2, W/2]
        One map of all cells in the patch: 0 outside, 1 cytoplasm, 2 nucleus.
    mask_weight : Tensor [B, N]
        0 where a cell has no mask.
    ignore : Tensor of bool [B, H/8, W/8]
        Where an unlabelled cell may lie.
    """

    present: Tensor
    boxes_cxcywh: Tensor
    box_weight: Tensor
    allowed: Tensor
    attributes: Tensor
    nc_class: Tensor
    labels: Tensor
    mask_weight: Tensor
    ignore: Tensor

    def to(self, device: torch.device | str) -> Targets:
        """Copy to another device; from pinned memory the host does not wait."""
        return Targets(*(v.to(device, non_blocking=True) for v in vars(self).values()))

    def masks(self) -> Tensor:
        """Cut each cell's own mask from the labels: uint8 [B, N, H/2, W/2].

        The box is enlarged by 1 px at its lower and 2 px at its upper bounds. Position i stands for
        pixel 2 i + 1. A box over x 10..20 then reaches pixels 9..21, which are positions 4..10. A
        cell without a mask has an empty one.
        """
        # Rounding puts corners made from centre and size just below the original whole pixel.
        corners = to_xyxy(self.boxes_cxcywh) + 1e-3
        low, high = (corners[..., :2] - 1).floor(), (corners[..., 2:] + 2).floor()
        inside = []
        for axis, size in enumerate(self.labels.shape[:0:-1]):  # x, then y
            at = 2 * torch.arange(size, device=low.device) + 1
            inside.append((at >= low[..., axis, None]) & (at < high[..., axis, None]))
        has = self.present & (self.mask_weight > 0)
        return self.labels[:, None] * (
            inside[1][..., None] & inside[0][..., None, :] & has[..., None, None]
        )


def to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Convert boxes [..., 4] from centre and size to corners."""
    half = boxes_cxcywh[..., 2:] / 2
    return torch.cat([boxes_cxcywh[..., :2] - half, boxes_cxcywh[..., :2] + half], -1)


def generalised_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Compute the generalised IoU (Rezatofighi et al. 2019) of broadcastable boxes [..., 4].

    The result [...] is 1 for equal boxes and falls to -1.
    """
    inter = (
        torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
        - torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    ).clamp(min=0)
    hull = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.minimum(
        a_xyxy[..., :2], b_xyxy[..., :2]
    )
    area_a, area_b = ((b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (a_xyxy, b_xyxy))
    inter, hull = inter.prod(-1), hull.clamp(min=1e-6).prod(-1)
    union = (area_a + area_b - inter).clamp(min=1e-6)
    return inter / union - (hull - union) / hull


@torch.no_grad()
def match(class_logits: Tensor, boxes_cxcywh: Tensor, targets: Targets) -> Tensor:
    """Assign queries to cells one to one at the lowest cost, for each decoder layer and patch.

    A partial label costs the summed probability of all classes that it allows. The costs of all
    layers and patches are copied to the host at once: this is the only synchronisation in a
    training step.

    Parameters
    ----------
    class_logits : Tensor [L, B, Q, K + 1]
    boxes_cxcywh : Tensor [L, B, Q, 4]
        Boxes in pixels.
    targets : Targets
        Labels of B patches padded to N cells.

    Returns
    -------
    Tensor of int64 [L, B, N]
        Query of each cell. It is -1 in padding, and where a patch has more cells than queries: of
        n cells, min(Q, n) have a query.
    """
    finite = _costs(class_logits.float(), boxes_cxcywh.float(), targets).nan_to_num(
        WORST_COST, WORST_COST, -WORST_COST
    )
    # Only padding is infinite.
    cost = finite.masked_fill(~targets.present[:, None], torch.inf).cpu().numpy()
    query = np.full((*cost.shape[:2], cost.shape[3]), -1)
    for b, present in enumerate(np.isfinite(cost[0, :, 0])):
        cells = np.flatnonzero(present)
        for layer in range(len(cost)):
            rows, columns = linear_sum_assignment(cost[layer, b][:, cells])
            query[layer, b, cells[columns]] = rows
    return torch.from_numpy(query).to(class_logits.device, non_blocking=True)


def _costs(class_logits: Tensor, boxes_cxcywh: Tensor, targets: Targets) -> Tensor:
    """Compute the cost of each pair of query and cell: [L, B, Q, N]."""
    predicted, labelled = boxes_cxcywh[:, :, :, None], targets.boxes_cxcywh[:, None]
    # Autocast would round a matrix product, so this is a product and a sum.
    allowed_prob = (class_logits.softmax(-1)[:, :, :, None, :-1] * targets.allowed[:, None]).sum(-1)
    l1 = (predicted - labelled).abs().sum(-1) / BOX_UNIT_PX
    return (
        -CLASS_COST * allowed_prob
        + L1_COST * l1
        - GIOU_COST * generalised_iou(to_xyxy(predicted), to_xyxy(labelled))
    )
