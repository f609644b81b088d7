"""Composition of layers into an image: cells over red cells, then sensor noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from .red_cell import light_of
from .stain import Stain
from .white_cell import PaintedCell

#: Period of the noise in pixels.
NOISE_PX = 512
_Slices = tuple[slice, slice]


def composite(
    plane: np.ndarray, x0: int, y0: int, painted: list[PaintedCell], stain: Stain
) -> np.ndarray:
    """Compose red cells and painted cells into transmitted light: float32 [h, w, 3], 0..255.

    Nucleated cells first push red cells away, which changes `plane`; then all absorb. Each pixel is
    computed by itself. A cell cut by a window's border is therefore the same from both sides, given
    the same order of painted cells.

    Parameters
    ----------
    plane : ndarray of int16 [h, w]
        Thickness of red cells.
    x0, y0 : int
        Position of the plane's top-left pixel.
    painted : list of PaintedCell
    stain : Stain
    """
    cuts = [(p, *cut) for p in painted if (cut := _overlap(plane.shape, x0, y0, p))]
    for p, here, there in cuts:
        if p.cover is not None:
            plane[here] = np.rint(plane[here] * (1 - p.cover[there])).astype(np.int16)
    light = light_of(plane, stain)
    for p, here, there in cuts:
        light[here] *= p.through[there]
    return light


def _overlap(
    shape: tuple[int, ...], x0: int, y0: int, painted: PaintedCell
) -> tuple[_Slices, _Slices] | None:
    """Return the slices of the plane and of the painted crop where they meet, or None."""
    h, w = painted.through.shape[:2]
    left, top = painted.x0 - x0, painted.y0 - y0
    a, b = max(top, 0), min(top + h, shape[0])
    c, d = max(left, 0), min(left + w, shape[1])
    if a >= b or c >= d:
        return None
    return (slice(a, b), slice(c, d)), (slice(a - top, b - top), slice(c - left, d - left))


@lru_cache(maxsize=1)
def _noise_pool() -> np.ndarray:
    """Make periodic noise of unit deviation: float32 [1536, 1536, 3], period 512.

    It is slightly correlated, as after a camera's demosaicing.
    """
    white = np.random.default_rng(5).standard_normal((NOISE_PX, NOISE_PX, 3)).astype(np.float32)
    soft = ndimage.gaussian_filter(white, (0.55, 0.55, 0.35), mode="wrap")
    return np.tile(soft / soft.std(), (3, 3, 1))


def apply_sensor(rng: np.random.Generator, light: np.ndarray, noise: float) -> np.ndarray:
    """Add noise to light [h, w, 3] of up to 1024 pixels per side and convert it to uint8."""
    y, x = rng.integers(0, NOISE_PX, 2)
    return add_noise(light, noise, x, y)


def add_noise(light: np.ndarray, noise: float, x: int, y: int) -> np.ndarray:
    """Add noise from the pool at (x, y), modulo its period; round and clip to uint8."""
    h, w = light.shape[:2]
    x, y = x % NOISE_PX, y % NOISE_PX
    noisy = _noise_pool()[y : y + h, x : x + w] * np.float32(noise)
    noisy += light
    noisy += np.float32(0.5)  # The conversion to uint8 truncates.
    return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)
