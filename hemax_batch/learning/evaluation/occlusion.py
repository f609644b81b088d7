"""Occlusion: the effect of the pixels of one region on the predicted class.

deletion   pixels are replaced by glass in steps: the class's probability falls the more, the more
it relied on them insertion  pixels are restored in an image blurred beyond recognition (Petsiuk et
al. 2018): the probability rises

Regions are the network's own masks. Every region changes the same number of pixels, those of the
smallest region. The baseline changes as many anywhere in the patch. Pixels change in squares of
BLOCK_UM in random order, because single pixels would look like granules. A cell that is no longer
found has probability 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from ...model.predictor import Predictor
from .metrics import bootstrap_interval
from .probe_cells import CellPrediction, ProbeCell, predict_cell

STEPS = 5
#: Least pixels of the smallest region.
MIN_PX = 200
#: Sigma of the blur, which hides lobes and granules.
BLUR_UM = 1.5
BLOCK_UM = 1.0
REGIONS = {"nucleus": 2, "cytoplasm": 1, "background": 0}
BASELINE = "at random"


def occlude(predictor: Predictor, cells: list[ProbeCell], seed: int = 0) -> dict[str, Any]:
    """Compute deletion and insertion curves of the regions and the baseline.

    Each has its mean probability over STEPS with an interval over cells, and the mean curve from no
    pixel to all. Regions also have the paired difference from the baseline.
    """
    rng = np.random.default_rng(seed)
    curves: dict[str, dict[str, list[list[float]]]] = {"deletion": {}, "insertion": {}}
    for cell in cells:
        regions = {name: cell.prediction.label == value for name, value in REGIONS.items()}
        count = min(int(r.sum()) for r in regions.values())
        if count < MIN_PX:
            continue
        regions[BASELINE] = np.ones_like(regions["nucleus"])
        glass = np.broadcast_to(
            np.percentile(cell.pixels.reshape(-1, 3), 90, axis=0).astype(np.uint8),
            cell.pixels.shape,
        )
        sigma = BLUR_UM / predictor.card.mpp
        blurred = ndimage.gaussian_filter(cell.pixels, (sigma, sigma, 0))
        blurred_prediction = predict_cell(predictor, blurred)
        for name, region in regions.items():
            pixel_order = _in_blocks(region, rng, max(round(BLOCK_UM / predictor.card.mpp), 1))[
                :count
            ]
            deleted = _curve(predictor, cell, cell.prediction, cell.pixels, glass, pixel_order)
            inserted = _curve(
                predictor, cell, blurred_prediction, blurred, cell.pixels, pixel_order
            )
            curves["deletion"].setdefault(name, []).append(deleted)
            curves["insertion"].setdefault(name, []).append(inserted)
    return {test: _summary(of, -1 if test == "deletion" else 1) for test, of in curves.items()}


def _in_blocks(region: np.ndarray, rng: np.random.Generator, block_px: int) -> np.ndarray:
    """Return the flat indices of a region bool [S, S], square after square in random order."""
    y, x = np.nonzero(region)
    columns = region.shape[1] // block_px + 1
    block_order = rng.permutation((region.shape[0] // block_px + 1) * columns)
    return np.flatnonzero(region)[
        np.argsort(block_order[y // block_px * columns + x // block_px], kind="stable")
    ]


def _curve(
    predictor: Predictor,
    cell: ProbeCell,
    first: CellPrediction | None,
    start: np.ndarray,
    end: np.ndarray,
    pixel_order: np.ndarray,
) -> list[float]:
    """Return [STEPS + 1] probabilities of the cell's own class along the change of pixels.

    The pixels at `pixel_order` go from `start`, whose prediction is `first`, to `end`.
    """
    own_class = int(cell.prediction.class_probs.argmax())
    curve, pixels = [_class_probability(first, own_class)], start.copy()
    for part in np.array_split(pixel_order, STEPS):
        pixels.reshape(-1, 3)[part] = end.reshape(-1, 3)[part]
        curve.append(_class_probability(predict_cell(predictor, pixels), own_class))
    return curve


def _class_probability(prediction: CellPrediction | None, own_class: int) -> float:
    """Return the probability of a class; 0 without a prediction."""
    return 0.0 if prediction is None else float(prediction.class_probs[own_class])


def _summary(curves: dict[str, list[list[float]]], sign: int) -> dict[str, Any]:
    """Summarise each kind: interval of its mean, mean curve, difference from the baseline."""
    out: dict[str, Any] = {}
    for name, rows in curves.items():
        means = np.array(rows)[:, 1:].mean(1)
        out[name] = {**bootstrap_interval(means), "curve": np.mean(rows, 0).round(4).tolist()}
        if name != BASELINE:
            out[f"{name}, more than {BASELINE}"] = bootstrap_interval(
                sign * (means - np.array(curves[BASELINE])[:, 1:].mean(1))
            )
    return out
