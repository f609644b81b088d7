"""One cell, one record: what two patches both saw is kept once, the same whatever the regions, workers or order.

Two records are the same cell when their boxes' IoU is at least `SAME_IOU`, or the smaller lies in the larger by at
least `SAME_INSIDE` of its area. Of a cell's records the one that was most central in its patch is kept (it was seen
whole, with most surroundings); then the surer; then by place. That is a total order on what the records say, so the
result depends on the set of records alone.

    a sees the cell 1 µm off the centre of its patch, b sees it 15 µm off: a is kept.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.spatial import cKDTree

from ..geometry import area, centres
from ..records import Cells, MergedCells

SAME_IOU = 0.5
SAME_INSIDE = 0.7
_STEP_UM = 0.25  # off-centre distances closer than this are alike, and the score decides


def merge(parts: Iterable[Cells]) -> MergedCells:
    """All records of a slide -> its cells, numbered from 1 by place (row-major by the centre's y, then x, then box).

    Time is N log N: pairs of near records come from a k-d tree, and each is looked at once.
    """
    cells = Cells.concat(list(parts))
    kept = cells.take(np.flatnonzero(_kept(cells)))
    order = _by_place(kept.boxes_xyxy)
    kept = kept.take(order)
    return MergedCells(kept, np.arange(1, len(kept) + 1, dtype=np.int64), {"duplicate": len(cells) - len(kept)})


def _kept(cells: Cells) -> np.ndarray:
    """Which records survive: bool [N]. Greedy in the total order; a record falls to any better one that is kept."""
    n = len(cells)
    alive = np.ones(n, bool)
    pairs = _same_cell_pairs(cells.boxes_xyxy.astype(np.float64))
    if len(pairs) == 0:
        return alive
    rank = np.empty(n, np.int64)
    rank[_preference(cells)] = np.arange(n)
    better = np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    worse = pairs.sum(1) - better
    # by the better one's rank: when a pair is reached, everything that could end its better record has been decided
    for a, b in zip(*(v[np.argsort(rank[better], kind="stable")].tolist() for v in (better, worse)), strict=True):
        if alive[a]:
            alive[b] = False
    return alive


def _preference(cells: Cells) -> np.ndarray:
    """Indices of records, most preferred first. Ties in everything are the same record, whichever is kept."""
    b = cells.boxes_xyxy
    steps = np.round(cells.off_centre_um / _STEP_UM)
    return np.lexsort((b[:, 3], b[:, 2], b[:, 0], b[:, 1], -cells.scores, steps))


def _same_cell_pairs(boxes: np.ndarray) -> np.ndarray:
    """Pairs [P, 2] of records that are the same cell."""
    if len(boxes) < 2:
        return np.zeros((0, 2), np.int64)
    # boxes that share half their area have centres nearer than the larger's half diagonal
    reach = float(np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T).max()) / 2 + 1e-6
    pairs = cKDTree(centres(boxes)).query_pairs(reach, output_type="ndarray")
    a, b = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
    wh = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    inter, area_a, area_b = wh[:, 0] * wh[:, 1], area(a), area(b)
    iou = inter / np.maximum(area_a + area_b - inter, 1e-9)
    inside = inter / np.maximum(np.minimum(area_a, area_b), 1e-9)
    return pairs[(iou >= SAME_IOU) | (inside >= SAME_INSIDE)]


def _by_place(boxes: np.ndarray) -> np.ndarray:
    centre = centres(boxes)
    return np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], centre[:, 0], centre[:, 1]))
