"""Decode JPEG tiles and camera fields with libjpeg-turbo, with each of its warnings as an error.

imagecodecs and Pillow decode a truncated, zeroed or noisy stream to wrong pixels without an error.
libjpeg warns of nearly every such stream and of no sound one, and simplejpeg passes the warning on.
Damage that decodes cleanly, such as one flipped bit, is not visible: JPEG has no checksum.
"""

from __future__ import annotations

import struct

import numpy as np
import simplejpeg

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_FRAMES = {
    0xC0,
    0xC1,
    0xC2,
}  # baseline, extended, progressive: what libjpeg-turbo decodes to 8 bits
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_START_OF_SCAN = 0xDA
_BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_NO_TRANSFORM = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # the samples are RGB (CMYK)
_COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}


def decode_jpeg(
    data: bytes,
    shape: tuple[int, int, int],
    tables: bytes | None = None,
    stored_rgb: bool = False,
) -> np.ndarray:
    """Decode a JPEG stream to uint8 pixels of `shape` (height, width, samples).

    Parameters
    ----------
    tables
        A TIFF's JPEGTables: a stream with quantisation and Huffman tables.
    stored_rgb
        The samples are RGB, though the stream does not say so.

    Raises
    ------
    ValueError
        The header has another size (nothing is decoded then), or libjpeg warns.
    """
    if tables:
        data = _SOI + tables[2:].removesuffix(_EOI) + data[2:]
    frame, found = frame_header(data)
    if found != shape:
        raise ValueError(
            f"its JPEG header says {found[1]}x{found[0]} px of {found[2]} samples, "
            f"the file says {shape[1]}x{shape[0]} of {shape[2]}"
        )
    if shape[2] not in _COLOURS:
        raise ValueError(f"a JPEG of {shape[2]} samples a pixel; save it as RGB")
    if stored_rgb:  # just before the frame, because libjpeg obeys the last such marker
        data = data[:frame] + _NO_TRANSFORM + data[frame:]
    out = np.empty(shape, np.uint8)
    simplejpeg.decode_jpeg(data, _COLOURS[shape[2]], buffer=out, strict=True)
    return out


def frame_header(data: bytes) -> tuple[int, tuple[int, int, int]]:
    """Return the position of the frame header and its (height, width, samples).

    Raises ValueError if the stream has no frame header.
    """
    at = 2
    if data[:2] != _SOI:
        raise ValueError("not a JPEG stream")
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES and at + 10 <= len(data):
            bits, height, width, samples = struct.unpack_from(">BHHB", data, at + 4)
            if bits != 8:
                raise ValueError(f"a JPEG of {bits}-bit samples; save it with 8")
            return at, (height, width, samples)
        if marker in _OTHER_FRAMES:
            raise ValueError(f"a JPEG of kind 0x{marker:02x}; save it as baseline JPEG")
        if marker == _START_OF_SCAN:
            break
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise ValueError("a JPEG stream without a frame header")
