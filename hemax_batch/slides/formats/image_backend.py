"""A single field from a microscope camera: PNG, JPEG, BMP and the like, held in memory as RGB.

Stored pixels are taken as they lie; an EXIF orientation is reported, not applied: coordinates are those of the file, as
QuPath and napari show it.
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

MAX_IMAGE_PX = (
    100_000_000  # Pillow holds 4 bytes a pixel and we 3: beyond that it should be a tiled file
)
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
_MAX_METADATA_BYTES = 16 * 2**20
_opening = threading.Lock()


class ImageBackend:
    """One image of one level, decoded once."""

    backend = "image"
    image = focus_plane = 0  # which of several in the file, from 1
    orientation = 1  # as the file's tag says; pixels are given as stored
    icc = b""
    notes: tuple[str, ...] = ()  # of the file: for `info` and result.json
    warnings: tuple[str, ...] = ()

    def __init__(self, path: Path):
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
                "no slide or image format known here (by its content)"
            ) from error
        except (OSError, SyntaxError, ValueError, imagecodecs.PngError) as error:
            raise UnreadableSlideError(f"the image cannot be decoded: {error}") from error

    def read(self, level: int, x: int, y: int, w: int, h: int, on_damage=None) -> np.ndarray:
        """Pixels of a window inside the image: uint8 [h, w, 3]."""
        return self._rgb[y : y + h, x : x + w]

    def close(self) -> None:
        """Let the pixels go."""
        self._rgb = np.zeros((0, 0, 3), np.uint8)


def _open(path: Path) -> Image.Image:
    """The image, not decoded. Pillow has one limit of size for the whole process: it is ours meanwhile, and what is above
    it by less than twice is left to `_refuse_oversize`, which knows the size."""
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
    if (
        image.format == "PNG" and _read(path, image)[24] == 16
    ):  # Pillow would drop the low byte whatever the depth
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
    """The file, but no more of it than its pixels can take, whatever follows them."""
    with open(path, "rb") as file:
        return file.read(8 * image.width * image.height + _MAX_METADATA_BYTES)


def _decode_jpeg(data: bytes, image: Image.Image) -> np.ndarray | None:
    """Grey or RGB pixels; of four inks, once libjpeg has found nothing wrong, None: Pillow turns them into RGB."""
    pixels = decode_jpeg(data, (image.height, image.width, len(image.getbands())))
    return {1: pixel_formats.grey_to_rgb, 3: np.asarray}.get(pixels.shape[2], lambda _: None)(
        pixels
    )


def deep_to_rgb(samples: np.ndarray) -> np.ndarray:
    """uint16 [h, w] or [h, w, 1..4] (grey, grey+alpha, RGB, RGBA) to uint8 RGB by its significant bits."""
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
