"""What is already done: finished regions of slides in the making, and slides that failed for good.

    <out>/.hemax/regions/<slide_id>-<fingerprint>/00012.region    one RegionResult (results.region_file)
    <out>/.hemax/failed/<slide_id>.json                        fingerprint and reason

A region's file is written aside, flushed and renamed, so it is whole or absent; killed at any moment, the next run goes
on from the regions that are there. The fingerprint covers slide content, weights, settings and format
(`settings.RunSettings.result_fingerprint`): regions of other circumstances are never mixed, and are cleared away.
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
    """The finished regions of one slide under one fingerprint."""

    folder: Path

    @classmethod
    def for_slide(cls, state_folder: Path, slide_id: str, fingerprint: str) -> RegionJournal:
        """The journal of a slide in a results folder's `.hemax`; nothing is created yet."""
        return cls(state_folder / JOURNALS / f"{slide_id}-{fingerprint[:_FINGERPRINT_CHARS]}")

    def remove_other_fingerprints(self) -> None:
        """Remove journals of this slide under other fingerprints."""
        slide_id = self.folder.name[:-_FINGERPRINT_CHARS]
        for other in self.folder.parent.glob(f"{slide_id}*"):
            # of the same length: what follows a longer slide's id must not be taken for a fingerprint
            if other != self.folder and len(other.name) == len(self.folder.name):
                self._remove(other)

    def save(self, result: RegionResult) -> None:
        """Keep a finished region. OutputError where it cannot be written."""
        refuse_links(self.folder.parents[2], self.folder)
        write_file(self.path(result.region_index), encode_region(result))

    def finished(self, remove_damaged: bool = True) -> set[int]:
        """Indices of the regions that are kept and whole. A damaged file is removed, for its region to be done again; one
        that cannot be read just now stays."""
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
        """What the kept regions could not decode."""
        return [area for result in self._heads() for area in result.damaged]

    def clear_damaged(self) -> None:
        """Let regions that could not decode all be done again."""
        for result in self._heads():
            if result.damaged:
                self._remove(self.path(result.region_index))

    def _heads(self) -> Iterator[RegionResult]:
        """The kept regions without their pictures and outlines; a file that is damaged or out of reach is passed over."""
        for path in self.paths():
            try:
                with open_regular(path) as file:
                    result, _ = read_region_head(file, lambda row: b"")
            except (OSError, ValueError, KeyError):
                continue
            yield result

    def note_hung(self, index: int) -> None:
        """Remember that a region hung in a process that could not end it but with itself."""
        write_file(self.folder / f"{index:05d}.hung", b"")

    def hung(self) -> list[int]:
        """The regions that `note_hung` was told of."""
        return sorted(
            int(path.stem) for path in self.folder.glob("[0-9]*.hung") if path.stem.isdecimal()
        )

    def clear_hung(self) -> None:
        """Let them be tried again."""
        for path in self.folder.glob("[0-9]*.hung"):
            self._remove(path)

    def results(self) -> Iterator[RegionResult]:
        """The kept regions in the order of their index, one in memory at a time."""
        for path in self.paths():
            yield _decode_file(path)

    def paths(self) -> list[Path]:
        """The files of the kept regions, in the order of their index."""
        return sorted(self.folder.glob("[0-9]*.region"), key=lambda p: int(p.stem))

    def clear(self) -> None:
        """Remove all of it: the slide is published."""
        self._remove(self.folder)

    def _remove(self, path: Path) -> None:
        root = self.folder.parents[2]  # <root>/.hemax/regions/<this folder>
        with suppress(OSError):
            remove_tree(root, path)

    def path(self, index: int) -> Path:
        """The file of a region."""
        return self.folder / f"{index:05d}.region"


def _decode_file(path: Path) -> RegionResult:
    """A kept region. OSError, or ValueError or KeyError where it is damaged or of another index than its name says."""
    result = decode_region(read_bounded(path, _MAX_REGION_BYTES))
    if result.region_index != int(path.stem):
        raise ValueError(f"holds region {result.region_index}")
    return result


def parse_journal_name(name: str) -> tuple[str, str]:
    """Slide id and beginning of the fingerprint of a journal's folder.

    >>> parse_journal_name("smear-2-0123456789abcdef")
    ('smear-2', '0123456789abcdef')
    """
    return name[: -_FINGERPRINT_CHARS - 1], name[-_FINGERPRINT_CHARS:]


@dataclass(frozen=True)
class SlideFailure:
    """Why a slide failed, under which fingerprint: tried again only when that changes or on request."""

    fingerprint: str
    reason: str


def read_failure(state_folder: Path, slide_id: str) -> SlideFailure | None:
    """What an earlier run noted of this slide, if anything."""
    try:
        noted = read_json(state_folder / "failed" / f"{slide_id}.json")
        return SlideFailure(str(noted["fingerprint"]), str(noted["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record_failure(state_folder: Path, slide_id: str, failure: SlideFailure) -> None:
    """Remember that this slide failed for a reason that trying again would not change."""
    text = json.dumps({"fingerprint": failure.fingerprint, "reason": failure.reason})
    write_file(state_folder / "failed" / f"{slide_id}.json", text.encode())


def clear_failure(state_folder: Path, slide_id: str) -> None:
    """Remove the note, if there is one."""
    with suppress(OSError):
        remove_tree(state_folder.parent, state_folder / "failed" / f"{slide_id}.json")
