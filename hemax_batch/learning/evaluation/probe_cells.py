"""A real cell in the middle of a patch, and what the network says of it: what the tests of faithfulness work on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...cells.measure import measure_cells
from ...geometry import centres
from ...mask_packing import unpack_mask
from ...records import CENTRAL_CELL_UM, Cells, PatchBatch
from ...vocabulary import ATTRIBUTES, WHITE_NAMES, attribute_slices, tells_type
from ..data.centred_patches import centred_patch
from ..data.examples import Example


@dataclass(frozen=True)
class CellPrediction:
    """What the network says of the cell in a patch's middle. `label` uint8 [S, S] is its mask in the patch."""

    class_probs: np.ndarray
    attribute_probs: np.ndarray
    nucleus_fraction: float
    diameter_um: float
    label: np.ndarray

    def probability(self, attribute: str, states: tuple[str, ...]) -> float:
        """The probability of any of `states`, or the nucleus/cell fraction."""
        if attribute == "nucleus_fraction":
            return self.nucleus_fraction
        part = self.attribute_probs[attribute_slices()[attribute]]
        names = next(a.states for a in ATTRIBUTES if a.name == attribute)
        return float(sum(part[names.index(s)] for s in states))

    def states(self) -> dict[str, int]:
        """The likeliest state of each attribute."""
        return {
            name: int(self.attribute_probs[part].argmax())
            for name, part in attribute_slices().items()
        }


@dataclass(frozen=True)
class ProbeCell:
    """A real cell in the middle of a patch uint8 [S, S, 3], with its label and what is said of it."""

    source: str
    allowed: tuple[str, ...]
    pixels: np.ndarray
    prediction: CellPrediction


def central_cell(cells: Cells, size_px: int, mpp: float) -> int | None:
    """Which of a patch's cells is nearest its middle; None where there is none within CENTRAL_CELL_UM."""
    if not len(cells):
        return None
    away = np.hypot(*(centres(cells.boxes_xyxy) - size_px / 2).T) * mpp
    k = int(away.argmin())
    return k if away[k] <= CENTRAL_CELL_UM else None


def predict_cell(predictor, pixels: np.ndarray) -> CellPrediction | None:
    """The cell nearest the middle of a patch uint8 [S, S, 3]; None where there is none within CENTRAL_CELL_UM."""
    size, mpp = len(pixels), predictor.card.mpp
    cells = predictor(
        PatchBatch(pixels.transpose(2, 0, 1)[None].copy(), np.zeros((1, 2)), 1.0), mpp, (size, size)
    ).cells
    if (k := central_cell(cells, size, mpp)) is None:
        return None
    label = np.zeros((size, size), np.uint8)
    (x, y), (h, w) = cells.mask_xy[k], cells.mask_hw[k]
    label[y : y + h, x : x + w] = unpack_mask(cells.masks[k], cells.mask_hw[k])
    one = measure_cells(cells.take([k]), mpp, np.zeros(0))
    return CellPrediction(
        cells.class_probs[k],
        cells.attribute_probs[k],
        float(np.nan_to_num(one.nucleus_fraction[0])),
        float(one.diameter_um[0]),
        label,
    )


def select_probe_cells(
    predictor, examples: list[Example], limit: int, seed: int = 0
) -> list[ProbeCell]:
    """Up to `limit` white cells of known type, drawn evenly over their types, each as the tool would see it."""
    rng = np.random.default_rng(seed)
    typed = [
        i
        for i, e in enumerate(examples)
        if len(e.cells) == 1
        and e.cells[0].allowed[0] in WHITE_NAMES
        and tells_type(e.cells[0].allowed)
    ]
    by_type: dict[tuple, list[int]] = {}
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
