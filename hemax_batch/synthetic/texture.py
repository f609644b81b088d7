"""Noise of a given grain, granules, and smooth shapes computed on a coarse grid and read off at the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

GRID_UM = 0.25  # of the coarse grid: outlines are smooth on this scale
_POOL_PX = 512
_POOL_SEED = 20261123


@lru_cache(maxsize=64)
def _noise_pool(tenths: int) -> np.ndarray:
    """Periodic smooth noise of zero mean and unit deviation, its grain `tenths`/10 pixels: float32 [512, 512]."""
    white = np.random.default_rng([_POOL_SEED, tenths]).standard_normal((_POOL_PX, _POOL_PX))
    smooth = ndimage.gaussian_filter(white, tenths / 20, mode="wrap")  # sigma is half the grain
    smooth -= ndimage.gaussian_filter(
        smooth, tenths / 5, mode="wrap"
    )  # no slow drift: a grain, not a cloud
    return ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, int], grain_px: float) -> np.ndarray:
    """A random piece of noise of unit deviation, its grains about `grain_px` pixels: float32 [h, w], each below 512."""
    pool = _noise_pool(max(1, round(min(grain_px, 100) * 10)))
    y, x = rng.integers(0, _POOL_PX - shape[0]), rng.integers(0, _POOL_PX - shape[1])
    piece = pool[y : y + shape[0], x : x + shape[1]]
    return piece[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


@dataclass(frozen=True)
class Canvas:
    """A square of `side_px` pixels of `mpp` µm centred on a cell, and the coarse grid over it."""

    side_px: int
    mpp: float

    @property
    def half_um(self) -> float:
        return self.side_px * self.mpp / 2

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """x [1, n] and y [n, 1] of the coarse grid, µm from the middle."""
        n = int(np.ceil(2 * self.half_um / GRID_UM)) + 1
        axis = np.linspace(-self.half_um, self.half_um, n, dtype=np.float32)
        return axis[None, :], axis[:, None]

    def interpolate(self, coarse: np.ndarray) -> np.ndarray:
        """A coarse field [n, n] interpolated at the pixels' centres: float32 [side, side]."""
        weights = _interpolation(len(coarse), self.side_px)
        return weights @ coarse @ weights.T

    def pixel_of(self, um: np.ndarray) -> np.ndarray:
        """Pixel coordinates of µm from the middle."""
        return um / self.mpp + self.side_px / 2 - 0.5


@lru_cache(maxsize=256)
def _interpolation(n: int, side_px: int) -> np.ndarray:
    """Linear interpolation from n points over [0, 1] to the centres of `side_px` pixels: float32 [side, n]."""
    at = (np.arange(side_px) + 0.5) / side_px * (n - 1)
    low = np.minimum(at.astype(int), n - 2)
    weights = np.zeros((side_px, n), np.float32)
    weights[np.arange(side_px), low] = 1 - (at - low)
    weights[np.arange(side_px), low + 1] = at - low
    return weights


def soft_step(depth_um: np.ndarray, soft_um: float) -> np.ndarray:
    """0 outside, 1 inside, with an edge about `soft_um` wide; depth is positive inside."""
    return np.clip(depth_um / soft_um + 0.5, 0, 1)


def packed_points(
    rng: np.random.Generator, inside: np.ndarray, spacing_px: float, jitter: float = 0.3
) -> np.ndarray:
    """Points packed about `spacing_px` apart where `inside` [h, w] is true: float [n, 2] (x, y)."""
    h, w = inside.shape
    rows, columns = int(h / (spacing_px * 0.87)) + 2, int(w / spacing_px) + 2
    x = (np.arange(columns)[None, :] + 0.5 * (np.arange(rows) % 2)[:, None]) * spacing_px
    y = np.broadcast_to((np.arange(rows) * spacing_px * 0.87)[:, None], x.shape)
    xy = np.stack([x.ravel(), y.ravel()], 1) + rng.normal(0, jitter * spacing_px, (x.size, 2))
    ij = np.floor(xy[:, ::-1]).astype(int)
    xy, ij = (a[((ij >= 0) & (ij < (h, w))).all(1)] for a in (xy, ij))
    return xy[inside[ij[:, 0], ij[:, 1]]]


def stamp_granules(
    shape: tuple[int, int], xy: np.ndarray, radii_px: np.ndarray, strengths: np.ndarray
) -> np.ndarray:
    """Round granules of about the given radii; where two overlap the stronger shows: float32 [h, w], 0..strength."""
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
    """A soft disc of radius `quarters`/4 pixels: float32 [s, s], s odd."""
    radius = quarters / 4
    half = int(np.ceil(radius + 1))
    axis = np.arange(-half, half + 1)
    distance = np.hypot(axis[None, :], axis[:, None])
    return np.clip((radius - distance) / max(0.5 * radius, 1.0) + 0.5, 0, 1).astype(np.float32)
