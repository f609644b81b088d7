"""Textures: noise of a given grain, granules, and smooth shapes computed on a coarse grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

#: Spacing of the coarse grid; outlines are smooth on this scale.
GRID_UM = 0.25
_POOL_PX = 512
_POOL_SEED = 20261123


@lru_cache(maxsize=64)
def _noise_pool(tenths: int) -> np.ndarray:
    """Make periodic noise of mean 0 and deviation 1: float32 [512, 512].

    The grain is `tenths`/10 pixels.
    """
    white = np.random.default_rng([_POOL_SEED, tenths]).standard_normal((_POOL_PX, _POOL_PX))
    # Sigma is half the grain. Subtracting the slow part leaves a grain without clouds.
    smooth: np.ndarray = ndimage.gaussian_filter(white, tenths / 20, mode="wrap")
    smooth -= ndimage.gaussian_filter(smooth, tenths / 5, mode="wrap")
    scaled: np.ndarray = (smooth - smooth.mean()) / smooth.std()
    return scaled.astype(np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, ...], grain_px: float) -> np.ndarray:
    """Return a random part of the noise with grains of about `grain_px` pixels: float32 [h, w].

    Each side is below 512 pixels.
    """
    pool = _noise_pool(max(1, round(min(grain_px, 100) * 10)))
    y, x = rng.integers(0, _POOL_PX - shape[0]), rng.integers(0, _POOL_PX - shape[1])
    piece = pool[y : y + shape[0], x : x + shape[1]]
    return piece[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


@dataclass(frozen=True)
class Canvas:
    """A square of `side_px` pixels of `mpp` µm centred on a cell, with the coarse grid over it."""

    side_px: int
    mpp: float

    @property
    def half_um(self) -> float:
        """Half of the square's side in µm."""
        return self.side_px * self.mpp / 2

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x [1, n] and y [n, 1] of the coarse grid in µm from the centre."""
        n = int(np.ceil(2 * self.half_um / GRID_UM)) + 1
        axis = np.linspace(-self.half_um, self.half_um, n, dtype=np.float32)
        return axis[None, :], axis[:, None]

    def interpolate(self, coarse: np.ndarray) -> np.ndarray:
        """Interpolate a coarse field [n, n] at the pixels' centres: float32 [side, side]."""
        weights = _interpolation(len(coarse), self.side_px)
        fine: np.ndarray = weights @ coarse @ weights.T
        return fine

    def pixel_of(self, um: np.ndarray) -> np.ndarray:
        """Convert µm from the centre to pixel coordinates."""
        return um / self.mpp + self.side_px / 2 - 0.5


@lru_cache(maxsize=256)
def _interpolation(n: int, side_px: int) -> np.ndarray:
    """Return linear weights from n points to `side_px` pixel centres: float32 [side, n]."""
    at = (np.arange(side_px) + 0.5) / side_px * (n - 1)
    low = np.minimum(at.astype(int), n - 2)
    weights = np.zeros((side_px, n), np.float32)
    weights[np.arange(side_px), low] = 1 - (at - low)
    weights[np.arange(side_px), low + 1] = at - low
    return weights


def soft_step(depth_um: np.ndarray, soft_um: float) -> np.ndarray:
    """Map depth (positive inside) to 0 outside and 1 inside; the edge is about `soft_um` wide."""
    return np.clip(depth_um / soft_um + 0.5, 0, 1)


def packed_points(
    rng: np.random.Generator, inside: np.ndarray, spacing_px: float, jitter: float = 0.3
) -> np.ndarray:
    """Pack points about `spacing_px` apart where `inside` [h, w] is true: float [n, 2] (x, y)."""
    h, w = inside.shape
    rows, columns = int(h / (spacing_px * 0.87)) + 2, int(w / spacing_px) + 2
    x = (np.arange(columns)[None, :] + 0.5 * (np.arange(rows) % 2)[:, None]) * spacing_px
    y = np.broadcast_to((np.arange(rows) * spacing_px * 0.87)[:, None], x.shape)
    xy = np.stack([x.ravel(), y.ravel()], 1) + rng.normal(0, jitter * spacing_px, (x.size, 2))
    ij = np.floor(xy[:, ::-1]).astype(int)
    xy, ij = (a[((ij >= 0) & (ij < (h, w))).all(1)] for a in (xy, ij))
    packed: np.ndarray = xy[inside[ij[:, 0], ij[:, 1]]]
    return packed


def stamp_granules(
    shape: tuple[int, ...], xy: np.ndarray, radii_px: np.ndarray, strengths: np.ndarray
) -> np.ndarray:
    """Draw round granules; where two overlap the stronger shows: float32 [h, w], 0..strength."""
    out = np.zeros(shape, np.float32)
    sizes = np.clip(np.round(radii_px * 4).astype(int), 1, 80)
    for (x, y), size, strength in zip(xy, sizes, strengths, strict=True):
        disc = _disc(int(size))
        half = len(disc) // 2
        y0, x0 = round(y) - half, round(x) - half
        if y0 < 0 or x0 < 0 or y0 + len(disc) > shape[0] or x0 + len(disc) > shape[1]:
            continue
        part = out[y0 : y0 + len(disc), x0 : x0 + len(disc)]
        np.maximum(part, disc * np.float32(strength), out=part)
    return out


@lru_cache(maxsize=128)
def _disc(quarters: int) -> np.ndarray:
    """Draw a soft disc of radius `quarters`/4 pixels: float32 [s, s], s odd."""
    radius = quarters / 4
    half = int(np.ceil(radius + 1))
    axis = np.arange(-half, half + 1)
    distance = np.hypot(axis[None, :], axis[:, None])
    return np.clip((radius - distance) / max(0.5 * radius, 1.0) + 0.5, 0, 1).astype(np.float32)
