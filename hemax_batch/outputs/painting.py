"""One block of both mask labels: cells painted on it, shrunk to the smaller levels, stored as shards.

Time is that of the cells and of the chunks that they touch, not of the block: only what was painted in is ever looked
at, and wiped afterwards, for fresh memory a block would cost more than the painting.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..geometry import area
from ..mask_packing import unpack_planes
from ..records import MergedCells
from .shards import write_shard

BLOCK_PX = 4096
CHUNK_PX = 256  # in a shard: mostly blank, as cells are far apart, so packing a larger one is mostly packing nothing
BLOCK_LEVELS = 4  # the levels that are written block by block, a shard each

Place = tuple[int, int]  # row, column: of a block, a chunk or a pixel; or height, width
Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Crops:
    """The masks of N cells: ids int64 [N], the areas of their boxes float32 [N], packed masks and where they lie (see
    `Cells`)."""

    ids: np.ndarray
    areas: np.ndarray
    mask_xy: np.ndarray
    mask_hw: np.ndarray
    masks: tuple[bytes, ...]

    @classmethod
    def of(cls, merged: MergedCells, rows: list[int]) -> Crops:
        """Those of some cells."""
        cells = merged.cells
        masks = tuple([cells.masks[i] for i in rows])
        return cls(merged.ids[rows], area(cells.boxes_xyxy[rows]), cells.mask_xy[rows], cells.mask_hw[rows], masks)


@dataclass(frozen=True)
class Block:
    """One block to paint: the folders of both labels, which of the slide's blocks it is, the slide's height and width,
    and its cells. Small and complete, so that another process can do it."""

    labels: tuple[Path, Path]
    place: Place
    slide_hw: Place
    crops: Crops


def paint_block(block: Block) -> None:
    """Paint a block and write its shards: of both labels, at each of its levels."""
    canvas, origin = _canvas(), (block.place[0] * BLOCK_PX, block.place[1] * BLOCK_PX)
    try:
        windows = paint(canvas.levels[0], block.crops, origin, block.slide_hw)
        canvas.store(block.labels, block.place, windows)
    except BaseException:
        forget_canvas()  # it is not blank
        raise


@cache
def _canvas() -> Canvas:
    """This process's canvas."""
    return Canvas.blank()


def forget_canvas() -> None:
    """Give its memory back."""
    _canvas.cache_clear()


