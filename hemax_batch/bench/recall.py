"""What the screen finds of what the network finds everywhere: two runs' cells of one slide compared."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ..geometry import pairwise_iou

_SAME_IOU = 0.5
_AT_A_TIME = 1024


def recall(everywhere: Path, screened: Path) -> dict[str, float]:
    """Of the cells in table `everywhere` (a run with --exhaustive) the share that is in table `screened` too.

    The same cell: an IoU of the boxes of 0.5 or more. Cells cut by the slide's edge count as any other.
    """
    wanted, found = _boxes(everywhere), _boxes(screened)
    hit = sum(
        int((pairwise_iou(wanted[k : k + _AT_A_TIME], found) >= _SAME_IOU).any(1).sum())
        for k in range(0, len(wanted), _AT_A_TIME)
        if len(found)
    )
    return {
        "everywhere": len(wanted), "screened": len(found), "of_them_found": hit,
        "recall": round(hit / len(wanted), 4) if len(wanted) else float("nan"),
    }  # fmt: skip


def _boxes(table: Path) -> np.ndarray:
    """Boxes of a `cells.csv`: float64 [N, 4]."""
    with open(table, newline="", encoding="utf-8") as f:
        rows = [[float(row[name]) for name in ("x0", "y0", "x1", "y1")] for row in csv.DictReader(f)]
    return np.array(rows, float).reshape(-1, 4)
