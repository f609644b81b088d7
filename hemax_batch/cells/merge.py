"""One cell, one record: what two patches both saw is kept once, the same whatever the regions, workers or order.

Two records are the same cell when their boxes' IoU is at least `SAME_IOU`, or at least `SAME_CONTAINMENT` of the smaller
box lies in the larger. Boxes alone can mislead where a small cell nestles against a large one; so below an IoU of
`SURE_IOU` the masks decide: they must share at least `SAME_MASK` of the smaller.

Of a cell's records the one that was most central in its patch is kept (it was seen whole, with most surroundings), in
steps of 0.25 µm; then the surer; then by place; then by content. That is a total order on what the records say, so
the result depends on the set of records alone.

    a sees the cell 1 µm off the centre of its patch, b sees it 15 µm off: a is kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
from scipy.spatial import cKDTree

from ..geometry import area, centres
from ..mask_packing import unpack_mask
from ..records import Cells, MergedCells

SAME_IOU = 0.5
SAME_CONTAINMENT = 0.7
SURE_IOU = 0.7  # from here on boxes alone decide: two cells that only touch never share so much
SAME_MASK = 0.5
_STEP_UM = 0.25  # off-centre distances within one step are alike, and the score decides


def merge_cells(parts: Iterable[Cells]) -> MergedCells:
    """All records of a slide -> its cells, numbered from 1 by place (row-major by the centre's y, then x, then box).

    Steps: join, find the pairs that are one cell, keep the best of each, order by place. Time is N log N, memory a few
    hundred bytes a record: a k-d tree gives the pairs of near records, and each is looked at once.
    """
    cells = Cells.concat(list(parts))
    rows = np.flatnonzero(_survivors(cells))
    rows = rows[_place_order(cells.boxes_xyxy[rows])]
    return MergedCells(
        cells.take(rows),
        np.arange(1, len(rows) + 1, dtype=np.int64),
        {"duplicate": len(cells) - len(rows)},
    )


def _survivors(cells: Cells) -> np.ndarray:
    """Which records survive: bool [N]. Greedy in the total order; a record falls to any better one that is kept."""
    n = len(cells)
    kept = np.ones(n, bool)
    pairs = same_cell_pairs(cells)
    if len(pairs) == 0:
        return kept
    rank = np.empty(n, np.int64)
    rank[_preference(cells)] = np.arange(n)
    better = np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    worse = pairs.sum(1) - better
    # by the better one's rank: when a pair is reached, everything that could end its better record has been decided
    order = np.argsort(rank[better], kind="stable")
    for a, b in zip(better[order].tolist(), worse[order].tolist(), strict=True):
        if kept[a]:
            kept[b] = False
    return kept


def _preference(cells: Cells) -> np.ndarray:
    """Indices of records, most preferred first. Records alike in all but content are ordered by a hash of it."""
    b = cells.boxes_xyxy
    steps = np.round(cells.off_centre_um / _STEP_UM)
    content = np.zeros(len(cells), np.int64)
    for row in _rows_with_twins(cells, steps):
        probabilities = cells.class_probs[row].tobytes() + cells.attribute_probs[row].tobytes()
        content[row] = zlib.crc32(probabilities + cells.masks[row])
    return np.lexsort((content, b[:, 3], b[:, 2], b[:, 0], b[:, 1], -cells.scores, steps))


def _rows_with_twins(cells: Cells, steps: np.ndarray) -> np.ndarray:
    """Rows that have a twin in box, score and step: few, so hashing them is cheap."""
    if len(cells) == 0:
        return np.zeros(0, np.int64)
    keys = np.column_stack([cells.boxes_xyxy, cells.scores, steps])
    _, which, times = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return np.flatnonzero(times[which.ravel()] > 1)


def same_cell_pairs(cells: Cells) -> np.ndarray:
    """Pairs [P, 2] of records that are the same cell, each once."""
    boxes = cells.boxes_xyxy.astype(np.float64)
    pairs = _near_pairs(boxes)
    a, b = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
    wh = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    inter, area_a, area_b = wh[:, 0] * wh[:, 1], area(a), area(b)
    iou = inter / np.maximum(area_a + area_b - inter, 1e-9)
    inside = inter / np.maximum(np.minimum(area_a, area_b), 1e-9)
    same = (iou >= SAME_IOU) | (inside >= SAME_CONTAINMENT)
    for k in np.flatnonzero(same & (iou < SURE_IOU)):
        same[k] = mask_overlap(cells, *pairs[k]) >= SAME_MASK
    return pairs[same]


def mask_overlap(cells: Cells, i: int, j: int) -> float:
    """Pixels that the masks of cells `i` and `j` share, over the smaller mask's pixels."""
    low = np.maximum(cells.mask_xy[i], cells.mask_xy[j])
    high = np.minimum(
        cells.mask_xy[i] + cells.mask_hw[i, ::-1], cells.mask_xy[j] + cells.mask_hw[j, ::-1]
    )
    windows, sizes = [], []
    for row in (i, j):
        mask = unpack_mask(cells.masks[row], cells.mask_hw[row]) > 0
        (x0, y0), (x1, y1) = low - cells.mask_xy[row], high - cells.mask_xy[row]
        windows.append(mask[y0 : max(y0, y1), x0 : max(x0, x1)])
        sizes.append(np.count_nonzero(mask))
    if (high <= low).any():
        return 0.0
    return np.count_nonzero(windows[0] & windows[1]) / max(min(sizes), 1)


def _near_pairs(boxes: np.ndarray) -> np.ndarray:
    """Pairs [P, 2] of boxes that may share half their area: their centres are nearer than the larger's half diagonal.

    Boxes are taken in octaves of size, each against itself and all smaller ones, so that one giant box does not make
    every box look far.
    """
    none = np.zeros((0, 2), np.int64)
    if len(boxes) < 2:
        return none
    half_diagonal = np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T) / 2 + 1e-6
    octave = np.floor(np.log2(half_diagonal)).astype(int)
    centre, found = centres(boxes), [none]
    for k in np.unique(octave):
        rows, smaller = np.flatnonzero(octave == k), np.flatnonzero(octave < k)
        reach, tree = half_diagonal[rows].max(), cKDTree(centre[rows])
        found.append(rows[tree.query_pairs(reach, output_type="ndarray").reshape(-1, 2)])
        if len(smaller):
            near = tree.sparse_distance_matrix(
                cKDTree(centre[smaller]), reach, output_type="ndarray"
            )
            found.append(np.column_stack([rows[near["i"]], smaller[near["j"]]]))
    return np.concatenate(found)


def _place_order(boxes: np.ndarray) -> np.ndarray:
    centre = centres(boxes)
    return np.lexsort(
        (boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], centre[:, 0], centre[:, 1])
    )
