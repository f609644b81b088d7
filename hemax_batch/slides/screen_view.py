"""Read what the screen needs of a window, once, and compute its nuclear stain.

Azure-eosin stains a nucleus so that it absorbs much red and green light and little blue. A red cell
absorbs green and blue, and little red. The *nuclear stain* of a pixel is therefore

    n = OD_red + OD_green - k * OD_blue,    k = (OD_red + OD_green) / OD_blue of this slide's red cells

with k within 1.5..2.5. It is near 0 for glass and for red cells, single or stacked. It is 0.3 to 1
for nuclei (measured on PBC, Raabin, BCCD, Zheng and marrow fields).
`StainProfile.nucleus_od_threshold` has the same unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..records import Rect, StainProfile
from .lattice import Lattice, WindowReader, lattice_of, read_lattice

#: Two windows give equal candidates at a point if both reach this far around it.
SUPPORT_UM = 48.0
STEP_UM = 0.5  # largest step of the lattice

UNIT = 4096  # integer steps per unit of nuclear stain
_BLOCK_UM = 4.0  # side of the blocks on which the local ground is measured


@dataclass(frozen=True)
class ScreenView:
    """The pixels of a window on the screen's lattice.

    Attributes
    ----------
    rect
        The extent in lattice pixels: the window in whole blocks, and glass beyond the slide's edges.
    pixels
        uint8 [h, w, 3]. Empty if the slide has no lattice pixel in the window.
    """

    lattice: Lattice
    rect: Rect
    pixels: np.ndarray
    stain: StainProfile

    @cached_property
    def nuclear(self) -> np.ndarray:
        """The nuclear stain of the pixels, int32 [h, w]. The screen and the zones both use it."""
        return nuclear_stain(self.pixels, blue_weight(self.stain))


def read_view(reader: WindowReader, window: Rect, stain: StainProfile) -> ScreenView:
    """Read the view of a window (level-0 pixels)."""
    lattice = lattice_of(reader.slide, STEP_UM)
    rect = _lattice_rect(window, lattice)
    if rect is None:
        return ScreenView(lattice, (0, 0, 0, 0), np.zeros((0, 0, 3), np.uint8), stain)
    pixels = read_lattice(reader, lattice, rect, stain.background_rgb)
    return ScreenView(lattice, rect, pixels, stain)


def block_px(lattice: Lattice) -> int:
    """Return the side of a block of the local ground, in lattice pixels."""
    return max(1, round(_BLOCK_UM / lattice.step_um))


def blue_weight(stain: StainProfile) -> float:
    """Return k of the nuclear stain, which makes this slide's red cells 0."""
    red, green, blue = stain.rbc_od_rgb
    return min(max((red + green) / max(blue, 1e-3), 1.5), 2.5)


def nuclear_stain(pixels: np.ndarray, k: float) -> np.ndarray:
    """Compute OD_red + OD_green - k OD_blue of uint8 [..., 3], in 1/4096: int32 [...].

    The optical densities are relative to white (255). The slide's background would only add a
    constant, which the local ground removes.
    """
    log = np.log10(np.arange(256) + 1.0) * UNIT
    plus, minus = np.rint(-log).astype(np.int32), np.rint(k * log).astype(np.int32)
    stain: np.ndarray = plus.take(pixels[..., 0])
    stain += plus.take(pixels[..., 1])
    stain += minus.take(pixels[..., 2])
    return stain


def _lattice_rect(window: Rect, lattice: Lattice) -> Rect | None:
    """Return the lattice pixels to read: the window in whole blocks, extended beyond slide edges.

    The result is None if the window has no lattice pixel of the slide.
    """
    side = block_px(lattice)
    support = math.ceil(SUPPORT_UM / lattice.step_um)
    bounds = []
    for low, high, size in (
        (window[0], window[2], lattice.width),
        (window[1], window[3], lattice.height),
    ):
        start, stop = math.floor(low / lattice.step_px), math.ceil(high / lattice.step_px)
        if min(stop, size) <= max(start, 0):
            return None
        start = -support if start <= 0 else start
        stop = size + support if stop >= size else stop
        bounds.append((start // side * side, -(-stop // side) * side))
    return bounds[0][0], bounds[1][0], bounds[0][1], bounds[1][1]
