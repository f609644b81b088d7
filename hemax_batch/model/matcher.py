"""Hungarian matching of queries to labelled cells (Carion et al. 2020), with partial labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .hemax import BOX_UNIT_PX

CLASS_COST, L1_COST, GIOU_COST = 1.0, 5.0, 2.0  # DETR's, as in the paper's code


@dataclass
class Targets:
    """What is known of one patch's N cells; unknown is a value, never a class.

    boxes_cxcywh  float [N, 4], pixels
    box_weight    float [N], 0 where the box is only nominal (centre known, extent not)
    allowed       bool [N, K], the classes that the label allows (all True = any)
    attributes    int64 [N, attributes], the state's index, -1 where unknown
    masks         uint8 [N, H/2, W/2]: 0 outside, 1 cytoplasm, 2 nucleus
    mask_weight   float [N], 0 where there is no mask
    ignore        bool [H/8, W/8], where an unlabelled cell may lie
    """

    boxes_cxcywh: Tensor
    box_weight: Tensor
    allowed: Tensor
    attributes: Tensor
    masks: Tensor
    mask_weight: Tensor
    ignore: Tensor

    def to(self, device) -> Targets:
        """The same on another device."""
        return Targets(*(v.to(device) for v in vars(self).values()))


def to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """[..., 4] centre and size to corners."""
    half = boxes_cxcywh[..., 2:] / 2
    return torch.cat([boxes_cxcywh[..., :2] - half, boxes_cxcywh[..., :2] + half], -1)


def generalised_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """GIoU (Rezatofighi 2019) of broadcastable boxes [..., 4] -> [...]; 1 for equal boxes, down to -1."""
    inter = (torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])).clamp(
        min=0
    )
    hull = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    area_a, area_b = ((b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (a_xyxy, b_xyxy))
    inter, hull = inter.prod(-1), hull.clamp(min=1e-6).prod(-1)
    union = (area_a + area_b - inter).clamp(min=1e-6)
    return inter / union - (hull - union) / hull


@torch.no_grad()
def match(class_logits: Tensor, boxes_cxcywh: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one assignment for one patch.

    class_logits [Q, K + 1], boxes_cxcywh [Q, 4] in pixels, N targets. Returns query indices and target indices, both
    int64 [min(Q, N)]. A partial label costs the probability of all the classes that it allows together.
    """
    allowed_prob = class_logits.softmax(-1)[:, :-1] @ targets.allowed.float().T  # [Q, N]
    l1 = torch.cdist(boxes_cxcywh, targets.boxes_cxcywh, p=1) / BOX_UNIT_PX
    giou = generalised_iou(to_xyxy(boxes_cxcywh)[:, None], to_xyxy(targets.boxes_cxcywh)[None])
    cost = (-CLASS_COST * allowed_prob + L1_COST * l1 - GIOU_COST * giou).float().cpu()
    rows, columns = linear_sum_assignment(cost.numpy())
    device = class_logits.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)
