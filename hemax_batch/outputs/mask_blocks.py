"""Draw one block of both mask labels, reduce it to the smaller levels, and store it as shards.

The finest level is drawn in bands, and a band is packed before the next. No process holds a whole block of it.
The time depends on the cells and the chunks that they touch, not on the block.
Only drawn windows are read and cleared afterwards: new memory per block costs more than the drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..geometry import area
from ..mask_packing import unpack_planes
from ..records import MergedCells
from .zarr_shards import ChunkPacker, write_shard

BLOCK_PX = 4096
CHUNK_PX = 256  # in a shard: mostly blank, as cells are far apart, so packing a larger one is mostly packing nothing
BAND_CHUNKS = 2  # rows of chunks that are painted at a time: 16 MB
BLOCK_LEVELS = 4  # the levels that are written block by block, a shard each

Place = tuple[int, int]  # row, column: of a block, a chunk or a pixel; or height, width
Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class MaskCrops:
    """The masks of N cells: ids int64 [N], box areas float32 [N], packed masks and places (see `Cells`)."""

    ids: np.ndarray
    areas: np.ndarray
    mask_xy: np.ndarray
    mask_hw: np.ndarray
    masks: tuple[bytes, ...]

    @classmethod
    def of(cls, merged: MergedCells, rows: list[int]) -> MaskCrops:
        """Return the masks of some cells."""
        cells = merged.cells
        masks = tuple([cells.masks[i] for i in rows])
        return cls(
            merged.ids[rows],
            area(cells.boxes_xyxy[rows]),
            cells.mask_xy[rows],
            cells.mask_hw[rows],
            masks,
        )

    def between(self, top: int, bottom: int) -> MaskCrops:
        """Return the masks that reach into the slide's rows top..bottom."""
        low = self.mask_xy[:, 1]
        rows = np.flatnonzero((low < bottom) & (low + self.mask_hw[:, 0] > top))
        masks = tuple([self.masks[i] for i in rows])
        return MaskCrops(
            self.ids[rows], self.areas[rows], self.mask_xy[rows], self.mask_hw[rows], masks
        )


@dataclass(frozen=True)
class Block:
    """One block to draw: the folders of both labels, its place, the slide's size, and its cells.

    It is small and complete, so another process can draw it.
    """

    labels: tuple[Path, Path]
    place: Place
    slide_hw: Place
    crops: MaskCrops


