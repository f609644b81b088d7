"""Read the series that a DICOM file belongs to. OpenSlide reads the pixels.

The header's elements are read in the two little-endian transfer syntaxes (DICOM PS3.5, section 7.1)
up to (0020,000E). At most 256 KiB are read, so a hostile file costs one short read.
"""

from __future__ import annotations

import os
import struct

_SERIES_UID = (0x0020, 0x000E)
_TRANSFER_SYNTAX = (0x0002, 0x0010)
_IMPLICIT_VR = "1.2.840.10008.1.2"
_LONG_VRS = {
    b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV",
}  # fmt: skip
_HEADER_BYTES = 256 * 2**10
_UNDEFINED = 0xFFFFFFFF


def series_uid(path: str | os.PathLike[str]) -> str | None:
    """Return the SeriesInstanceUID of a DICOM file.

    The result is None if the file is no DICOM file, or has no UID in its first 256 KiB.
    """
    if not os.path.isfile(path):  # opening a pipe would block
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
    """Read the top-level elements and return the series' UID.

    Values are skipped. Sequences of undefined length are entered.
    """
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
            return None  # tags ascend, so the series would have come before
        # Items and sequences of undefined length are entered: their elements are read like others.
        at = start if length == _UNDEFINED else start + length
    return None


def _value(header: bytes, at: int, implicit: bool) -> tuple[int, int]:
    """Return (start, length) of the value of the element at `at`."""
    group = struct.unpack_from("<H", header, at)[0]
    if implicit or group == 0xFFFE:
        return at + 8, struct.unpack_from("<I", header, at + 4)[0]
    if header[at + 4 : at + 6] in _LONG_VRS:
        return at + 12, struct.unpack_from("<I", header, at + 8)[0]
    return at + 8, struct.unpack_from("<H", header, at + 6)[0]
