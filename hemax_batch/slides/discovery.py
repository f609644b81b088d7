"""Which slides the command line's inputs mean: files, folders, globs and lists of files.

Folders are searched recursively for known endings; what is named outright is kept whatever its ending, so that a wrong
file fails loudly as a slide of its own. Files that belong to one slide (an MRXS folder, a DICOM series) count once.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..bounded_files import MAX_LIST_BYTES, read_text
from ..errors import UsageError
from .formats import dicom_series
from .formats.companion_files import data_folders
from .slide_ids import assign_ids, stem

RESULTS_MARK = ".hemax"  # a folder that holds this one is a results folder of ours
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".jp2"})
SLIDE_SUFFIXES = IMAGE_SUFFIXES | {
    ".svs", ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu",
    ".vsi", ".zvi", ".czi", ".dcm", ".dicom",
}  # fmt: skip
_SIDECAR_WORDS = frozenset({"thumbnail", "thumb", "label", "macro", "preview", "overview"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideFile:
    """One slide to be done: its absolute path and the name of its results folder."""

    path: Path
    slide_id: str


def find_slides(
    inputs: Sequence[str | os.PathLike], known_ids: Mapping[str, str] | None = None
) -> list[SlideFile]:
    """The slides that `inputs` name, each once, in the order of the inputs and sorted within each.

    An input is a file, a folder, a glob (`**` for any depth) or a list of these, one a line (`@list` or `*.txt`).
    `known_ids` are ids that earlier runs gave (absolute path to id); see `naming` for how ids are chosen.
    Raises UsageError naming an input that does not exist or holds no slide.
    """
    if not inputs:
        raise UsageError("no input: name slides, folders, globs or a list (@slides.txt)")
    found: dict[Path, None] = {}
    real: set[str] = set()
    series = _SeriesIndex()
    for given in inputs:
        for path in _expand(os.fspath(given)):
            path = series.representative(path)
            identity = os.path.realpath(path)
            if identity not in real:
                real.add(identity)
                found[path] = None
    paths = [p for p in found if not _is_companion(p, found)]
    ids = assign_ids(paths, [series.folder_name(p) or stem(p) for p in paths], known_ids or {})
    return [SlideFile(p, i) for p, i in zip(paths, ids, strict=True)]


def check_inputs_exist(inputs: Sequence[str | os.PathLike]) -> None:
    """UsageError naming an input that does not exist."""
    for given in map(os.fspath, inputs):
        if not given.startswith("@") and not os.path.exists(given) and not glob.has_magic(given):
            raise UsageError(
                f"{given}: no such file or folder; check the path, and whether its share is mounted"
            )


def _expand(given: str) -> list[Path]:
    """The files that one input means, absolute."""
    if given.startswith("@") and not os.path.exists(given):
        return _read_list(Path(given[1:]))
    path = Path(os.path.abspath(given))
    if path.is_dir():
        return _search_folder(path, given)
    if path.exists():
        return _read_list(path) if path.suffix.lower() == ".txt" else [path]
    check_inputs_exist([given])
    return _search_glob(given)


def _search_folder(folder: Path, given: str) -> list[Path]:
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(
            f"{given}: this folder may not be read by this user; check its permissions"
        )
    found = _without_sidecars(sorted(_walk(folder)))
    if not found:
        raise UsageError(
            f"{given}: no slide in this folder (searched for {' '.join(sorted(SLIDE_SUFFIXES))})"
        )
    return found


def _search_glob(pattern: str) -> list[Path]:
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
    """A text list, one input a line; blank lines and those starting with # are left out.

    Relative entries are beside the list. A slide that is missing stays in: it fails as a slide, the others are done.
    """
    try:
        lines = read_text(path, MAX_LIST_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"@{path}: this list cannot be read as text ({error}); give one slide a line"
        ) from error
    entries = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not entries:
        raise UsageError(f"@{path}: the list is empty; give one slide a line")
    found: list[Path] = []
    for entry in entries:
        target = os.path.join(os.path.dirname(os.path.abspath(path)), entry)
        if target.lower().endswith(".txt"):
            raise UsageError(f"@{path}: names another list, {entry}; lists do not nest")
        is_glob = "*" in entry or "?" in entry  # brackets are common in names of slides
        found += (
            _expand(target)
            if is_glob or os.path.exists(target)
            else [Path(os.path.abspath(target))]
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Slides below a folder; links to folders are followed once, hidden folders and those of results are passed over."""
    visited: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_warn_unreadable):
        state = os.stat(here)
        if (state.st_dev, state.st_ino) in visited or _is_results_folder(Path(here)):
            folders.clear()
            continue
        visited.add((state.st_dev, state.st_ino))
        data = {f.name for name in files for f in data_folders(Path(here, name))}
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and not f.endswith(".zarr") and f not in data
        )
        # a dangling link stays in: that slide fails and says so, instead of being missed
        candidates = (p for name in files if _may_be_slide(p := Path(here, name)))
        yield from (p for p in candidates if p.is_file() or p.is_symlink())


def _warn_unreadable(error: OSError) -> None:
    _log.warning(
        "%s: this folder cannot be searched (%s); its slides are not done",
        error.filename,
        error.strerror,
    )


def _may_be_slide(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    suffix = path.suffix.lower()
    # DICOM exports often bear a bare UID or no ending at all
    return suffix in SLIDE_SUFFIXES or (
        (not suffix or suffix[1:].isdigit()) and dicom_series.series_uid(path) is not None
    )


def _without_sidecars(paths: list[Path]) -> list[Path]:
    """Leave out the pictures that scanners put beside a slide: `smear_thumbnail.jpg` beside `smear.svs`."""
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
    """Whether a folder is what we made of a slide, or of reviews; slides of somebody's may lie beside it."""
    ours = folder.name == "reviews" or (folder / "result.json").is_file()
    return ours and (folder.parent / RESULTS_MARK).is_dir()


def _is_companion(path: Path, found: Mapping[Path, None]) -> bool:
    """Whether `path` lies in the data folder of, or is an image of, another slide that was found."""
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
    """One file per DICOM series and folder: its largest (level 0), so that any of its files means the same slide."""

    def __init__(self):
        self._folders: dict[Path, dict[str, list[Path]]] = {}

    def representative(self, path: Path) -> Path:
        """The file that stands for the series of `path`; `path` itself where it is no DICOM file."""
        uid = dicom_series.series_uid(path)
        return self._in_folder(path.parent)[uid][0] if uid else path

    def folder_name(self, path: Path) -> str | None:
        """The folder's name, where it holds one series of several files: the files are called level-0 and so on."""
        if path.parent not in self._folders or not dicom_series.series_uid(path):
            return None
        members = list(self._folders[path.parent].values())
        return path.parent.name if len(members) == 1 and len(members[0]) > 1 else None

    def _in_folder(self, folder: Path) -> dict[str, list[Path]]:
        """Files of a folder by series, the largest first."""
        if folder not in self._folders:
            members: dict[str, list[Path]] = {}
            for path in sorted(p for p in folder.iterdir() if p.is_file()):
                if uid := dicom_series.series_uid(path):
                    members.setdefault(uid, []).append(path)
            for files in members.values():
                files.sort(key=lambda p: -p.stat().st_size)
            self._folders[folder] = members
        return self._folders[folder]
