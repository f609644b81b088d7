"""Slides read through OpenSlide: MRXS, DICOM, NDPI oddities, and whatever the fast path does not take.

OpenSlide's errors latch (a handle that failed once fails for ever) and its cache is per handle; so a handle is
reopened after any error, and all handles of a process share one cache of 64 MiB.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
from PIL import ImageCms

from ...errors import one_line
from . import pixel_formats, spacing

CACHE_BYTES = 64 * 2**20
_BLOCK_PX = 512
_DAMAGE_PX = (
    256  # side of the smallest block that is given up, on a lattice from the level's origin
)
Rect = tuple[int, int, int, int]
OnDamage = Callable[[int, Rect, str], None]  # level, place in its pixels, why


@functools.cache
def _shared_cache() -> openslide.OpenSlideCache:
    return openslide.OpenSlideCache(CACHE_BYTES)


class OpenSlideBackend:
    """One slide through OpenSlide. `read` gives uint8 [h, w, 3] for windows inside a level."""

    backend = "openslide"
    image = focus_plane = 0  # which of several in the file, from 1
    orientation = 1  # as the file's tag says; pixels are given as stored
    icc = b""
    notes: tuple[str, ...] = ()  # of the file: for `info` and result.json
    warnings: tuple[str, ...] = ()

    def __init__(self, path: Path):
        self._path = str(path)
        #: Raises ValueError for a window, of a level of that size, that OpenSlide should not be given.
        self.check_window: Callable[[tuple[int, int], int, int, int, int], None] | None = None
        self._open()
        properties = self._handle.properties
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.level_sizes = tuple((int(w), int(h)) for w, h in self._handle.level_dimensions)
        self.spacing_um = _spacing(properties)
        try:
            profile = self._handle.color_profile
            self.icc = profile.tobytes() if profile else b""
        except ImageCms.PyCMSError:  # damaged: whoever reads these bytes will say so
            self.icc = b"damaged"
        self._damaged: list[dict[Rect, str]] = [{} for _ in self.level_sizes]
        self._blocks: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()

    def _open(self) -> None:
        self._handle = openslide.OpenSlide(self._path)
        self._handle.set_cache(_shared_cache())
        self._downsamples = self._handle.level_downsamples

    def read(
        self, level: int, x: int, y: int, w: int, h: int, on_damage: OnDamage | None = None
    ) -> np.ndarray:
        """Pixels of a window that lies inside `level`.

        Blocks that OpenSlide cannot decode (its errors include libjpeg's warnings) are glass, and `on_damage` is told of
        them; without that its error is raised.
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
        """Fill `out`, a window at `origin`, with what can be read of a block of it: the whole, else its quarters."""
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
            # a block is read whole, so that it is damaged or sound whatever the window
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


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _around(window: Rect) -> Rect:
    """The smallest square that holds a window, of the lattice's steps times a power of two."""
    x0, y0 = window[0] // _DAMAGE_PX * _DAMAGE_PX, window[1] // _DAMAGE_PX * _DAMAGE_PX
    side = _DAMAGE_PX
    while x0 + side < window[2] or y0 + side < window[3]:
        side *= 2
    return x0, y0, x0 + side, y0 + side


def _spacing(properties) -> spacing.Spacing | None:
    x, y = (
        properties.get(openslide.PROPERTY_NAME_MPP_X),
        properties.get(openslide.PROPERTY_NAME_MPP_Y),
    )
    try:
        return spacing.believable(float(x), float(y)) if x and y else None
    except ValueError:
        return None
