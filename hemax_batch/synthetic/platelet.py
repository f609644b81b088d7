"""Platelets and specks of stain, painted with exact truth."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .stain import Stain
from .texture import Canvas, noise, packed_points, soft_step, stamp_granules
from .white_cell import PaintedCell, Point, make_truth, to_light


def paint_platelet(
    rng: np.random.Generator, xy: Point, mpp: float, stain: Stain, focus_um: float = 0.0
) -> PaintedCell:
    """Paint a platelet: a little pale blue cytoplasm around purple granules."""
    radius_um = float(np.clip(rng.normal(1.25, 0.3), 0.7, 2.4))
    canvas = Canvas(2 * round((radius_um * 1.5 + 1.0 + 2 * focus_um) / mpp), mpp)
    x, y = canvas.grid()
    angle = np.arctan2(y, x)
    uneven = 1 + sum(
        rng.normal(0, 0.22 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 6)
    )
    depth = canvas.interpolate(
        (radius_um * uneven.clip(0.6, 1.5) - np.hypot(x, y)).astype(np.float32)
    )
    depth += 0.12 * noise(rng, depth.shape, 0.8 / mpp)
    core = canvas.interpolate(
        (radius_um * 0.8 - np.hypot(x - rng.normal(0, 0.15), y)).astype(np.float32)
    )
    xy_granules = packed_points(rng, (core > 0) & (depth > 0.1), 0.42 / mpp, 0.4)
    radii = rng.uniform(0.16, 0.3, len(xy_granules)) / mpp
    granules = stamp_granules(
        depth.shape, xy_granules, radii, rng.uniform(0.5, 1.0, len(xy_granules))
    )
    cover = soft_step(depth, max(0.4, mpp))
    haze = 0.25 * ndimage.gaussian_filter(granules, 0.25 / mpp)
    colours = (np.array(c, np.float32) for c in (stain.light_blue, stain.basophil))
    density = sum(
        a[..., None] * c
        for a, c in zip((0.75 * cover, cover * (0.6 * granules + haze)), colours, strict=True)
    )
    x0, y0 = round(xy[0]) - canvas.side_px // 2, round(xy[1]) - canvas.side_px // 2
    truth = make_truth(
        "platelet", depth > 0, np.zeros(depth.shape, bool), x0, y0, mpp, ("", "", "")
    )
    return to_light(x0, y0, density, None, focus_um / mpp, truth)


def paint_speck(
    rng: np.random.Generator, xy: Point, mpp: float, stain: Stain, focus_um: float = 0.0
) -> PaintedCell:
    """Paint precipitated stain or dust: a few small dark grains without a cell."""
    spread_um = rng.uniform(0.1, 1.2)
    canvas = Canvas(2 * round((spread_um * 2 + 1.0 + 2 * focus_um) / mpp), mpp)
    n = int(rng.integers(1, 7))
    points = canvas.pixel_of(np.clip(rng.normal(0, spread_um / 2, (n, 2)), -spread_um, spread_um))
    amount = stamp_granules(
        (canvas.side_px,) * 2, points, rng.uniform(0.1, 0.35, n) / mpp, rng.uniform(0.3, 0.9, n)
    )
    colour = np.array(stain.basophil if rng.random() < 0.8 else (0.3, 0.3, 0.3), np.float32)
    density = amount[..., None] * colour
    x0, y0 = round(xy[0]) - canvas.side_px // 2, round(xy[1]) - canvas.side_px // 2
    return to_light(x0, y0, density, None, focus_um / mpp, None)
