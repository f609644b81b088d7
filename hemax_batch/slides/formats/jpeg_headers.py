"""Check the sizes in the JPEG headers of a TIFF's tiles before OpenSlide decodes them.

A progressive JPEG may claim 30,000 x 30,000 px in its header. It would take gigabytes before its size
is compared with the tile's.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from .jpeg import frame_header
from .tiff_images import TiffLayout
from .tiff_layout import JPEG, TiffLevel

_HEAD_BYTES = 64 * 2**10


class JpegHeaders:
    """Checks each JPEG tile of a TIFF once."""

    def __init__(self, path: Path, layout: TiffLayout) -> None:
        self._path, self._layout = path, layout
        self._sound: set[tuple[tuple[int, int], int]] = set()

    def check(self, size: tuple[int, int], x: int, y: int, w: int, h: int) -> None:
        """Raise ValueError if a tile in a window claims to be larger than the level's tiles.

        `size` is the (width, height) of the level.
        """
        level = self._layout.by_size.get(size)
        if level is None or level.compression != JPEG or level.jpeg_header is not None:
            return
        with open(self._path, "rb") as file:
            for row in range(y // level.tile_height, (y + h - 1) // level.tile_height + 1):
                for column in range(x // level.tile_width, (x + w - 1) // level.tile_width + 1):
                    tile = row * level.across + column
                    if (size, tile) not in self._sound:
                        _check_tile(file, level, tile)
                        self._sound.add((size, tile))


def _check_tile(file: BinaryIO, level: TiffLevel, tile: int) -> None:
    """Raise ValueError if a tile's JPEG header claims more than the tile's size."""
    length = int(level.byte_counts[tile])
    if not length:
        return
    file.seek(int(level.offsets[tile]))
    try:
        _, (height, width, _) = frame_header(file.read(min(length, _HEAD_BYTES)))
    except ValueError as error:
        raise ValueError(f"tile {tile}: {error}") from error
    if height > level.tile_height or width > level.tile_width:
        raise ValueError(
            f"tile {tile}: its JPEG header says {width}x{height} px, "
            f"the file says {level.tile_width}x{level.tile_height}"
        )
