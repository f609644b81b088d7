"""Store one finished region as a file: first what merging needs, then what is only copied.

    4 bytes  CRC-32 of the head      head    safetensors: cells and masks, squares, overview, figures;
    8 bytes  length of the head              length and CRC-32C of each blob
    head                             blobs   the cells' pictures, one after another, then outlines
    blobs

A slide's pictures and outlines are ten times as large as the rest. They can stay in the file until
they are written (results.region_blobs).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..bounded_files import parse_json
from ..records import Cells, DamagedArea, FilmSquares, OverviewPiece, RegionResult

BLOB_FIELDS = ("pictures", "outlines")  # of `Cells`, in the order of their blobs
_NOT_SCALAR = ("cells", "rbc_diameters_um", "squares", "overview", "damaged")
_SCALARS = tuple(f.name for f in fields(RegionResult) if f.name not in _NOT_SCALAR)
_ARRAYS = tuple(f.name for f in fields(Cells) if f.name not in ("masks", *BLOB_FIELDS))
_SQUARES = tuple(f.name for f in fields(FilmSquares))


@dataclass(frozen=True)
class Blobs:
    """The places of the blobs of N cells in their file: N pictures, then N outlines.

    Attributes
    ----------
    ends
        int64 [2 N + 1]: the beginning of each blob, and the end of the last.
    checks
        uint32 [2 N]: the CRC-32C of each blob.
    """

    ends: np.ndarray
    checks: np.ndarray


def encode_region(result: RegionResult) -> bytes:
    """Encode a RegionResult as the bytes of its file."""
    cells = result.cells
    blobs = [blob for name in BLOB_FIELDS for blob in getattr(cells, name)]
    arrays = {f"cells_{name}": getattr(cells, name) for name in _ARRAYS}
    arrays["masks_bytes"] = np.frombuffer(b"".join(cells.masks), np.uint8)
    arrays["masks_lengths"] = np.array([len(mask) for mask in cells.masks], np.int64)
    arrays["blobs_lengths"] = np.array([len(blob) for blob in blobs], np.int64)
    arrays["blobs_checks"] = np.array([google_crc32c.value(blob) for blob in blobs], np.uint32)
    arrays |= {f"squares_{name}": getattr(result.squares, name) for name in _SQUARES}
    arrays["overview_xy"] = np.array([result.overview.x, result.overview.y], np.int64)
    arrays["overview_pixels"] = result.overview.pixels
    arrays["rbc_diameters_um"] = result.rbc_diameters_um
    scalars = {name: getattr(result, name) for name in _SCALARS}
    scalars["damaged"] = [[*area.rect, area.reason] for area in result.damaged]
    arrays["scalars_json"] = np.frombuffer(json.dumps(scalars).encode(), np.uint8)
    head = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return b"".join(
        [zlib.crc32(head).to_bytes(4, "little"), len(head).to_bytes(8, "little"), head, *blobs]
    )


def decode_region(raw: bytes) -> RegionResult:
    """The inverse of `encode_region`. ValueError or KeyError where `raw` is damaged."""
    try:
        return _decode_region(raw)
    except (
        TypeError,
        IndexError,
        OverflowError,
        AttributeError,
    ) as error:  # a sound file with odd entries
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _decode_region(raw: bytes) -> RegionResult:
    stored, start = _decode_head(raw[12 : 12 + int.from_bytes(raw[4:12], "little")], raw[:4])
    blobs = _split(np.frombuffer(raw, np.uint8)[start:], stored["blobs_lengths"])
    if [google_crc32c.value(blob) for blob in blobs] != stored["blobs_checks"].tolist():
        raise ValueError("the CRC-32C of a picture or outline is not that of its content")
    n = len(blobs) // 2
    return _region_result(stored, blobs[:n], blobs[n:])


def read_region_head(
    file: BinaryIO, place: Callable[[int], bytes | tuple[int, int]]
) -> tuple[RegionResult, Blobs]:
    """Read a region without its blobs, and the places of the blobs.

    `place` returns what stands for the blobs of a cell, given its row. Raises ValueError or KeyError if
    the head is damaged, or if the file's length is not that of the head.
    """
    check, length = file.read(4), int.from_bytes(file.read(8), "little")
    stored, start = _decode_head(file.read(length), check)
    blobs = Blobs(
        start + np.concatenate([[0], np.cumsum(stored["blobs_lengths"])]), stored["blobs_checks"]
    )
    if (size := file.seek(0, 2)) != blobs.ends[-1]:
        raise ValueError(f"{size} bytes, its head says {blobs.ends[-1]}")
    places = tuple(map(place, range(len(blobs.checks) // 2)))
    return _region_result(stored, places, places), blobs


def _decode_head(head: bytes, check: bytes) -> tuple[dict[str, np.ndarray], int]:
    """Return the arrays of a head, and the beginning of the blobs after it."""
    if zlib.crc32(head) != int.from_bytes(check, "little"):
        raise ValueError("its CRC-32 is not that of its content")
    try:
        return load(head), 12 + len(head)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _region_result(
    stored: dict[str, np.ndarray], pictures: tuple[Any, ...], outlines: tuple[Any, ...]
) -> RegionResult:
    scalars = parse_json(stored["scalars_json"].tobytes(), finite=False)
    scalars["notes"] = tuple(scalars["notes"])
    scalars["damaged"] = tuple(DamagedArea(tuple(a[:4]), a[4]) for a in scalars["damaged"])
    columns = {name: stored[f"cells_{name}"] for name in _ARRAYS}
    x, y = stored["overview_xy"].tolist()
    masks = _split(stored["masks_bytes"], stored["masks_lengths"])
    return RegionResult(
        cells=Cells(**columns, masks=masks, pictures=pictures, outlines=outlines),
        rbc_diameters_um=stored["rbc_diameters_um"],
        squares=FilmSquares(**{name: stored[f"squares_{name}"] for name in _SQUARES}),
        overview=OverviewPiece(x, y, stored["overview_pixels"]),
        **scalars,
    )


def _split(joined: np.ndarray, lengths: np.ndarray) -> tuple[bytes, ...]:
    """Split joined bytes, uint8 [n], into parts of the given lengths."""
    ends = np.cumsum(lengths)
    if len(joined) != (ends[-1] if len(ends) else 0):
        raise ValueError(f"{len(joined)} bytes, lengths of {lengths.sum()}")
    raw = joined.tobytes()
    return tuple(
        raw[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
    )
