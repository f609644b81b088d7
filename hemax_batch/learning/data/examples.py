"""Labelled smear images as one kind of record, whatever folder they came from; unknown labels stay unknown.

Readers: `csv_layout` (the documented one), `coco`, `leukox`, `public_sets`; `read_folder` chooses.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DataError
from .tensor_files import load_mask_tensor, load_rgb_tensor

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
    patient: str = ""  # whose blood it is, where the data name patients
    original: str = ""  # name of the picture that this is a copy of, where the data say so


def read_csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table; DataError where there is none."""
    if not path.exists():
        raise DataError(f"{path}: no such table")
    with open(path, newline="", encoding="utf-8-sig") as f:
        return list(csv.DictReader(f))


def load_rgb(path: str) -> np.ndarray:
    """An image as uint8 [H, W, 3]."""
    if path.endswith(".pt"):
        return load_rgb_tensor(Path(path))
    try:
        with Image.open(path) as im:
            return np.asarray(im.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def load_mask(path: str) -> np.ndarray:
    """A mask as uint8 [H, W]: 0 outside, 1 cytoplasm, 2 nucleus."""
    if path.endswith(".pt"):
        return load_mask_tensor(Path(path))
    return np.asarray(Image.open(path))


def parse_mpp(text: str | float | None, where: str) -> float:
    """µm/px as a number; DataError where it is none above 0."""
    try:
        mpp = float(text or "")
    except (TypeError, ValueError):
        mpp = math.nan
    if not 0 < mpp < math.inf:
        raise DataError(f"{where}: mpp is {text!r}; expected µm/px, a number above 0")
    return mpp
