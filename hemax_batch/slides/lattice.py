"""Read a slide through a coarse lattice: blocks of whole pixels of one level, averaged.

The lattice starts at the slide's origin. A lattice pixel has the same value in every window that
contains it. The screen, the stain and the search for blank glass use lattices, so their results do
not depend on how the slide is divided into regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from ..records import Rect, Slide

_MAX_PIXELS_PER_READ = 16_000_000  # 48 MB of RGB; a slide without a pyramid is read in such stripes
_ROUNDING = 1.02  # tolerance: a level of 0.505 µm/px is used for 0.5 µm/px


class WindowReader(Protocol):
    """A slide from which windows can be read, such as `slides.reader.SlideReader`."""

    @property
    def slide(self) -> Slide:
        """Size, scale and levels of the slide."""

    @property
    def damaged(self) -> dict[Rect, str]:
        """Damaged places in level-0 pixels, each with the reason."""

    def read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Return pixels x..x+w, y..y+h of `level`: uint8 [h, w, 3]."""


@dataclass(frozen=True)
class Lattice:
    """A lattice over one pyramid level.

    Lattice pixel (i, j) is the mean of `average` x `average` pixels of level `level`. Its level-0
    extent is step_px * (i .. i + 1). Blocks cut by the right or bottom edge are left out.
    """

    level: int
    average: int
    step_px: float  # level-0 pixels per lattice pixel
    step_um: float
    width: int
    height: int


def lattice_of(slide: Slide, step_um: float) -> Lattice:
    """Choose the coarsest lattice of the slide whose step is at most `step_um`.

    The result is level 0 itself if level 0 is coarser than `step_um`. Two examples at 0.1 µm/px and
    a step of 0.5 µm: with levels 1, 4 and 16 the lattice is level 1 (0.4 µm, average 1); without a
    pyramid it has blocks of 5 x 5 pixels of level 0.
    """
    limit_px = step_um * _ROUNDING / slide.mpp
    usable = [level for level, factor in enumerate(slide.level_downsamples) if factor <= limit_px]
    level = max(usable, key=lambda level: slide.level_downsamples[level], default=0)
    factor = slide.level_downsamples[level]
    average = max(1, int(limit_px / factor))
    width, height = slide.level_sizes[level]
    step_px = factor * average
    return Lattice(
        level, average, step_px, step_px * slide.mpp, width // average, height // average
    )


def read_lattice(
    reader: WindowReader, lattice: Lattice, rect: Rect, fill_rgb: Sequence[float]
) -> np.ndarray:
    """Read the lattice pixels of `rect` (in lattice pixels): uint8 [h, w, 3].

    Pixels outside the slide have the colour `fill_rgb`.
    """
    x0, y0, x1, y1 = rect
    out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
    left, top, right, bottom = (
        max(x0, 0),
        max(y0, 0),
        min(x1, lattice.width),
        min(y1, lattice.height),
    )
    if (left, top, right, bottom) != (x0, y0, x1, y1):
        out[:] = np.clip(np.rint(fill_rgb), 0, 255)
    if left >= right or top >= bottom:
        return out
    a = lattice.average
    rows = max(1, _MAX_PIXELS_PER_READ // ((right - left) * a * a))
    for y in range(top, bottom, rows):
        end = min(y + rows, bottom)
        pixels = reader.read(lattice.level, left * a, y * a, (right - left) * a, (end - y) * a)
        out[y - y0 : end - y0, left - x0 : right - x0] = block_mean(pixels, a)
    return out


def block_mean(pixels: np.ndarray, a: int) -> np.ndarray:
    """Average blocks of a x a pixels and round: uint8 [h / a, w / a, 3].

    A block's mean depends on that block alone, so the result does not depend on the window. Pillow
    divides in fixed point: the mean is exact for a = 2 and 4, else at most one grey level off.
    """
    if a == 1 or not pixels.size:
        return pixels[: pixels.shape[0] // a, : pixels.shape[1] // a]
    return np.asarray(Image.fromarray(pixels).reduce(a))
