"""The results folder: its layout, its ownership, and how a slide's results appear at once.

    results/differential.csv, cells.csv, run.json     over all slides
    results/<slide_id>/…, result.json                 one slide; result.json says its inputs
    results/.hemax/                                   lock, journal, slides being written

A slide is written in `.hemax/making/` and renamed into place, so a reader sees all of it or nothing.
A folder without our `result.json` is never changed.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from ..bounded_files import MAX_LIST_BYTES, read_json
from ..errors import OutputError, SlideError, UsageError
from .atomic_files import fsync_path, write_file
from .contained_files import create_file, refuse_links, remove_tree
from .slide_record import RESULT_NAME, SlideRecord, read_record, write_record

STATE_FOLDER = ".hemax"
SLIDE_ID = re.compile(
    r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII
)  # never a path that leads out of the folder
_STATE_FOLDERS = ("making", "old", "regions", "failed")
RUN_FILES = ("differential.csv", "cells.csv", "run.json", "index.html")


class ResultsFolder:
    """A folder of results at `root`. `prepare` creates it and checks that it is writable."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.state = self.root / STATE_FOLDER

    def prepare(self) -> None:
        """Create the folder if it does not exist. Raises OutputError as `check` does."""
        self._refuse_foreign()
        refuse_links(self.root, self.state)
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        self.check()

    def check(self) -> None:
        """Check that the existing folder is a folder, is ours and is writable.

        Nothing in it changes. Raises OutputError.
        """
        self._refuse_foreign()
        refuse_links(self.root, *(self.state / name for name in _STATE_FOLDERS))
        probe = (self.state if self.state.is_dir() else self.root) / f".probe.{os.getpid()}"
        try:
            create_file(probe).close()
            probe.unlink()
        except OSError as error:
            raise self._unwritable(error) from error

    def _refuse_foreign(self) -> None:
        """Raise OutputError if the folder is a file or contains what is not ours."""
        if self.root.exists() and not self.root.is_dir():
            raise OutputError(f"--out {self.root}: is a file; name a folder")
        if _is_ours(self.root):
            raise OutputError(
                f"--out {self.root}: contains the results of one slide; "
                "name the folder around it, or another folder"
            )
        foreign = [name for name in RUN_FILES if os.path.lexists(self.root / name)]
        if foreign and not self.state.is_dir():
            raise OutputError(
                f"--out {self.root}: contains {', '.join(foreign)} that hemax-batch did not write; "
                "name another folder"
            )

    def _unwritable(self, error: OSError) -> OutputError:
        """Return the error for a folder that cannot be written."""
        return OutputError(
            f"--out {self.root}: cannot be written: {error.strerror}; check permissions and space"
        )

    def slide(self, slide_id: str) -> Path:
        """Return the folder of a slide's results."""
        return self.root / slide_id

    def record(self, slide_id: str) -> SlideRecord | None:
        """Return the record of a published slide.

        The result is None if nothing is published, whole and in this format.
        """
        return read_record(self.slide(slide_id))

    def records(self) -> list[SlideRecord]:
        """Return the records of all published slides, by id."""
        return [record for folder in self.folders() if (record := read_record(folder)) is not None]

    def folders(self) -> list[Path]:
        """Return the folders with a `result.json`, readable or not, by name."""
        return sorted(path.parent for path in self.root.glob(f"*/{RESULT_NAME}"))

    def require_existing(self) -> None:
        """Raise UsageError if no run has written here."""
        if not self.state.is_dir():
            raise UsageError(
                f"{self.root}: no results of hemax-batch; name the folder of `run --out`"
            )

    def known_ids(self) -> dict[str, str]:
        """Return the ids of slides that earlier runs named, by absolute path, so that ids never change."""
        try:
            known = read_json(self.state / "ids.json", MAX_LIST_BYTES)
            return {
                str(path): str(slide_id)
                for path, slide_id in known.items()
                if SLIDE_ID.fullmatch(str(slide_id))
            }
        except (OSError, ValueError, AttributeError):
            return {record.path: record.slide_id for record in self.records()}

    def save_ids(self, ids: dict[str, str]) -> None:
        """Add ids to `known_ids`."""
        known = {**self.known_ids(), **ids}
        write_file(self.state / "ids.json", json.dumps(known, indent=0, sort_keys=True).encode())

    def recover_interrupted(self) -> None:
        """Restore earlier results that nothing replaced, and remove other remains of a killed run.

        The caller holds the lock.
        """
        refuse_links(self.root, *(self.state / name for name in _STATE_FOLDERS))
        for old in sorted((self.state / "old").glob("*")):
            if os.path.lexists(self.slide(old.name)):
                self._remove(old)
            else:
                old.rename(self.slide(old.name))
        self._remove(self.state / "making")

    def _remove(self, path: Path) -> None:
        """Remove what lies below the folder, as far as that is possible; a link, never what it names."""
        with suppress(OSError):
            remove_tree(self.root, path)

    def staging_folder(self, slide_id: str) -> Path:
        """Return a new, empty folder for a slide's results. Remains of a killed run are removed."""
        folder = self.state / "making" / slide_id
        try:
            refuse_links(self.root, folder.parent)
            remove_tree(self.root, folder)
            folder.mkdir(parents=True)
        except OSError as error:
            raise OutputError(
                f"{folder}: {error.strerror}; check space and permissions of {self.root}"
            ) from error
        return folder

    def publish(self, staged: Path, record: SlideRecord) -> None:
        """Replace the slide's earlier results by `staged`, with `record` in it.

        Between the two renames there may be no results for a moment, but never half of them. A kill in that
        moment leaves the earlier results in `.hemax/old`. The next run publishes the slide again from its
        journal.
        """
        write_record(staged, record)
        target, old = self.slide(record.slide_id), self.state / "old" / record.slide_id
        try:
            self.check_ownership(record.slide_id)
            refuse_links(self.root, old.parent, staged)
            self._remove(old)
            old.parent.mkdir(exist_ok=True)
            _flush_tree(staged)
            if os.path.lexists(
                target
            ):  # a link, to where a finished slide was moved, is replaced alone
                target.rename(old)
            staged.rename(target)
            fsync_path(self.root)
        except OSError as error:
            raise OutputError(
                f"{target}: cannot be put in place: {error.strerror}; check space and permissions"
            ) from error
        self._remove(old)

    def check_ownership(self, slide_id: str) -> None:
        """Raise SlideError if something that is not ours has the place of the slide's results."""
        target = self.slide(slide_id)
        if os.path.lexists(target) and not _is_ours(target):
            raise SlideError(
                f"slide {slide_id!r}: {target} is not a result of hemax-batch and is left alone; "
                "move it away or choose another --out"
            )


def _is_ours(folder: Path) -> bool:
    """Return whether a folder contains our `result.json`, of any version.

    A damaged `result.json` counts if masks lie beside it.
    """
    try:
        record = read_json(folder / RESULT_NAME)
        return record["slide_id"] == folder.name and "slide_fingerprint" in record
    except OSError:
        return False
    except (ValueError, TypeError, KeyError):
        return (folder / "masks.zarr").is_dir()


def _flush_tree(folder: Path) -> None:
    """Flush every file and folder below to disk before the rename, so that none is empty after a crash."""
    for subfolder, _, files in os.walk(folder):
        for name in files:
            fsync_path(Path(subfolder, name))
        fsync_path(Path(subfolder))
