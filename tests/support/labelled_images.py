"""Labelled images in the documented layout, and a training that may be killed after any step."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from hemax_batch.vocabulary import CLASS_NAMES


def write_layout(folder, n=4, **changed):
    """`n` pictures of 100 px with a purple disc, its box, mask, class and granularity; `changed` alters the first
    cell's row."""
    rows = []
    folder.mkdir(exist_ok=True)
    for i in range(n):
        y, x = np.mgrid[:100, :100]
        r = np.hypot(x - 49.5, y - 49.5)
        rgb = np.full((100, 100, 3), 235, np.uint8)
        rgb[r < 30], rgb[r < 18] = (200, 170, 210), (90 + 10 * i, 40, 130)
        Image.fromarray(rgb).save(folder / f"{i}.png")
        Image.fromarray((r < 30).astype(np.uint8) + (r < 18)).save(folder / f"{i}_mask.png")
        rows.append(
            {
                "file": f"{i}.png",
                "x0": 20,
                "y0": 20,
                "x1": 80,
                "y1": 80,
                "class": CLASS_NAMES[i % 3],
                "mask": f"{i}_mask.png",
                "granularity": "fine",
            }
        )
    rows[0].update(changed)
    for name, table in (
        ("cells.csv", rows),
        (
            "images.csv",
            [{"file": f"{i}.png", "mpp": 0.12, "source": "s", "split": "train"} for i in range(n)],
        ),
    ):
        with open(folder / name, "w", newline="") as f:
            writer = csv.DictWriter(f, table[0])
            writer.writeheader()
            writer.writerows(table)
    return folder


def every_step(go):
    """`go` that logs (and so may be killed) after each step."""

    def stepwise(self, sampler, until, early=None):
        while self.step < until and not (early and early.should_stop):
            go(self, sampler, self.step + 1, early)

    return stepwise
