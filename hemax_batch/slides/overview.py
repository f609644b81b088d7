"""Assemble a small picture of the whole slide from the pixels that the screen reads.

An overview pixel is the mean of `block` x `block` lattice pixels of the screen. `block` is the
smallest size that keeps the long side within `LONG_SIDE_PX`. Each region returns the pixels that
its core reaches into, so two regions return equal values for shared pixels. Places that no region
reads (bare glass, unreadable places) keep the colour of the glass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ..records import OverviewPiece, Rect, Slide, StainProfile
from .lattice import block_mean, lattice_of
from .screen_view import STEP_UM, SUPPORT_UM, ScreenView

LONG_SIDE_PX = 1600


def block_size(slide: Slide) -> int:
    """Return the number of lattice pixels per overview pixel, each way.

    A scan of 20 x 40 mm at a lattice step of 0.5 µm has 80,000 lattice pixels on its long side.
    Its blocks have 50 lattice pixels (25 µm).
    """
    lattice = lattice_of(slide, STEP_UM)
    return max(1, math.ceil(max(lattice.width, lattice.height) / LONG_SIDE_PX))


def overview_piece(view: ScreenView, core: Rect, slide: Slide) -> OverviewPiece:
    """Return the overview's pixels that `core` (level-0 pixels) reaches into.

    `view` is the view of the core's window. Pixels cut by the slide's edge are left out. The piece
    is empty if a block is wider than the window's margin (a scan over 75 mm long).
    """
    lattice, block = view.lattice, block_size(slide)
    if view.pixels.size == 0 or (block + 1) * lattice.step_um > SUPPORT_UM:
        return OverviewPiece.empty()
    step_px = block * lattice.step_px
    x0, y0 = max(0, math.floor(core[0] / step_px)), max(0, math.floor(core[1] / step_px))
    x1 = min(lattice.width // block, math.ceil(core[2] / step_px))
    y1 = min(lattice.height // block, math.ceil(core[3] / step_px))
    if x0 >= x1 or y0 >= y1:
        return OverviewPiece.empty()
    left, top = view.rect[:2]
    pixels = view.pixels[y0 * block - top : y1 * block - top, x0 * block - left : x1 * block - left]
    return OverviewPiece(x0, y0, np.ascontiguousarray(block_mean(pixels, block)))


def assemble_overview(
    slide: Slide, stain: StainProfile, pieces: Iterable[OverviewPiece]
) -> np.ndarray:
    """Paste the pieces over glass: uint8 [h, w, 3], at least one pixel each way."""
    lattice, block = lattice_of(slide, STEP_UM), block_size(slide)
    canvas = np.empty(
        (max(1, lattice.height // block), max(1, lattice.width // block), 3), np.uint8
    )
    canvas[:] = np.clip(np.rint(stain.background_rgb), 0, 255)
    for piece in pieces:
        h, w = piece.pixels.shape[:2]
        canvas[piece.y : piece.y + h, piece.x : piece.x + w] = piece.pixels
    return canvas
