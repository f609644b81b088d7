"""A slide's coarse lattice: whole pixels of one pyramid level, averaged in whole blocks from the slide's origin.

Everything that must not depend on how a slide is cut into regions (the screen, the stain, the blank glass) looks at the
slide through such a lattice: a lattice pixel has the same value from whichever window it is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records import Rect, Slide

_MAX_PIXELS_PER_READ = (
    16_000_000  # 48 MB of RGB; a slide without a pyramid is read in stripes of that
)
_ROUNDING = 1.02  # a level of 0.505 µm/px serves where 0.5 is asked for


@dataclass(frozen=True)
class Lattice:
    """Lattice pixel (i, j) is the mean of `average_weights` x `average_weights` pixels of pyramid level `level`.

    Its level-0 extent is step_px * (i .. i + 1); pixels cut by the right or bottom edge of the level are left out.
    """

    level: int
    average: int
    step_px: float  # level-0 pixels per lattice pixel
    step_um: float
    width: int
    height: int


def lattice_of(slide: Slide, step_um: float) -> Lattice:
    """The coarsest lattice of the slide whose step is at most `step_um` (or level 0 itself, where that is coarser).

    A slide at 0.1 µm/px with levels 1, 4 and 16 has at 0.5 µm the whole level 1 (0.4 µm, average 1); one without a
    pyramid has blocks of 5 x 5 pixels of level 0.
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


def read_lattice(reader, lattice: Lattice, rect: Rect, fill_rgb) -> np.ndarray:
    """Lattice pixels of `rect` (in lattice pixels): uint8 [h, w, 3], `fill_rgb` outside the slide."""
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
    """Rounded mean over a x a blocks: uint8 [h / a, w / a, 3]. Exact, so that it does not depend on the window."""
    if a == 1:
        return pixels
    columns = sum(pixels[:, i::a].astype(np.uint32) for i in range(a))
    total = sum(columns[i::a] for i in range(a))
    return ((total + a * a // 2) // (a * a)).astype(np.uint8)
