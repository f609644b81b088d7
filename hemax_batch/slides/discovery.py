"""Find the slides that the command line names: files, folders, globs and lists of files.

Folders are searched recursively for known file endings. A file that is named directly is kept
whatever its ending, so that a wrong file fails with its own error. Files that belong to one slide
(an MRXS folder, a DICOM series) count once.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..bounded_files import MAX_LIST_BYTES, read_bounded
from ..errors import UsageError
from ..text_decoding import decode_text
from .formats import dicom_series
from .formats.companion_files import data_folders
from .slide_ids import assign_ids, stem

RESULTS_MARK = ".hemax"  # a results folder contains a folder of this name
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".jp2"})
SLIDE_SUFFIXES = IMAGE_SUFFIXES | {
    ".svs", ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide",
    ".vms", ".vmu", ".vsi", ".zvi", ".czi", ".dcm", ".dicom",
}  # fmt: skip
_SIDECAR_WORDS = frozenset({"thumbnail", "thumb", "label", "macro", "preview", "overview"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideFile:
    """One slide of a run: its absolute path and the name of its results folder."""

    path: Path
    slide_id: str


def find_slides(
    inputs: Sequence[str | os.PathLike[str]], known_ids: Mapping[str, str] | None = None
) -> list[SlideFile]:
    """Find the slides that `inputs` name.

    Parameters
    ----------
    inputs
        Files, folders, globs (`**` for any depth) or text lists (`@list`, `*.txt`).
    known_ids
        Ids that earlier runs gave, by absolute path. See `slide_ids` for how ids are chosen.

    Returns
    -------
    list of SlideFile
        Each slide once, in the order of the inputs and sorted within each input.

    Raises
    ------
    UsageError
        An input does not exist or contains no slide. The message names it.
    """
    if not inputs:
        raise UsageError("no input: name slides, folders, globs or a list (@slides.txt)")
    found: dict[Path, None] = {}
    real_paths: set[str] = set()
    series = _SeriesIndex()
    for name in inputs:
        for path in _expand(os.fspath(name)):
            path = series.representative(path)
            real_path = os.path.realpath(path)
            if real_path not in real_paths:
                real_paths.add(real_path)
                found[path] = None
    paths = [p for p in found if not _is_companion(p, found)]
    ids = assign_ids(paths, [series.folder_name(p) or stem(p) for p in paths], known_ids or {})
    return [SlideFile(p, i) for p, i in zip(paths, ids, strict=True)]


def check_inputs_exist(inputs: Sequence[str | os.PathLike[str]]) -> None:
    """Raise UsageError for the first input that does not exist."""
    for name in (os.fspath(item) for item in inputs):
        if not name.startswith("@") and not os.path.exists(name) and not glob.has_magic(name):
            raise UsageError(
                f"{name}: no such file or folder; check the path, and whether its share is mounted"
            )


def _expand(name: str) -> list[Path]:
    """Return the absolute paths of the files that one input names."""
    if name.startswith("@") and not os.path.exists(name):
        return _read_list(Path(name[1:]))
    path = Path(os.path.abspath(name))
    if path.is_dir():
        return _search_folder(path, name)
    if path.exists():
        return _read_list(path) if path.suffix.lower() == ".txt" else [path]
    check_inputs_exist([name])
    return _search_glob(name)


def _search_folder(folder: Path, name: str) -> list[Path]:
    """Return the slides below a folder. Raise UsageError if there are none."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(
            f"{name}: this user may not read this folder; check the folder's permissions"
        )
    found = _without_sidecars(sorted(_walk(folder)))
    if not found:
        raise UsageError(
            f"{name}: no slide in this folder (searched for {' '.join(sorted(SLIDE_SUFFIXES))})"
        )
    return found


def _search_glob(pattern: str) -> list[Path]:
    """Return the slides that a glob matches. Raise UsageError if there are none."""
    matches = [Path(os.path.abspath(m)) for m in sorted(glob.glob(pattern, recursive=True))]
    found = [
        m for m in matches if m.is_file() and _may_be_slide(m) and not _is_results_folder(m.parent)
    ]
    for folder in (m for m in matches if m.is_dir() and not _is_results_folder(m)):
        found += sorted(_walk(folder))
    found = _without_sidecars(found)
    if not found:
        raise UsageError(
            f"{pattern}: matches no slide ({len(matches)} other files or folders); check the pattern"
        )
    return found


def _read_list(path: Path) -> list[Path]:
    """Return the files that a text list names, one input a line.

    Blank lines and lines that start with # are ignored. Relative entries are relative to the list.
    A slide that does not exist stays in the result: it fails alone and the others are processed.
    """
    try:
        lines = decode_text(read_bounded(path, MAX_LIST_BYTES)).splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"@{path}: this list cannot be read as text ({error}); give one slide a line"
        ) from error
    stripped = (_unquoted(line.strip()) for line in lines)
    entries = [line for line in stripped if line and not line.startswith("#")]
    if not entries:
        raise UsageError(f"@{path}: the list is empty; give one slide a line")
    found: list[Path] = []
    for entry in entries:
        target = os.path.join(os.path.dirname(os.path.abspath(path)), entry)
        if target.lower().endswith(".txt"):
            raise UsageError(f"@{path}: names another list, {entry}; lists do not nest")
        is_glob = "*" in entry or "?" in entry  # names of slides often contain brackets
        found += (
            _expand(target)
            if is_glob or os.path.exists(target)
            else [Path(os.path.abspath(target))]
        )
    return found


