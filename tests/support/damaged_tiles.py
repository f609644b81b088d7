"""Damages the compressed data of chosen tiles of a TIFF, in the ways that disks and copies do."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import tifffile


def scan_start(jpeg: bytes) -> int:
    """Where a JPEG stream's entropy-coded data begins."""
    marker = jpeg.index(b"\xff\xda")
    return marker + 2 + struct.unpack_from(">H", jpeg, marker + 2)[0]


def _quiet_noise(count: int) -> bytes:
    """Bytes in which no 255 stands, so that a decoder meets no marker."""
    chance = random.Random(1)
    return bytes(chance.randrange(255) for _ in range(count))


def cut_short(jpeg: bytes) -> bytes:
    middle = (scan_start(jpeg) + len(jpeg)) // 2
    return jpeg[:middle] + b"\xff\xd9"


def zeroed_tail(jpeg: bytes) -> bytes:
    return jpeg[: (scan_start(jpeg) + len(jpeg)) // 2]


def noise(jpeg: bytes) -> bytes:
    start = scan_start(jpeg)
    return jpeg[:start] + _quiet_noise(len(jpeg) - start - 2) + b"\xff\xd9"


def noisy_tail(jpeg: bytes) -> bytes:
    middle = (scan_start(jpeg) + len(jpeg)) // 2
    return jpeg[:middle] + _quiet_noise(len(jpeg) - middle - 2) + b"\xff\xd9"


KINDS: dict[str, Callable[[bytes], bytes]] = {
    f.__name__: f for f in (cut_short, zeroed_tail, noise, noisy_tail)
}


def damage_tiles(
    path: Path, tiles: Iterable[int], change: Callable[[bytes], bytes], level: int = 0
) -> Path:
    """Replace the data of `tiles` of a level by `change` of it, padded with zeros to the same length."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with open(path, "r+b") as file:
        for tile in tiles:
            offset, length = spans[tile]
            file.seek(offset)
            changed = change(file.read(length))[:length]
            file.seek(offset)
            file.write(changed.ljust(length, b"\0"))
    return path
