"""The criterion and the matcher patch by patch and layer by layer, in plain loops: what the batched ones are held to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from hemax_batch.model.hemax import BOX_UNIT_PX, HemaXOutput
from hemax_batch.model.losses import (
    ATTRIBUTE_SMOOTHING,
    LABEL_SMOOTHING,
    LOSS_WEIGHTS,
    NC_MARGIN,
    NC_THRESHOLD,
    NO_CELL_WEIGHT,
    soft_class_targets,
)
from hemax_batch.model.matcher import (
    CLASS_COST,
    GIOU_COST,
    L1_COST,
    Targets,
    generalised_iou,
    to_xyxy,
)
from hemax_batch.vocabulary import attribute_slices


@dataclass
class Patch:
    """What is known of one patch's N cells.

    boxes_cxcywh float [N, 4], box_weight float [N], allowed bool [N, K], attributes int64 [N, n], nc_class int64 [N],
    masks uint8 [N, H/2, W/2], mask_weight float [N], ignore bool [H/8, W/8]
    """

    boxes_cxcywh: Tensor
    box_weight: Tensor
    allowed: Tensor
    attributes: Tensor
    nc_class: Tensor
    masks: Tensor
    mask_weight: Tensor
    ignore: Tensor


def patches_of(targets: Targets) -> list[Patch]:
    """A padded batch's patches, each with its own cells only and their masks cut as the sampler cut them."""
    patches = []
    for b, present in enumerate(targets.present):
        rows = present.nonzero()[:, 0].tolist()
        labels = targets.labels[b].numpy()
        masks = np.zeros((len(rows), *labels.shape), np.uint8)
        for i, row in enumerate(rows):
            if targets.mask_weight[b, row] > 0:
                full = labels.repeat(2, 0).repeat(2, 1)
                x0, y0, x1, y1 = to_xyxy(targets.boxes_cxcywh[b, row]).numpy() + [-1, -1, 2, 2]
                x0, x1 = np.clip([x0, x1], 0, full.shape[1]).astype(int)
                y0, y1 = np.clip([y0, y1], 0, full.shape[0]).astype(int)
                own = np.zeros_like(full)
                own[y0:y1, x0:x1] = full[y0:y1, x0:x1]
                masks[i] = own[1::2, 1::2]
        known = (
            targets.boxes_cxcywh,
            targets.box_weight,
            targets.allowed,
            targets.attributes,
            targets.nc_class,
        )
        of_cells = (v[b, rows] for v in known)
        patches.append(
            Patch(
                *of_cells, torch.from_numpy(masks), targets.mask_weight[b, rows], targets.ignore[b]
            )
        )
    return patches


