"""Measuring a checkpoint on labelled images, each cell seen as the tool sees it: one patch centred on it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from ...cells.classify import explanation_contradicts_class
from ...geometry import centres, pairwise_iou
from ...mask_packing import unpack_mask
from ...records import CENTRAL_CELL_UM, PatchBatch
from ...vocabulary import ATTRIBUTES, CLASS_NAMES, CLASSES, WHITE_NAMES, attribute_slices
from ..data.centred_patches import centred_patch
from ..data.examples import Example, load_mask
from .average_precision import LocalisationField, average_precision
from .metrics import EvaluatedCell, compute_metrics
from .patient_metrics import patient_figures

WHITE = [c.white for c in CLASSES]
WHITE_SET = set(WHITE_NAMES)
_BATCH = 32  # patches


def evaluate(
    predictor, examples: list[Example], echo=lambda *_: None
) -> tuple[dict, list[EvaluatedCell]]:
    """Figures over all and by source, and the cells they rest on."""
    cells_evaluated, fields = predict_examples(predictor, examples, echo)
    return build_report(cells_evaluated, fields, predictor.card.min_confidence), cells_evaluated


def build_report(
    cells_evaluated: list[EvaluatedCell],
    fields: dict[str, list[LocalisationField]],
    min_confidence: float,
) -> dict:
    """All figures: over all cells, then by source."""
    report = {"all": compute_metrics(cells_evaluated, min_confidence), "by source": {}}
    if ap := average_precision([f for of_source in fields.values() for f in of_source]):
        report["all"]["localisation, COCO"] = ap
    for source in dict.fromkeys(x.source for x in cells_evaluated):
        report["by source"][source] = compute_metrics(
            [x for x in cells_evaluated if x.source == source], min_confidence
        )
    if by_patient := patient_figures(cells_evaluated):
        report["by patient"] = by_patient
    return report


def predict_examples(
    predictor, examples: list[Example], echo=lambda *_: None
) -> tuple[list[EvaluatedCell], dict[str, list[LocalisationField]]]:
    """Run the network on a patch round every labelled cell; and, by source, the patches in which every cell has a label."""
    size, cells_evaluated, fields = predictor.card.patch_px, [], {}
    cells_to_evaluate = [(example, k) for example in examples for k in range(len(example.cells))]
    for batch_cells in _batches_of_one_scale(cells_to_evaluate):
        drawn = [centred_patch(example, predictor.card.mpp, size, k) for example, k in batch_cells]
        scale = drawn[0][2]
        batch = PatchBatch(
            np.stack([d[0] for d in drawn]), -np.array([d[1] for d in drawn]) / scale, 1 / scale
        )
        prediction = predictor(batch, batch_cells[0][0].mpp)
        for b, (example, k) in enumerate(batch_cells):
            cells = prediction.cells.take(np.flatnonzero(prediction.patch_index == b))
            one = PatchBatch(batch.pixels[b : b + 1], batch.origins[b : b + 1], batch.scale)
            cells_evaluated.append(_evaluate_cell(example, k, cells, batch.pixels[b], one))
            if example.bystanders == "none" and all(c.box_xyxy is not None for c in example.cells):
                fields.setdefault(example.source, []).append(_field(example, cells, one, size))
        if len(cells_evaluated) // 200 > (len(cells_evaluated) - len(batch_cells)) // 200:
            echo(f"{len(cells_evaluated)}/{len(cells_to_evaluate)} cells")
    return cells_evaluated, fields


def _batches_of_one_scale(
    cells_to_evaluate: list[tuple[Example, int]],
) -> Iterator[list[tuple[Example, int]]]:
    """The cells in their order, by so many of one scale as make a batch."""
    for _, of_scale in groupby(cells_to_evaluate, lambda one: one[0].mpp):
        together = list(of_scale)
        yield from (together[k : k + _BATCH] for k in range(0, len(together), _BATCH))


def _field(example: Example, cells, batch: PatchBatch, size: int) -> LocalisationField:
    """What the patch shows of the labelled white cells, and what white cells were found in it; what lies in ignored boxes, or
    may be white or not by its label, is left out."""
    x0, y0 = batch.origins[0]
    window = np.array([x0, y0, x0 + size * batch.scale, y0 + size * batch.scale])
    kinds = [(c.box_xyxy, set(c.allowed)) for c in example.cells]
    truth = np.array([box for box, names in kinds if names <= WHITE_SET], float).reshape(-1, 4)
    truth = truth[((truth[:, :2] < window[2:]) & (truth[:, 2:] > window[:2])).all(1)]
    cut = ((truth[:, :2] < window[:2]) | (truth[:, 2:] > window[2:])).any(1)
    middles = centres(cells.boxes_xyxy)
    other = np.zeros(len(cells), bool)
    for box in (
        *example.ignored,
        *(box for box, names in kinds if names & WHITE_SET and not names <= WHITE_SET),
    ):
        other |= ((middles >= box[:2]) & (middles < box[2:])).all(1)
    white = np.array([WHITE[k] for k in cells.class_probs.argmax(1)], bool)
    um = example.mpp / 0.1
    return LocalisationField(
        truth * um, cut, cells.boxes_xyxy[white & ~other] * um, cells.scores[white & ~other]
    )


def _evaluate_cell(example: Example, k: int, cells, pixels, batch: PatchBatch) -> EvaluatedCell:
    """The prediction for cell k: with a true box the one of highest IoU, else the one nearest the middle (within
    CENTRAL_CELL_UM)."""
    label, nan = example.cells[k], float("nan")
    dice = 0.0 if _has_mask(example, k) else nan
    no_attributes = tuple((name, state, "") for name, state in label.attributes)
    nothing = EvaluatedCell(
        example.source,
        label.allowed,
        False,
        "",
        0.0,
        nan if label.box_xyxy is None else 0.0,
        dice,
        dice,
        nan,
        nan,
        no_attributes,
        example.path,
        nc_class=label.nc_class,
        patient=example.patient,
    )
    if len(cells) == 0:
        return nothing
    if label.box_xyxy is not None:
        ious = pairwise_iou(np.array([label.box_xyxy], float), cells.boxes_xyxy)[0]
        j, iou = int(ious.argmax()), float(ious.max())
        if iou < 0.1:
            return nothing
    else:
        middle = batch.origins[0] + pixels.shape[1] / 2 * batch.scale
        distance = np.hypot(*(centres(cells.boxes_xyxy) - middle).T) * example.mpp
        j, iou = int(distance.argmin()), float("nan")
        if distance[j] > CENTRAL_CELL_UM:
            return nothing
    parts = attribute_slices()
    attributes = tuple(
        (a.name, state, a.states[int(cells.attribute_probs[j, parts[a.name]].argmax())])
        for a in ATTRIBUTES
        for name, state in label.attributes
        if name == a.name
    )
    dice = _mask_scores(example, k, cells, j)
    best = int(cells.class_probs[j].argmax())
    return EvaluatedCell(
        example.source,
        label.allowed,
        True,
        CLASS_NAMES[best],
        float(cells.class_probs[j, best]),
        iou,
        *dice,
        attributes,
        example.path,
        explanation_contradicts_class(cells.attribute_probs[j], CLASS_NAMES[best]),
        tuple(cells.class_probs[j].tolist()),
        label.nc_class,
        example.patient,
    )


def _has_mask(example: Example, k: int) -> bool:
    """Whether a person's mask can be told to be that cell's."""
    return bool(example.mask_path) and (
        len(example.cells) == 1 or example.cells[k].box_xyxy is not None
    )


def _mask_scores(example: Example, k: int, cells, j: int) -> tuple[float, float, float, float]:
    """Nucleus Dice, whole-cell Dice, true and predicted nucleus/cell; the first three NaN without an expert mask."""
    own = unpack_mask(cells.masks[j], cells.mask_hw[j])
    if not _has_mask(example, k):
        return *(float("nan"),) * 3, _fraction(own)
    truth = load_mask(example.mask_path)
    if (
        len(example.cells) > 1
    ):  # one map for all cells of the picture: this one's part is what lies in its box
        x0, y0, x1, y1 = np.round(example.cells[k].box_xyxy).astype(int).clip(0)
        own_part = np.zeros_like(truth)
        own_part[y0:y1, x0:x1] = truth[y0:y1, x0:x1]
        truth = own_part
    mask = np.zeros_like(truth)
    x, y = cells.mask_xy[j]
    top, left = max(-y, 0), max(-x, 0)
    own = own[top : top + truth.shape[0] - max(y, 0), left : left + truth.shape[1] - max(x, 0)]
    mask[max(y, 0) : max(y, 0) + own.shape[0], max(x, 0) : max(x, 0) + own.shape[1]] = own

    def dice(a, b):
        return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))

    return dice(truth == 2, mask == 2), dice(truth > 0, mask > 0), _fraction(truth), _fraction(mask)


def _fraction(mask: np.ndarray) -> float:
    """Nucleus/cell of a 0/1/2 map."""
    return float((mask == 2).sum() / max((mask > 0).sum(), 1))
