"""Find all files of one slide: an MRXS file and its folder, the files of a DICOM series, or one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
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


@dataclass(frozen=True)
class FileTimes:
    """When a slide's files were last changed.

    age_s      seconds since any of them was last written, renamed or given its times, as far as these times are past;
               infinite where the slide is missing
    future     the latest modification time that lies in the future, in seconds since 1970; 0.0: none does
    snapshot   sizes and times of all files. They are equal as long as nobody writes.
    unsettled  no time says when a file was last changed: only two equal snapshots do
    """

    age_s: float
    future: float = 0.0
    snapshot: tuple[tuple[int, int, int], ...] = ()
    unsettled: bool = False


def file_times(path: Path) -> FileTimes:
    """The times of a slide's files.

    Copying tools set back the modification time at the end, but nobody can set back the time of change. A scanner
    whose clock is ahead sets a modification time in the future; the time of change comes from the file server.
    """
    try:
        states = [p.stat() for p in slide_files(path)]
    except OSError:
        return FileTimes(math.inf)  # opening it will say what is wrong
    now = time.time()
    past = [t for s in states for t in (s.st_mtime, s.st_ctime) if t <= now]
    ahead = max(max(s.st_mtime, s.st_ctime) for s in states)
    return FileTimes(
        now - max(past, default=-math.inf),
        ahead if ahead > now else 0.0,
        tuple((s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in states),
        any(s.st_ctime > now for s in states),
    )


def data_folders(path: Path) -> tuple[Path, ...]:
    """Return the folders with the pixels of an MRXS (x/) or VSI (_x_/) file, if they exist."""
    names = {".mrxs": path.stem, ".vsi": f"_{path.stem}_"}
    name = names.get(path.suffix.lower())
    folder = path.with_name(name) if name else None
    return (folder,) if folder is not None and folder.is_dir() else ()
