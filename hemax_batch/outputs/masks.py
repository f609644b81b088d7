"""Write cell and nucleus masks as OME-Zarr 0.5 labels: a pixel's value is its cell's id in `cells.csv`.

    masks.zarr/                  the image is the `cell` label itself (by path, stored once): every viewer opens it
    masks.zarr/labels/cell/0…    uint32 [y, x] at the slide's level 0, then halves
    masks.zarr/labels/nucleus/0…

Only blocks and chunks that hold a cell are written; most of a smear holds none. A block is one shard per level.
It is drawn in memory, band by band, and written once with the next three levels. Each smaller level is made
from the level before. Memory is bounded by one block and its cells (some 60 MB). No two writes overlap.

Where masks overlap, the smaller cell lies on top. A cell that would be hidden in a block gets one pixel there:
the pixel of its mask nearest its middle that another cell can spare. So the values of level 0 are exactly the ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from ..records import Cells, MergedCells, Slide
from ..vocabulary import CLASSES, UNIDENTIFIED, UNIDENTIFIED_COLOUR
from . import mask_blocks
from .mask_blocks import BLOCK_LEVELS, Block, MaskCrops, Place, free_canvas, halve, paint_block
from .zarr_shards import LEVEL, sharding_codec

SMALLEST_PX = 1024  # the pyramid ends when both sides are at most this
NAMED_CELLS = 20_000  # colours and properties are written for so many cells at the most: they are text in the metadata
LABELS = ("cell", "nucleus")


def write_masks(
    path: Path,
    slide: Slide,
    merged: MergedCells,
    class_names: list[str],
    map_blocks: Callable[..., Iterator[Any]] = map,
) -> None:
    """Write both labels of a slide to a new folder `path`. The caller renames it into place.

    class_names  the final class of each cell, for colours and properties
    map_blocks   as `map`, possibly over processes

    Steps: create groups and empty arrays; draw the cells block by block; make the smaller levels.
    """
    root = zarr.open_group(path, mode="w-", zarr_format=3)
    shapes = level_shapes(slide.height, slide.width)
    root.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [_multiscale("cell ids", slide.mpp, shapes, "labels/cell/")],
    }
    root.create_group("labels").attrs["ome"] = {"version": "0.5", "labels": list(LABELS)}
    levels = [_create_label(root, name, slide, shapes, merged, class_names) for name in LABELS]
    labels = (path / "labels" / LABELS[0], path / "labels" / LABELS[1])
    touched: list[Place] = []

    def blocks() -> Iterator[Block]:
        for place, rows in _cells_by_block(merged.cells, slide):
            touched.append(place)
            yield Block(labels, place, (slide.height, slide.width), MaskCrops.of(merged, rows))

    for _ in map_blocks(paint_block, blocks()):
        pass
    free_canvas()
    for arrays in levels:
        _make_smaller_levels(arrays, touched)


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Return the shapes of the pyramid's levels, finest first: halves, rounded up.

    >>> level_shapes(3000, 2000)
    [(3000, 2000), (1500, 1000), (750, 500)]
    """
    shapes = [(height, width)]
    while max(shapes[-1]) > SMALLEST_PX:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _create_label(
    root: zarr.Group,
    name: str,
    slide: Slide,
    shapes: list[Place],
    merged: MergedCells,
    class_names: list[str],
) -> list[zarr.Array[Any]]:
    group = root.create_group(f"labels/{name}")
    arrays = [
        group.create_array(
            str(k),
            shape=shape,
            dtype="uint32",
            fill_value=0,
            dimension_names=("y", "x"),
            config={"write_empty_chunks": False},
            **_storage(k),
        )
        for k, shape in enumerate(shapes)
    ]
    label: dict[str, Any] = {"source": {"image": "../../"}}
    if 0 < len(merged.ids) <= NAMED_CELLS:
        colours = {c.name: c.colour for c in CLASSES} | {UNIDENTIFIED: UNIDENTIFIED_COLOUR}
        named = list(zip(merged.ids.tolist(), class_names, strict=True))
        label["colors"] = [{"label-value": i, "rgba": [*_rgb(colours[c]), 255]} for i, c in named]
        confidences = (
            merged.cells.class_probs.max(1).astype(float).round(4).tolist()
        )  # as in cells.csv
        label["properties"] = [
            {"label-value": i, "class": c, "confidence": p}
            for (i, c), p in zip(named, confidences, strict=True)
        ]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [_multiscale(name, slide.mpp, shapes)],
        "image-label": label,
    }
    return arrays


def _storage(level: int) -> dict[str, Any]:
    """Return how a level is stored: as shards where blocks write it, else as chunks."""
    if level < BLOCK_LEVELS:
        side = mask_blocks.BLOCK_PX >> level
        return {
            "chunks": (side, side),
            "serializer": sharding_codec(mask_blocks.CHUNK_PX),
            "compressors": None,
        }
    side = _small_chunk_px()
    return {"chunks": (side, side), "compressors": ZstdCodec(level=LEVEL)}


def _small_chunk_px() -> int:
    """Return the side of a chunk of the smaller levels. It is a block at its last level, so blocks never share a chunk."""
    return mask_blocks.BLOCK_PX >> (BLOCK_LEVELS - 1)


def _multiscale(name: str, mpp: float, shapes: list[Place], folder: str = "") -> dict[str, Any]:
    """Describe a pyramid of halves in `folder`, as OME-Zarr does.

    A pixel of level k covers 2^k pixels of level 0 per side. Its centre lies (2^k - 1) / 2 pixels further in.
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
    """Yield the blocks that hold a part of a cell, with their cells, in row-major order."""
    blocks = defaultdict(list)
    low = np.maximum(cells.mask_xy, 0)
    high = np.minimum(cells.mask_xy + cells.mask_hw[:, ::-1], (slide.width, slide.height)) - 1
    for i, ((x0, y0), (x1, y1)) in enumerate(
        zip(
            (low // mask_blocks.BLOCK_PX).tolist(),
            (high // mask_blocks.BLOCK_PX).tolist(),
            strict=True,
        )
    ):
        for by in range(y0, y1 + 1):
            for bx in range(x0, x1 + 1):
                blocks[by, bx].append(i)
    for key in sorted(blocks):
        yield key, blocks[key]


def _make_smaller_levels(levels: list[zarr.Array[Any]], touched: Iterable[Place]) -> None:
    """Fill the smaller levels from the level before, chunk by chunk, where `touched` blocks lie."""
    places, side = set(touched), _small_chunk_px()
    for finer, coarser in zip(levels[BLOCK_LEVELS - 1 :], levels[BLOCK_LEVELS:], strict=False):
        places = {(y // 2, x // 2) for y, x in places}
        for cy, cx in sorted(places):
            y, x = cy * side, cx * side
            pixels = np.asarray(finer[2 * y : 2 * (y + side), 2 * x : 2 * (x + side)])
            if pixels.any():
                coarser[y : y + side, x : x + side] = halve(
                    np.pad(pixels, [(0, n % 2) for n in pixels.shape])
                )
