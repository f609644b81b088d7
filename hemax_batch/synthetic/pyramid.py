"""Writer of a synthetic smear: a pyramidal TIFF of JPEG tiles with its ground truth beside it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .slide import Smear, draw_smear
from .stain import Stain
from .white_cell import SmearCell

if TYPE_CHECKING:
    import tifffile

TILE_PX = 256
_COLUMNS = (
    "class", "source", "x0", "y0", "x1", "y1", "edge",
    "granularity", "cytoplasm_colour", "nucleus_shape", "size_vs_rbc", "nc_ratio", "nucleus_fraction",
)  # fmt: skip


def write_smear(
    path: str | Path,
    seed: int,
    width: int,
    height: int,
    mpp: float,
    white_per_mm2: float = 150.0,
    mixture: dict[str, float] | None = None,
    stain: str | Stain = "wright-giemsa",
    margin_um: float | None = None,
    truth_masks: bool = False,
    quality: int = 88,
    stripe_rows: int = 1024,
    smallest_px: int = 1500,
) -> Path:
    """Write a synthetic smear and its truth table `<stem>.truth.csv`; return the slide's path.

    The table has one row per nucleated cell, ordered by position. Coordinates are level-0 pixels
    clipped to the slide. `edge` is 1 if the box touches the slide's border; attributes are those of
    the whole cell. Platelets are drawn but not listed.

    Parameters
    ----------
    path
        Path of the TIFF.
    width, height, mpp
        Size in pixels and µm per pixel.
    seed, white_per_mm2, mixture, stain, margin_um
        As for `draw_smear`.
    truth_masks
        Whether to write `<stem>.truth.npz` too: x0, y0 [N] and label_0, label_1, … uint8, in the
        order of the table.
    quality
        JPEG quality.
    stripe_rows
        Rows in memory at once, a multiple of 256. It does not change the file.
    smallest_px
        Approximate longest side of the coarsest level. Each level is half the one before.

    Raises
    ------
    UsageError
        `stripe_rows` is not a multiple of 256.
    """
    import tifffile  # Drawing patches needs neither tifffile nor imagecodecs.

    path = Path(path)
    if stripe_rows < TILE_PX or stripe_rows % TILE_PX:
        raise UsageError(f"stripe_rows {stripe_rows}: give a multiple of {TILE_PX}")
    smear = draw_smear(seed, width, height, mpp, white_per_mm2, mixture, stain, margin_um)
    levels = _levels(width, height, smallest_px, quality)
    truth: list[SmearCell] = []
    with tifffile.TiffWriter(path, bigtiff=width * height > 2**32) as tiff:
        _write_level(
            tiff,
            _first_level(smear, levels, truth, stripe_rows, truth_masks, quality),
            width,
            height,
            mpp,
            0,
        )
        for level in levels:
            level.finish()
            _write_level(
                tiff, iter(level.tiles), level.width, level.height, mpp * width / level.width, 1
            )
    truth.sort(key=lambda c: (c.y0, c.x0))
    _write_truth(path, truth, width, height)
    if truth_masks:
        arrays: dict[str, Any] = {f"label_{i}": c.label for i, c in enumerate(truth)}
        arrays |= {"x0": [c.x0 for c in truth], "y0": [c.y0 for c in truth]}
        np.savez_compressed(path.with_suffix(".truth.npz"), **arrays)
    return path


def _write_level(
    tiff: tifffile.TiffWriter,
    tiles: Iterator[bytes],
    width: int,
    height: int,
    mpp: float,
    subfile: int,
) -> None:
    """Write one level from its encoded tiles, row by row, with its µm/px in the resolution tags."""
    # With photometric="rgb" tifffile tags the tiles YCbCr 4:2:0, which is what `_encoded` makes.
    tiff.write(
        tiles,
        shape=(height, width, 3),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        compression="jpeg",
        photometric="rgb",
        compressionargs={"subsampling": (2, 2)},
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        subfiletype=subfile,
        metadata=None,
        description="synthetic blood smear" if not subfile else None,
        software="hemax-batch",
    )


def _first_level(
    smear: Smear,
    levels: list[_Level],
    truth: list[SmearCell],
    stripe_rows: int,
    keep_labels: bool,
    quality: int,
) -> Iterator[bytes]:
    """Yield level-0 tiles stripe by stripe; fill the coarser levels and the truth meanwhile."""
    for y0 in range(0, smear.height, stripe_rows):
        y1 = min(y0 + stripe_rows, smear.height)
        stripe = smear.window(0, y0, smear.width, y1)
        for cell in smear.cells(0, y0, smear.width, y1):
            if cell.class_name != "platelet":
                truth.append(_clipped(cell, smear.width, smear.height, keep_labels))
        rows = stripe
        for level in levels:
            rows = level.add(rows)
        yield from _encoded(stripe, quality)


class _Level:
    """A coarser level under construction: half of the incoming rows, encoded per row of tiles.

    Odd last rows and columns are dropped. Rows come in even numbers except at the slide's end,
    because stripes are multiples of 256.
    """

    def __init__(self, width: int, height: int, quality: int) -> None:
        self.width, self.height, self._quality = width, height, quality
        self.tiles: list[bytes] = []
        self._waiting = np.zeros((0, width, 3), np.uint8)

    def add(self, rows: np.ndarray) -> np.ndarray:
        """Add rows of the finer level; return this level's rows."""
        half = _halved(rows)
        waiting = np.concatenate([self._waiting, half])
        full = len(waiting) // TILE_PX * TILE_PX
        self.tiles.extend(_encoded(waiting[:full], self._quality))
        self._waiting = waiting[full:]
        return half

    def finish(self) -> None:
        """Encode the last row of tiles."""
        self.tiles.extend(_encoded(self._waiting, self._quality))


