"""Cell and nucleus masks as OME-Zarr 0.5 labels: the value of a pixel is its cell's id in `cells.csv`.

    masks.zarr/                  its image is the `cell` label itself (by path, stored once), so that every viewer
                                 opens the folder
    masks.zarr/labels/cell/0…    uint32 [y, x] at the slide's level 0, then halves
    masks.zarr/labels/nucleus/0…

Only blocks that hold a cell are ever touched, and of these only the chunks that do: most of a smear holds none. A
block is one shard, painted in memory and written once, with the next three levels of the same block; the smaller levels
are made from the one before, chunk by chunk. So memory is bounded by one block and its cells, and no two writes meet.

Where masks overlap the smaller cell lies on top. A cell that would be hidden altogether gets the pixel of its mask that
is nearest its middle, from a cell that can spare one: so the values of the `cell` label at level 0 are exactly the ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from ..geometry import area
from ..records import Cells, MergedCells, Slide, unpack_mask
from ..vocabulary import CLASSES, UNIDENTIFIED, UNIDENTIFIED_COLOUR
from .shards import LEVEL, sharding, write_shard

BLOCK_PX = 4096
CHUNK_PX = 512
BLOCK_LEVELS = 4  # the levels that are written block by block, a shard each
SMALLEST_PX = 1024  # the pyramid ends when both sides are at most this
NAMED_CELLS = 20_000  # colours and properties are written for so many cells at the most: they are text in the metadata
LABELS = ("cell", "nucleus")

Place = tuple[int, int]  # row, column: of a block, a chunk or a pixel; or height, width
Window = tuple[slice, slice]  # rows, columns


def write_masks(path: Path, slide: Slide, merged: MergedCells, class_names: list[str]) -> None:
    """Write both labels of a slide to a new folder `path`; the caller renames it into place.

    class_names  the final class of each cell, for colours and properties

    Steps: the groups and empty arrays; block by block the cells; the smaller levels.
    """
    root = zarr.open_group(path, mode="w-", zarr_format=3)
    shapes = level_shapes(slide.height, slide.width)
    root.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [_multiscale("cell ids", slide.mpp, shapes, "labels/cell/")],
    }
    root.create_group("labels").attrs["ome"] = {"version": "0.5", "labels": list(LABELS)}
    levels = {name: _create_label(root, name, slide, shapes, merged, class_names) for name in LABELS}
    canvases = {name: _Canvas.blank() for name in LABELS}
    touched: list[Place] = []
    for block, rows in _cells_by_block(merged.cells, slide):
        windows = _paint(canvases["cell"].levels[0], canvases["nucleus"].levels[0], merged, rows, block, slide)
        for name in LABELS:
            canvases[name].store(levels[name], block, windows)
        touched.append(block)
    for name in LABELS:
        _make_smaller_levels(levels[name], touched)


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Shapes of the pyramid's levels, finest first: halves, rounded up.

    >>> level_shapes(3000, 2000)
    [(3000, 2000), (1500, 1000), (750, 500)]
    """
    shapes = [(height, width)]
    while max(shapes[-1]) > SMALLEST_PX:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _create_label(
    root: zarr.Group, name: str, slide: Slide, shapes: list[Place], merged: MergedCells, class_names: list[str]
) -> list[zarr.Array]:
    group = root.create_group(f"labels/{name}")
    arrays = [
        group.create_array(
            str(k), shape=shape, dtype="uint32", fill_value=0, dimension_names=("y", "x"),
            config={"write_empty_chunks": False}, **_storage(k),
        )
        for k, shape in enumerate(shapes)
    ]  # fmt: skip
    label = {"source": {"image": "../../"}}
    if 0 < len(merged.ids) <= NAMED_CELLS:
        colours = {c.name: c.colour for c in CLASSES} | {UNIDENTIFIED: UNIDENTIFIED_COLOUR}
        named = list(zip(merged.ids.tolist(), class_names, strict=True))
        label["colors"] = [{"label-value": i, "rgba": [*_rgb(colours[c]), 255]} for i, c in named]
        confidences = merged.cells.class_probs.max(1).astype(float).round(4).tolist()  # as in cells.csv
        label["properties"] = [
            {"label-value": i, "class": c, "confidence": p} for (i, c), p in zip(named, confidences, strict=True)
        ]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [_multiscale(name, slide.mpp, shapes)],
        "image-label": label,
    }
    return arrays


