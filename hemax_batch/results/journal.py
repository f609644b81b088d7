"""What is already done: finished regions of slides in the making, and slides that failed for good.

    <out>/.hemax/regions/<slide_id>-<fingerprint>/00012.region    one RegionResult: safetensors after their CRC-32
    <out>/.hemax/failed/<slide_id>.json                        fingerprint and reason

A region's file is written aside, flushed and renamed, so it is whole or absent; killed at any moment, the next run goes
on from the regions that are there. The fingerprint covers slide content, weights, settings and format
(`settings.RunSettings.result_fingerprint`): regions of other circumstances are never mixed, and are cleared away.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..records import Cells, OverviewPiece, RegionResult, Squares
from .durable import write_bytes

JOURNALS = "regions"
CHECK_BYTES = 4
_SHORT = 16  # characters of the fingerprint in a folder's name: 64 bits
_NOT_SCALAR = ("cells", "rbc_diameters_um", "squares", "overview")
_SCALARS = tuple(f.name for f in fields(RegionResult) if f.name not in _NOT_SCALAR)
_ARRAYS = tuple(f.name for f in fields(Cells) if f.name not in ("masks", "pictures"))
_SQUARES = tuple(f.name for f in fields(Squares))


@dataclass(frozen=True)
class RegionJournal:
    """The finished regions of one slide under one fingerprint."""

    folder: Path

    @classmethod
    def of(cls, state_folder: Path, slide_id: str, fingerprint: str) -> RegionJournal:
        """The journal of a slide in a results folder's `.hemax`; nothing is created yet."""
        return cls(state_folder / JOURNALS / f"{slide_id}-{fingerprint[:_SHORT]}")

    def sweep(self) -> None:
        """Remove journals of this slide under other fingerprints."""
        slide_id = self.folder.name[:-_SHORT]
        for other in self.folder.parent.glob(f"{slide_id}*"):
            # of the same length: what follows a longer slide's id must not be taken for a fingerprint
            if other != self.folder and len(other.name) == len(self.folder.name):
                shutil.rmtree(other, ignore_errors=True)

    def save(self, result: RegionResult) -> None:
        """Keep a finished region. OutputError where it cannot be written."""
        write_bytes(self._path(result.region_index), to_bytes(result))

    def finished(self) -> set[int]:
        """Indices of the regions that are kept and whole; a damaged file is removed."""
        done = set()
        for path in sorted(self.folder.glob("[0-9]*.region")):
            try:
                from_bytes(path.read_bytes())
                done.add(int(path.stem))
            except (ValueError, KeyError, OSError):
                path.unlink(missing_ok=True)
        return done

    def note_hung(self, index: int) -> None:
        """Remember that a region hung in a process that could not end it but with itself."""
        write_bytes(self.folder / f"{index:05d}.hung", b"")

    def hung(self) -> list[int]:
        """The regions that `note_hung` was told of."""
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.hung"))

    def forget_hung(self) -> None:
        """Let them be tried again."""
        for path in self.folder.glob("[0-9]*.hung"):
            path.unlink(missing_ok=True)

    def results(self) -> Iterator[RegionResult]:
        """The kept regions in the order of their index, one in memory at a time."""
        for path in sorted(self.folder.glob("[0-9]*.region"), key=lambda p: int(p.stem)):
            yield from_bytes(path.read_bytes())

    def clear(self) -> None:
        """Remove all of it: the slide is published."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.region"


def split_name(name: str) -> tuple[str, str]:
    """Slide id and beginning of the fingerprint of a journal's folder.

    >>> split_name("smear-2-0123456789abcdef")
    ('smear-2', '0123456789abcdef')
    """
    return name[: -_SHORT - 1], name[-_SHORT:]


@dataclass(frozen=True)
class Failure:
    """Why a slide failed, under which fingerprint: tried again only when that changes or on request."""

    fingerprint: str
    reason: str


def read_failure(state_folder: Path, slide_id: str) -> Failure | None:
    """What an earlier run noted of this slide, if anything."""
    try:
        noted = json.loads((state_folder / "failed" / f"{slide_id}.json").read_text("utf-8"))
        return Failure(str(noted["fingerprint"]), str(noted["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_failure(state_folder: Path, slide_id: str, failure: Failure) -> None:
    """Remember that this slide failed for a reason that trying again would not change."""
    text = json.dumps({"fingerprint": failure.fingerprint, "reason": failure.reason})
    write_bytes(state_folder / "failed" / f"{slide_id}.json", text.encode())


def forget_failure(state_folder: Path, slide_id: str) -> None:
    """Remove the note, if there is one."""
    (state_folder / "failed" / f"{slide_id}.json").unlink(missing_ok=True)


def to_bytes(result: RegionResult) -> bytes:
    """A RegionResult as safetensors (its masks and pictures are compressed already), after their CRC-32."""
    scalars = {name: getattr(result, name) for name in _SCALARS}
    arrays = {f"cells_{name}": getattr(result.cells, name) for name in _ARRAYS}
    for name in ("masks", "pictures"):
        blobs = getattr(result.cells, name)
        arrays[f"{name}_bytes"] = np.frombuffer(b"".join(blobs), np.uint8)
        arrays[f"{name}_lengths"] = np.array([len(b) for b in blobs], np.int64)
    arrays |= {f"squares_{name}": getattr(result.squares, name) for name in _SQUARES}
    arrays["overview_xy"] = np.array([result.overview.x, result.overview.y], np.int64)
    arrays["overview_pixels"] = result.overview.pixels
    arrays["rbc_diameters_um"] = result.rbc_diameters_um
    arrays["scalars_json"] = np.frombuffer(json.dumps(scalars).encode(), np.uint8)
    body = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return zlib.crc32(body).to_bytes(CHECK_BYTES, "little") + body


def from_bytes(raw: bytes) -> RegionResult:
    """The inverse of `to_bytes`. ValueError or KeyError where `raw` is damaged."""
    body = raw[CHECK_BYTES:]
    if zlib.crc32(body) != int.from_bytes(raw[:CHECK_BYTES], "little"):
        raise ValueError("its CRC-32 is not that of its content")
    try:
        stored = load(body)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    scalars = json.loads(stored["scalars_json"].tobytes())
    columns = {name: stored[f"cells_{name}"] for name in _ARRAYS}
    blobs = {name: _split(stored[f"{name}_bytes"], stored[f"{name}_lengths"]) for name in ("masks", "pictures")}
    diameters_um = stored["rbc_diameters_um"]
    squares = Squares(**{name: stored[f"squares_{name}"] for name in _SQUARES})
    overview = OverviewPiece(*stored["overview_xy"].tolist(), stored["overview_pixels"])
    scalars["notes"] = tuple(scalars["notes"])
    return RegionResult(
        cells=Cells(**columns, **blobs), rbc_diameters_um=diameters_um, squares=squares, overview=overview, **scalars
    )


def _split(joined: np.ndarray, lengths: np.ndarray) -> tuple[bytes, ...]:
    ends = np.cumsum(lengths)
    if len(joined) != (ends[-1] if len(ends) else 0):
        raise ValueError(f"{len(joined)} bytes, lengths of {lengths.sum()}")
    raw = joined.tobytes()
    return tuple(raw[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True))
