"""Tiny slides painted for the tests: real files in every layout that the reader takes."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image


@functools.cache
def smear(width: int = 700, height: int = 500, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3], read-only: pink red cells, every eighth a violet nucleus, on pale glass."""
    rng = np.random.default_rng(seed)
    rgb = np.full((height, width, 3), (244, 242, 240), np.float32)
    for i in range(max(4, width * height // 6000)):
        cx, cy, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(14, 22)
        ink = np.array((120, 60, 150) if i % 8 == 0 else (222, 160, 165), np.float32)
        x0, y0 = max(0, int(cx) - 26), max(0, int(cy) - 26)
        part = rgb[y0 : int(cy) + 26, x0 : int(cx) + 26]
        yy, xx = np.mgrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
        soft_disc = np.clip((radius - np.hypot(xx - cx, yy - cy)) / 3 + 0.5, 0, 1)[..., None]
        part += (ink - part) * soft_disc
    painted = rgb.round().astype(np.uint8)
    painted.flags.writeable = False
    return painted


def halved(rgb: np.ndarray) -> np.ndarray:
    """Block means of 2 x 2 pixels; an odd last row or column is left out, as scanners do."""
    h, w = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
    even = rgb[:h, :w].astype(np.uint32)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(rgb.dtype)


def write_pyramid(
    path: Path, pixels: np.ndarray, mpp: float | None = 0.1, levels: int = 3, tile: int = 128,
    compression: str | None = "jpeg", photometric: str = "rgb", bigtiff: bool = False, **page_options,
) -> Path:  # fmt: skip
    """A tiled pyramidal TIFF, which OpenSlide reads as generic-tiff; `mpp=None` leaves out the resolution."""
    options = {
        "tile": (tile, tile),
        "compression": compression,
        "photometric": photometric,
        **page_options,
    }
    if compression == "jpeg":
        options["compressionargs"] = {"level": 90}
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for level in range(levels):
            if mpp is not None:
                options |= {
                    "resolution": (1e4 / (mpp * 2**level),) * 2,
                    "resolutionunit": "CENTIMETER",
                }
            tiff.write(pixels, subfiletype=1 if level else 0, metadata=None, **options)
            pixels = halved(pixels)
    return path


def write_ome(
    path: Path, pixels: np.ndarray, size: float | None = 0.1, unit: str = "µm", levels: int = 2
) -> Path:
    """A tiled OME-TIFF with its pyramid in SubIFDs; `size` is PhysicalSizeX/Y in `unit`."""
    metadata = {"axes": "YXS"}
    if size is not None:
        metadata |= {
            "PhysicalSizeX": size,
            "PhysicalSizeXUnit": unit,
            "PhysicalSizeY": size,
            "PhysicalSizeYUnit": unit,
        }
    options = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(pixels, metadata=metadata, subifds=levels - 1, **options)
        for _ in range(levels - 1):
            pixels = halved(pixels)
            tiff.write(pixels, subfiletype=1, **options)
    return path


def write_field(path: Path, pixels: np.ndarray, **options) -> Path:
    """A single image through Pillow: PNG, JPEG, BMP by the path's ending; `dpi=(x, y)` where wanted."""
    Image.fromarray(pixels).save(path, **options)
    return path


class SlideMaker:
    """Writes painted slides into one folder; every method returns the file's path. `self.rgb` is what is on them."""

    def __init__(self, folder: Path, rgb: np.ndarray | None = None):
        self.folder = folder
        self.rgb = smear() if rgb is None else rgb

    def _path(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def tiff(self, name: str = "smear.tif", mpp: float | None = 0.1, **options) -> Path:
        """A tiled pyramidal TIFF, JPEG unless `compression` says otherwise."""
        return write_pyramid(self._path(name), options.pop("pixels", self.rgb), mpp, **options)

    def bigtiff(self, name: str = "big.tif", mpp: float | None = 0.1) -> Path:
        """The same as a BigTIFF."""
        return self.tiff(name, mpp, bigtiff=True)

    def ome(self, name: str = "smear.ome.tif", size: float | None = 0.1, unit: str = "µm") -> Path:
        """An OME-TIFF whose pyramid lies in SubIFDs."""
        return write_ome(self._path(name), self.rgb, size, unit)

    def deep(self, name: str = "deep.tif", bits: int = 12, mpp: float | None = 0.1) -> Path:
        """16-bit samples of `bits` significant bits."""
        pixels = (self.rgb.astype(np.uint16) << (bits - 8)) | (2 ** (bits - 8) - 1)
        return self.tiff(name, mpp, pixels=pixels, compression="deflate", predictor=True)

    def grey(self, name: str = "grey.tif", mpp: float | None = 0.1) -> Path:
        """8-bit grey."""
        return self.tiff(
            name, mpp, pixels=self.rgb[..., 1], photometric="minisblack", compression="lzw"
        )

    def rgba(self, name: str = "rgba.tif", mpp: float | None = 0.1) -> Path:
        """RGB with free alpha: the left half opaque, the right half transparent."""
        alpha = np.full((*self.rgb.shape[:2], 1), 255, np.uint8)
        alpha[:, alpha.shape[1] // 2 :] = 0
        pixels = np.concatenate([self.rgb, alpha], axis=2)
        return self.tiff(
            name, mpp, pixels=pixels, compression="zstd", extrasamples=["unassalpha"], levels=1
        )

    def png(self, name: str = "field.png", mpp: float | None = 0.1) -> Path:
        """A camera field; µm/px as dots per inch."""
        return write_field(
            self._path(name), self.rgb, **({} if mpp is None else {"dpi": (25400 / mpp,) * 2})
        )