def _storage(level: int) -> dict:
    """How a level is stored: those that are written block by block as shards, the others as chunks."""
    if level < BLOCK_LEVELS:
        side = BLOCK_PX >> level
        return {"chunks": (side, side), "serializer": sharding(CHUNK_PX), "compressors": None}
    return {"chunks": (CHUNK_PX, CHUNK_PX), "compressors": ZstdCodec(level=LEVEL)}


def _multiscale(name: str, mpp: float, shapes: list[Place], folder: str = "") -> dict:
    """OME-Zarr's description of a pyramid of halves in `folder`.

    A pixel of level k covers 2^k pixels of level 0 a side, so its centre lies (2^k - 1) / 2 of them further in.
    """
    datasets = []
    for k in range(len(shapes)):
        steps = [{"type": "scale", "scale": [mpp * 2**k] * 2}]
        if k:
            steps.append({"type": "translation", "translation": [mpp * (2**k - 1) / 2] * 2})
        datasets.append({"path": f"{folder}{k}", "coordinateTransformations": steps})
    return {
        "name": name,
        "axes": [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"],
        "datasets": datasets,
        "type": "largest label of each 2 x 2",
    }


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _cells_by_block(cells: Cells, slide: Slide) -> Iterator[tuple[Place, list[int]]]:
    """Blocks that hold (part of) a cell's mask crop, with those cells, in row-major order."""
    blocks = defaultdict(list)
    low = np.maximum(cells.mask_xy, 0)
    high = np.minimum(cells.mask_xy + cells.mask_hw[:, ::-1], (slide.width, slide.height)) - 1
    for i, ((x0, y0), (x1, y1)) in enumerate(zip((low // BLOCK_PX).tolist(), (high // BLOCK_PX).tolist(), strict=True)):
        for by in range(y0, y1 + 1):
            for bx in range(x0, x1 + 1):
                blocks[by, bx].append(i)
    for key in sorted(blocks):
        yield key, blocks[key]


@dataclass
class _Canvas:
    """One block of a label at its four levels, blank between blocks: fresh memory a block costs more than the painting.

    levels  uint32 [4096, 4096], [2048, 2048], [1024, 1024], [512, 512]
    """

    levels: list[np.ndarray]

    @classmethod
    def blank(cls) -> _Canvas:
        return cls([np.zeros((BLOCK_PX >> k, BLOCK_PX >> k), np.uint32) for k in range(BLOCK_LEVELS)])

    def store(self, arrays: list[zarr.Array], block: Place, windows: list[Window]) -> None:
        """Shrink what was painted in `windows` of level 0 to the other levels, write all, and be blank again."""
        for k in range(1, BLOCK_LEVELS):
            for window in windows:
                ys, xs = _at_level(window, k)
                finer = self.levels[k - 1][2 * ys.start : 2 * ys.stop, 2 * xs.start : 2 * xs.stop]
                self.levels[k][ys, xs] = _halve(finer)
        for k, (array, pixels) in enumerate(zip(arrays, self.levels, strict=False)):
            chunks = _chunks_in(pixels, [_at_level(window, k) for window in windows])
            if chunks:
                write_shard(_shard_path(array, block), chunks, len(pixels) // CHUNK_PX)
        for k, pixels in enumerate(self.levels):
            for window in windows:
                pixels[_at_level(window, k)] = 0


def _chunks_in(pixels: np.ndarray, windows: list[Window]) -> dict[Place, np.ndarray]:
    """The chunks of a block's level that `windows` touch and that are not blank, by row and column."""
    chunks = {}
    for ys, xs in windows:
        for row in range(ys.start // CHUNK_PX, (ys.stop - 1) // CHUNK_PX + 1):
            for column in range(xs.start // CHUNK_PX, (xs.stop - 1) // CHUNK_PX + 1):
                chunk = pixels[row * CHUNK_PX : (row + 1) * CHUNK_PX, column * CHUNK_PX : (column + 1) * CHUNK_PX]
                low, left = max(ys.start - row * CHUNK_PX, 0), max(xs.start - column * CHUNK_PX, 0)
                if chunk[low : ys.stop - row * CHUNK_PX, left : xs.stop - column * CHUNK_PX].any():
                    chunks[row, column] = chunk
    return chunks


def _shard_path(array: zarr.Array, block: Place) -> Path:
    """The file of a block's shard, in zarr's default layout."""
    return Path(array.store_path.store.root) / array.store_path.path / "c" / str(block[0]) / str(block[1])


def _at_level(window: Window, k: int) -> Window:
    """The pixels of level k that cover a window of level 0."""
    ys, xs = (slice(part.start >> k, -(-part.stop >> k)) for part in window)
    return ys, xs


def _paint(
    cell: np.ndarray, nucleus: np.ndarray, merged: MergedCells, rows: list[int], block: Place, slide: Slide
) -> list[Window]:
    """Paint cells `rows` on both labels' blank block: larger ones first, then a pixel for each that is hidden.

    Returns the windows painted in.
    """
    y0, x0 = (at * BLOCK_PX for at in block)
    h, w = min(BLOCK_PX, slide.height - y0), min(BLOCK_PX, slide.width - x0)
    order = np.array(rows)[np.lexsort((merged.ids[rows], -area(merged.cells.boxes_xyxy[rows])))]
    crops = [_crop(merged.cells, i, y0, x0, h, w) for i in order]
    for i, (window, mask) in zip(order, crops, strict=True):
        value = merged.ids[i]
        cell[window][mask > 0] = value
        # a smaller cell on top hides the larger one's nucleus too
        nucleus[window][mask > 0] = np.where(mask[mask > 0] == 2, value, 0)
    for i, (window, mask) in zip(order, crops, strict=True):
        if mask.any() and not (cell[window] == merged.ids[i]).any():
            y, x = _spare_pixel(cell, window, mask)
            cell[window][y, x] = merged.ids[i]
            nucleus[window][y, x] = merged.ids[i] if mask[y, x] == 2 else 0
    return [window for window, _ in crops]


def _crop(cells: Cells, i: int, y0: int, x0: int, h: int, w: int) -> tuple[Window, np.ndarray]:
    """Where cell `i` lies in the block of h x w at y0, x0, and its mask there."""
    mask = unpack_mask(cells.masks[i], cells.mask_hw[i])
    left, top = int(cells.mask_xy[i, 0]) - x0, int(cells.mask_xy[i, 1]) - y0
    ys, xs = slice(max(top, 0), min(top + mask.shape[0], h)), slice(max(left, 0), min(left + mask.shape[1], w))
    return (ys, xs), mask[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]


def _spare_pixel(cell: np.ndarray, window: Window, mask: np.ndarray) -> Place:
    """The pixel of a hidden cell's mask nearest its middle whose owner keeps another: row, column in the window.

    An owner keeps another where it holds more than one pixel of the mask; where none does (as many cells as pixels,
    which merging rules out) the pixel nearest the middle is taken.
    """
    ys, xs = np.nonzero(mask)
    _, which, times = np.unique(cell[window][ys, xs], return_inverse=True, return_counts=True)
    far = (ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2
    at = int(np.lexsort((far, times[which] < 2))[0])
    return int(ys[at]), int(xs[at])


def _make_smaller_levels(levels: list[zarr.Array], touched: Iterable[Place]) -> None:
    """Fill the levels after the blocks' own from the one before, where `touched` blocks lie, a chunk at a time."""
    places = set(touched)  # at the last of the blocks' levels a block is one chunk
    for finer, coarser in zip(levels[BLOCK_LEVELS - 1 :], levels[BLOCK_LEVELS:], strict=False):
        places = {(y // 2, x // 2) for y, x in places}
        for cy, cx in sorted(places):
            y, x = cy * CHUNK_PX, cx * CHUNK_PX
            pixels = finer[2 * y : 2 * (y + CHUNK_PX), 2 * x : 2 * (x + CHUNK_PX)]
            if pixels.any():
                coarser[y : y + CHUNK_PX, x : x + CHUNK_PX] = _halve(pixels)


def _halve(pixels: np.ndarray) -> np.ndarray:
    """Half the size, rounded up; of each 2 x 2 the largest label, so that values stay ids and small cells stay seen."""
    h, w = pixels.shape
    if h % 2 or w % 2:
        pixels = np.pad(pixels, ((0, h % 2), (0, w % 2)))
    rows = np.maximum(pixels[::2], pixels[1::2])
    return np.maximum(rows[:, ::2], rows[:, 1::2])
