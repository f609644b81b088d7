"""Hungarian matching of queries to labelled cells (Carion et al. 2020), with partial labels, a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .hemax import BOX_UNIT_PX

CLASS_COST, L1_COST, GIOU_COST = 1.0, 5.0, 2.0  # DETR's, as in the paper's code
WORST_COST = 1e6  # stands for a cost that is not a number, so that an assignment always exists


@dataclass
class Targets:
    """What is known of B patches of H x W px, each padded to N >= 1 cells; unknown is a value, never a class.

    present       bool [B, N], which rows are cells; the rest is padding
    boxes_cxcywh  float [B, N, 4], pixels
    box_weight    float [B, N], 0 where the box is only nominal (centre known, extent not)
    allowed       bool [B, N, K], the classes that the label allows (all True = any)
    attributes    int64 [B, N, attributes], the state's index, -1 where unknown
    nc_class      int64 [B, N], nuclear:cytoplasmic ratio as people judged it: 0 low, 1 high, -1 unknown
    labels        uint8 [B, H/2, W/2], all the patch's cells on one map: 0 outside, 1 cytoplasm, 2 nucleus
    mask_weight   float [B, N], 0 where a cell has no mask
    ignore        bool [B, H/8, W/8], where an unlabelled cell may lie

    What padding rows say is never read: a batch padded further has the same losses.
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

    def to(self, device) -> Targets:
        """The same on another device; from pinned memory the host does not wait for it."""
        return Targets(*(v.to(device, non_blocking=True) for v in vars(self).values()))

    def masks(self) -> Tensor:
        """Each cell's own mask, uint8 [B, N, H/2, W/2]: the labels in its box, 1 px wider low and 2 px high.

        Position i stands for pixel 2 i + 1. A box over x 10..20 so reaches pixels 9..21, which are positions 4..10.
        A cell without a mask has an empty one.
        """
        # corners made from centre and size lie a rounding below the whole pixel that they were
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
    """[..., 4] centre and size to corners."""
    half = boxes_cxcywh[..., 2:] / 2
    return torch.cat([boxes_cxcywh[..., :2] - half, boxes_cxcywh[..., :2] + half], -1)


def generalised_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """GIoU (Rezatofighi 2019) of broadcastable boxes [..., 4] -> [...]; 1 for equal boxes, down to -1."""
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
    """The cheapest one-to-one assignment of each layer and patch.

    class_logits [L, B, Q, K + 1], boxes_cxcywh [L, B, Q, 4] in pixels, targets of B patches padded to N. Returns each
    cell's query, int64 [L, B, N]; -1 in padding, and where there are more cells than queries: of n cells, min(Q, n)
    have one. A partial label costs the probability of all the classes that it allows together.

    The costs of all layers and patches travel to the host at once, the one time in a step that it waits for the device.
    """
    cost = _costs(class_logits.float(), boxes_cxcywh.float(), targets).nan_to_num(
        WORST_COST, WORST_COST, -WORST_COST
    )
    cost = (
        cost.masked_fill(~targets.present[:, None], torch.inf).cpu().numpy()
    )  # infinite only in padding
    query = np.full((*cost.shape[:2], cost.shape[3]), -1)
    for b, present in enumerate(np.isfinite(cost[0, :, 0])):
        cells = np.flatnonzero(present)
        for layer in range(len(cost)):
            rows, columns = linear_sum_assignment(cost[layer, b][:, cells])
            query[layer, b, cells[columns]] = rows
    return torch.from_numpy(query).to(class_logits.device, non_blocking=True)


def _costs(class_logits: Tensor, boxes_cxcywh: Tensor, targets: Targets) -> Tensor:
    """What it costs to give each query to each cell: [L, B, Q, K + 1], [L, B, Q, 4] -> [L, B, Q, N]."""
    predicted, labelled = boxes_cxcywh[:, :, :, None], targets.boxes_cxcywh[:, None]
    # a product and a sum, as a matrix product would be rounded under autocast
    allowed_prob = (class_logits.softmax(-1)[:, :, :, None, :-1] * targets.allowed[:, None]).sum(-1)
    l1 = (predicted - labelled).abs().sum(-1) / BOX_UNIT_PX
    return (
        -CLASS_COST * allowed_prob
        + L1_COST * l1
        - GIOU_COST * generalised_iou(to_xyxy(predicted), to_xyxy(labelled))
    )
