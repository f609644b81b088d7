"""Cell and nucleus masks as OME-Zarr 0.5 labels: the value of a pixel is its cell's id in `cells.csv`.

    masks.zarr/                  its image is the `cell` label itself (by path, stored once), so that every viewer
                                 opens the folder
    masks.zarr/labels/cell/0…    uint32 [y, x] at the slide's level 0, then halves
    masks.zarr/labels/nucleus/0…

Only blocks that hold a cell are ever touched: most of a smear holds none. A block of level 0 is one shard, painted
whole in memory and written once, with the smaller levels of the same block; so memory is bounded by one block, and no
two writes meet in a chunk.

Where masks overlap the smaller cell lies on top, and every cell keeps at least the pixel nearest its middle, so that
the label's values are exactly the ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from ..geometry import area
from ..records import Cells, MergedCells, Slide, unpack_mask
from ..vocabulary import CLASSES, UNIDENTIFIED, UNIDENTIFIED_COLOUR

BLOCK_PX = 4096
CHUNK_PX = 1024
SMALLEST_PX = 1024  # the pyramid ends when both sides are at most this
MAX_LEVELS = 6  # so that a block's part of the smallest level is still a whole chunk
NAMED_CELLS = 20_000  # colours and properties are written for so many cells at the most: they are text in the metadata


def write_masks(path: Path, slide: Slide, merged: MergedCells, class_names: list[str]) -> None:
    """Write both labels of a slide to a new folder `path`.

    class_names  the final class of each cell, for colours and properties
    """
    root = zarr.open_group(path, mode="w-", zarr_format=3)
    shapes = level_shapes(slide.height, slide.width)
    root.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [_multiscale("cell ids", slide.mpp, len(shapes), "labels/cell/")],
    }
    root.create_group("labels").attrs["ome"] = {"version": "0.5", "labels": ["cell", "nucleus"]}
    levels = {name: _create_label(root, name, slide, merged, class_names) for name in ("cell", "nucleus")}
    for (by, bx), rows in _cells_by_block(merged.cells, slide):
        cell, nucleus = _paint(merged, rows, by * BLOCK_PX, bx * BLOCK_PX, slide)
        for name, block in (("cell", cell), ("nucleus", nucleus)):
            _store(levels[name], block, by, bx)


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Shapes of the pyramid's levels, finest first: halves, rounded up.

    >>> level_shapes(3000, 2000)
    [(3000, 2000), (1500, 1000), (750, 500)]
    """
    shapes = [(height, width)]
    while max(shapes[-1]) > SMALLEST_PX and len(shapes) < MAX_LEVELS:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _create_label(
    root: zarr.Group, name: str, slide: Slide, merged: MergedCells, class_names: list[str]
) -> list[zarr.Array]:
    group = root.create_group(f"labels/{name}")
    arrays = []
    for k, shape in enumerate(level_shapes(slide.height, slide.width)):
        side = min(CHUNK_PX, BLOCK_PX >> k)
        arrays.append(
            group.create_array(
                str(k), shape=shape, dtype="uint32", chunks=(side, side),
                shards=(BLOCK_PX, BLOCK_PX) if k == 0 else None,
                compressors=ZstdCodec(level=3), fill_value=0, dimension_names=("y", "x"),
                config={"write_empty_chunks": False},
            )
        )  # fmt: skip
    label = {"source": {"image": "../../"}}
    if len(merged.ids) and len(merged.ids) <= NAMED_CELLS:
        colours = {c.name: c.colour for c in CLASSES} | {UNIDENTIFIED: UNIDENTIFIED_COLOUR}
        label["colors"] = [
            {"label-value": int(i), "rgba": [*_rgb(colours[c]), 255]}
            for i, c in zip(merged.ids, class_names, strict=True)
        ]
        label["properties"] = [
            {"label-value": int(i), "class": c} for i, c in zip(merged.ids, class_names, strict=True)
        ]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [_multiscale(name, slide.mpp, len(arrays))],
        "image-label": label,
    }
    return arrays


def _multiscale(name: str, mpp: float, levels: int, folder: str = "") -> dict:
    """OME-Zarr's description of a pyramid of halves in `folder`."""
    datasets = [
        {"path": f"{folder}{k}", "coordinateTransformations": [{"type": "scale", "scale": [mpp * 2**k, mpp * 2**k]}]}
        for k in range(levels)
    ]
    return {
        "name": name,
        "axes": [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"],
        "datasets": datasets,
    }


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _cells_by_block(cells: Cells, slide: Slide) -> Iterator[tuple[tuple[int, int], list[int]]]:
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


def _paint(merged: MergedCells, rows: list[int], y0: int, x0: int, slide: Slide) -> tuple[np.ndarray, np.ndarray]:
    """Both labels of one block, uint32 [h, w]: larger cells first, then every cell's own middle pixel."""
    h, w = min(BLOCK_PX, slide.height - y0), min(BLOCK_PX, slide.width - x0)
    cell, nucleus = np.zeros((h, w), np.uint32), np.zeros((h, w), np.uint32)
    cells = merged.cells
    order = np.array(rows)[np.lexsort((merged.ids[rows], -area(cells.boxes_xyxy[rows])))]
    middles = []
    for i in order:
        mask, value = unpack_mask(cells.masks[i], cells.mask_hw[i]), merged.ids[i]
        left, top = int(cells.mask_xy[i, 0]) - x0, int(cells.mask_xy[i, 1]) - y0
        ys, xs = slice(max(top, 0), min(top + mask.shape[0], h)), slice(max(left, 0), min(left + mask.shape[1], w))
        part = mask[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]
        cell[ys, xs][part > 0] = value
        # a smaller cell on top hides the larger one's nucleus too
        nucleus[ys, xs][part > 0] = np.where(part[part > 0] == 2, value, 0)
        y, x = _middle(mask)
        if 0 <= y + top < h and 0 <= x + left < w:
            middles.append((y + top, x + left, value))
    for y, x, value in middles:
        cell[y, x] = value
    return cell, nucleus


def _middle(mask: np.ndarray) -> tuple[int, int]:
    """The mask pixel nearest the mask's centroid."""
    ys, xs = np.nonzero(mask)
    at = int(((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2).argmin())
    return int(ys[at]), int(xs[at])


def _store(levels: list[zarr.Array], block: np.ndarray, by: int, bx: int) -> None:
    """A level-0 block and its part of every smaller level. A block's side is a power of two, so the parts never share
    a chunk."""
    for k, array in enumerate(levels):
        if not block.any():
            return
        side = BLOCK_PX >> k
        y, x = by * side, bx * side
        array[y : y + block.shape[0], x : x + block.shape[1]] = block
        block = _halve(block)


def _halve(block: np.ndarray) -> np.ndarray:
    """Half the size, rounded up; of each 2 x 2 the largest label, so that values stay ids and small cells stay
    seen."""
    h, w = block.shape
    padded = np.pad(block, ((0, h % 2), (0, w % 2)))
    rows = np.maximum(padded[::2], padded[1::2])  # four times as fast as a reduction over both axes at once
    return np.maximum(rows[:, ::2], rows[:, 1::2])
