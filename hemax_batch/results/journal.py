"""The journal of work that is done: finished regions of slides, and slides that failed for good.

    <out>/.hemax/regions/<slide_id>-<fingerprint>/00012.region    one RegionResult (region_file)
    <out>/.hemax/failed/<slide_id>.json                           fingerprint and reason

A region's file is written aside, flushed and renamed, so it is whole or absent. A run that was killed
at any moment is continued from these regions. The fingerprint covers slide content, weights, settings
and format (`settings.RunSettings.result_fingerprint`). Regions of other fingerprints are never mixed,
and are removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..bounded_files import open_regular, read_bounded, read_json
from ..records import DamagedArea, RegionResult
from .atomic_files import write_file
from .contained_files import refuse_links, remove_tree
from .region_file import decode_region, encode_region, read_region_head

JOURNALS = "regions"
_MAX_REGION_BYTES = 2**30  # a region of 400 µm has some MB
_FINGERPRINT_CHARS = 16  # characters of the fingerprint in a folder's name: 64 bits


@dataclass(frozen=True)
class RegionJournal:
    """The finished regions of one slide with one fingerprint."""

    folder: Path

    @classmethod
    def for_slide(cls, state_folder: Path, slide_id: str, fingerprint: str) -> RegionJournal:
        """Return the journal of a slide in a results folder's `.hemax`. Nothing is created yet."""
        return cls(state_folder / JOURNALS / f"{slide_id}-{fingerprint[:_FINGERPRINT_CHARS]}")

    def remove_other_fingerprints(self) -> None:
        """Remove this slide's journals with other fingerprints."""
        slide_id = self.folder.name[:-_FINGERPRINT_CHARS]
        for other in self.folder.parent.glob(f"{slide_id}*"):
            # Names of equal length only, because the rest of a longer id is no fingerprint.
            if other != self.folder and len(other.name) == len(self.folder.name):
                self._remove(other)

    def save(self, result: RegionResult) -> None:
        """Keep a finished region. OutputError where it cannot be written."""
        refuse_links(self.folder.parents[2], self.folder)
        write_file(self.path(result.region_index), encode_region(result))

    def finished(self, remove_damaged: bool = True) -> set[int]:
        """Return the indices of the saved regions that are whole.

        A damaged file is removed, so that its region is processed again. A file that cannot be read at the
        moment is kept.
        """
        done = set()
        for path in sorted(self.folder.glob("[0-9]*.region")):
            try:
                done.add(_decode_file(path).region_index)
            except OSError:  # a share's passing trouble
                continue
            except (ValueError, KeyError):
                if remove_damaged:
                    self._remove(path)
        return done

    def damaged(self) -> list[DamagedArea]:
        """Return the places that the saved regions could not decode."""
        return [area for result in self._heads() for area in result.damaged]

    def clear_damaged(self) -> None:
        """Remove regions with damaged places, so that they are processed again."""
        for result in self._heads():
            if result.damaged:
                self._remove(self.path(result.region_index))

    def _heads(self) -> Iterator[RegionResult]:
        """Yield the saved regions without pictures and outlines. Damaged files are skipped."""
        for path in self.paths():
            try:
                with open_regular(path) as file:
                    result, _ = read_region_head(file, lambda row: b"")
            except (OSError, ValueError, KeyError):
                continue
            yield result

    def note_hung(self, index: int) -> None:
        """Record that a region hung in a process that only its own end could stop."""
        write_file(self.folder / f"{index:05d}.hung", b"")

    def hung(self) -> list[int]:
        """The regions that `note_hung` was told of."""
        return sorted(
            int(path.stem) for path in self.folder.glob("[0-9]*.hung") if path.stem.isdecimal()
        )

    def clear_hung(self) -> None:
        """Remove the records of `note_hung`, so that the regions are tried again."""
        for path in self.folder.glob("[0-9]*.hung"):
            self._remove(path)

    def results(self) -> Iterator[RegionResult]:
        """Yield the saved regions in the order of their index, one in memory at a time."""
        for path in self.paths():
            yield _decode_file(path)

    def paths(self) -> list[Path]:
        """Return the files of the saved regions, in the order of their index."""
        return sorted(self.folder.glob("[0-9]*.region"), key=lambda p: int(p.stem))

    def clear(self) -> None:
        """Remove all of it: the slide is published."""
        self._remove(self.folder)

    def _remove(self, path: Path) -> None:
        root = self.folder.parents[2]  # <root>/.hemax/regions/<this folder>
        with suppress(OSError):
            remove_tree(root, path)

    def path(self, index: int) -> Path:
        """Return the file of a region."""
        return self.folder / f"{index:05d}.region"


def _decode_file(path: Path) -> RegionResult:
    """A kept region. OSError, or ValueError or KeyError where it is damaged or of another index than its name says."""
    result = decode_region(read_bounded(path, _MAX_REGION_BYTES))
    if result.region_index != int(path.stem):
        raise ValueError(f"holds region {result.region_index}")
    return result


def parse_journal_name(name: str) -> tuple[str, str]:
    """Split the name of a journal's folder into slide id and beginning of the fingerprint.

    >>> parse_journal_name("smear-2-0123456789abcdef")
    ('smear-2', '0123456789abcdef')
    """
    return name[: -_FINGERPRINT_CHARS - 1], name[-_FINGERPRINT_CHARS:]


@dataclass(frozen=True)
class SlideFailure:
    """Why a slide failed, with its fingerprint.

    It is tried again only with another fingerprint, or on request.
    """

    fingerprint: str
    reason: str


def read_failure(state_folder: Path, slide_id: str) -> SlideFailure | None:
    """Return the failure that an earlier run recorded, if any."""
    try:
        noted = read_json(state_folder / "failed" / f"{slide_id}.json")
        return SlideFailure(str(noted["fingerprint"]), str(noted["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record_failure(state_folder: Path, slide_id: str, failure: SlideFailure) -> None:
    """Record that this slide failed, and that trying again would not help."""
    text = json.dumps({"fingerprint": failure.fingerprint, "reason": failure.reason})
    write_file(state_folder / "failed" / f"{slide_id}.json", text.encode())


def clear_failure(state_folder: Path, slide_id: str) -> None:
    """Remove the note, if there is one."""
    with suppress(OSError):
        remove_tree(state_folder.parent, state_folder / "failed" / f"{slide_id}.json")
