"""Losses of the network: a set criterion with partial labels (DETR, Carion et al. 2020).

Terms, weighted by `LOSS_WEIGHTS`: class cross-entropy over the classes that a label allows; L1 and
GIoU of the box; attribute cross-entropy; BCE and Dice of the masks; focal loss of the heat map; the
projection loss of box-supervised masks (BoxInst, Tian et al. 2021) for cells with a box and no
mask; a hinge loss on nucleus/cell area. Unknown labels are left out of every term.

The weights are DETR's, tuned on a prototype; the class weight was then doubled. All losses are
computed for the whole batch in float32. Excluded entries have weight 0: selecting rows by value
would make the host wait for the device. Only `match` waits, once per step.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from ..vocabulary import CLASS_NAMES, N_CLASSES, attribute_slices
from .hemax import BOX_UNIT_PX, HemaXOutput
from .matcher import Targets, generalised_iou, match, to_xyxy
from .network_output import mask_coordinates

LOSS_WEIGHTS = {
    "class": 4.0, "l1": 4.0, "giou": 1.5, "attribute": 1.5, "mask_bce": 2.0, "mask_dice": 2.0, "projection": 1.0,
    "dense": 1.0, "heat": 1.0, "first_box": 1.0, "nc_ratio": 1.0,
}  # fmt: skip
NO_CELL_WEIGHT = 0.15
LABEL_SMOOTHING = 0.02
ATTRIBUTE_SMOOTHING = 0.02
#: Nucleus/cell area between a low and a high nuclear:cytoplasmic ratio of WBCAtt's experts. It best
#: separates 499 cells of split `train` other than basophils by the masks of the seventh stage's
#: weights (0.964 correct). A mask must be `NC_MARGIN` clear of it.
NC_THRESHOLD, NC_MARGIN = 0.63, 0.03


#: Neighbours in a line of maturation get this share of each other's target, because experts draw
#: these borders differently.
NEIGHBOUR_SHARE = 0.05
_MATURATION_LINES = (
    (
        "blast",
        "promyelocyte",
        "myelocyte",
        "metamyelocyte",
        "band_neutrophil",
        "segmented_neutrophil",
    ),
    ("lymphocyte", "variant_lymphocyte"),
)


def soft_class_targets() -> Tensor:
    """Return the target distribution of each class and of "no cell", float32 [K + 1, K + 1].

    Each row sums to 1. The entry of band neutrophil, for example, is 0.90 for itself and 0.05 for
    metamyelocyte and for segmented neutrophil.
    """
    targets = torch.eye(N_CLASSES + 1)
    for line in _MATURATION_LINES:
        for first, second in pairwise(line):
            a, b = CLASS_NAMES.index(first), CLASS_NAMES.index(second)
            for own, neighbour in ((a, b), (b, a)):
                targets[own, neighbour] += NEIGHBOUR_SHARE
                targets[own, own] -= NEIGHBOUR_SHARE
    return targets


_SOFT_TARGETS = soft_class_targets()


def partial_cross_entropy(logits: Tensor, allowed: Tensor) -> Tensor:
    """Compute -log of the summed probability of the allowed classes.

    With one allowed class this is cross-entropy with label smoothing, which bounds the logits, and
    over all classes it uses soft targets (`soft_class_targets`). A label that allows several
    classes is not smoothed: smoothing would teach that they are equally likely.

    Parameters
    ----------
    logits : Tensor [..., C]
    allowed : Tensor of bool [..., C]

    Returns
    -------
    Tensor [...]
    """
    log_p = logits.log_softmax(-1)
    exact = -torch.logsumexp(log_p.masked_fill(~allowed, -1e4), -1)
    if logits.shape[-1] == N_CLASSES + 1:
        exact = torch.where(allowed.sum(-1) == 1, _soft_cross_entropy(log_p, allowed), exact)
    smoothing = LABEL_SMOOTHING * (allowed.sum(-1) == 1)
    return (1 - smoothing) * exact - smoothing * log_p.mean(-1)


def _soft_cross_entropy(log_p: Tensor, allowed: Tensor) -> Tensor:
    """Return the cross-entropy against soft targets: [..., K + 1], bool [..., K + 1] -> [...].

    The first allowed class of each row decides. The caller uses rows with one allowed class only.
    """
    targets = _SOFT_TARGETS.to(log_p)[allowed.to(torch.uint8).argmax(-1)]
    return -(targets * log_p).sum(-1)


def soft_dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute 1 - Dice of soft masks [..., h, w]: [...]."""
    p, t = logits.sigmoid(), truth
    return 1 - (2 * (p * t).sum((-2, -1)) + 1) / (p.sum((-2, -1)) + t.sum((-2, -1)) + 1)


