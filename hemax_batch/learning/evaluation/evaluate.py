"""Evaluation of a checkpoint on labelled images.

Each cell is in the centre of a patch, as in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np

from ...cells.classify import explanation_contradicts_class
from ...cells.false_calls import CallErrors
from ...geometry import centres, pairwise_iou
from ...mask_packing import unpack_mask
from ...model.predictor import Predictor
from ...records import CENTRAL_CELL_UM, Cells, PatchBatch
from ...vocabulary import ATTRIBUTES, CLASS_NAMES, CLASSES, WHITE_NAMES, attribute_slices
from ..data.centred_patches import centred_patch
from ..data.examples import Example, load_mask
from .average_precision import LocalisationField, average_precision
from .metrics import EvaluatedCell, compute_metrics
from .patient_metrics import patient_figures

WHITE = [c.white for c in CLASSES]
WHITE_SET = set(WHITE_NAMES)
#: Patches per call of the predictor.
_BATCH = 32


def evaluate(
    predictor: Predictor, examples: list[Example], echo: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], list[EvaluatedCell]]:
    """Evaluate a predictor; return the report and the evaluated cells."""
    cells_evaluated, fields = predict_examples(predictor, examples, echo)
    return build_report(cells_evaluated, fields, predictor.card.min_confidence), cells_evaluated


def build_report(
    cells_evaluated: list[EvaluatedCell],
    fields: dict[str, list[LocalisationField]],
    min_confidence: float,
) -> dict[str, Any]:
    """Build the report: metrics of all cells, by source and by patient, and call errors."""
    report: dict[str, Any] = {
        "all": compute_metrics(cells_evaluated, min_confidence),
        "by source": {},
    }
    if ap := average_precision([f for of_source in fields.values() for f in of_source]):
        report["all"]["localisation, COCO"] = ap
    for source in dict.fromkeys(x.source for x in cells_evaluated):
        report["by source"][source] = compute_metrics(
            [x for x in cells_evaluated if x.source == source], min_confidence
        )
    if by_patient := patient_figures(cells_evaluated):
        report["by patient"] = by_patient
    if errors := call_errors(cells_evaluated, min_confidence):
        report["calls"] = errors.record()
    return report


def call_errors(cells: list[EvaluatedCell], min_confidence: float) -> CallErrors | None:
    """Return the calls of cells of one known class, by source; None without any.

    Cells that are not found or unidentified are no calls.
    """
    return CallErrors.from_calls(
        (
            (s.source, s.allowed[0], s.predicted)
            for s in cells
            if s.found and len(s.allowed) == 1 and s.confidence >= min_confidence
        ),
        min_confidence,
    )


def predict_examples(
    predictor: Predictor, examples: list[Example], echo: Callable[[str], None] = lambda _: None
) -> tuple[list[EvaluatedCell], dict[str, list[LocalisationField]]]:
    """Predict a patch around every labelled cell.

    Returns
    -------
    list of EvaluatedCell
    dict
        By source, the patches in which every cell is labelled.
    """
    size = predictor.card.patch_px
    cells_evaluated: list[EvaluatedCell] = []
    fields: dict[str, list[LocalisationField]] = {}
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
    """Group the cells, in their order, into batches of one scale."""
    for _, of_scale in groupby(cells_to_evaluate, lambda one: one[0].mpp):
        together = list(of_scale)
        yield from (together[k : k + _BATCH] for k in range(0, len(together), _BATCH))


def _field(example: Example, cells: Cells, batch: PatchBatch, size: int) -> LocalisationField:
    """Make the localisation field of a patch: true and predicted white cells.

    Objects in ignored boxes, and cells whose label leaves open whether they are white, are left
    out.
    """
    x0, y0 = batch.origins[0]
    window = np.array([x0, y0, x0 + size * batch.scale, y0 + size * batch.scale])
    kinds = [(c.box_xyxy, set(c.allowed)) for c in example.cells if c.box_xyxy is not None]
    truth = np.array([box for box, names in kinds if names <= WHITE_SET], float).reshape(-1, 4)
    truth = truth[((truth[:, :2] < window[2:]) & (truth[:, 2:] > window[:2])).all(1)]
    outside: np.ndarray = (truth[:, :2] < window[:2]) | (truth[:, 2:] > window[2:])
    cut = np.asarray(outside.any(1))
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


def _evaluate_cell(
    example: Example, k: int, cells: Cells, pixels: np.ndarray, batch: PatchBatch
) -> EvaluatedCell:
    """Match a prediction to cell k.

    With a true box it is the prediction of highest IoU, else the one nearest to the centre (within
    CENTRAL_CELL_UM).
    """
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
    nucleus_dice, cell_dice, true_fraction, fraction = _mask_scores(example, k, cells, j)
    best = int(cells.class_probs[j].argmax())
    return EvaluatedCell(
        example.source,
        label.allowed,
        True,
        CLASS_NAMES[best],
        float(cells.class_probs[j, best]),
        iou,
        nucleus_dice,
        cell_dice,
        true_fraction,
        fraction,
        attributes,
        example.path,
        explanation_contradicts_class(cells.attribute_probs[j], CLASS_NAMES[best]),
        tuple(cells.class_probs[j].tolist()),
        label.nc_class,
        example.patient,
    )


def _has_mask(example: Example, k: int) -> bool:
    """Return whether an expert mask can be assigned to the cell."""
    return bool(example.mask_path) and (
        len(example.cells) == 1 or example.cells[k].box_xyxy is not None
    )


def _mask_scores(
    example: Example, k: int, cells: Cells, j: int
) -> tuple[float, float, float, float]:
    """Return nucleus Dice, cell Dice, true and predicted nucleus/cell area.

    The first three are NaN without an expert mask.
    """
    height, width = cells.mask_hw[j].tolist()
    own = unpack_mask(cells.masks[j], (height, width))
    if not _has_mask(example, k):
        return *(float("nan"),) * 3, _fraction(own)
    truth = load_mask(example.mask_path)
    box = example.cells[k].box_xyxy
    # One map holds all cells of the image. The part in the cell's box is the cell's.
    if len(example.cells) > 1 and box is not None:
        x0, y0, x1, y1 = np.round(np.array(box)).astype(int).clip(0)
        own_part = np.zeros_like(truth)
        own_part[y0:y1, x0:x1] = truth[y0:y1, x0:x1]
        truth = own_part
    mask = np.zeros_like(truth)
    x, y = cells.mask_xy[j]
    top, left = max(-y, 0), max(-x, 0)
    own = own[top : top + truth.shape[0] - max(y, 0), left : left + truth.shape[1] - max(x, 0)]
    mask[max(y, 0) : max(y, 0) + own.shape[0], max(x, 0) : max(x, 0) + own.shape[1]] = own

    def dice(a: np.ndarray, b: np.ndarray) -> float:
        return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))

    return dice(truth == 2, mask == 2), dice(truth > 0, mask > 0), _fraction(truth), _fraction(mask)


def _fraction(mask: np.ndarray) -> float:
    """Return nucleus/cell area of a 0/1/2 map."""
    return float((mask == 2).sum() / max((mask > 0).sum(), 1))
