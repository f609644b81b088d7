"""Labelled smear images as one kind of record, whatever folder they came from; unknown labels stay unknown.

The documented layout (`read_layout`) is a folder with

    images.csv  file, mpp, source, split [, bystanders, original]     a row per image
    cells.csv   file, x0, y0, x1, y1, class, mask, <attribute>…, nuclear_cytoplasmic_ratio
                a row per cell, any column but `file` may be missing or empty

where `class` may name several allowed classes ("band_neutrophil|segmented_neutrophil"), be empty ("some white cell")
or be "ignore" (neither cell nor background: nothing is taught inside that box), `mask` is a PNG of the image's size (0
outside, 1 cytoplasm, 2 nucleus) with all the cells of the image, so named in each of their rows, and `bystanders` says
whether cells without a row may be in the picture: "none", "stained" (only where the stain is as dark as a nucleus) or
"anywhere" outside the boxes. `original` names the picture that this is a copy of, where it is one.
`nuclear_cytoplasmic_ratio`, "low" or "high", is the side on which nucleus/cell of the masks is held while training, and what
they are measured against.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from ..vocabulary import ATTRIBUTES, CLASS_NAMES, MATURE_NAMES, NEUTROPHIL_NAMES, WHITE_NAMES

NC_CLASSES = ("low", "high")
BYSTANDERS = ("none", "stained", "anywhere")


@dataclass(frozen=True)
class CellLabel:
    """What is known of one cell. Box in the image's own pixels; None = only its centre (the image's middle) is
    known."""

    box_xyxy: tuple[float, float, float, float] | None
    allowed: tuple[str, ...]  # classes that the label allows
    attributes: tuple[tuple[str, str], ...] = ()  # (attribute, state)
    box_trusted: bool = True  # False where the box was made from a pseudo-mask
    nc_class: str = ""  # one of NC_CLASSES, where somebody judged the nuclear:cytoplasmic ratio


@dataclass(frozen=True)
class Example:
    """One labelled image. `mask_path`: PNG of all its cells; `ignored`: boxes of things that are neither cell nor
    background."""

    path: str
    mpp: float
    source: str
    split: str
    cells: tuple[CellLabel, ...]
    bystanders: str = "none"
    mask_path: str = ""
    mask_weight: float = 1.0
    ignored: tuple[tuple[float, float, float, float], ...] = ()
    original: str = ""  # name of the picture that this is a copy of, where the data say so


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        raise DataError(f"{path}: no such table")
    with open(path, newline="", encoding="utf-8-sig") as f:
        return list(csv.DictReader(f))


def load_rgb(path: str) -> np.ndarray:
    """An image as uint8 [H, W, 3]."""
    if path.endswith(".pt"):
        from .tensors import rgb_of_tensor

        return rgb_of_tensor(Path(path))
    try:
        with Image.open(path) as im:
            return np.asarray(im.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def load_mask(path: str) -> np.ndarray:
    """A mask as uint8 [H, W]: 0 outside, 1 cytoplasm, 2 nucleus."""
    if path.endswith(".pt"):
        from .tensors import mask_of_tensor

        return mask_of_tensor(Path(path))
    return np.asarray(Image.open(path))


# --- the documented layout --------------------------------------------------------------------------------------


def read_layout(folder: Path) -> list[Example]:
    """The documented layout; DataError names the file and row of anything malformed."""
    images = {}
    for n, row in enumerate(_rows(folder / "images.csv"), 2):
        where = f"{folder / 'images.csv'} row {n}"
        path = folder / row["file"]
        if not path.exists():
            raise DataError(f"{where}: image {row['file']!r} does not exist")
        bystanders = row.get("bystanders") or "none"
        if bystanders not in BYSTANDERS:
            raise DataError(f"{where}: bystanders {bystanders!r}; expected one of {', '.join(BYSTANDERS)}")
        split, source = row.get("split") or "train", row.get("source") or folder.name
        images[row["file"]] = Example(str(path), mpp_of(row.get("mpp"), where), source, split, (), bystanders,
                                      original=row.get("original") or "")  # fmt: skip
    for n, row in enumerate(_rows(folder / "cells.csv"), 2):
        where = f"{folder / 'cells.csv'} row {n}"
        if row["file"] not in images:
            raise DataError(f"{where}: image {row['file']!r} is not in images.csv")
        example = images[row["file"]]
        if row.get("class") == "ignore":
            images[row["file"]] = replace(example, ignored=(*example.ignored, _box_of_row(row, example, where)))
            continue
        cell, mask_path = _cell_of_row(row, example, where), _mask_of_row(row, folder, example, where)
        images[row["file"]] = replace(example, cells=(*example.cells, cell), mask_path=mask_path)
    return list(images.values())


def mpp_of(told: str | float | None, where: str) -> float:
    """µm/px as a number; DataError where it is none above 0."""
    try:
        mpp = float(told or "")
    except (TypeError, ValueError):
        mpp = math.nan
    if not 0 < mpp < math.inf:
        raise DataError(f"{where}: mpp is {told!r}; expected µm/px, a number above 0")
    return mpp


def _cell_of_row(row: dict[str, str], example: Example, where: str) -> CellLabel:
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
        raise DataError(f"{where}: nuclear_cytoplasmic_ratio {nc_class!r}; known: {', '.join(NC_CLASSES)}")
    return CellLabel(box, allowed, tuple(attributes), nc_class=nc_class)


def _box_of_row(row: dict[str, str], example: Example, where: str) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = (float(row.get(k) or "") for k in ("x0", "y0", "x1", "y1"))
    except ValueError:
        raise DataError(f"{where}: x0, y0, x1, y1 are not four numbers") from None
    with Image.open(example.path) as im:
        w, h = im.size
    if not (-1 <= x0 < x1 <= w + 1 and -1 <= y0 < y1 <= h + 1):
        raise DataError(f"{where}: box {(x0, y0, x1, y1)} does not lie in the image of {w} x {h} px")
    return x0, y0, x1, y1


def _mask_of_row(row: dict[str, str], folder: Path, example: Example, where: str) -> str:
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
        raise DataError(f"{where}: mask has {drawn.shape[2]} channels; expected one, of values 0, 1 and 2")
    if drawn.min() < 0 or drawn.max() > 2:
        found = ", ".join(map(str, np.unique(drawn)[:6]))
        raise DataError(f"{where}: mask has values {found}; expected 0 (outside), 1 (cytoplasm) and 2 (nucleus)")
    return str(path)


# --- public sources, as laid out by the project's data folder ---------------------------------------------------

#: µm/px, from the median red cell (7.3 µm) of each source; Zheng's first set from its neutrophils against the
#: second's.
MPP = {"PBC": 0.10, "marrow": 0.10, "Raabin-WBC": 0.06, "BCCD": 0.08, "BCDD": 0.124, "zheng1": 0.18, "zheng2": 0.10,
       "chula": 0.20}  # fmt: skip

_NUCLEUS = {"unsegmented-round": "round", "unsegmented-indented": "indented", "unsegmented-band": "band",
            "segmented-bilobed": "bilobed", "segmented-multilobed": "multilobed", "irregular": "irregular"}  # fmt: skip
_GRANULES = {"nil": "agranular", "small": "fine", "round": "coarse", "coarse": "coarse"}


def _wbcatt(row: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """WBCAtt's columns (Tsutsui 2023) in the vocabulary's states; empty = not annotated = unknown."""
    found = [
        ("granularity", _GRANULES.get(row["granule_type"])),
        ("cytoplasm_colour", row["cytoplasm_colour"].replace(" ", "_") or None),
        ("nucleus_shape", _NUCLEUS.get(row["nucleus_shape"])),
        ("size_vs_rbc", {"small": "small", "big": "large"}.get(row["cell_size"])),
    ]
    return tuple((k, v) for k, v in found if v)


def read_pbc(folder: Path) -> list[Example]:
    """PBC (Acevedo 2020) with boxes and WBCAtt: one labelled cell near the middle, stained bystanders possible."""
    out = []
    for row in _rows(folder / "labels.csv"):
        box = None
        path = folder / "images" / row["file"]
        if row["box_cx"]:
            with Image.open(path) as im:
                w, h = im.size
            cx, cy, bw, bh = (float(row[k]) for k in ("box_cx", "box_cy", "box_w", "box_h"))
            box = ((cx - bw / 2) * w, (cy - bh / 2) * h, (cx + bw / 2) * w, (cy + bh / 2) * h)
        cell = CellLabel(box, (row["class"],), _wbcatt(row), nc_class=row["nuclear_cytoplasmic_ratio"])
        out.append(Example(str(path), MPP["PBC"], "PBC", row["split"], (cell,), "stained"))
    return out


def read_marrow(folder: Path) -> list[Example]:
    """Matek's marrow crops: one labelled cell in the middle, unlabelled neighbours anywhere; unidentified ones left
    out."""
    return [
        Example(str(folder / "images" / r["file"]), MPP["marrow"], "marrow", r["split"],
                (CellLabel(None, (r["class"],)),), "anywhere")
        for r in _rows(folder / "labels.csv") if r["class"] in CLASS_NAMES
    ]  # fmt: skip


def read_zheng(folder: Path) -> list[Example]:
    """Zheng 2018 with expert masks; every fifth picture of each set is kept for evaluation (split "val")."""
    out = []
    for row in _rows(folder / "labels.csv"):
        mask_path = folder / "masks" / row["file"]
        ys, xs = np.nonzero(np.asarray(Image.open(mask_path)))
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        allowed = NEUTROPHIL_NAMES if row["class"] == "neutrophil" else (row["class"],)
        split = "val" if int(Path(row["file"]).stem.split("_")[1]) % 5 == 0 else "train"
        source = f"zheng{row['dataset']}"
        out.append(Example(str(folder / "images" / row["file"]), MPP[source], source, split,
                           (CellLabel(box, allowed),), "stained", str(mask_path)))  # fmt: skip
    return out


def _bccd_types(folder: Path) -> dict[str, tuple[str, ...]]:
    """Allowed classes of BCCD fields that hold one white cell: file name -> classes."""
    names = {"NEUTROPHIL": NEUTROPHIL_NAMES, "EOSINOPHIL": ("eosinophil",), "BASOPHIL": ("basophil",),
             "MONOCYTE": ("monocyte",), "LYMPHOCYTE": ("lymphocyte",)}  # fmt: skip
    if not folder.exists():
        return {}
    return {r["file"]: names[r["wbc_types"]] for r in _rows(folder / "wbc_types.csv") if r["wbc_types"] in names}


def read_txl(folder: Path) -> list[Example]:
    """TXL-PBC: whole fields with boxes of every white cell (0), red cell (1) and platelet (2). White ones need no
    type.

    Its PBC pictures are left out here: `read_pbc` has them, with the same split. BCCD's cells take their type from a
    sibling folder `bccd` where there is one. Raabin-WBC is of normal blood and holds the mature types only (Kouzehkanan et
    al. 2022).
    """
    types, out = _bccd_types(folder.parent / "bccd"), []
    for row in _rows(folder / "images.csv"):
        if row["source"] == "PBC":
            continue
        path = folder / "images" / row["file"]
        with Image.open(path) as im:
            w, h = im.size
        white, other = [], []
        for line in (folder / "boxes_yolo" / f"{path.stem}.txt").read_text().splitlines():
            kind, cx, cy, bw, bh = line.split()
            cx, cy, bw, bh = float(cx) * w, float(cy) * h, float(bw) * w, float(bh) * h
            if kind != "1":
                (white if kind == "0" else other).append((cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2))
        unknown = MATURE_NAMES if row["source"] == "Raabin-WBC" else WHITE_NAMES
        allowed = types.get(row["original"], unknown) if len(white) == 1 else unknown
        cells = tuple(CellLabel(b, allowed) for b in white)
        out.append(
            Example(str(path), MPP[row["source"]], row["source"], row["split"], cells, "none", ignored=tuple(other),
                    original=row["original"])
        )
    return out


def read_chula(folder: Path) -> list[Example]:
    """Chula's fields of red cells only: what is no nucleated cell. Every fifth picture is kept for evaluation."""
    return [
        Example(str(path), MPP["chula"], "chula", "val" if i % 5 == 0 else "train", ())
        for i, path in enumerate(sorted((folder / "images").iterdir()))
    ]


READERS = {"pbc": read_pbc, "marrow": read_marrow, "zheng": read_zheng, "txl": read_txl, "chula": read_chula}


def read_folder(folder: Path) -> list[Example]:
    """A data folder, told by its content: the documented layout (images.csv and cells.csv), LeukoX's tensors, COCO
    instance JSON, else the known sub-folders in it."""
    from .coco import coco_files, read_coco
    from .leukox import is_leukox, read_leukox

    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    if (folder / "images.csv").exists() and (folder / "cells.csv").exists():
        return read_layout(folder)
    if is_leukox(folder):
        return read_leukox(folder)
    if coco_files(folder):
        return read_coco(folder)
    found = [e for name, read in READERS.items() if (folder / name).is_dir() for e in read(folder / name)]
    if not found:
        raise DataError(f"{folder}: neither images.csv with cells.csv, COCO instance JSON, LeukoX's folders nor any of {', '.join(READERS)} in it")
    return found