def projection_loss(cell_logits: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """Compute the mismatch between the projections of cell masks and boxes on both axes: [...].

    Parameters
    ----------
    cell_logits : Tensor [..., h, w]
        Mask logits at stride 4.
    boxes_cxcywh : Tensor [..., 4]
        Boxes in pixels.
    """
    box = mask_coordinates(to_xyxy(boxes_cxcywh))
    total = cell_logits.new_zeros(())
    for across, i in ((-2, 0), (-1, 1)):  # The projection on x, then on y.
        p = cell_logits.amax(across).sigmoid()
        at = torch.arange(p.shape[-1], device=box.device)
        low, high = box[..., i, None], box[..., i + 2, None]
        covered = (torch.minimum(at + 1, high) - torch.maximum(at, low)).clamp(0, 1)
        total = (
            total
            + 1
            - (2 * (p * covered).sum(-1) + 1) / (p.square().sum(-1) + covered.square().sum(-1) + 1)
        )
    return total


def heat_target(targets: Targets) -> Tensor:
    """Draw Gaussians [B, H/8, W/8] at the cells' centres, exactly 1 at the centre (CenterNet)."""
    h, w = targets.ignore.shape[1:]
    boxes = targets.boxes_cxcywh / 8
    ix, iy = (
        boxes[..., i].long().clamp(0, size - 1)[..., None, None] for i, size in ((0, w), (1, h))
    )
    sigma = (boxes[..., 2:].mean(-1) / 9).clamp(min=0.6)[..., None, None]
    ys, xs = torch.arange(h, device=boxes.device)[:, None], torch.arange(w, device=boxes.device)
    heat = torch.exp(-((xs - ix) ** 2 + (ys - iy) ** 2) / (2 * sigma**2))
    return (heat * targets.present[..., None, None]).amax(1)


def heat_loss(logits: Tensor, truth: Tensor, ignore: Tensor) -> Tensor:
    """Compute the focal loss of heat maps per cell: [B, h, w] -> [B].

    The form is that of Law & Deng (2018) with alpha 2 and beta 4.
    """
    p = logits.sigmoid()
    centre = truth >= 0.999
    positive = -(1 - p).square() * F.logsigmoid(logits) * centre
    negative = (
        -p.square()
        * F.logsigmoid(-logits)
        * (1 - truth) ** 4
        * (~centre & ~(ignore & (truth < 0.3)))
    )
    return (positive + negative).sum((1, 2)) / centre.sum((1, 2)).clamp(min=1)


def _class_loss(logits: Tensor, boxes: Tensor, targets: Targets, query: Tensor) -> Tensor:
    """Compute the class loss of every query, summed.

    Queries without a cell have the target "no cell". They have weight 0 where an unlabelled cell
    may lie.

    Parameters
    ----------
    logits : Tensor [L, B, Q, K + 1]
    boxes : Tensor [L, B, Q, 4]
    query : Tensor of int64 [L, B, N]
    """
    queries = torch.arange(logits.shape[2], device=query.device)
    is_target = query[:, :, None] == queries[:, None]  # [L, B, Q, N]
    allowed = (is_target[..., None] & targets.allowed[:, None]).any(3)
    taken = is_target.any(3)
    h, w = targets.ignore.shape[1:]
    at = (boxes.detach()[..., :2] / 8).long()
    place = at[..., 1].clamp(0, h - 1) * w + at[..., 0].clamp(0, w - 1)
    hidden = targets.ignore.flatten(1).expand(len(logits), -1, -1).gather(2, place)
    weight = torch.where(taken, 1.0, NO_CELL_WEIGHT * ~hidden)
    return (
        partial_cross_entropy(logits, torch.cat([allowed, ~taken[..., None]], -1)) * weight
    ).sum()


def _box_losses(boxes: Tensor, targets: Targets, query: Tensor) -> dict[str, Tensor]:
    """Compute L1 and GIoU losses of matched boxes, summed: boxes [L, B, Q, 4], query [L, B, N]."""
    predicted, truth = _gather_queries(boxes, query), targets.boxes_cxcywh
    weight = targets.box_weight * (query >= 0)
    l1 = (predicted - truth).abs().sum(-1) / BOX_UNIT_PX
    giou = generalised_iou(to_xyxy(predicted), to_xyxy(truth))
    return {"l1": (l1 * weight).sum(), "giou": ((1 - giou) * weight).sum()}


def _attribute_loss(logits: Tensor, targets: Targets, query: Tensor) -> Tensor:
    """Compute the cross-entropy of known attributes, summed.

    Parameters
    ----------
    logits : Tensor [L, B, Q, A]
    query : Tensor of int64 [L, B, N]
    """
    predicted = _gather_queries(logits, query).flatten(0, 2)
    states = torch.where(query[..., None] >= 0, targets.attributes, -1).flatten(0, 2)
    losses = [
        F.cross_entropy(
            predicted[:, part],
            states[:, i],
            ignore_index=-1,
            reduction="sum",
            label_smoothing=ATTRIBUTE_SMOOTHING,
        )
        for i, part in enumerate(attribute_slices().values())
    ]
    return sum(losses, logits.new_zeros(()))


def _gather_queries(predicted: Tensor, query: Tensor) -> Tensor:
    """Gather each cell's query: [L, B, Q, C] by [L, B, N] -> [L, B, N, C].

    A cell without a query gets query 0.
    """
    return predicted.gather(
        2, query.clamp(min=0)[..., None].expand(-1, -1, -1, predicted.shape[-1])
    )


def _gather_masks(masks: Tensor, query: Tensor) -> Tensor:
    """Gather each cell's mask logits in float32: [B, Q, 2, h, w] by [B, N] -> [B N, 2, h, w].

    A cell without a query gets query 0.
    """
    rows = (
        query.clamp(min=0) + torch.arange(len(masks), device=query.device)[:, None] * masks.shape[1]
    )
    return masks.flatten(0, 1).index_select(0, rows.flatten()).float()


def _mask_losses(masks: Tensor, own: Tensor, targets: Targets, query: Tensor) -> dict[str, Tensor]:
    """Compute the losses of the final masks, summed.

    Parameters
    ----------
    masks : Tensor [B, Q, 2, h, w]
        Logits at stride 4.
    own : Tensor [B, N, 2 h, 2 w]
        Each cell's own mask.
    query : Tensor of int64 [B, N]
    """
    predicted = _gather_masks(masks, query)
    logits = F.interpolate(predicted, scale_factor=2, mode="bilinear", align_corners=False)
    logits = torch.unflatten(logits, 0, query.shape)
    truth = torch.stack([own == 2, own > 0], 2).float()
    weight = targets.mask_weight * (query >= 0)
    # Most pixels lie far from the cell and are easy, so each cell is weighted by its own area.
    area = truth[:, :, 1].sum((2, 3)).clamp(min=64)
    bce = (
        F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum((3, 4)).mean(2)
        / area
    )
    dice = soft_dice_loss(logits, truth).mean(2)
    boxed = (query >= 0) & (targets.mask_weight == 0) & (targets.box_weight > 0)
    cell_logits = torch.unflatten(predicted[:, 1], 0, query.shape)
    projection = projection_loss(cell_logits, targets.boxes_cxcywh)
    return {
        "mask_bce": (bce * weight).sum(),
        "mask_dice": (dice * weight).sum(),
        "projection": (projection * boxed).sum(),
    }


def _nc_loss(masks: Tensor, targets: Targets, query: Tensor) -> Tensor:
    """Compute a hinge loss on the masks' nucleus/cell area, in tenths of a cell, summed.

    The area must lie on the side of `NC_THRESHOLD` that experts judged. The cell's area takes no
    gradient, so the loss teaches nuclei only. Where granules hide the nucleus, as in basophils,
    nobody can draw it, and this judgement is all that is known of its size.

    Parameters
    ----------
    masks : Tensor [B, Q, 2, h, w]
    query : Tensor of int64 [B, N]
    """
    soft_masks = torch.unflatten(_gather_masks(masks, query).sigmoid(), 0, query.shape)
    nucleus, cell = soft_masks.unbind(2)
    cell = cell.detach()
    fraction = (nucleus * cell).sum((2, 3)) / cell.sum((2, 3)).clamp(min=1)
    excess = torch.where(
        targets.nc_class == 1,
        NC_THRESHOLD + NC_MARGIN - fraction,
        fraction - NC_THRESHOLD + NC_MARGIN,
    )
    return (excess.clamp(min=0) * 10 * ((targets.nc_class >= 0) & (query >= 0))).sum()


def _dense_loss(dense: Tensor, own: Tensor, targets: Targets) -> Tensor:
    """Compute BCE of the dense logits [B, 2, h, w], summed over patches.

    Places where an unlabelled cell may lie are left out. A patch counts only if every cell has a
    mask. Its weight is the smallest mask weight of its cells, or 1 without cells.
    """
    logits = F.interpolate(dense, scale_factor=2, mode="bilinear", align_corners=False)
    union = own.amax(1)
    truth = torch.stack([union == 2, union > 0], 1).float()
    hidden = (
        F.interpolate(targets.ignore[:, None].float(), size=union.shape[1:], mode="nearest") > 0
    )
    keep = ~hidden | truth[:, 1:].bool()
    smallest = torch.where(targets.present, targets.mask_weight, torch.inf).amin(1)
    weight = torch.where(targets.present.any(1), smallest, 1.0)
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * keep
    return (weight * loss.sum((1, 2, 3)) / truth[:, 1].sum((1, 2)).clamp(min=1500)).sum()


def _first_box_loss(boxes: Tensor, targets: Targets) -> Tensor:
    """Compute the GIoU loss of each cell's nearest first box [B, Q, 4], summed.

    It counts if the first box lies within half a box of the cell's centre.
    """
    truth = targets.boxes_cxcywh
    nearest, at = torch.cdist(boxes.detach()[..., :2], truth[..., :2]).min(1)
    weight = (nearest < truth[..., 2:].amin(-1) / 2) * targets.box_weight * targets.present
    giou = generalised_iou(
        to_xyxy(boxes.gather(1, at[..., None].expand(-1, -1, 4))), to_xyxy(truth)
    )
    return ((1 - giou) * weight).sum()


def criterion(output: HemaXOutput, targets: Targets, attributes: bool = True) -> dict[str, Tensor]:
    """Compute all weighted losses of a batch by term; their sum is the loss.

    Every decoder layer is matched by itself (auxiliary losses). Sums are divided by the number of
    cells in the batch, so the loss does not depend on how cells are distributed over patches.

    Parameters
    ----------
    output, targets
        Output of the network, and labels.
    attributes
        Whether attributes and N:C are trained; False is for comparisons.
    """
    targets = _with_safe_padding(targets)
    classes, boxes = output.class_logits.float(), output.boxes_cxcywh.float()
    layers = len(classes)
    query, own = match(classes, boxes, targets), targets.masks()
    each_layer = {
        "class": _class_loss(classes, boxes, targets, query),
        **_box_losses(boxes, targets, query),
        "attribute": _attribute_loss(output.attribute_logits.float(), targets, query)
        * float(attributes),
    }
    losses = {k: v / layers for k, v in each_layer.items()}
    losses |= _mask_losses(output.mask_logits, own, targets, query[-1])
    losses["nc_ratio"] = _nc_loss(output.mask_logits, targets, query[-1]) * float(attributes)
    losses["dense"] = _dense_loss(output.dense_logits.float(), own, targets)
    losses["heat"] = losses["first_box"] = classes.new_zeros(())
    if output.heat_logits is not None and output.first_boxes is not None:
        losses["heat"] = heat_loss(
            output.heat_logits.float(), heat_target(targets), targets.ignore
        ).sum()
        losses["first_box"] = _first_box_loss(output.first_boxes.float(), targets)
    n_cells = targets.present.sum().clamp(min=1)
    return {k: w * losses[k] / n_cells for k, w in LOSS_WEIGHTS.items()}


def _with_safe_padding(targets: Targets) -> Targets:
    """Replace the boxes of padding rows by 1 px: 0 times an overflow would be NaN."""
    return replace(
        targets, boxes_cxcywh=torch.where(targets.present[..., None], targets.boxes_cxcywh, 1.0)
    )
