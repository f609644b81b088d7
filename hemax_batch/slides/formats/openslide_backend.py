"""Slides read through OpenSlide: MRXS, DICOM, NDPI oddities, and whatever the fast path does not take.

OpenSlide's errors latch (a handle that failed once fails for ever) and its cache is per handle; so a handle is
reopened after any error, and all handles of a process share one cache of 64 MiB.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import openslide

from . import pixel_formats, spacing

CACHE_BYTES = 64 * 2**20
_BLOCK_PX = 512


@functools.cache
def _shared_cache() -> openslide.OpenSlideCache:
    return openslide.OpenSlideCache(CACHE_BYTES)


class OpenSlideBackend:
    """One slide through OpenSlide. `read` gives uint8 [h, w, 3] for windows inside a level."""

    backend = "openslide"

    def __init__(self, path: Path):
        self._path = str(path)
        self._open()
        properties = self._handle.properties
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.level_sizes = tuple((int(w), int(h)) for w, h in self._handle.level_dimensions)
        self.spacing_um = _spacing(properties)
        self._blocks: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()

    def _open(self) -> None:
        self._handle = openslide.OpenSlide(self._path)
        self._handle.set_cache(_shared_cache())
        self._downsamples = self._handle.level_downsamples

    def read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Pixels of a window that lies inside `level`."""
        if float(self._downsamples[level]).is_integer():
            return self._region(level, x, y, w, h)
        return self._from_blocks(level, x, y, w, h)

    def _region(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        factor = self._downsamples[level]
        try:
            image = self._handle.read_region((round(x * factor), round(y * factor)), level, (w, h))
        except openslide.OpenSlideError:
            self._handle.close()
            self._open()
            raise
        return pixel_formats.over_glass(np.asarray(image))

    def _from_blocks(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """The window put together from blocks on a fixed lattice.

        OpenSlide takes level-0 whole pixels; at a downsample of 2.0003 it would shift every window by another
        fraction of a pixel, so that a pixel depended on the window it is read in. Fixed blocks make it one value.
        """
        out = np.empty((h, w, 3), np.uint8)
        for by in range(y // _BLOCK_PX, (y + h - 1) // _BLOCK_PX + 1):
            for bx in range(x // _BLOCK_PX, (x + w - 1) // _BLOCK_PX + 1):
                block = self._block(level, bx, by)
                x0, y0 = bx * _BLOCK_PX, by * _BLOCK_PX
                left, right = max(x, x0), min(x + w, x0 + block.shape[1])
                top, bottom = max(y, y0), min(y + h, y0 + block.shape[0])
                out[top - y : bottom - y, left - x : right - x] = block[
                    top - y0 : bottom - y0, left - x0 : right - x0
                ]
        return out

    def _block(self, level: int, bx: int, by: int) -> np.ndarray:
        key = (level, bx, by)
        if key not in self._blocks:
            width, height = self.level_sizes[level]
            x0, y0 = bx * _BLOCK_PX, by * _BLOCK_PX
            w, h = min(_BLOCK_PX, width - x0), min(_BLOCK_PX, height - y0)
            self._blocks[key] = self._region(level, x0, y0, w, h)
            if len(self._blocks) > 32:
                self._blocks.popitem(last=False)
        return self._blocks[key]

    def close(self) -> None:
        """Release the handle."""
        self._blocks.clear()
        self._handle.close()


def _spacing(properties) -> spacing.Spacing | None:
    x, y = (
        properties.get(openslide.PROPERTY_NAME_MPP_X),
        properties.get(openslide.PROPERTY_NAME_MPP_Y),
    )
    try:
        return spacing.believable(float(x), float(y)) if x and y else None
    except ValueError:
        return None
