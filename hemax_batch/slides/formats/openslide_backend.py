"""Read slides through OpenSlide: MRXS, DICOM, unusual NDPI, and what `tiff_backend` does not read.

An OpenSlide handle that failed once always fails, so a handle is reopened after any error. All
handles of a process share one cache of 64 MiB.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import openslide
from PIL import ImageCms

from ...errors import one_line
from ...records import Rect
from . import pixel_formats, spacing
from .slide_backend import OnDamage

CACHE_BYTES = 64 * 2**20
_BLOCK_PX = 512
_DAMAGE_PX = 256  # smallest block that counts as damaged, on a grid from the level's origin


@functools.cache
def _shared_cache() -> openslide.OpenSlideCache:
    """Return the cache that all handles of this process share."""
    return openslide.OpenSlideCache(CACHE_BYTES)


class OpenSlideBackend:
    """One slide, read through OpenSlide."""

    backend = "openslide"
    image = focus_plane = 0  # which of several in the file, from 1
    orientation = 1  # as the file's tag says; pixels are given as stored
    icc = b""
    notes: tuple[str, ...] = ()  # of the file: for `info` and result.json
    warnings: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        #: Raises ValueError for a window that OpenSlide must not decode. The first argument is the
        #: level's size.
        self.check_window: Callable[[tuple[int, int], int, int, int, int], None] | None = None
        self._open()
        properties = self._handle.properties
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.level_sizes: tuple[tuple[int, int], ...] = tuple(
            (int(w), int(h)) for w, h in self._handle.level_dimensions
        )
        self.spacing_um = _spacing(properties)
        try:
            profile = self._handle.color_profile
            self.icc = profile.tobytes() if profile else b""
        except ImageCms.PyCMSError:  # damaged: whoever reads these bytes will say so
            self.icc = b"damaged"
        self._damaged: list[dict[Rect, str]] = [{} for _ in self.level_sizes]
        self._blocks: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()

    def _open(self) -> None:
        """Open the handle with the shared cache."""
        self._handle = openslide.OpenSlide(self._path)
        self._handle.set_cache(_shared_cache())
        self._downsamples = self._handle.level_downsamples

    def read(
        self, level: int, x: int, y: int, w: int, h: int, on_damage: OnDamage | None = None
    ) -> np.ndarray:
        """Return the pixels of a window that lies inside `level`: uint8 [h, w, 3].

        OpenSlide's errors include libjpeg's warnings. With `on_damage` a block that cannot be
        decoded is glass and is reported. Without it the error is raised.
        """
        if on_damage is None:
            return self._read(level, x, y, w, h)
        if not any(_overlap((x, y, x + w, y + h), block) for block in self._damaged[level]):
            try:
                return self._read(level, x, y, w, h)
            except openslide.OpenSlideError:
                pass
        out = np.full((h, w, 3), pixel_formats.GLASS, np.uint8)
        self._read_blocks(out, level, (x, y), _around((x, y, x + w, y + h)), on_damage)
        return out

    def _read_blocks(
        self, out: np.ndarray, level: int, origin: tuple[int, int], block: Rect, on_damage: OnDamage
    ) -> None:
        """Fill `out`, a window at `origin`, with the readable parts of a block.

        The block is read whole. If that fails, its quarters are read.
        """
        width, height = self.level_sizes[level]
        inside = (block[0], block[1], min(block[2], width), min(block[3], height))
        x, y = origin
        x0, y0 = max(block[0], x), max(block[1], y)
        x1, y1 = min(block[2], x + out.shape[1]), min(block[3], y + out.shape[0])
        if x0 >= x1 or y0 >= y1:
            return
        known = self._damaged[level]
        if inside in known:
            on_damage(level, inside, known[inside])
            return
        side = block[2] - block[0]
        reason = ""
        if not any(_overlap(inside, other) for other in known):
            # A smallest block is read whole, so its state does not depend on the window.
            whole = inside if side == _DAMAGE_PX else (x0, y0, x1, y1)
            try:
                pixels = self._read(
                    level, whole[0], whole[1], whole[2] - whole[0], whole[3] - whole[1]
                )
                out[y0 - y : y1 - y, x0 - x : x1 - x] = pixels[
                    y0 - whole[1] : y1 - whole[1], x0 - whole[0] : x1 - whole[0]
                ]
                return
            except openslide.OpenSlideError as error:
                reason = one_line(error)
        if side == _DAMAGE_PX:
            known[inside] = reason
            on_damage(level, inside, reason)
            return
        half = side // 2
        for top in (block[1], block[1] + half):
            for left in (block[0], block[0] + half):
                self._read_blocks(
                    out, level, origin, (left, top, left + half, top + half), on_damage
                )

    def _read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        if float(self._downsamples[level]).is_integer():
            return self._region(level, x, y, w, h)
        return self._from_blocks(level, x, y, w, h)

    def _region(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Read a window with one call. Reopen the handle after an error."""
        factor = self._downsamples[level]
        if self.check_window is not None:
            try:
                self.check_window(self.level_sizes[level], x, y, w, h)
            except ValueError as error:  # as if OpenSlide had found it, but before it decodes
                raise openslide.OpenSlideError(str(error)) from error
        try:
            image = self._handle.read_region((round(x * factor), round(y * factor)), level, (w, h))
        except openslide.OpenSlideError:
            self._handle.close()
            self._open()
            raise
        return pixel_formats.over_glass(np.asarray(image))

    def _from_blocks(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Assemble the window from blocks on a fixed grid.

        OpenSlide takes positions in whole level-0 pixels. At a downsample of 2.0003 it would shift
        each window by another fraction of a pixel, so a pixel would depend on its window. With
        fixed blocks a pixel has one value.
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
        """Return a block of the fixed grid, from a cache of 32 blocks."""
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
        """Close the handle."""
        self._blocks.clear()
        self._handle.close()


def _overlap(a: Rect, b: Rect) -> bool:
    """Return whether two rectangles share pixels."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _around(window: Rect) -> Rect:
    """Return the smallest square around a window: lattice steps times a power of two."""
    x0, y0 = window[0] // _DAMAGE_PX * _DAMAGE_PX, window[1] // _DAMAGE_PX * _DAMAGE_PX
    side = _DAMAGE_PX
    while x0 + side < window[2] or y0 + side < window[3]:
        side *= 2
    return x0, y0, x0 + side, y0 + side


def _spacing(properties: Mapping[str, str]) -> spacing.Spacing | None:
    """Return µm/px from OpenSlide's properties."""
    x, y = (
        properties.get(openslide.PROPERTY_NAME_MPP_X),
        properties.get(openslide.PROPERTY_NAME_MPP_Y),
    )
    try:
        return spacing.believable(float(x), float(y)) if x and y else None
    except ValueError:
        return None
