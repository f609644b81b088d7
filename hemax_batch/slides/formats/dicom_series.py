"""The one thing needed of a DICOM header: which series a file belongs to. OpenSlide reads the pixels.

Elements are walked in the two little-endian transfer syntaxes (DICOM PS3.5, section 7.1) up to (0020,000E); the
header is bounded, so a hostile file costs one read of 256 KiB.
"""

from __future__ import annotations

import os
import struct

_SERIES_UID = (0x0020, 0x000E)
_TRANSFER_SYNTAX = (0x0002, 0x0010)
_IMPLICIT_VR = "1.2.840.10008.1.2"
_LONG_VRS = {
    b"OB",
    b"OD",
    b"OF",
    b"OL",
    b"OV",
    b"OW",
    b"SQ",
    b"SV",
    b"UC",
    b"UN",
    b"UR",
    b"UT",
    b"UV",
}
_HEADER_BYTES = 256 * 2**10
_UNDEFINED = 0xFFFFFFFF


def series_uid(path: str | os.PathLike) -> str | None:
    """SeriesInstanceUID of a DICOM file; None where it is no DICOM file or has none in its first 256 KiB."""
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        return None
    try:
        with open(path, "rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            header = file.read(_HEADER_BYTES)
    except OSError:
        return None
    try:
        return _find_series(header)
    except (struct.error, IndexError):
        return None


def _find_series(header: bytes) -> str | None:
    """Walk the top-level elements, skipping values; sequences of undefined length are walked through."""
    at, implicit = 0, False
    syntax = ""
    while at + 8 <= len(header):
        tag = struct.unpack_from("<HH", header, at)
        if tag[0] > 2 and syntax == _IMPLICIT_VR:
            implicit = True
        start, length = _value(header, at, implicit)
        text = header[start : start + min(length, 64)].rstrip(b"\0 ").decode("ascii", "replace")
        if tag == _SERIES_UID:
            return text or None
        if tag == _TRANSFER_SYNTAX:
            syntax = text
        if tag[0] > 0x0020 and tag[0] < 0xFFFE:
            return None  # tags ascend: the series would have come before
        # items and sequences of undefined length are entered, not skipped: their elements go by like any other
        at = start if length == _UNDEFINED else start + length
    return None


def _value(header: bytes, at: int, implicit: bool) -> tuple[int, int]:
    """(start, length) of the value of the element at `at`."""
    group = struct.unpack_from("<H", header, at)[0]
    if implicit or group == 0xFFFE:
        return at + 8, struct.unpack_from("<I", header, at + 4)[0]
    if header[at + 4 : at + 6] in _LONG_VRS:
        return at + 12, struct.unpack_from("<I", header, at + 8)[0]
    return at + 8, struct.unpack_from("<H", header, at + 6)[0]