def _unquoted(text: str) -> str:
    """Return a path without the quotes that Windows puts round it ("Copy as path")."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the slides below a folder.

    Links to folders are followed once. Hidden folders and results folders are skipped.
    """
    visited: set[tuple[int, int]] = set()
    for folder_name, folders, files in os.walk(folder, followlinks=True, onerror=_warn_unreadable):
        status = os.stat(folder_name)
        if (status.st_dev, status.st_ino) in visited or _is_results_folder(Path(folder_name)):
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        data = {f.name for name in files for f in data_folders(Path(folder_name, name))}
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and not f.endswith(".zarr") and f not in data
        )
        # A dangling link stays in the list: its slide fails with an error instead of being missed.
        candidates = (p for name in files if _may_be_slide(p := Path(folder_name, name)))
        yield from (p for p in candidates if p.is_file() or p.is_symlink())


def _warn_unreadable(error: OSError) -> None:
    """Log that a folder cannot be searched."""
    _log.warning(
        "%s: this folder cannot be searched (%s); its slides are not processed",
        error.filename,
        error.strerror,
    )


def _may_be_slide(path: Path) -> bool:
    """Return whether a file's name, or its DICOM header, is that of a slide."""
    if path.name.startswith("."):
        return False
    suffix = path.suffix.lower()
    # Many DICOM exports have a UID as their name, or no ending.
    return suffix in SLIDE_SUFFIXES or (
        (not suffix or suffix[1:].isdigit()) and dicom_series.series_uid(path) is not None
    )


def _without_sidecars(paths: list[Path]) -> list[Path]:
    """Remove the pictures that scanners store beside a slide.

    An example is `smear_thumbnail.jpg` beside `smear.svs`.
    """
    slides = {(p.parent, stem(p)) for p in paths if p.suffix.lower() not in IMAGE_SUFFIXES}

    def is_sidecar(path: Path) -> bool:
        head, _, word = stem(path).replace("-", "_").replace(".", "_").rpartition("_")
        owner = (path.parent, stem(path)[: len(head)])
        return (
            path.suffix.lower() in IMAGE_SUFFIXES
            and word.lower() in _SIDECAR_WORDS
            and owner in slides
        )

    return [p for p in paths if not is_sidecar(p)]


def _is_results_folder(folder: Path) -> bool:
    """Return whether this package wrote a folder, as the results of a slide or of reviews."""
    has_our_name = folder.name == "reviews" or (folder / "result.json").is_file()
    return has_our_name and (folder.parent / RESULTS_MARK).is_dir()


def _is_companion(path: Path, found: Mapping[Path, None]) -> bool:
    """Return whether `path` belongs to another slide that was found.

    It belongs to it if it lies in that slide's data folder or is one of its images.
    """
    owners = [
        p for p in found if p.suffix.lower() in (".mrxs", ".vsi", ".vms", ".vmu") and p != path
    ]
    for owner in owners:
        if any(folder in path.parents for folder in data_folders(owner)):
            return True
        shares_name = path.parent == owner.parent and path.stem.startswith(owner.stem)
        if owner.suffix.lower() in (".vms", ".vmu") and shares_name:
            return True
    return False


class _SeriesIndex:
    """Find the file that represents a DICOM series: the largest one (level 0) in its folder."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[Path]]] = {}

    def representative(self, path: Path) -> Path:
        """Return the file that represents the series of `path`.

        The result is `path` itself if it is no DICOM file.
        """
        uid = dicom_series.series_uid(path)
        return self._in_folder(path.parent)[uid][0] if uid else path

    def folder_name(self, path: Path) -> str | None:
        """Return the folder's name if the folder contains one series of several files, else None.

        The files of such a series have names like `level-0`, which say nothing about the slide.
        """
        if path.parent not in self._folders or not dicom_series.series_uid(path):
            return None
        members = list(self._folders[path.parent].values())
        return path.parent.name if len(members) == 1 and len(members[0]) > 1 else None

    def _in_folder(self, folder: Path) -> dict[str, list[Path]]:
        """Return the files of a folder by series, the largest first."""
        if folder not in self._folders:
            members: dict[str, list[Path]] = {}
            for path in sorted(p for p in folder.iterdir() if p.is_file()):
                if uid := dicom_series.series_uid(path):
                    members.setdefault(uid, []).append(path)
            for files in members.values():
                files.sort(key=lambda p: -p.stat().st_size)
            self._folders[folder] = members
        return self._folders[folder]
