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

from ..bounded_files import open_regular
from ..records import MergedCells
from .stored_zip import write_stored

_BUFFER_BYTES = 2**20
_OVERVIEW_QUALITY = 85
_ARCHIVE_BYTES, _PICTURE_BYTES = 2**16, 2**20  # limits: the list of an archive, and a picture


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


def read_pictures(path: Path, most: int) -> dict[int, bytes]:
    """Return cell id to JPEG, of at most `most` pictures that are stored as they are.

    Raises OSError, or zipfile.BadZipFile or ValueError where the file is damaged.
    """
    if path.stat().st_size > _ARCHIVE_BYTES + most * _PICTURE_BYTES:
        raise ValueError(f"is too large for pictures of {most} cells")
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > most:
            raise ValueError(f"holds {len(entries)} pictures of {most} cells")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _PICTURE_BYTES:
                raise ValueError(f"{entry.filename!r:.80} is too large, or is compressed")
        return {int(e.filename.removesuffix(".jpg")): archive.read(e) for e in entries}
