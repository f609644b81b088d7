"""Describe where the tiles of one image of a TIFF lie and how they are coded."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import imagecodecs
import numpy as np
import tifffile

from . import spacing

MAX_TILE_PX = 2**26  # 8192 squared; writers use 256 to 2048
MAX_STRIP_PX = 150_000_000  # an untiled image in one strip is held whole
MAX_PX_PER_BYTE = 100_000  # an empty sparse slide with 512 px tiles has 16,000
MAX_LOST_SHARE = (
    0.01  # of the tiles, beyond the file's end: more is a truncated file, not a damaged tile
)
_NONE, JPEG = 1, 7
JPEG2000 = (33005, 34712)
#: imagecodecs' names of codecs that give bytes, and of those that give an image of their own size.
BYTE_CODECS = {
    5: "lzw", 8: "zlib", 32946: "zlib", 50013: "zlib", 32773: "packbits", 34925: "lzma", 50000: "zstd",
}  # fmt: skip
IMAGE_CODECS = {
    22610: "jpegxr", 34934: "jpegxr", 34887: "lerc", 34933: "png", 50001: "webp", 50002: "jpegxl", 52546: "jpegxl",
}  # fmt: skip
COMPRESSIONS = {_NONE, JPEG, *JPEG2000, *BYTE_CODECS, *IMAGE_CODECS}

# what it reports is either harmless for us (a bad thumbnail) or raised below as an error naming the slide
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class UnsupportedTiff(ValueError):
    """A TIFF that is not decoded here, though OpenSlide may; the message says why."""


class HostileTiff(ValueError):
    """A TIFF whose claims no honest file makes, kept from every library; the message quotes them."""


@dataclass(frozen=True)
class TiffLevel:
    """One image of the pyramid. Tiles are row-major; with `planes` > 1 all tiles of one plane precede the next's."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    strips: bool  # the last one is short instead of padded
    offsets: np.ndarray  # int64 [tiles], 0 bytes long: a tile left out
    byte_counts: np.ndarray  # int64 [tiles]
    samples: int  # per pixel
    planes: int  # `samples` where each is stored apart, else 1
    dtype: np.dtype  # of one sample, with the file's byte order
    compression: int
    photometric: int
    predictor: int
    extrasamples: tuple[int, ...]
    jpeg_tables: bytes | None
    jpeg_header: bytes | None  # NDPI: to be put before each tile
    jpeg_jfif: bool
    colormap: np.ndarray | None  # uint16 [3, 2**bits]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.tile_height)

    def tile_shape(self, row: int) -> tuple[int, int]:
        """(height, width) as stored, of the tiles in a row."""
        height = (
            min(self.tile_height, self.height - row * self.tile_height)
            if self.strips
            else self.tile_height
        )
        return height, self.tile_width


def page_level(page: tifffile.TiffPage, file_bytes: int) -> TiffLevel:
    """Return the page as a level. Raise UnsupportedTiff with the reason if it is not supported."""
    _check_claims(page, file_bytes)
    dtype = _check_pixels(page)
    tile_width = page.tilewidth if page.is_tiled else page.imagewidth
    tile_height = (
        page.tilelength
        if page.is_tiled
        else min(page.rowsperstrip or page.imagelength, page.imagelength)
    )
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    level = TiffLevel(
        width=page.imagewidth,
        height=page.imagelength,
        tile_width=tile_width,
        tile_height=tile_height,
        strips=not page.is_tiled,
        offsets=np.array(page.dataoffsets, np.int64),
        byte_counts=np.array(page.databytecounts, np.int64),
        samples=page.samplesperpixel,
        planes=planes,
        dtype=np.dtype(page.parent.byteorder + dtype.char),
        compression=int(page.compression),
        photometric=int(page.photometric),
        predictor=int(page.predictor),
        extrasamples=tuple(int(e) for e in page.extrasamples),
        jpeg_tables=page.jpegtables,
        jpeg_header=page.jpegheader,
        jpeg_jfif=bool(page.compression == JPEG and page.is_jfif),
        colormap=page.colormap,
    )
    wanted = level.across * level.down * planes
    if not wanted == len(level.offsets) == len(level.byte_counts):
        raise UnsupportedTiff(
            f"{len(level.offsets)} tiles stored, {wanted} needed for {level.width}x{level.height} px"
        )
    if not page.is_tiled and tile_width * tile_height > MAX_STRIP_PX:
        raise UnsupportedTiff(
            f"an untiled image of {tile_width}x{tile_height} px in one strip, limit {MAX_STRIP_PX // 10**6} Mpx; "
            "convert it to a tiled TIFF (vips tiffsave --tile --pyramid)"
        )
    lost = int(((level.offsets + level.byte_counts > file_bytes) & (level.byte_counts > 0)).sum())
    if lost > MAX_LOST_SHARE * wanted:
        raise HostileTiff(
            f"truncated: {lost} of {wanted} tiles of {level.width}x{level.height} px lie beyond its end at byte "
            f"{file_bytes}; copy it again from the scanner"
        )
    return level


def _check_claims(page: tifffile.TiffPage, file_bytes: int) -> None:
    """Check the sizes that a page claims against the size of the file."""
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


def _check_pixels(page: tifffile.TiffPage) -> np.dtype:
    """Return the type of a page's samples. Raise UnsupportedTiff if it is not decoded here."""
    if page.compression not in COMPRESSIONS:
        raise UnsupportedTiff(f"compression {page.compression!r}; save it as JPEG, deflate or LZW")
    codec = (BYTE_CODECS | IMAGE_CODECS).get(int(page.compression))
    if codec and not getattr(imagecodecs, codec.upper()).available:
        raise UnsupportedTiff(
            f"compression {codec}, which this build of imagecodecs does not include"
        )
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


def page_spacing(page: tifffile.TiffPage) -> spacing.Spacing | None:
    """Return µm/px from a page's resolution tags."""
    x, y = (
        tag.value if (tag := page.tags.get(name)) else None
        for name in ("XResolution", "YResolution")
    )
    if not x or not y or not x[1] or not y[1]:
        return None
    unit = page.tags.valueof("ResolutionUnit", 2)
    return spacing.from_tiff_tags(x[0] / x[1], y[0] / y[1], int(unit), page.description)
