"""What the class rests on: pixels of one region taken away, or given back to a blurred picture, in equal steps.

deletion   pixels become glass: the probability of the cell's own class falls the more, the more it relied on them
insertion  pixels are given back to a picture blurred beyond recognition (Petsiuk et al. 2018): it rises the more, the
           more they tell

Every kind changes the same number of pixels, those of the smallest of the three regions, which are the network's own
masks; the baseline changes as many anywhere in the patch. They go in squares of BLOCK_UM in random order: single pixels
would look like granules. A cell no longer found has probability 0.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .metrics import bootstrap_interval
from .probe_cells import CellPrediction, ProbeCell, predict_cell

STEPS = 5
MIN_PX = 200  # in the smallest region
BLUR_UM = 1.5  # sigma: neither lobes nor granules can be told
BLOCK_UM = 1.0
REGIONS = {"nucleus": 2, "cytoplasm": 1, "background": 0}
BASELINE = "at random"


def occlude(predictor, cells: list[ProbeCell], seed: int = 0) -> dict:
    """Curves of deletion and insertion over the regions and the baseline.

    Each has the mean probability over STEPS with its interval over cells, the curve itself (from no pixel to all), and
    for the regions the paired difference from the baseline: how much more it falls, or rises, than at random.
    """
    rng = np.random.default_rng(seed)
    curves: dict[str, dict[str, list]] = {"deletion": {}, "insertion": {}}
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
    """Flat places of a region bool [S, S], square after square in random order."""
    y, x = np.nonzero(region)
    columns = region.shape[1] // block_px + 1
    block_order = rng.permutation((region.shape[0] // block_px + 1) * columns)
    return np.flatnonzero(region)[
        np.argsort(block_order[y // block_px * columns + x // block_px], kind="stable")
    ]


def _curve(
    predictor,
    cell: ProbeCell,
    first: CellPrediction | None,
    start: np.ndarray,
    end: np.ndarray,
    pixel_order: np.ndarray,
) -> list[float]:
    """[STEPS + 1] probabilities of the cell's own class, while the pixels at flat places `order` go from those of
    `start`, of which `first` is said, to those of `end`."""
    own_class = int(cell.prediction.class_probs.argmax())
    curve, pixels = [_class_probability(first, own_class)], start.copy()
    for part in np.array_split(pixel_order, STEPS):
        pixels.reshape(-1, 3)[part] = end.reshape(-1, 3)[part]
        curve.append(_class_probability(predict_cell(predictor, pixels), own_class))
    return curve


def _class_probability(prediction: CellPrediction | None, own_class: int) -> float:
    return 0.0 if prediction is None else float(prediction.class_probs[own_class])


def _summary(curves: dict[str, list], sign: int) -> dict:
    """The interval of each kind's mean over its steps, its mean curve, and its difference from the baseline."""
    out: dict = {}
    for name, rows in curves.items():
        means = np.array(rows)[:, 1:].mean(1)
        out[name] = {**bootstrap_interval(means), "curve": np.mean(rows, 0).round(4).tolist()}
        if name != BASELINE:
            out[f"{name}, more than {BASELINE}"] = bootstrap_interval(
                sign * (means - np.array(curves[BASELINE])[:, 1:].mean(1))
            )
    return out
