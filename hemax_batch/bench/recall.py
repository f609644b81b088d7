"""Recall of the screen: the cells of a screened run compared with those of an exhaustive run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ..geometry import pairwise_iou
from ..vocabulary import UNIDENTIFIED

_SAME_IOU = 0.5
#: Boxes that are compared at once.
_BATCH = 1024


def recall(everywhere: Path, screened: Path, truth: Path | None = None) -> dict[str, float | None]:
    """Compute the share of cells that a screened run finds.

    Shares are of all cells of the exhaustive run, of those with a class, and of those that match a
    labelled cell. Two cells match at an IoU of at least 0.5. Cells cut by the slide's edge count.
    An exhaustive run also finds objects that are no nucleated cells (dirt, unusual red cells, scale
    bars). Only the last share is of real cells.

    Parameters
    ----------
    everywhere, screened
        `cells.csv` of a run with --exhaustive, and of one without.
    truth
        Table of labelled cells.
    """
    (reference, named), (found, _) = _cells(everywhere), _cells(screened)
    hit = _matched(reference, found)
    report = {
        "everywhere": len(reference),
        "screened": len(found),
        "of_them_found": int(hit.sum()),
        "recall": _share(hit),
        "named_everywhere": int(named.sum()),
        "of_the_named_found": int(hit[named].sum()),
        "recall_of_named": _share(hit[named]),
    }
    labelled = _cells(truth)[0] if truth else np.zeros((0, 4))
    real = labelled[_matched(labelled, reference)]
    real_hit = _matched(real, found)
    return report | {
        "labelled": len(labelled),
        "labelled_everywhere": len(real),
        "of_these_found": int(real_hit.sum()),
        "recall_of_labelled": _share(real_hit) if len(real) else None,
    }


def _matched(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether each box [N, 4] matches one of `others` [M, 4]: bool [N]."""
    hit = np.zeros(len(boxes), bool)
    for k in range(0, len(boxes) if len(others) else 0, _BATCH):
        hit[k : k + _BATCH] = (pairwise_iou(boxes[k : k + _BATCH], others) >= _SAME_IOU).any(1)
    return hit


def _share(hit: np.ndarray) -> float:
    """Return the share of True values; NaN for none."""
    return round(float(hit.mean()), 4) if len(hit) else float("nan")


def _cells(table: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a table's boxes, float64 [N, 4], and whether each cell has a class, bool [N]."""
    with open(table, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    boxes = [[float(row[name]) for name in ("x0", "y0", "x1", "y1")] for row in rows]
    return np.array(boxes, float).reshape(-1, 4), np.array(
        [row["class"] != UNIDENTIFIED for row in rows], bool
    )
