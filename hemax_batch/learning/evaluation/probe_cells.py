"""Probe cells for faithfulness tests: real cells in the centre of a patch, with predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...cells.measure import measure_cells
from ...geometry import centres
from ...mask_packing import unpack_mask
from ...model.predictor import Predictor
from ...records import CENTRAL_CELL_UM, Cells, PatchBatch
from ...vocabulary import ATTRIBUTES, WHITE_NAMES, attribute_slices, tells_type
from ..data.centred_patches import centred_patch
from ..data.examples import Example


@dataclass(frozen=True)
class CellPrediction:
    """Prediction of the cell in a patch's centre; `label` uint8 [S, S] is its mask in the patch."""

    class_probs: np.ndarray
    attribute_probs: np.ndarray
    nucleus_fraction: float
    diameter_um: float
    label: np.ndarray

    def probability(self, attribute: str, states: tuple[str, ...]) -> float:
        """Return the probability of any of `states`, or the nucleus/cell area."""
        if attribute == "nucleus_fraction":
            return self.nucleus_fraction
        part = self.attribute_probs[attribute_slices()[attribute]]
        names = next(a.states for a in ATTRIBUTES if a.name == attribute)
        return float(sum(part[names.index(s)] for s in states))

    def states(self) -> dict[str, int]:
        """Return the likeliest state of each attribute."""
        return {
            name: int(self.attribute_probs[part].argmax())
            for name, part in attribute_slices().items()
        }


@dataclass(frozen=True)
class ProbeCell:
    """A real cell in the centre of a patch uint8 [S, S, 3], with label and prediction."""

    source: str
    allowed: tuple[str, ...]
    pixels: np.ndarray
    prediction: CellPrediction


def central_cell(cells: Cells, size_px: int, mpp: float) -> int | None:
    """Return the cell nearest to the patch's centre; None without one within CENTRAL_CELL_UM."""
    if not len(cells):
        return None
    away = np.hypot(*(centres(cells.boxes_xyxy) - size_px / 2).T) * mpp
    k = int(away.argmin())
    return k if away[k] <= CENTRAL_CELL_UM else None


def predict_cell(predictor: Predictor, pixels: np.ndarray) -> CellPrediction | None:
    """Predict the cell nearest to the centre of a patch uint8 [S, S, 3]; None without one."""
    size, mpp = len(pixels), predictor.card.mpp
    cells = predictor(
        PatchBatch(pixels.transpose(2, 0, 1)[None].copy(), np.zeros((1, 2)), 1.0), mpp, (size, size)
    ).cells
    if (k := central_cell(cells, size, mpp)) is None:
        return None
    label = np.zeros((size, size), np.uint8)
    (x, y), (h, w) = cells.mask_xy[k], cells.mask_hw[k]
    label[y : y + h, x : x + w] = unpack_mask(cells.masks[k], (int(h), int(w)))
    one = measure_cells(cells.take([k]), mpp, np.zeros(0))
    return CellPrediction(
        cells.class_probs[k],
        cells.attribute_probs[k],
        float(np.nan_to_num(one.nucleus_fraction[0])),
        float(one.diameter_um[0]),
        label,
    )


def select_probe_cells(
    predictor: Predictor, examples: list[Example], limit: int, seed: int = 0
) -> list[ProbeCell]:
    """Select up to `limit` white cells of known class, drawn evenly over classes."""
    rng = np.random.default_rng(seed)
    typed = [
        i
        for i, e in enumerate(examples)
        if len(e.cells) == 1
        and e.cells[0].allowed[0] in WHITE_NAMES
        and tells_type(e.cells[0].allowed)
    ]
    by_type: dict[tuple[str, ...], list[int]] = {}
    for i in rng.permutation(typed).tolist():
        by_type.setdefault(examples[i].cells[0].allowed, []).append(i)
    draw_order = [
        i for turn in range(limit) for members in by_type.values() for i in members[turn : turn + 1]
    ]
    out = []
    for i in draw_order[:limit]:
        pixels = centred_patch(examples[i], predictor.card.mpp, predictor.card.patch_px)[
            0
        ].transpose(1, 2, 0)
        prediction = predict_cell(predictor, pixels)
        if prediction is not None and (prediction.label == 2).any():
            out.append(
                ProbeCell(examples[i].source, examples[i].cells[0].allowed, pixels, prediction)
            )
    return out