def _levels(width: int, height: int, smallest_px: int, quality: int) -> list[_Level]:
    """Make the coarser levels."""
    levels = []
    while min(width, height) // 2 >= TILE_PX and max(width, height) > 1.5 * smallest_px:
        width, height = width // 2, height // 2
        levels.append(_Level(width, height, quality))
    return levels


def _halved(rows: np.ndarray) -> np.ndarray:
    """Average 2 x 2 pixels, rounded: uint8 [h // 2, w // 2, 3]."""
    h, w = rows.shape[0] // 2 * 2, rows.shape[1] // 2 * 2
    pairs = np.add(rows[0:h:2, :w], rows[1:h:2, :w], dtype=np.uint16)
    mean: np.ndarray = (pairs[:, 0::2] + pairs[:, 1::2] + np.uint16(2)) >> 2
    return mean.astype(np.uint8)


def _encoded(rows: np.ndarray, quality: int) -> Iterator[bytes]:
    """Encode JPEG tiles of 256 px, row by row; tiles at the border repeat the last pixel."""
    import imagecodecs

    h, w = rows.shape[:2]
    padded = (
        np.pad(rows, ((0, -h % TILE_PX), (0, -w % TILE_PX), (0, 0)), mode="edge") if h else rows
    )
    for y in range(0, h, TILE_PX):
        for x in range(0, w, TILE_PX):
            tile = np.ascontiguousarray(padded[y : y + TILE_PX, x : x + TILE_PX])
            yield bytes(
                imagecodecs.jpeg8_encode(
                    tile, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling=(2, 2)
                )
            )


# --- truth ------------------------------------------------------------------------------------------------------


def _clipped(cell: SmearCell, width: int, height: int, keep_label: bool) -> SmearCell:
    """Clip a cell to the slide; drop its label unless it is wanted."""
    left, top = max(-cell.x0, 0), max(-cell.y0, 0)
    label = cell.label[top : height - cell.y0, left : width - cell.x0]
    ys, xs = np.flatnonzero(label.any(1)), np.flatnonzero(label.any(0))
    label = label[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    x0, y0 = int(cell.x0 + left + xs[0]), int(cell.y0 + top + ys[0])
    box = (float(x0), float(y0), float(x0 + label.shape[1]), float(y0 + label.shape[0]))
    return replace(
        cell,
        box_xyxy=box,
        x0=x0,
        y0=y0,
        label=label.copy() if keep_label else np.zeros((0, 0), np.uint8),
    )


def _write_truth(path: Path, truth: list[SmearCell], width: int, height: int) -> None:
    """Write the truth table."""
    with open(path.with_suffix(".truth.csv"), "w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(_COLUMNS)
        for c in truth:
            x0, y0, x1, y1 = c.box_xyxy
            edge = int(x0 <= 0 or y0 <= 0 or x1 >= width or y1 >= height)
            attributes = (c.granularity, c.cytoplasm_colour, c.nucleus_shape, c.size_vs_rbc)
            ratios = (f"{c.nc_ratio:.4f}", f"{c.nucleus_fraction:.4f}")
            table.writerow(
                (
                    c.class_name,
                    "synthetic",
                    *(f"{v:.0f}" for v in c.box_xyxy),
                    edge,
                    *attributes,
                    *ratios,
                )
            )
