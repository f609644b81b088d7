"""Write the pictures of the report.

`pictures.zip` holds each cell as the network saw it: `<cell_id>.jpg`, PICTURE_UM per side.
`overview.jpg` shows the whole slide.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..records import MergedCells
from .stored_zip import write_stored

_BUFFER_BYTES = 2**20
_OVERVIEW_QUALITY = 85


def write_pictures(path: Path, merged: MergedCells, read: Callable[..., bytes] = bytes) -> None:
    """Write the stored pictures, one in memory at a time. The caller renames the file into place.

    read  returns the JPEG of an entry of `Cells.pictures`. The entry may be only a place (results.region_blobs).
    """
    pictures = zip(merged.ids.tolist(), merged.cells.pictures, strict=True)
    with open(path, "wb", _BUFFER_BYTES) as archive:
        write_stored(
            archive, ((f"{i}.jpg", jpeg) for i, picture in pictures if (jpeg := read(picture)))
        )


def write_overview(path: Path, pixels: np.ndarray) -> None:
    """Write the overview, uint8 [h, w, 3]. The caller renames the file into place."""
    Image.fromarray(pixels).save(path, "JPEG", quality=_OVERVIEW_QUALITY)


def read_pictures(path: Path) -> dict[int, bytes]:
    """Return cell id to JPEG. A missing or damaged file raises OSError or zipfile.BadZipFile."""
    with zipfile.ZipFile(path) as archive:
        return {int(name.removesuffix(".jpg")): archive.read(name) for name in archive.namelist()}
