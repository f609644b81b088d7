"""Check that a TIFF's directories are honest and that its pixels can be decoded here."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tifffile

MAX_TILE_PX = 2**26  # 8192 squared; writers use 256 to 2048
MAX_STRIP_PX = 400_000_000  # an untiled image in one strip is held whole
MAX_PX_PER_BYTE = 100_000  # an empty sparse slide with 512 px tiles has 16,000
# Share of the tiles beyond the file's end. More is a truncated file and not a damaged tile.
MAX_LOST_SHARE = 0.01
JPEG = 7
_NONE, _LZW, _DEFLATE, _ZSTD = 1, 5, (8, 32946), (50000,)
_PACKBITS, _J2K = 32773, (33005, 34712)
COMPRESSIONS = {_NONE, _LZW, JPEG, *_DEFLATE, *_ZSTD, _PACKBITS, *_J2K}


class UnsupportedTiff(ValueError):
    """A TIFF that is not decoded here, though OpenSlide may read it. The message says why."""


class HostileTiff(ValueError):
    """A TIFF with claims that no honest file makes. No library may read it. The message quotes them."""


class TileTable(Protocol):
    """Size and tiles of a level, as in `tiff_layout.TiffLevel`."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def tile_width(self) -> int: ...
    @property
    def tile_height(self) -> int: ...
    @property
    def strips(self) -> bool: ...
    @property
    def planes(self) -> int: ...
    @property
    def across(self) -> int: ...
    @property
    def down(self) -> int: ...
    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def byte_counts(self) -> np.ndarray: ...


def check_claims(page: tifffile.TiffPage, file_bytes: int) -> None:
    """Check the sizes that a page claims against the size of the file.

    Raises
    ------
    UnsupportedTiff
        The page is no 2-D image.
    HostileTiff
        The page, or a tile of it, is larger than an honest file's.
    """
    w, h = page.imagewidth, page.imagelength
    if w < 1 or h < 1 or page.imagedepth != 1:
        raise UnsupportedTiff(f"an image of {w}x{h}x{page.imagedepth} px")
    if w * h > MAX_PX_PER_BYTE * file_bytes:
        raise HostileTiff(
            f"claims {w}x{h} px in a file of {file_bytes} bytes; damaged, or no slide: copy it again"
        )
    if page.is_tiled and page.tilewidth * page.tilelength > MAX_TILE_PX:
        raise HostileTiff(
            f"claims tiles of {page.tilewidth}x{page.tilelength} px for {w}x{h} px, the limit is {MAX_TILE_PX} px; "
            "write it with tiles of 256 or 512 px"
        )


def check_pixels(page: tifffile.TiffPage) -> np.dtype:
    """Return the type of a page's samples. Raise UnsupportedTiff if they cannot be decoded here."""
    if page.compression not in COMPRESSIONS:
        raise UnsupportedTiff(f"compression {page.compression!r}; save it as JPEG, deflate or LZW")
    if (
        page.dtype is None
        or page.dtype not in (np.uint8, np.uint16)
        or page.bitspersample not in (8, 16)
    ):
        raise UnsupportedTiff(
            f"{page.bitspersample}-bit samples of type {page.dtype}; a stained smear is 8- or 16-bit RGB, export it so"
        )
    colours = page.samplesperpixel - len(page.extrasamples)
    allowed = {0: (1,), 1: (1,), 2: (3,), 3: (1,), 5: (4,), 6: (3,)}.get(int(page.photometric), ())
    if colours not in allowed or len(page.extrasamples) > 1:
        raise UnsupportedTiff(
            f"{page.samplesperpixel} channels of photometric kind {int(page.photometric)}: not a grey or RGB image "
            "(fluorescence?); export it as RGB"
        )
    if page.photometric == 6 and page.compression != JPEG:
        raise UnsupportedTiff("YCbCr colours without JPEG; save it as RGB")
    if not isinstance(page.jpegtables, (bytes, type(None))):
        raise UnsupportedTiff(
            f"JPEG tables of type {type(page.jpegtables).__name__}; damaged: copy it again"
        )
    if page.predictor not in (1, 2):
        raise UnsupportedTiff(f"predictor {page.predictor}; save it without")
    return page.dtype


def check_tiles(level: TileTable, file_bytes: int) -> None:
    """Check the number, size and place of a level's tiles.

    Raises
    ------
    UnsupportedTiff
        Tiles are missing, or a strip is too large.
    HostileTiff
        Many tiles lie beyond the file's end.
    """
    needed = level.across * level.down * level.planes
    if not needed == len(level.offsets) == len(level.byte_counts):
        raise UnsupportedTiff(
            f"{len(level.offsets)} tiles stored, {needed} needed for {level.width}x{level.height} px"
        )
    if level.strips and level.tile_width * level.tile_height > MAX_STRIP_PX:
        raise UnsupportedTiff(
            f"an untiled image of {level.tile_width}x{level.tile_height} px in one strip, "
            f"limit {MAX_STRIP_PX // 10**6} Mpx; "
            "convert it to a tiled TIFF (vips tiffsave --tile --pyramid)"
        )
    lost = int(((level.offsets + level.byte_counts > file_bytes) & (level.byte_counts > 0)).sum())
    if lost > MAX_LOST_SHARE * needed:
        raise HostileTiff(
            f"truncated: {lost} of {needed} tiles of {level.width}x{level.height} px lie beyond its "
            f"end at byte {file_bytes}; copy it again from the scanner"
        )
