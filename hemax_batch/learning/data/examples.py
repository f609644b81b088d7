"""Labelled smear images as records, whatever their folder's layout; unknown labels stay unknown.

Readers: `csv_layout` (the documented layout), `coco`, `leukox` and `public_sets`. `read_folder`
chooses among them.
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
    """Labels of one cell.

    Attributes
    ----------
    box_xyxy : tuple of float, optional
        Box in image pixels; None if only the cell's centre, the image's centre, is known.
    allowed : tuple of str
        Classes that the label allows.
    attributes : tuple of (str, str)
        Known attributes with their states.
    box_trusted : bool
        False if the box was made from a pseudo-mask.
    nc_class : str
        One of NC_CLASSES, if an expert judged the nuclear:cytoplasmic ratio.
    """

    box_xyxy: tuple[float, float, float, float] | None
    allowed: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...] = ()
    box_trusted: bool = True
    nc_class: str = ""


@dataclass(frozen=True)
class Example:
    """One labelled image.

    Attributes
    ----------
    bystanders : str
        Where unlabelled cells may lie, one of BYSTANDERS.
    mask_path : str
        Mask of all its cells.
    ignored : tuple of boxes
        Boxes of objects that are neither cell nor background.
    patient : str
        The patient, if the data name patients.
    original : str
        Name of the image that this one is a copy of, if the data say so.
    """

    path: str
    mpp: float
    source: str
    split: str
    cells: tuple[CellLabel, ...]
    bystanders: str = "none"
    mask_path: str = ""
    mask_weight: float = 1.0
    ignored: tuple[tuple[float, float, float, float], ...] = ()
    patient: str = ""
    original: str = ""


def read_csv_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV table; raise DataError if it does not exist."""
    if not path.exists():
        raise DataError(f"{path}: no such table")
    with open(path, newline="", encoding="utf-8-sig") as f:
        return list(csv.DictReader(f))


def load_rgb(path: str) -> np.ndarray:
    """Read an image as uint8 [H, W, 3]."""
    if path.endswith(".pt"):
        return load_rgb_tensor(Path(path))
    try:
        with Image.open(path) as im:
            return np.asarray(im.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def load_mask(path: str) -> np.ndarray:
    """Read a mask as uint8 [H, W]: 0 outside, 1 cytoplasm, 2 nucleus."""
    if path.endswith(".pt"):
        return load_mask_tensor(Path(path))
    return np.asarray(Image.open(path))


def parse_mpp(text: str | float | None, where: str) -> float:
    """Parse µm/px; raise DataError unless it is a number above 0."""
    try:
        mpp = float(text or "")
    except (TypeError, ValueError):
        mpp = math.nan
    if not 0 < mpp < math.inf:
        raise DataError(f"{where}: mpp is {text!r}; expected µm/px, a number above 0")
    return mpp
