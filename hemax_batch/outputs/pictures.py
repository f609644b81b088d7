"""`pictures.zip`: each cell's picture as the network saw it, `<cell_id>.jpg`, PICTURE_UM a side, for the report."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..records import MergedCells

_NO_DATE = (1980, 1, 1, 0, 0, 0)  # the same cells give the same bytes


def write_pictures(path: Path, merged: MergedCells) -> None:
    """Write the pictures that were kept. The caller renames the file into place."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for cell_id, jpeg in zip(merged.ids.tolist(), merged.cells.pictures, strict=True):
            if jpeg:
                archive.writestr(zipfile.ZipInfo(f"{cell_id}.jpg", _NO_DATE), jpeg)


def read_pictures(path: Path) -> dict[int, bytes]:
    """Cell id to JPEG. OSError or zipfile.BadZipFile where the file is missing or damaged."""
    with zipfile.ZipFile(path) as archive:
        return {int(name.removesuffix(".jpg")): archive.read(name) for name in archive.namelist()}