def match(class_logits: Tensor, boxes_cxcywh: Tensor, targets: Patch) -> tuple[Tensor, Tensor]:
    """Query and cell indices, both int64 [min(Q, N)], of one layer and patch: logits [Q, K + 1], boxes [Q, 4]."""
    allowed_prob = class_logits.softmax(-1)[:, :-1] @ targets.allowed.float().T
    l1 = torch.cdist(boxes_cxcywh, targets.boxes_cxcywh, p=1) / BOX_UNIT_PX
    giou = generalised_iou(to_xyxy(boxes_cxcywh)[:, None], to_xyxy(targets.boxes_cxcywh)[None])
    cost = -CLASS_COST * allowed_prob + L1_COST * l1 - GIOU_COST * giou
    rows, columns = linear_sum_assignment(cost.detach().numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def partial_cross_entropy(logits: Tensor, allowed: Tensor) -> Tensor:
    """-log of the summed probability of what is allowed: logits [N, C], allowed bool [N, C] -> [N].

    With one allowed class this is cross-entropy; a little smoothing keeps it from pushing logits to infinity.
    """
    log_p = logits.log_softmax(-1)
    exact = -torch.logsumexp(log_p.masked_fill(~allowed, -1e4), -1)
    soft_targets = soft_class_targets()
    if logits.shape[-1] == len(soft_targets):
        for row in range(len(logits)):
            if allowed[row].sum() == 1:
                exact[row] = -(soft_targets[int(allowed[row].nonzero())] * log_p[row]).sum()
    smoothing = LABEL_SMOOTHING * (allowed.sum(-1) == 1)
    return (1 - smoothing) * exact - smoothing * log_p.mean(-1)


def soft_dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice of soft masks [N, h, w] -> [N]."""
    p = logits.sigmoid().flatten(1)
    t = truth.flatten(1)
    return 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)


def projection_loss(cell_logits: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """How far the cell mask's shadows on the two axes are from the box's: [N, h, w] at stride 4, [N, 4] px -> [N]."""
    h, w = cell_logits.shape[1:]
    box = (to_xyxy(boxes_cxcywh) - 0.5) / 4  # where the masks say what lies on the odd pixels
    shadows = []
    for axis, size, low, high in ((1, w, box[:, 0], box[:, 2]), (2, h, box[:, 1], box[:, 3])):
        at = torch.arange(size, device=box.device)
        covered = (torch.minimum(at + 1, high[:, None]) - torch.maximum(at, low[:, None])).clamp(
            0, 1
        )
        p = cell_logits.amax(axis).sigmoid()
        shadows.append(
            1 - (2 * (p * covered).sum(1) + 1) / (p.square().sum(1) + covered.square().sum(1) + 1)
        )
    return shadows[0] + shadows[1]


def heat_target(targets: Patch, h: int, w: int) -> Tensor:
    """Gaussians [h, w] (stride 8) at the cells' centres, exactly 1 in the centre's own position (CenterNet)."""
    boxes = targets.boxes_cxcywh
    heat = torch.zeros(h, w, device=boxes.device)
    if len(boxes) == 0:
        return heat
    ys = torch.arange(h, device=boxes.device)[:, None]
    xs = torch.arange(w, device=boxes.device)[None]
    for cx, cy, bw, bh in (boxes / 8).tolist():
        ix, iy = min(max(int(cx), 0), w - 1), min(max(int(cy), 0), h - 1)
        sigma = max((bw + bh) / 2 / 9, 0.6)
        heat = torch.maximum(heat, torch.exp(-((xs - ix) ** 2 + (ys - iy) ** 2) / (2 * sigma**2)))
    return heat


def heat_loss(logits: Tensor, truth: Tensor, ignore: Tensor) -> Tensor:
    """Focal loss of one heat map [h, w] (Law & Deng 2018: alpha 2, beta 4), over the number of cells."""
    logits = logits.float()
    p = logits.sigmoid()
    centre = truth >= 0.999
    positive = -(1 - p).square() * F.logsigmoid(logits) * centre
    negative = (
        -p.square()
        * F.logsigmoid(-logits)
        * (1 - truth) ** 4
        * (~centre & ~(ignore & (truth < 0.3)))
    )
    return (positive.sum() + negative.sum()) / centre.sum().clamp(min=1)


def _layer_losses(
    classes: Tensor, boxes: Tensor, attributes: Tensor, t: Patch, pairs, slices
) -> dict[str, Tensor]:
    """The losses of one decoder layer for one patch, as sums; class is over queries, the rest over matched cells."""
    rows, columns = pairs
    k = classes.shape[-1]
    allowed = torch.zeros(len(classes), k, dtype=torch.bool, device=classes.device)
    allowed[:, -1] = True
    weight = torch.full((len(classes),), NO_CELL_WEIGHT, device=classes.device)
    h, w = t.ignore.shape
    at = (boxes.detach()[:, :2] / 8).long()
    weight[t.ignore[at[:, 1].clamp(0, h - 1), at[:, 0].clamp(0, w - 1)]] = 0.0
    allowed[rows, :-1] = t.allowed[columns]
    allowed[rows, -1] = False
    weight[rows] = 1.0
    out = {"class": (partial_cross_entropy(classes, allowed) * weight).sum()}
    truth, known = t.boxes_cxcywh[columns], t.box_weight[columns]
    out["l1"] = ((boxes[rows] - truth).abs().sum(-1) / BOX_UNIT_PX * known).sum()
    out["giou"] = ((1 - generalised_iou(to_xyxy(boxes[rows]), to_xyxy(truth))) * known).sum()
    total = classes.new_zeros(())
    for i, part in enumerate(slices):
        state = t.attributes[columns, i]
        if (state >= 0).any():
            total = total + F.cross_entropy(
                attributes[rows][:, part],
                state,
                ignore_index=-1,
                reduction="sum",
                label_smoothing=ATTRIBUTE_SMOOTHING,
            )
    out["attribute"] = total
    return out


def _mask_losses(masks: Tensor, t: Patch, pairs) -> dict[str, Tensor]:
    """Mask losses of the final layer for one patch: masks [Q, 2, h, w] at stride 4 against targets at stride 2."""
    rows, columns = pairs
    weight = t.mask_weight[columns]
    out = {k: masks.new_zeros(()) for k in ("mask_bce", "mask_dice", "projection", "nc_ratio")}
    for row, column in zip(rows, columns, strict=True):
        nucleus, cell = masks[row].float().sigmoid()
        fraction = (nucleus * cell.detach()).sum() / max(cell.sum().item(), 1)
        if t.nc_class[column] == 0 and fraction > NC_THRESHOLD - NC_MARGIN:
            out["nc_ratio"] = out["nc_ratio"] + (fraction - (NC_THRESHOLD - NC_MARGIN)) / 0.1
        if t.nc_class[column] == 1 and fraction < NC_THRESHOLD + NC_MARGIN:
            out["nc_ratio"] = out["nc_ratio"] + (NC_THRESHOLD + NC_MARGIN - fraction) / 0.1
    has = weight > 0
    if has.any():
        logits = F.interpolate(
            masks[rows[has]].float(), scale_factor=2, mode="bilinear", align_corners=False
        )
        truth = t.masks[columns[has]]
        truth = torch.stack([truth == 2, truth > 0], 1).float()
        # away from the cell the answer is easy and the pixels are many: weigh each cell by its own area
        area = truth[:, 1:].sum((2, 3), keepdim=True).clamp(min=64)
        bce = (
            (F.binary_cross_entropy_with_logits(logits, truth, reduction="none") / area)
            .sum((2, 3))
            .mean(1)
        )
        dice = soft_dice_loss(logits.flatten(0, 1), truth.flatten(0, 1)).reshape(-1, 2).mean(1)
        out["mask_bce"], out["mask_dice"] = (bce * weight[has]).sum(), (dice * weight[has]).sum()
    boxed = ~has & (t.box_weight[columns] > 0)
    if boxed.any():
        out["projection"] = projection_loss(
            masks[rows[boxed], 1].float(), t.boxes_cxcywh[columns[boxed]]
        ).sum()
    return out


def _dense_loss(dense: Tensor, t: Patch) -> Tensor:
    """BCE of the dense logits [2, h, w] where every labelled cell has a mask, away from what may be unlabelled."""
    if len(t.masks) and not bool((t.mask_weight > 0).all()):
        return dense.new_zeros(())
    logits = F.interpolate(
        dense[None].float(), scale_factor=2, mode="bilinear", align_corners=False
    )[0]
    union = (
        t.masks.amax(0)
        if len(t.masks)
        else torch.zeros(logits.shape[-2:], dtype=torch.uint8, device=dense.device)
    )
    truth = torch.stack([union == 2, union > 0]).float()
    ignore = F.interpolate(t.ignore[None, None].float(), size=union.shape, mode="nearest")[0, 0] > 0
    keep = (~ignore | (union > 0)).float()
    weight = float(t.mask_weight.min()) if len(t.masks) else 1.0
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * keep
    return weight * loss.sum() / truth[1].sum().clamp(min=1500)


def criterion(output: HemaXOutput, targets: list[Patch]) -> dict[str, Tensor]:
    """All losses of a batch, weighted, by term; their sum is the loss.

    Every layer is matched and asked on its own (auxiliary losses). Sums are divided by the number of cells in the
    batch, so that the loss does not depend on how cells are spread over patches. With `attributes` False the
    explanation is not taught (for the comparison with and without it).
    """
    slices = list(attribute_slices().values())
    layers, batch = output.class_logits.shape[:2]
    n_cells = max(sum(len(t.boxes_cxcywh) for t in targets), 1)
    losses = {k: output.class_logits.new_zeros(()) for k in LOSS_WEIGHTS}
    for b in range(batch):
        t = targets[b]
        for i in range(layers):
            boxes = output.boxes_cxcywh[i, b]
            pairs = match(output.class_logits[i, b], boxes, t)
            said = output.class_logits[i, b], boxes, output.attribute_logits[i, b]
            for name, value in _layer_losses(*said, t, pairs, slices).items():
                losses[name] = losses[name] + value / layers
        for name, value in _mask_losses(output.mask_logits[b], t, pairs).items():
            losses[name] = losses[name] + value
        losses["dense"] = losses["dense"] + _dense_loss(output.dense_logits[b], t)
        if output.heat_logits is not None:
            truth = heat_target(t, *t.ignore.shape)
            losses["heat"] = losses["heat"] + heat_loss(output.heat_logits[b], truth, t.ignore)
            losses["first_box"] = losses["first_box"] + _first_box_loss(output.first_boxes[b], t)
    return {k: LOSS_WEIGHTS[k] * v / n_cells for k, v in losses.items()}


def _first_box_loss(boxes: Tensor, t: Patch) -> Tensor:
    """GIoU loss of each cell's nearest first box, where it lies within half a box of the centre."""
    if len(t.boxes_cxcywh) == 0:
        return boxes.new_zeros(())
    distance = torch.cdist(boxes[:, :2], t.boxes_cxcywh[:, :2])
    nearest, at = distance.min(0)
    near = (nearest < t.boxes_cxcywh[:, 2:].min(1).values / 2) * t.box_weight
    return ((1 - generalised_iou(to_xyxy(boxes[at]), to_xyxy(t.boxes_cxcywh))) * near).sum()
