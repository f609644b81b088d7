#!/usr/bin/env python3
"""Compare a cells table with the truth that `hemax-batch synth` wrote: how many were found, how many are false.

    python examples/compare_with_truth.py demo/results/smear/cells.csv demo/smear.truth.csv [--require]

Cells are matched one to one by falling IoU, at least 0.5. A true cell that touches the slide's border (edge = 1)
need not be found, and counts neither way. `--require`: exit 1 unless 95 % are found and at most 2 % of the found are
false.
"""

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from hemax_batch.geometry import pairwise_iou

MIN_IOU, MIN_FOUND, MAX_FALSE = 0.5, 0.95, 0.02


def read(path: Path) -> tuple[list[dict[str, str]], np.ndarray]:
    """Rows of a table, and their boxes float64 [N, 4]."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, np.array([[float(r[k]) for k in ("x0", "y0", "x1", "y1")] for r in rows]).reshape(
        -1, 4
    )


def match(found_xyxy: np.ndarray, true_xyxy: np.ndarray) -> dict[int, tuple[int, float]]:
    """Row of each true cell that was found -> (row of the found one, IoU)."""
    iou = pairwise_iou(true_xyxy, found_xyxy)
    pairs = sorted(zip(*np.nonzero(iou >= MIN_IOU), strict=True), key=lambda p: -iou[p])
    matched: dict[int, tuple[int, float]] = {}
    used: set[int] = set()
    for t, f in pairs:
        if t not in matched and f not in used:
            matched[int(t)] = (int(f), float(iou[t, f]))
            used.add(f)
    return matched


def main() -> int:
    """Print the comparison; the exit code as the docstring above says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--require", action="store_true")
    args = parser.parse_args()
    (cells, boxes), (truth, true_boxes) = read(args.cells), read(args.truth)
    matched = match(boxes, true_boxes)
    needed = [i for i, row in enumerate(truth) if row["edge"] == "0"]
    hits = [i for i in needed if i in matched]
    false = len(cells) - len(matched)
    found_share, false_share = len(hits) / max(len(needed), 1), false / max(len(cells), 1)
    agree = sum(truth[i]["class"] == cells[matched[i][0]]["class"] for i in hits)
    at_border = len(truth) - len(needed)
    print(
        f"true cells {len(needed)} (and {at_border} at the border), found {len(hits)}: {found_share:.1%}"
    )
    print(f"false among {len(cells)}: {false}: {false_share:.1%}")
    print(f"mean IoU of the boxes {np.mean([matched[i][1] for i in hits]) if hits else 0:.3f}")
    print(f"class agrees in {agree} of {len(hits)}: {agree / max(len(hits), 1):.1%}")
    confused = Counter((truth[i]["class"], cells[matched[i][0]]["class"]) for i in hits)
    for (true, said), count in sorted(confused.items(), key=lambda item: -item[1]):
        if true != said:
            print(f"  {count:4} {true} called {said}")
    return int(args.require and not (found_share >= MIN_FOUND and false_share <= MAX_FALSE))


if __name__ == "__main__":
    sys.exit(main())