def paint_block(block: Block) -> None:
    """Draw a block and write its shards, for both labels at each level."""
    canvas = _canvas()
    try:
        for label, by_level in zip(block.labels, canvas.packed(block), strict=True):
            for k, chunks in enumerate(by_level):
                if chunks:
                    shard = (
                        label / str(k) / "c" / str(block.place[0]) / str(block.place[1])
                    )  # in zarr's default layout
                    write_shard(shard, chunks, (BLOCK_PX >> k) // CHUNK_PX)
    except BaseException:
        free_canvas()  # the canvas is not blank any more
        raise


@cache
def _canvas() -> Canvas:
    """Return the canvas of this process."""
    return Canvas.blank()


def free_canvas() -> None:
    """Release the memory of the canvas."""
    _canvas.cache_clear()


@dataclass
class Canvas:
    """One block of both labels, cell and nucleus, at four levels. It is blank between blocks.

    The finest level is only one band.

    levels  uint32 [2, 512, 4096] of the band, then of the block [2, 2048, 2048], [2, 1024, 1024], [2, 512, 512]
    """

    levels: list[np.ndarray]
    pack: ChunkPacker

    @classmethod
    def blank(cls) -> Canvas:
        """Return a blank canvas."""
        heights = [BAND_CHUNKS * CHUNK_PX, *(BLOCK_PX >> k for k in range(1, BLOCK_LEVELS))]
        levels = [
            np.zeros((2, height, BLOCK_PX >> k), np.uint32) for k, height in enumerate(heights)
        ]
        return cls(levels, ChunkPacker(CHUNK_PX))

    def packed(self, block: Block) -> list[list[dict[Place, bytes]]]:
        """Return the chunks of a block that are not blank, by label and level: {(row, column): bytes}.

        Steps: draw a band, reduce it, pack the finest level, clear it. Then pack the other levels.
        The canvas is blank again at the end.
        """
        chunks: list[list[dict[Place, bytes]]] = [[{} for _ in self.levels] for _ in block.labels]
        windows: list[Window] = []
        seen: set[int] = set()
        rows = min(BLOCK_PX, block.slide_hw[0] - block.place[0] * BLOCK_PX)
        for top in range(0, rows, self.levels[0].shape[1]):
            painted = self._paint_band(block, top, rows, seen)
            for label, by_level in enumerate(chunks if painted else ()):
                by_level[0] |= self._packed(label, 0, top)
            self._wipe(0, painted)
            windows += [(slice(ys.start + top, ys.stop + top), xs) for ys, xs in painted]
        for k in range(1, BLOCK_LEVELS):
            for label, by_level in enumerate(chunks):
                by_level[k] = self._packed(label, k)
        for k in range(1, BLOCK_LEVELS):
            self._wipe(k, windows)
        return chunks

    def _paint_band(self, block: Block, top: int, rows: int, seen: set[int]) -> list[Window]:
        """Draw and reduce the band from row `top` of a block of `rows`. Return its drawn windows; `seen` as in `paint`."""
        origin, height = (
            (block.place[0] * BLOCK_PX + top, block.place[1] * BLOCK_PX),
            self.levels[0].shape[1],
        )
        crops = block.crops.between(origin[0], origin[0] + height)
        windows = paint(self.levels[0], crops, origin, block.slide_hw, seen, top + height < rows)
        for k in range(1, BLOCK_LEVELS):
            above = 0 if k == 1 else top >> (k - 1)  # of the band, in what is shrunk
            for window in windows:
                ys, xs = _at_level(window, k)
                finer_ys = slice(2 * ys.start + above, 2 * ys.stop + above)
                finer = self.levels[k - 1][:, finer_ys, 2 * xs.start : 2 * xs.stop]
                self.levels[k][:, ys.start + (top >> k) : ys.stop + (top >> k), xs] = halve(finer)
        return windows

    def _wipe(self, k: int, windows: list[Window]) -> None:
        for window in windows:
            self.levels[k][:, *_at_level(window, k)] = 0

    def _packed(self, label: int, k: int, top: int = 0) -> dict[Place, bytes]:
        """Return the chunks of level k that are not blank; for the finest level, of the band from row `top`.

        The last level tells which chunks are blank, because reduction keeps every label.
        """
        pixels, first = self.levels[k][label], top // CHUNK_PX
        side = (CHUNK_PX << k) >> (BLOCK_LEVELS - 1)  # of a chunk, in the last level
        down, across = (n // CHUNK_PX for n in pixels.shape)
        last = self.levels[-1][label][first * side : (first + down) * side] > 0
        filled = np.argwhere(last.reshape(down, side, across, side).any((1, 3))).tolist()
        return {
            (first + row, column): self.pack(_chunk(pixels, (row, column)))
            for row, column in filled
        }


def _chunk(pixels: np.ndarray, place: Place) -> np.ndarray:
    y, x = (at * CHUNK_PX for at in place)
    return pixels[y : y + CHUNK_PX, x : x + CHUNK_PX]


def _at_level(window: Window, k: int) -> Window:
    """Return the pixels of level k that cover a window of level 0."""
    ys, xs = window
    return slice(ys.start >> k, -(-ys.stop >> k)), slice(xs.start >> k, -(-xs.stop >> k))


def halve(pixels: np.ndarray) -> np.ndarray:
    """Halve [..., h, w], both even: keep the largest label of each 2 x 2.

    Values stay ids, and small cells stay visible.
    """
    rows: np.ndarray = np.maximum(pixels[..., ::2, :], pixels[..., 1::2, :])
    halved: np.ndarray = np.maximum(rows[..., ::2], rows[..., 1::2])
    return halved


def paint(
    band: np.ndarray,
    crops: MaskCrops,
    origin: Place,
    slide_hw: Place,
    seen: set[int],
    goes_on: bool,
) -> list[Window]:
    """Draw cells on a blank band of both labels, uint32 [2, h, w]. Return the drawn windows.

    The first pixel of the band is the slide's `origin` (y, x). Larger cells come first.
    A cell that is hidden in every band gets one pixel in its last band.

    seen     ids that earlier bands show. The ids of this band are added.
    goes_on  whether another band follows
    """
    size = [
        min(side, whole - at)
        for side, whole, at in zip(band.shape[1:], slide_hw, origin, strict=True)
    ]
    order = np.lexsort((crops.ids, -crops.areas))
    values, placed = crops.ids[order].tolist(), _placed(crops, order, origin, size)
    for value, (window, planes) in zip(values, placed, strict=True):
        cell, nucleus = band[:, *window]
        np.copyto(cell, value, where=planes[0])
        np.copyto(
            nucleus, 0, where=planes[0]
        )  # a smaller cell on top hides the larger one's nucleus too
        np.copyto(nucleus, value, where=planes[1])
    for i, value, (window, planes) in zip(order.tolist(), values, placed, strict=True):
        cell, nucleus = band[:, *window]
        if (cell == value).any():
            seen.add(value)
        ends = not goes_on or crops.mask_xy[i, 1] + crops.mask_hw[i, 0] <= origin[0] + size[0]
        if ends and value not in seen and planes[0].any():
            y, x = _spare_pixel(cell, planes[0])
            cell[y, x] = value
            nucleus[y, x] = value if planes[1, y, x] else 0
    return [window for window, _ in placed]


def _placed(
    crops: MaskCrops, order: np.ndarray, origin: Place, size: list[int]
) -> list[tuple[Window, np.ndarray]]:
    """Return each cell's window in the block of `size` (h, w) at `origin`, and its masks, bool [2, h', w']."""
    found = []
    for i, (x, y), hw in zip(
        order.tolist(), crops.mask_xy[order].tolist(), crops.mask_hw[order].tolist(), strict=True
    ):
        planes = unpack_planes(crops.masks[i], hw)
        top, left = y - origin[0], x - origin[1]
        ys, xs = (
            slice(max(top, 0), min(top + hw[0], size[0])),
            slice(max(left, 0), min(left + hw[1], size[1])),
        )
        found.append(
            ((ys, xs), planes[:, ys.start - top : ys.stop - top, xs.start - left : xs.stop - left])
        )
    return found


def _spare_pixel(cell: np.ndarray, mask: np.ndarray) -> Place:
    """Return the row and column of a pixel that a hidden cell takes from its owner in `cell`, uint32 [h, w].

    It is the pixel of the mask nearest its middle whose owner keeps another pixel of the mask.
    If no owner keeps one, it is the pixel nearest the middle. Merging rules this case out.
    """
    ys, xs = np.nonzero(mask)
    _, which, times = np.unique(cell[ys, xs], return_inverse=True, return_counts=True)
    far = (ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2
    at = int(np.lexsort((far, times[which] < 2))[0])
    return int(ys[at]), int(xs[at])
