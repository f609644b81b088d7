"""Read a single field from a microscope camera: PNG, JPEG, BMP and the like, held in memory as RGB.

An EXIF orientation is reported and not applied. Coordinates are those of the stored pixels, as in
QuPath and napari.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, UnidentifiedImageError

from ...errors import UnreadableSlideError
from . import pixel_formats, spacing
from .jpeg import decode_jpeg
from .slide_backend import OnDamage

# Pillow holds 4 bytes a pixel and this module 3. A larger image should be a tiled file.
MAX_IMAGE_PX = 100_000_000
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
_MAX_METADATA_BYTES = 16 * 2**20
_opening = threading.Lock()


class ImageBackend:
    """One image with one level, decoded once."""

    backend = "image"
    level_sizes: tuple[tuple[int, int], ...]
    image = focus_plane = 0  # the image and plane of several in the file, from 1
    orientation = 1  # the file's tag; pixels are returned as stored
    icc = b""
    notes: tuple[str, ...] = ()  # of the file: for `info` and result.json
    warnings: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        try:
            with _open(path) as image:
                self.vendor = (image.format or "image").lower()
                self.level_sizes = (image.size,)
                self.spacing_um = spacing.from_dpi(image.info.get("dpi"))
                _refuse_oversize(image.size)
                self.icc = image.info.get("icc_profile") or b""
                self.orientation = _orientation(image)
                self._rgb = _decode(path, image)
        except UnidentifiedImageError as error:
            raise UnreadableSlideError(
                "the content is no slide or image format known here"
            ) from error
        except (OSError, SyntaxError, ValueError, imagecodecs.PngError) as error:
            raise UnreadableSlideError(f"the image cannot be decoded: {error}") from error

    def read(
        self, level: int, x: int, y: int, w: int, h: int, on_damage: OnDamage | None = None
    ) -> np.ndarray:
        """Return the pixels of a window inside the image: uint8 [h, w, 3]."""
        return self._rgb[y : y + h, x : x + w]

    def close(self) -> None:
        """Release the pixels."""
        self._rgb = np.zeros((0, 0, 3), np.uint8)


def _open(path: Path) -> Image.Image:
    """Open the image without decoding it.

    Pillow has one size limit for the whole process, so the limit is replaced for a moment. Pillow
    refuses images above twice the limit. `_refuse_oversize` refuses the others, with their size.
    """
    with (
        _opening,
        warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
    ):
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_IMAGE_PX
        try:
            return Image.open(path, formats=_FORMATS)
        except Image.DecompressionBombError as error:
            raise _oversize(f"over {2 * MAX_IMAGE_PX // 10**6} Mpx") from error
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(274, 1)
    except Exception:  # damaged EXIF data ends in any error of Pillow's
        return 1
    return value if isinstance(value, int) else 1


def _refuse_oversize(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_IMAGE_PX:
        raise _oversize(f"{size[0]}x{size[1]} px")


def _oversize(size: str) -> UnreadableSlideError:
    return UnreadableSlideError(
        f"{size} in one untiled image, more than {MAX_IMAGE_PX // 10**6} Mpx; "
        "convert it to a tiled TIFF (vips tiffsave --tile --pyramid)"
    )


def _decode(path: Path, image: Image.Image) -> np.ndarray:
    """Decode an image to uint8 RGB [h, w, 3]."""
    # Pillow would drop the low byte of a 16-bit PNG, whatever its depth.
    if image.format == "PNG" and _read(path, image)[24] == 16:
        return deep_to_rgb(imagecodecs.png_decode(_read(path, image)))
    if image.format == "JPEG":
        rgb = _decode_jpeg(_read(path, image), image)
        if rgb is not None:
            return rgb
    if image.mode in ("F", "I"):
        raise UnreadableSlideError(
            f"samples of mode {image.mode!r}; export the field as 8- or 16-bit RGB"
        )
    if image.mode.startswith("I;16"):
        return deep_to_rgb(np.asarray(image).astype(np.uint16))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return pixel_formats.over_glass(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _read(path: Path, image: Image.Image) -> bytes:
    """Read the file, but no more bytes than its pixels and metadata can need."""
    with open(path, "rb") as file:
        return file.read(8 * image.width * image.height + _MAX_METADATA_BYTES)


def _decode_jpeg(data: bytes, image: Image.Image) -> np.ndarray | None:
    """Decode a grey or RGB JPEG to uint8 RGB [h, w, 3].

    The result is None for four inks. libjpeg has then checked the stream, and Pillow converts it.
    """
    pixels = decode_jpeg(data, (image.height, image.width, len(image.getbands())))
    if pixels.shape[2] == 1:
        return pixel_formats.grey_to_rgb(pixels)
    return pixels if pixels.shape[2] == 3 else None


def deep_to_rgb(samples: np.ndarray) -> np.ndarray:
    """Convert uint16 [h, w] or [h, w, 1..4] to uint8 RGB by its significant bits.

    The channels are grey, grey and alpha, RGB, or RGBA.
    """
    samples = samples.reshape(*samples.shape[:2], -1)
    colours = samples.shape[2] - (samples.shape[2] in (2, 4))
    bits = pixel_formats.significant_bits(int(samples[..., :colours].max(initial=0)))
    colour = pixel_formats.to_uint8(samples[..., :colours], bits)
    rgb = pixel_formats.grey_to_rgb(colour) if colours == 1 else colour
    if colours == samples.shape[2]:
        return rgb
    return pixel_formats.over_glass(
        np.concatenate([rgb, (samples[..., colours:] >> 8).astype(np.uint8)], axis=2)
    )
