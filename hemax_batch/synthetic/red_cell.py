"""Red cells: a bank of painted cells in steps of focus, and their positions on an endless torus.

A red cell is a plane of thickness, 1000 for a typical rim. Where cells overlap their thicknesses
add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from .stain import Stain
from .white_cell import RBC_UM

#: Thickness of a typical rim.
THICKNESS = 1000
#: Blur (sigma) of the bank's four planes.
FOCUS_STEPS_UM = (0.0, 0.16, 0.34, 0.6)
VARIANTS = 64
#: Side of the torus.
TORUS_UM = 384.0
#: Density before thinning: a monolayer with some overlap.
RBC_PER_UM2 = 0.0165
_BANK_SEED = 73
_LUT_SIZE = 6144
#: Thickness may be slightly negative: light refracted out of a cell brightens its surroundings.
LUT_OFFSET = 256


@lru_cache(maxsize=8)
def red_cell_bank(mpp: float) -> tuple[tuple[np.ndarray, ...], ...]:
    """Paint thickness crops int16 [variant][focus step], each with the cell in its centre."""
    out = []
    for variant in range(VARIANTS):
        plane = _paint_red_cell(np.random.default_rng([_BANK_SEED, variant]), mpp)
        blurred = (
            ndimage.gaussian_filter(plane, s / mpp, truncate=3) if s else plane
            for s in FOCUS_STEPS_UM
        )
        out.append(tuple(np.rint(p * THICKNESS).astype(np.int16) for p in blurred))
    return tuple(out)


def _paint_red_cell(rng: np.random.Generator, mpp: float) -> np.ndarray:
    """Paint one red cell's thickness with pallor and fringe: float32 [s, s], 1 at the rim."""
    radius_um = float(np.clip(rng.normal(RBC_UM / 2, 0.3), 2.8, 4.6))
    half = int(np.ceil((radius_um * 1.3 + 2.0) / mpp))
    axis = np.arange(-half, half + 1, dtype=np.float32) * mpp
    x, y = axis[None, :], axis[:, None]
    angle, far = np.arctan2(y, x), np.hypot(x, y)
    outline = np.ones_like(far)
    for k, a in ((2, 0.06), (3, 0.03), (4, 0.012), (5, 0.008)):
        outline += rng.normal(0, a) * np.cos(k * angle + rng.uniform(0, 6.3))
    if rng.random() < 0.03:  # crenated
        outline += 0.04 * np.cos(rng.integers(14, 22) * angle)
    border = radius_um * outline.clip(0.75, 1.3)
    t = far / border
    pallor, width = np.clip(rng.normal(0.66, 0.24), 0, 0.97), rng.uniform(0.36, 0.56)
    ox, oy = rng.normal(0, 0.05, 2) * radius_um
    u = np.hypot((x - ox) * rng.uniform(0.85, 1.2), y - oy) / (border * width)
    height = (
        0.94
        - pallor * np.exp(-(u ** rng.uniform(1.8, 3.2)))
        + 0.12 * np.exp(-(((t - 0.78) / 0.14) ** 2))
    )
    depth_um = border - far
    edge = 1 / (1 + np.exp(-np.clip(depth_um - 0.10, -3, 3) / 0.10))
    fringe = rng.uniform(0.0, 0.07) * np.exp(-(((depth_um + 0.45) / 0.3) ** 2))
    thickness: np.ndarray = edge * height * rng.uniform(0.85, 1.12) - fringe
    return thickness.astype(np.float32)


@dataclass(frozen=True)
class RedCellLayout:
    """Positions of red cells on a torus of `TORUS_UM` per side.

    Attributes
    ----------
    xy_um : ndarray [n, 2]
    variant : ndarray of int [n]
        Row in the bank.
    rank : ndarray [n]
        0..1; a layout is thinned by keeping ranks below a threshold.
    """

    xy_um: np.ndarray
    variant: np.ndarray
    rank: np.ndarray


