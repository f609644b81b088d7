"""Decode one compressed TIFF tile to uint8 RGB.

Every decoder fills an array that is made from the directory's tile size. A tile that unpacks to
more (a decompression bomb) or to less (damage) is therefore an error and never an allocation.
"""

from __future__ import annotations

import imagecodecs
import numpy as np

from . import pixel_formats
from .jpeg import decode_jpeg
from .jpeg2000 import check_jpeg2000
from .tiff_layout import BYTE_CODECS, IMAGE_CODECS, JPEG, JPEG2000, TiffLevel

#: imagecodecs' errors are RuntimeErrors. A damaged tag of the wrong type is a TypeError.
DAMAGE_ERRORS = (ValueError, TypeError, RuntimeError, IndexError, KeyError)
DECODE_ERRORS = (*DAMAGE_ERRORS, OSError, MemoryError)
_MIN_IS_WHITE, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 2, 3, 5, 6
_ASSOCIATED_ALPHA, _FREE_ALPHA = 1, 2


def decode_samples(level: TiffLevel, parts: list[bytes], row: int) -> np.ndarray:
    """Decode the stored samples [h, w, samples] of a tile.

    `parts` are the compressed bytes of its planes, usually one.
    """
    height, width = level.tile_shape(row)
    per_part = level.samples // level.planes
    decoded = [_decode_part(level, data, (height, width, per_part)) for data in parts]
    return decoded[0] if len(decoded) == 1 else np.concatenate(decoded, axis=2)


def samples_to_rgb(level: TiffLevel, samples: np.ndarray, bits: int) -> np.ndarray:
    """Convert samples [h, w, s] of `bits` significant bits to uint8 RGB [h, w, 3]."""
    if level.photometric == _PALETTE:
        if level.colormap is None:
            raise ValueError("a palette image without a colour map; save it as RGB")
        rgb: np.ndarray = (level.colormap[:, samples[..., 0]] >> 8).astype(np.uint8)
        return rgb.transpose(1, 2, 0)
    colours = level.samples - len(level.extrasamples)
    colour = pixel_formats.to_uint8(samples[..., :colours], bits)
    if level.photometric == _SEPARATED:
        return pixel_formats.cmyk_to_rgb(colour)
    if level.photometric == _MIN_IS_WHITE:
        colour = 255 - colour
    rgb = pixel_formats.grey_to_rgb(colour) if colours == 1 else colour
    if level.extrasamples and level.extrasamples[0] in (_ASSOCIATED_ALPHA, _FREE_ALPHA):
        alpha = pixel_formats.to_uint8(samples[..., colours:], 8 * samples.dtype.itemsize)
        return pixel_formats.over_glass(
            np.concatenate([rgb, alpha], axis=2), level.extrasamples[0] == _ASSOCIATED_ALPHA
        )
    return rgb


def _decode_part(level: TiffLevel, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode the compressed bytes of one plane, or of all planes, to samples of `shape`."""
    if level.compression == JPEG:
        return _decode_jpeg(level, data, shape)
    if level.compression in JPEG2000:
        check_jpeg2000(data, shape)
        out = np.empty(shape if shape[2] > 1 else shape[:2], level.dtype.newbyteorder("="))
        return imagecodecs.jpeg2k_decode(data, out=out).reshape(shape)
    if level.compression in IMAGE_CODECS:
        decode = getattr(imagecodecs, f"{IMAGE_CODECS[level.compression]}_decode")
        out = np.empty(shape if shape[2] > 1 else shape[:2], level.dtype.newbyteorder("="))
        pixels: np.ndarray = decode(data, out=out).reshape(shape)
        return pixels  # another size is an error before decoding
    raw = _unpack(level.compression, data, int(np.prod(shape)) * level.dtype.itemsize)
    samples = (
        np.frombuffer(raw, level.dtype)
        .astype(level.dtype.newbyteorder("="), copy=False)
        .reshape(shape)
    )
    if level.predictor == 2:
        samples = imagecodecs.delta_decode(samples, axis=-2)
    return samples


def _decode_jpeg(level: TiffLevel, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode a JPEG tile with the tables and header of its directory."""
    if level.jpeg_header is not None:
        data = level.jpeg_header + data + b"\xff\xd9"
    # Aperio stores RGB without saying so in the JPEG stream. A JFIF stream is always YCbCr.
    stored_rgb = level.photometric == _RGB and not level.jpeg_jfif and shape[2] == 3
    return decode_jpeg(data, shape, level.jpeg_tables, stored_rgb)


def _unpack(compression: int, data: bytes, size: int) -> bytes | np.ndarray:
    """Decompress exactly `size` bytes. Raise if the data is longer or shorter."""
    if compression == 1:
        raw = data[:size]
    else:
        raw = getattr(imagecodecs, f"{BYTE_CODECS[compression]}_decode")(
            data, out=np.empty(size, np.uint8)
        )
    if len(raw) != size:
        raise ValueError(f"a tile has {len(raw)} bytes; its size needs {size}")
    return raw
