"""Labelled smear images as one kind of record, whatever folder they came from; unknown labels stay unknown.

Readers: `layout` (the documented one), `coco`, `leukox`, `public_sets`.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError

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


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table; DataError where there is none."""
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


def mpp_of(told: str | float | None, where: str) -> float:
    """µm/px as a number; DataError where it is none above 0."""
    try:
        mpp = float(told or "")
    except (TypeError, ValueError):
        mpp = math.nan
    if not 0 < mpp < math.inf:
        raise DataError(f"{where}: mpp is {told!r}; expected µm/px, a number above 0")
    return mpp


def read_folder(folder: Path) -> list[Example]:
    """A data folder, told by its content: the documented layout (images.csv and cells.csv), LeukoX's tensors, COCO
    instance JSON, else the known sub-folders in it."""
    from .coco import coco_files, read_coco
    from .layout import is_layout, read_layout
    from .leukox import is_leukox, read_leukox
    from .public_sets import READERS

    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    if is_layout(folder):
        return read_layout(folder)
    if is_leukox(folder):
        return read_leukox(folder)
    if coco_files(folder):
        return read_coco(folder)
    found = [
        e for name, read in READERS.items() if (folder / name).is_dir() for e in read(folder / name)
    ]
    if not found:
        raise DataError(
            f"{folder}: neither images.csv with cells.csv, COCO instance JSON, LeukoX's folders nor any of {', '.join(READERS)} in it"
        )
    return found
