"""A second look at the cells of which the network is unsure: the same patch turned by half and mirrored.

A cell has no upright, so what is said of it should not hang on how it lies. Class and attributes of an unsure cell
become the geometric mean of what the three views say; that there is a cell, its place and its masks stay as first seen.
Only cells near their patch's middle are worth it, as each has a patch of its own. One held-out cell in ten is looked at
again, which makes one in a hundred right that was not; all eight views of every cell would make it one and a third.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .. import vocabulary
from ..geometry import corners, pairwise_iou
from ..records import CENTRAL_CELL_UM
from .network_output import NetworkOutput, NetworkProbabilities

UNSURE_BELOW = 0.75  # a class less probable than this, temperature apart, is looked at again if it is its patch's own
_SAME_IOU = 0.5  # a cell in another view
_MIN_PROBABILITY = 1e-6  # probability: one view alone cannot rule a class out


def augment_unsure_cells(
    probabilities: NetworkProbabilities,
    pixels: np.ndarray,
    mpp: float,
    temperature: float,
    network: Callable[[np.ndarray], NetworkOutput],
    batch_size: int,
) -> NetworkProbabilities:
    """`said` of patches uint8 [B, 3, H, W] with second looks at its unsure cells.

    mpp            µm/px of the patches
    network        gives the answer for a batch of patches; asked for at most `at_once`
    """
    unsure = _unsure_queries(probabilities, pixels.shape[:1:-1], mpp, temperature)
    rows = np.flatnonzero(unsure.any(1))
    if not len(rows):
        return probabilities
    classes, attributes = probabilities.class_probs.copy(), probabilities.attribute_probs.copy()
    for start in range(0, len(rows), batch_size):
        batch_rows = rows[start : start + batch_size]
        views = [
            NetworkProbabilities.from_output(
                network(np.ascontiguousarray(transform(pixels[batch_rows]))), temperature
            )
            for transform, _ in _VIEWS
        ]
        for k, row in enumerate(batch_rows):
            for q in np.flatnonzero(unsure[row]):
                views_of_cell = [
                    (probabilities, row, q),
                    *_find_in_views(views, k, probabilities.boxes[row, q], pixels.shape[:1:-1]),
                ]
                classes[row, q] = _geometric_mean(
                    [view.class_probs[i, j] for view, i, j in views_of_cell]
                )
                for part in vocabulary.attribute_slices().values():
                    attributes[row, q, part] = _geometric_mean(
                        [view.attribute_probs[i, j, part] for view, i, j in views_of_cell]
                    )
    return replace(probabilities, class_probs=classes, attribute_probs=attributes)


def _unsure_queries(
    probabilities: NetworkProbabilities, size_wh: tuple[int, int], mpp: float, temperature: float
) -> np.ndarray:
    """The queries on unsure cells near the middle, bool [B, Q]; by probabilities without temperature, which is fitted
    to what comes out of here."""
    plain = probabilities.class_probs**temperature
    off_um = (
        np.hypot(*(probabilities.boxes[..., :2] - np.array(size_wh) / 2).transpose(2, 0, 1)) * mpp
    )
    return (
        probabilities.confident
        & (plain.max(-1) < UNSURE_BELOW * plain.sum(-1))
        & (off_um <= CENTRAL_CELL_UM)
    )


def _rotate_box(box_cxcywh: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.array(size_wh) - box_cxcywh[:2], box_cxcywh[2:]])


def _mirror_box(box_cxcywh: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    return np.array([size_wh[0] - box_cxcywh[0], *box_cxcywh[1:]])


#: Views: of pixels, and where a box of the first view lies there.
_VIEWS = (
    (lambda pixels: pixels[..., ::-1, ::-1], _rotate_box),
    (lambda pixels: pixels[..., ::-1], _mirror_box),
)


def _find_in_views(
    views: list[NetworkProbabilities], row: int, box_cxcywh: np.ndarray, size_wh: tuple[int, int]
) -> list[tuple[NetworkProbabilities, int, int]]:
    """In which of the views the cell of that box is found: (view, row, query)."""
    found = []
    for view, (_, transform_box) in zip(views, _VIEWS, strict=True):
        confident = np.flatnonzero(view.confident[row])
        ious = pairwise_iou(
            corners(transform_box(box_cxcywh, size_wh)[None]), corners(view.boxes[row, confident])
        )[0]
        if len(confident) and ious.max() >= _SAME_IOU:
            found.append((view, row, int(confident[ious.argmax()])))
    return found


def _geometric_mean(probabilities: list[np.ndarray]) -> np.ndarray:
    """Geometric mean of distributions, float32.

    >>> _geometric_mean([np.array([0.9, 0.1]), np.array([0.1, 0.9])]).tolist()
    [0.5, 0.5]
    """
    mean = np.exp(np.mean([np.log(np.maximum(p, _MIN_PROBABILITY)) for p in probabilities], axis=0))
    return (mean / mean.sum()).astype(np.float32)