@dataclass
class Canvas:
    """One block of both labels, cell and nucleus, at its four levels, blank between blocks.

    levels  uint32 [2, 4096, 4096], [2, 2048, 2048], [2, 1024, 1024], [2, 512, 512]
    """

    levels: list[np.ndarray]

    @classmethod
    def blank(cls) -> Canvas:
        """Nothing painted."""
        return cls([np.zeros((2, BLOCK_PX >> k, BLOCK_PX >> k), np.uint32) for k in range(BLOCK_LEVELS)])

    def store(self, labels: tuple[Path, Path], place: Place, windows: list[Window]) -> None:
        """Shrink what was painted in `windows` of level 0 to the other levels, write all, and be blank again."""
        for k in range(1, BLOCK_LEVELS):
            for window in windows:
                ys, xs = _at_level(window, k)
                finer = self.levels[k - 1][:, 2 * ys.start : 2 * ys.stop, 2 * xs.start : 2 * xs.stop]
                self.levels[k][:, ys, xs] = halve(finer)
        for label, folder in enumerate(labels):
            for k, places in enumerate(self._filled(label)):
                chunks = {at: _chunk(self.levels[k][label], at) for at in places}
                if chunks:
                    shard = folder / str(k) / "c" / str(place[0]) / str(place[1])  # in zarr's default layout
                    write_shard(shard, chunks, (BLOCK_PX >> k) // CHUNK_PX)
        for k, pixels in enumerate(self.levels):
            for window in windows:
                pixels[:, *_at_level(window, k)] = 0

    def _filled(self, label: int) -> list[list[Place]]:
        """Per level, the chunks that are not blank, told by the last level: shrinking keeps every label."""
        last = self.levels[-1][label] > 0
        found = []
        for k in range(BLOCK_LEVELS):
            across = (BLOCK_PX >> k) // CHUNK_PX
            squares = last.reshape(across, len(last) // across, across, -1)
            found.append([(row, column) for row, column in np.argwhere(squares.any((1, 3))).tolist()])
        return found


def _chunk(pixels: np.ndarray, place: Place) -> np.ndarray:
    y, x = (at * CHUNK_PX for at in place)
    return pixels[y : y + CHUNK_PX, x : x + CHUNK_PX]


def _at_level(window: Window, k: int) -> Window:
    """The pixels of level k that cover a window of level 0."""
    ys, xs = window
    return slice(ys.start >> k, -(-ys.stop >> k)), slice(xs.start >> k, -(-xs.stop >> k))


def halve(pixels: np.ndarray) -> np.ndarray:
    """Half the size of [..., h, w], both even; of each 2 x 2 the largest label, so that values stay ids and small cells
    stay seen."""
    rows = np.maximum(pixels[..., ::2, :], pixels[..., 1::2, :])
    return np.maximum(rows[..., ::2], rows[..., 1::2])


def paint(block: np.ndarray, crops: Crops, origin: Place, slide_hw: Place) -> list[Window]:
    """Paint cells on a blank block of both labels, uint32 [2, h, w], whose first pixel is the slide's `origin` (y, x):
    larger cells first, then a pixel for each that is hidden.

    Returns the windows painted in.
    """
    size = [min(side, whole - at) for side, whole, at in zip(block.shape[1:], slide_hw, origin, strict=True)]
    order = np.lexsort((crops.ids, -crops.areas))
    values, placed = crops.ids[order].tolist(), _placed(crops, order, origin, size)
    for value, (window, planes) in zip(values, placed, strict=True):
        cell, nucleus = block[:, *window]
        np.copyto(cell, value, where=planes[0])
        np.copyto(nucleus, 0, where=planes[0])  # a smaller cell on top hides the larger one's nucleus too
        np.copyto(nucleus, value, where=planes[1])
    for value, (window, planes) in zip(values, placed, strict=True):
        cell, nucleus = block[:, *window]
        if not (cell == value).any() and planes[0].any():
            y, x = _spare_pixel(cell, planes[0])
            cell[y, x] = value
            nucleus[y, x] = value if planes[1, y, x] else 0
    return [window for window, _ in placed]


def _placed(crops: Crops, order: np.ndarray, origin: Place, size: list[int]) -> list[tuple[Window, np.ndarray]]:
    """Where each cell lies in the block of `size` (h, w) at `origin`, and its two masks there, bool [2, h', w']."""
    found = []
    for i, (x, y), hw in zip(order.tolist(), crops.mask_xy[order].tolist(), crops.mask_hw[order].tolist(), strict=True):
        planes = unpack_planes(crops.masks[i], hw)
        top, left = y - origin[0], x - origin[1]
        ys, xs = slice(max(top, 0), min(top + hw[0], size[0])), slice(max(left, 0), min(left + hw[1], size[1]))
        found.append(((ys, xs), planes[:, ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]))
    return found


def _spare_pixel(cell: np.ndarray, mask: np.ndarray) -> Place:
    """The pixel of a hidden cell's mask nearest its middle whose owner in `cell`, uint32 [h, w], keeps another: row,
    column in the window.

    An owner keeps another where it holds more than one pixel of the mask; where none does (as many cells as pixels,
    which merging rules out) the pixel nearest the middle is taken.
    """
    ys, xs = np.nonzero(mask)
    _, which, times = np.unique(cell[ys, xs], return_inverse=True, return_counts=True)
    far = (ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2
    at = int(np.lexsort((far, times[which] < 2))[0])
    return int(ys[at]), int(xs[at])
