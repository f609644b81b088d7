"""Check a JPEG 2000 stream before OpenJPEG decodes it: its size and its completeness.

OpenJPEG decodes a truncated stream without an error. Damage inside a part of the right length is
not visible, because the format has no checksum.
"""

from __future__ import annotations

import struct

_START = b"\xff\x4f\xff\x51"  # markers of the codestream and of its sizes
_TILE_PART, _END = 0xFF90, 0xFFD9


def check_jpeg2000(data: bytes, shape: tuple[int, int, int]) -> None:
    """Check the size and the tile-parts of a stream.

    Raises
    ------
    ValueError
        The stream has not `shape` (height, width, samples), or tile-parts are missing.
    """
    at = data.find(_START)
    if at < 0 or at + 44 > len(data):
        raise ValueError("not a JPEG 2000 stream")
    x1, y1, x0, y0 = struct.unpack_from(">4I", data, at + 8)
    (samples,) = struct.unpack_from(">H", data, at + 40)
    if (y1 - y0, x1 - x0, samples) != shape:
        raise ValueError(
            f"its JPEG 2000 header says {x1 - x0}x{y1 - y0} px of {samples} samples, "
            f"the file says {shape[1]}x{shape[0]} of {shape[2]}"
        )
    at += 2
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _TILE_PART:
            if at + 12 > len(data):
                break
            (part,) = struct.unpack_from(">I", data, at + 6)
            at = at + part if part else len(data)  # 0: up to the end marker
            if part and part < 14:
                raise ValueError("a JPEG 2000 tile-part without content")
            if not part and data.rstrip(b"\0").endswith(b"\xff\xd9"):
                return
        elif marker >> 8 != 0xFF:
            break
        elif marker == _END:
            return
        else:
            at += 2 + length
    if data[at : at + 2] != b"\xff\xd9" and at != len(data):
        raise ValueError("a JPEG 2000 stream that is cut short")
