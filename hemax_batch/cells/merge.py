"""Merging of records of the same cell from overlapping patches and regions.

Two records are the same cell if the IoU of their boxes is at least `SAME_IOU`, or if at least
`SAME_CONTAINMENT` of the smaller box lies in the larger. Boxes alone can be wrong where a small
cell touches a large one. Below an IoU of `SURE_IOU` the masks must also share at least `SAME_MASK`
of the smaller mask.

Of a cell's records the one nearest to its patch's centre is kept, because it shows the cell whole
with most surroundings. Distances are compared in steps of 0.25 µm. Ties are resolved by score,
then by position, then by content. This is a total order on the records, so the result does not
depend on regions, workers or order.

Example: record a lies 1 µm off the centre of its patch, record b of the same cell lies 15 µm off.
Record a is kept.
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
#: From this IoU on the boxes alone decide: boxes of touching cells never overlap so much.
SURE_IOU = 0.7
SAME_MASK = 0.5
#: Off-centre distances within one step are equal, and the score decides.
_STEP_UM = 0.25


def merge_cells(parts: Iterable[Cells]) -> MergedCells:
    """Merge all records of a slide into its cells.

    Steps: join the records, find pairs that are the same cell, keep the best record of each, order
    by position. Ids count from 1 in row-major order of the centre (y, then x, then box). A k-d tree
    finds near records, so time is N log N and memory a few hundred bytes per record.
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
    """Select the records that survive: bool [N].

    The selection is greedy in the total order. A record is dropped for any better one that is kept.
    """
    n = len(cells)
    kept = np.ones(n, bool)
    pairs = same_cell_pairs(cells)
    if len(pairs) == 0:
        return kept
    rank = np.empty(n, np.int64)
    rank[_preference(cells)] = np.arange(n)
    better = np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    worse = pairs.sum(1) - better
    # Pairs are visited by the better record's rank, so that record's own fate is already decided.
    order = np.argsort(rank[better], kind="stable")
    for a, b in zip(better[order].tolist(), worse[order].tolist(), strict=True):
        if kept[a]:
            kept[b] = False
    return kept


def _preference(cells: Cells) -> np.ndarray:
    """Return record indices, most preferred first; a hash of the content resolves ties."""
    b = cells.boxes_xyxy
    steps = np.round(cells.off_centre_um / _STEP_UM)
    content = np.zeros(len(cells), np.int64)
    for row in _tied_rows(cells, steps):
        probabilities = cells.class_probs[row].tobytes() + cells.attribute_probs[row].tobytes()
        content[row] = zlib.crc32(probabilities + cells.masks[row])
    return np.lexsort((content, b[:, 3], b[:, 2], b[:, 0], b[:, 1], -cells.scores, steps))


def _tied_rows(cells: Cells, steps: np.ndarray) -> np.ndarray:
    """Return rows that are equal to another in box, score and step; they are few."""
    if len(cells) == 0:
        return np.zeros(0, np.int64)
    keys = np.column_stack([cells.boxes_xyxy, cells.scores, steps])
    _, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[inverse.ravel()] > 1)


def same_cell_pairs(cells: Cells) -> np.ndarray:
    """Find pairs of records that are the same cell: int [P, 2], each pair once."""
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
    same_pairs: np.ndarray = pairs[same]
    return same_pairs


def mask_overlap(cells: Cells, i: int, j: int) -> float:
    """Compute the pixels that the masks of two cells share, over the smaller mask's pixels."""
    low = np.maximum(cells.mask_xy[i], cells.mask_xy[j])
    high = np.minimum(
        cells.mask_xy[i] + cells.mask_hw[i, ::-1], cells.mask_xy[j] + cells.mask_hw[j, ::-1]
    )
    windows, sizes = [], []
    for row in (i, j):
        mask = unpack_mask(cells.masks[row], cells.mask_hw[row]) > 0
        (x0, y0), (x1, y1) = low - cells.mask_xy[row], high - cells.mask_xy[row]
        windows.append(mask[y0 : max(y0, y1), x0 : max(x0, x1)])
        sizes.append(int(np.count_nonzero(mask)))
    if (high <= low).any():
        return 0.0
    shared = int(np.count_nonzero(windows[0] & windows[1]))
    return shared / max(min(sizes), 1)


def _near_pairs(boxes: np.ndarray) -> np.ndarray:
    """Find pairs of boxes whose centres are nearer than the larger's half diagonal: int [P, 2].

    Only such boxes can share half their area. Boxes are grouped by octaves of size. Each group is
    compared with itself and all smaller boxes, so one giant box does not slow the search.
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
    """Return the row-major order of boxes by centre, ties by box."""
    centre = centres(boxes)
    return np.lexsort(
        (boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], centre[:, 0], centre[:, 1])
    )
