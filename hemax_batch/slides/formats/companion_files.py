"""Find all files of one slide: an MRXS file and its folder, the files of a DICOM series, or one."""

from __future__ import annotations

import math
import time
from pathlib import Path

from . import dicom_series


def slide_files(path: Path) -> tuple[Path, ...]:
    """Return all files of the slide at `path`, sorted by name and including `path`."""
    suffix = path.suffix.lower()
    if suffix in (".mrxs", ".vsi"):
        data = (p for folder in data_folders(path) for p in folder.rglob("*") if p.is_file())
        return tuple(sorted({path, *data}))
    if suffix in (".vms", ".vmu"):
        return tuple(
            sorted(p for p in path.parent.glob("*") if p.is_file() and p.name.startswith(path.stem))
        )
    series = dicom_series.series_uid(path)
    if series is None:
        return (path,)
    files = (p for p in path.parent.iterdir() if p.is_file())
    return tuple(sorted(p for p in files if dicom_series.series_uid(p) == series))


def seconds_since_change(path: Path) -> float:
    """Return the seconds since any file of the slide was written, renamed or given its times.

    Copying tools set the modification time back at the end, but nobody can set back the change
    time. The result is infinite if the slide does not exist.
    """
    try:
        times = [max(now.st_mtime, now.st_ctime) for now in (p.stat() for p in slide_files(path))]
    except OSError:
        return math.inf  # opening the slide gives the exact error
    return time.time() - max(times)


def data_folders(path: Path) -> tuple[Path, ...]:
    """Return the folders with the pixels of an MRXS (x/) or VSI (_x_/) file, if they exist."""
    names = {".mrxs": path.stem, ".vsi": f"_{path.stem}_"}
    name = names.get(path.suffix.lower())
    folder = path.with_name(name) if name else None
    return (folder,) if folder is not None and folder.is_dir() else ()
