"""Reader of the documented layout of labelled images.

    images.csv  file, mpp, source, split [, bystanders, original, patient]     a row per image
    cells.csv   file, x0, y0, x1, y1, class, mask, <attribute>…, nuclear_cytoplasmic_ratio
                a row per cell; any column but `file` may be missing or empty

`class` may name several allowed classes ("band_neutrophil|segmented_neutrophil"), be empty ("some
white cell") or be "ignore" (neither cell nor background; that box is left out of training). `mask`
is a PNG of the image's size with all cells of the image: 0 outside, 1 cytoplasm, 2 nucleus. Each of
the image's rows names it. `bystanders` says where cells without a row may lie: "none", "stained"
(only where the stain is as dark as a nucleus) or "anywhere" outside the boxes. `original` names the
image that this one is a copy of. `nuclear_cytoplasmic_ratio` is "low" or "high", an expert's
judgement: training holds the masks' nucleus/cell area on that side, and evaluation measures it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DataError
from ...vocabulary import ATTRIBUTES, CLASS_NAMES, WHITE_NAMES
from .examples import BYSTANDERS, NC_CLASSES, CellLabel, Example, parse_mpp, read_csv_rows


def is_csv_layout(folder: Path) -> bool:
    """Return whether a folder has this layout."""
    return (folder / "images.csv").exists() and (folder / "cells.csv").exists()


def read_csv_layout(folder: Path) -> list[Example]:
    """Read the documented layout.

    Raises
    ------
    DataError
        The data are malformed. The message names the file and the row.
    """
    images = {}
    for n, row in enumerate(read_csv_rows(folder / "images.csv"), 2):
        where = f"{folder / 'images.csv'} row {n}"
        path = folder / row["file"]
        if not path.exists():
            raise DataError(f"{where}: image {row['file']!r} does not exist")
        bystanders = row.get("bystanders") or "none"
        if bystanders not in BYSTANDERS:
            raise DataError(
                f"{where}: bystanders {bystanders!r}; expected one of {', '.join(BYSTANDERS)}"
            )
        split, source = row.get("split") or "train", row.get("source") or folder.name
        images[row["file"]] = Example(
            str(path),
            parse_mpp(row.get("mpp"), where),
            source,
            split,
            (),
            bystanders,
            original=row.get("original") or "",
            patient=row.get("patient") or "",
        )
    for n, row in enumerate(read_csv_rows(folder / "cells.csv"), 2):
        where = f"{folder / 'cells.csv'} row {n}"
        if row["file"] not in images:
            raise DataError(f"{where}: image {row['file']!r} is not in images.csv")
        example = images[row["file"]]
        if row.get("class") == "ignore":
            images[row["file"]] = replace(
                example, ignored=(*example.ignored, _box_of_row(row, example, where))
            )
            continue
        cell, mask_path = (
            _cell_of_row(row, example, where),
            _mask_of_row(row, folder, example, where),
        )
        images[row["file"]] = replace(example, cells=(*example.cells, cell), mask_path=mask_path)
    return list(images.values())


def _cell_of_row(row: dict[str, str], example: Example, where: str) -> CellLabel:
    """Read the labels of one cell."""
    allowed = tuple(c for c in (row.get("class") or "").split("|") if c) or WHITE_NAMES
    for name in allowed:
        if name not in CLASS_NAMES:
            raise DataError(f"{where}: unknown class {name!r}; known: {', '.join(CLASS_NAMES)}")
    box = _box_of_row(row, example, where) if row.get("x0") else None
    attributes = []
    for a in ATTRIBUTES:
        state = row.get(a.name) or ""
        if state and state not in a.states:
            raise DataError(f"{where}: {a.name} {state!r}; known: {', '.join(a.states)}")
        if state:
            attributes.append((a.name, state))
    nc_class = row.get("nuclear_cytoplasmic_ratio") or ""
    if nc_class and nc_class not in NC_CLASSES:
        raise DataError(
            f"{where}: nuclear_cytoplasmic_ratio {nc_class!r}; known: {', '.join(NC_CLASSES)}"
        )
    return CellLabel(box, allowed, tuple(attributes), nc_class=nc_class)


def _box_of_row(
    row: dict[str, str], example: Example, where: str
) -> tuple[float, float, float, float]:
    """Read the box of one row."""
    try:
        x0, y0, x1, y1 = (float(row.get(k) or "") for k in ("x0", "y0", "x1", "y1"))
    except ValueError:
        raise DataError(f"{where}: x0, y0, x1, y1 are not four numbers") from None
    with Image.open(example.path) as im:
        w, h = im.size
    if not (-1 <= x0 < x1 <= w + 1 and -1 <= y0 < y1 <= h + 1):
        raise DataError(
            f"{where}: box {(x0, y0, x1, y1)} does not lie in the image of {w} x {h} px"
        )
    return x0, y0, x1, y1


def _mask_of_row(row: dict[str, str], folder: Path, example: Example, where: str) -> str:
    """Check the mask of one row and return its path; "" for none."""
    named = str(folder / row["mask"]) if row.get("mask") else ""
    if example.cells and named != example.mask_path:
        raise DataError(
            f"{where}: mask {row.get('mask') or ''!r}, but rows above say {Path(example.mask_path).name!r} of the same image; "
            "an image has one mask, of all its cells, named in each of their rows"
        )
    if not named or example.cells:
        return named
    path = Path(named)
    if not path.exists():
        raise DataError(f"{where}: mask {row['mask']!r} does not exist")
    with Image.open(path) as mask, Image.open(example.path) as image:
        if mask.size != image.size:
            raise DataError(f"{where}: mask is {mask.size} px, its image {image.size} px")
        drawn = np.asarray(mask)
    if drawn.ndim != 2:
        raise DataError(
            f"{where}: mask has {drawn.shape[2]} channels; expected one, of values 0, 1 and 2"
        )
    if drawn.min() < 0 or drawn.max() > 2:
        found = ", ".join(map(str, np.unique(drawn)[:6]))
        raise DataError(
            f"{where}: mask has values {found}; expected 0 (outside), 1 (cytoplasm) and 2 (nucleus)"
        )
    return str(path)
