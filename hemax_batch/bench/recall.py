"""What the screen finds of what the network finds everywhere: two runs' cells of one slide compared."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ..geometry import pairwise_iou
from ..vocabulary import UNIDENTIFIED

_SAME_IOU = 0.5
_AT_A_TIME = 1024


def recall(everywhere: Path, screened: Path, truth: Path | None = None) -> dict[str, float | None]:
    """Of the cells in table `everywhere` (a run with --exhaustive) the share that is in table `screened` too; of those
    among them that it could name; and of those that a table of labelled cells says are real, where there is one.

    The same cell: an IoU of the boxes of 0.5 or more. Cells cut by the slide's edge count as any other. A look
    everywhere also finds what is no nucleated cell (dirt, odd red cells, scale bars): only the last share is of cells
    that were there to be found.
    """
    (wanted, named), (found, _) = _cells(everywhere), _cells(screened)
    hit = _matched(wanted, found)
    report = {
        "everywhere": len(wanted),
        "screened": len(found),
        "of_them_found": int(hit.sum()),
        "recall": _share(hit),
        "named_everywhere": int(named.sum()),
        "of_the_named_found": int(hit[named].sum()),
        "recall_of_named": _share(hit[named]),
    }
    labelled = _cells(truth)[0] if truth else np.zeros((0, 4))
    seen = labelled[_matched(labelled, wanted)]
    again = _matched(seen, found)
    return report | {
        "labelled": len(labelled),
        "labelled_everywhere": len(seen),
        "of_these_found": int(again.sum()),
        "recall_of_labelled": _share(again) if len(seen) else None,
    }


def _matched(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each box [N, 4] is in `others` [M, 4] too: bool [N]."""
    hit = np.zeros(len(boxes), bool)
    for k in range(0, len(boxes) if len(others) else 0, _AT_A_TIME):
        hit[k : k + _AT_A_TIME] = (
            pairwise_iou(boxes[k : k + _AT_A_TIME], others) >= _SAME_IOU
        ).any(1)
    return hit


def _share(hit: np.ndarray) -> float:
    return round(float(hit.mean()), 4) if len(hit) else float("nan")


def _cells(table: Path) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a `cells.csv` or a truth, float64 [N, 4], and whether each cell has a class, bool [N]."""
    with open(table, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    boxes = [[float(row[name]) for name in ("x0", "y0", "x1", "y1")] for row in rows]
    return np.array(boxes, float).reshape(-1, 4), np.array(
        [row["class"] != UNIDENTIFIED for row in rows], bool
    )
