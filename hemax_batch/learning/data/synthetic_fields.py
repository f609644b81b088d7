"""Synthetic fields in the documented data layout, with exact masks and attributes.

They add attributes of classes that nobody has annotated.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from ...synthetic import SmearCell, draw_cell_patch
from ...synthetic.cell_recipes import RECIPES
from ...vocabulary import ATTRIBUTE_NAMES, CLASSES

#: A cell with a smaller part inside the field is neither a cell nor background.
MIN_VISIBLE = 0.4

#: Classes that can be painted.
TYPES = tuple(c.name for c in CLASSES if c.name in RECIPES)


def write_synthetic_fields(folder: Path, count: int, seed: int, size_px: int, mpp: float) -> None:
    """Write `count` fields of `size_px` per side, classes in turn.

    The folder gets images, masks, images.csv and, last, cells.csv.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images: list[list[object]] = []
    cells: list[list[object]] = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        rgb, drawn = draw_cell_patch(rng, TYPES[i % len(TYPES)], size_px, mpp)
        nucleated = [c for c in drawn if c.class_name != "platelet" and _visible(c, size_px) > 0]
        white = [c for c in nucleated if _visible(c, size_px) >= MIN_VISIBLE]
        Image.fromarray(rgb).save(folder / f"{i:05d}.png")
        Image.fromarray(_label_map(white, size_px)).save(folder / f"{i:05d}_mask.png")
        images.append([f"{i:05d}.png", mpp, "synthetic", "train", "none"])
        for c in nucleated:
            place = [f"{i:05d}.png", *np.clip(c.box_xyxy, 0, size_px).round(1)]
            if _visible(c, size_px) < MIN_VISIBLE:
                cells.append([*place, "ignore", "", *("" for _ in ATTRIBUTE_NAMES)])
            else:
                cells.append(
                    [
                        *place,
                        c.class_name,
                        f"{i:05d}_mask.png",
                        *(getattr(c, a) for a in ATTRIBUTE_NAMES),
                    ]
                )
    _write(folder / "images.csv", ["file", "mpp", "source", "split", "bystanders"], images)
    _write(
        folder / "cells.csv",
        ["file", "x0", "y0", "x1", "y1", "class", "mask", *ATTRIBUTE_NAMES],
        cells,
    )


def _visible(cell: SmearCell, size_px: int) -> float:
    """Return the part of the cell's area that lies inside the field."""
    inside = cell.label[
        max(-cell.y0, 0) : max(size_px - cell.y0, 0), max(-cell.x0, 0) : max(size_px - cell.x0, 0)
    ]
    return float((inside > 0).sum() / (cell.label > 0).sum())


def _label_map(cells: list[SmearCell], size_px: int) -> np.ndarray:
    """Draw all cells on one map uint8 [S, S]."""
    out = np.zeros((size_px, size_px), np.uint8)
    for c in cells:
        h, w = c.label.shape
        y0, x0, y1, x1 = max(c.y0, 0), max(c.x0, 0), min(c.y0 + h, size_px), min(c.x0 + w, size_px)
        if y1 > y0 and x1 > x0:
            part = c.label[y0 - c.y0 : y1 - c.y0, x0 - c.x0 : x1 - c.x0]
            out[y0:y1, x0:x1] = np.maximum(out[y0:y1, x0:x1], part)
    return out


def _write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    """Write a CSV table."""
    with open(path, "w", newline="") as f:
        csv.writer(f).writerows([header, *rows])
