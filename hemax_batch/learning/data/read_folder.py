"""A data folder read by whichever reader its content calls for."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .coco import coco_files, read_coco
from .csv_layout import is_csv_layout, read_csv_layout
from .examples import Example
from .leukox import is_leukox, read_leukox
from .public_sets import READERS


def read_folder(folder: Path) -> list[Example]:
    """A data folder, told by its content: the documented layout (images.csv and cells.csv), LeukoX's tensors, COCO
    instance JSON, else the known sub-folders in it."""

    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    if is_csv_layout(folder):
        return read_csv_layout(folder)
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
