"""Which files make up one slide: an MRXS file and its folder, the files of a DICOM series, else the file alone."""

from __future__ import annotations

import math
import time
from pathlib import Path

from . import dicom_series


def slide_files(path: Path) -> tuple[Path, ...]:
    """All files whose content is the slide at `path`, sorted by name; `path` is among them."""
    if path.suffix.lower() in (".mrxs", ".vsi"):
        return tuple(
            sorted(
                {
                    path,
                    *(p for folder in data_folders(path) for p in folder.rglob("*") if p.is_file()),
                }
            )
        )
    if path.suffix.lower() in (".vms", ".vmu"):
        return tuple(
            sorted(p for p in path.parent.glob("*") if p.is_file() and p.name.startswith(path.stem))
        )
    series = dicom_series.series_uid(path)
    if series is None:
        return (path,)
    return tuple(
        sorted(
            p for p in path.parent.iterdir() if p.is_file() and dicom_series.series_uid(p) == series
        )
    )


def seconds_since_change(path: Path) -> float:
    """Seconds since any file of the slide was last written, renamed or given its times; infinite where it is missing.

    Copying tools set back the modification time at the end, but nobody can set back the time of change.
    """
    try:
        times = [max(now.st_mtime, now.st_ctime) for now in (p.stat() for p in slide_files(path))]
    except OSError:
        return math.inf  # opening it will say what is wrong
    return time.time() - max(times)


def data_folders(path: Path) -> tuple[Path, ...]:
    """The folders that hold the pixels of an MRXS (x/) or VSI (_x_/) file, where they exist."""
    names = {".mrxs": path.stem, ".vsi": f"_{path.stem}_"}
    name = names.get(path.suffix.lower())
    folder = path.with_name(name) if name else None
    return (folder,) if folder is not None and folder.is_dir() else ()