@lru_cache(maxsize=4)
def red_cell_layout(seed: int) -> RedCellLayout:
    """Place cells at random and push them apart; most only touch, every fourth pair may overlap."""
    rng = np.random.default_rng([_BANK_SEED, seed])
    n = int(RBC_PER_UM2 * TORUS_UM**2)
    xy = rng.uniform(0, TORUS_UM, (n, 2))
    reach = (
        np.where(rng.random(n) < 0.25, rng.uniform(0.5, 0.85, n), rng.uniform(0.93, 1.06, n))
        * RBC_UM
        / 2
    )
    for _ in range(30):
        pairs = cKDTree(xy % TORUS_UM, boxsize=TORUS_UM).query_pairs(
            RBC_UM * 1.06, output_type="ndarray"
        )
        apart = xy[pairs[:, 0]] - xy[pairs[:, 1]]
        apart -= TORUS_UM * np.round(apart / TORUS_UM)
        distance = np.maximum(np.hypot(*apart.T), 0.05)[:, None]
        wanted = 2 * np.minimum(reach[pairs[:, 0]], reach[pairs[:, 1]])[:, None]
        push = 0.45 * np.clip(wanted - distance, 0, None) * apart / distance
        np.add.at(xy, pairs[:, 0], push)
        np.subtract.at(xy, pairs[:, 1], push)
    return RedCellLayout(xy % TORUS_UM, rng.integers(0, VARIANTS, n), rng.random(n))


def red_cells_in(
    layout: RedCellLayout,
    window_um: tuple[float, float, float, float],
    shift_um: np.ndarray | tuple[float, float] = (0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Find every red cell of the endless plane whose centre is in a window.

    Returns
    -------
    tuple of ndarray
        Positions [m, 2] in µm, and their indices [m] into the layout.
    """
    x0, y0, x1, y1 = (window_um[i] + shift_um[i % 2] for i in range(4))
    xy, index = [], []
    for ty in range(int(np.floor(y0 / TORUS_UM)), int(np.floor(y1 / TORUS_UM)) + 1):
        for tx in range(int(np.floor(x0 / TORUS_UM)), int(np.floor(x1 / TORUS_UM)) + 1):
            here = layout.xy_um + np.array([tx, ty]) * TORUS_UM
            keep = (here[:, 0] >= x0) & (here[:, 0] < x1) & (here[:, 1] >= y0) & (here[:, 1] < y1)
            xy.append(here[keep] - shift_um)
            index.append(np.flatnonzero(keep))
    return np.concatenate(xy), np.concatenate(index)


def stamp_red_cells(
    plane: np.ndarray,
    x0: int,
    y0: int,
    xy_px: np.ndarray,
    variant: np.ndarray,
    focus: np.ndarray,
    mpp: float,
) -> None:
    """Add red cells to an int16 plane whose top-left pixel is (x0, y0).

    Parameters
    ----------
    xy_px : ndarray [n, 2]
        Centres in pixels.
    variant, focus : ndarray of int [n]
        Row and column in the bank.
    mpp : float
        µm per pixel.
    """
    bank = red_cell_bank(mpp)
    h, w = plane.shape
    for (x, y), v, f in zip(
        np.rint(xy_px).astype(int).tolist(), variant.tolist(), focus.tolist(), strict=True
    ):
        crop = bank[v][f]
        half = len(crop) // 2
        left, top = x - half - x0, y - half - y0
        a, b = max(top, 0), min(top + len(crop), h)
        c, d = max(left, 0), min(left + len(crop), w)
        if a < b and c < d:
            plane[a:b, c:d] += crop[a - top : b - top, c - left : d - left]


@lru_cache(maxsize=32)
def red_light(stain: Stain) -> np.ndarray:
    """Tabulate the light through red cells by thickness + LUT_OFFSET: float32 [6144, 3], 0..255."""
    thickness = (np.arange(_LUT_SIZE) - LUT_OFFSET) / THICKNESS
    # Overlapping cells are flatter.
    thickness = np.where(thickness > 1.1, 1.1 + 0.62 * (thickness - 1.1), thickness)
    density = thickness[:, None] * np.array(stain.red)
    light: np.ndarray = np.minimum(np.array(stain.background) * 10**-density, 255)
    return light.astype(np.float32)


def light_of(plane: np.ndarray, stain: Stain) -> np.ndarray:
    """Convert a plane of thickness to light in a stain: float32 [h, w, 3]."""
    index = np.clip(plane + LUT_OFFSET, 0, _LUT_SIZE - 1)
    light: np.ndarray = np.take(red_light(stain), index, axis=0)
    return light
