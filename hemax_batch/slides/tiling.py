"""Plan the regions of a slide: which are processed, who owns what, and what is blank glass.

Cores are the half-open cells of one grid from the slide's origin, so every point of the slide lies
in exactly one core. A window is a core with its halo, clipped to the slide. A region reads its
window and owns only the cells that are centred in its core.
"""

from __future__ import annotations

import math

import numpy as np

from ..records import Rect, Region, Slide, StainProfile, TilePlan
from .lattice import Lattice, WindowReader, lattice_of, read_lattice
from .screen_view import SUPPORT_UM
from .stain import is_bright_field

CORE_UM = 400.0
# The screen's support. A patch (38 µm) on a core's edge needs 19 µm, the largest cell 25 µm.
HALO_UM = SUPPORT_UM
_TILE_PX = 256  # tiles of the usual file; cores of whole tiles decode few tiles twice

_COARSE_UM = 4.0  # resolution of the search for blank glass; a lymphocyte (7 µm) covers a pixel
# Pixels of the file. A slide that needs more has no useful pyramid, and all of it is processed.
_MAX_COARSE_PIXELS = 64_000_000
_COARSE_STRIPE_PX = 8_000_000  # lattice pixels held at once
# In any channel: half of the palest red cell's. Averaged JPEG noise and shading stay below.
_STAINED_OD = 0.07


def plan_regions(
    reader: WindowReader, stain: StainProfile, core_um: float = CORE_UM, halo_um: float = HALO_UM
) -> TilePlan:
    """Plan the regions of a slide that are not blank, row-major, and measure what is left out.

    Steps: lay the grid of cores, read the slide coarsely in stripes, keep cores with a stained
    pixel in or next to them, give each its window.

    At 0.1 µm/px and core_um=400 a core is 4096 px wide (16 tiles of 256 px). Core (1, 0) is 4096,
    0, 8192, 4096. With a halo of 48 µm its window is 3616, 0, 8672, 4576.
    """
    slide = reader.slide
    core_px = core_size_px(slide.mpp, core_um)
    halo_px = math.ceil(halo_um / slide.mpp)
    columns, rows = -(-slide.width // core_px), -(-slide.height // core_px)
    stained = stained_cores(reader, stain, core_px, columns, rows)
    regions: list[Region] = []
    area_px = 0
    for row, column in np.argwhere(stained).tolist():
        x0, y0 = column * core_px, row * core_px
        x1, y1 = min(x0 + core_px, slide.width), min(y0 + core_px, slide.height)
        core = (x0, y0, x1, y1)
        regions.append(Region(len(regions), core, _with_halo(core, halo_px, slide)))
        area_px += (x1 - x0) * (y1 - y0)
    mm2_per_px = (slide.mpp / 1000) ** 2
    blank_px = slide.width * slide.height - area_px
    return TilePlan(slide, stain, tuple(regions), area_px * mm2_per_px, blank_px * mm2_per_px)


def _with_halo(core: Rect, halo_px: int, slide: Slide) -> Rect:
    """Extend a core by the halo and clip it to the slide."""
    x0, y0, x1, y1 = core
    return (
        max(x0 - halo_px, 0),
        max(y0 - halo_px, 0),
        min(x1 + halo_px, slide.width),
        min(y1 + halo_px, slide.height),
    )


def core_size_px(mpp: float, core_um: float) -> int:
    """Return the side of a core in level-0 pixels: whole file tiles if it is larger than one.

    >>> core_size_px(0.1, 400.0), core_size_px(0.5, 400.0), core_size_px(0.5, 50.0)
    (4096, 768, 100)
    """
    size = max(1, round(core_um / mpp))
    return max(1, round(size / _TILE_PX)) * _TILE_PX if size >= _TILE_PX else size


def stained_cores(
    reader: WindowReader, stain: StainProfile, core_px: int, columns: int, rows: int
) -> np.ndarray:
    """Find the cores that contain anything denser than glass: bool [rows, columns].

    The densest pixel of a coarse read decides, not the mean, so one lymphocyte keeps its core. A
    stained pixel also keeps the cores of its neighbours. Every core is kept if the slide has no
    coarse level and is too large to read whole. No core is kept on a dark background
    (fluorescence), and the stain's warnings say so.
    """
    if not is_bright_field(stain):
        return np.zeros((rows, columns), bool)
    slide = reader.slide
    lattice = lattice_of(slide, _COARSE_UM)
    level_width, level_height = slide.level_sizes[lattice.level]
    too_slow = lattice.average > 2 and level_width * level_height > _MAX_COARSE_PIXELS
    if too_slow or lattice.width < 1 or lattice.height < 1:
        return np.ones((rows, columns), bool)
    stained = np.zeros((rows, columns), bool)
    stripe = max(1, _COARSE_STRIPE_PX // lattice.width)
    for top in range(0, lattice.height, stripe):
        bottom = min(top + stripe, lattice.height)
        pixels = read_lattice(
            reader, lattice, (0, top, lattice.width, bottom), stain.background_rgb
        )
        y, x = np.nonzero(_is_stained(pixels, stain))
        _mark(stained, x, y + top, lattice, core_px)
    for x0, y0, x1, y1 in reader.damaged:  # a damaged place is not blank
        stained[y0 // core_px : -(-y1 // core_px), x0 // core_px : -(-x1 // core_px)] = True
    return stained


def _is_stained(pixels: np.ndarray, stain: StainProfile) -> np.ndarray:
    """Return where any channel absorbs at least _STAINED_OD more than glass: bool [h, w]."""
    limits = (np.array(stain.background_rgb) + 1) * 10**-_STAINED_OD - 1
    stained: np.ndarray = np.any(pixels < limits, axis=2)
    return stained


def _mark(
    stained: np.ndarray, x: np.ndarray, y: np.ndarray, lattice: Lattice, core_px: int
) -> None:
    """Mark the cores that lattice pixels (x, y) and their eight neighbours reach into."""
    rows, columns = stained.shape
    for dy in (-1, 2):
        for dx in (-1, 2):
            column = np.clip((x + dx) * lattice.step_px // core_px, 0, columns - 1).astype(int)
            row = np.clip((y + dy) * lattice.step_px // core_px, 0, rows - 1).astype(int)
            stained[row, column] = True
