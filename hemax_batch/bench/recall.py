"""What the screen finds of what the network finds everywhere: two runs' cells of one slide compared."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ..geometry import pairwise_iou
from ..vocabulary import UNIDENTIFIED

_SAME_IOU = 0.5
_AT_A_TIME = 1024


def recall(everywhere: Path, screened: Path) -> dict[str, float]:
    """Of the cells in table `everywhere` (a run with --exhaustive) the share that is in table `screened` too; and of
    those among them that it could name.

    The same cell: an IoU of the boxes of 0.5 or more. Cells cut by the slide's edge count as any other.
    """
    (wanted, named), (found, _) = _cells(everywhere), _cells(screened)
    hit = np.zeros(len(wanted), bool)
    for k in range(0, len(wanted) if len(found) else 0, _AT_A_TIME):
        hit[k : k + _AT_A_TIME] = (pairwise_iou(wanted[k : k + _AT_A_TIME], found) >= _SAME_IOU).any(1)
    return {
        "everywhere": len(wanted), "screened": len(found), "of_them_found": int(hit.sum()), "recall": _share(hit),
        "named_everywhere": int(named.sum()), "of_the_named_found": int(hit[named].sum()),
        "recall_of_named": _share(hit[named]),
    }  # fmt: skip


def _share(hit: np.ndarray) -> float:
    return round(float(hit.mean()), 4) if len(hit) else float("nan")


def _cells(table: Path) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a `cells.csv`, float64 [N, 4], and whether each cell has a class, bool [N]."""
    with open(table, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    boxes = [[float(row[name]) for name in ("x0", "y0", "x1", "y1")] for row in rows]
    return np.array(boxes, float).reshape(-1, 4), np.array([row["class"] != UNIDENTIFIED for row in rows], bool)
