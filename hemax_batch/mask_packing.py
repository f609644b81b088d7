"""Pack a cell's mask into a few bytes: two bit planes, the cell's and its nucleus's, compressed."""

from __future__ import annotations

import zlib

import numpy as np


def pack_mask(mask: np.ndarray) -> bytes:
    """Pack a mask crop, uint8 [h, w] (0 outside, 1 cytoplasm, 2 nucleus)."""
    planes = np.stack([mask > 0, mask == 2])
    return zlib.compress(np.packbits(planes).tobytes(), 6)


def unpack_mask(packed: bytes, hw: tuple[int, int]) -> np.ndarray:
    """Undo `pack_mask`: uint8 [h, w]."""
    planes = unpack_planes(packed, hw)
    mask: np.ndarray = planes[0] + planes[1].view(np.uint8)
    return mask


def unpack_planes(packed: bytes, hw: tuple[int, int]) -> np.ndarray:
    """Unpack two masks, bool [2, h, w]: the whole cell and its nucleus."""
    h, w = int(hw[0]), int(hw[1])
    bits = np.unpackbits(np.frombuffer(_planes(packed, h, w), np.uint8), count=2 * h * w)
    return bits.view(bool).reshape(2, h, w)


def count_pixels(packed: bytes, hw: tuple[int, int]) -> tuple[int, int]:
    """Count the pixels of the nucleus and of the whole cell in a packed mask.

    The bits are counted as those of one large integer, which is fast.
    """
    h, w = int(hw[0]), int(hw[1])
    raw = _planes(packed, h, w)
    bits = int.from_bytes(raw, "big")
    cell = (bits >> (8 * len(raw) - h * w)).bit_count()
    return bits.bit_count() - cell, cell


def _planes(packed: bytes, h: int, w: int) -> bytes:
    """Decompress the bits of both planes. The output never exceeds the size of the planes."""
    return zlib.decompressobj().decompress(packed, (2 * h * w + 7) // 8)
