"""Reading of a data folder by the reader that fits its content."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .coco import coco_files, read_coco
from .csv_layout import is_csv_layout, read_csv_layout
from .examples import Example
from .leukox import is_leukox, read_leukox
from .public_sets import READERS


def read_folder(folder: Path) -> list[Example]:
    """Read a data folder.

    The content decides the reader: the documented layout (images.csv and cells.csv), LeukoX's
    tensors, COCO instance JSON, or else known sub-folders.

    Raises
    ------
    DataError
        No reader fits, or the data are malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    if is_csv_layout(folder):
        return read_csv_layout(folder)
    if is_leukox(folder):
        return read_leukox(folder)
    if coco_files(folder):
        return read_coco(folder)
    examples = [
        e for name, read in READERS.items() if (folder / name).is_dir() for e in read(folder / name)
    ]
    if not examples:
        raise DataError(
            f"{folder}: neither images.csv with cells.csv, COCO instance JSON, LeukoX's folders nor any of {', '.join(READERS)} in it"
        )
    return examples
