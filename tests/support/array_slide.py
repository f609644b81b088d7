"""Slides held in memory for the tests of tiling, screen and quality: painted by optical density, read like a file."""

from __future__ import annotations

import numpy as np

from hemax_batch.records import Slide

GLASS = (240.0, 236.0, 228.0)
RED_CELL, PALE_RED_CELL = (0.06, 0.15, 0.10), (0.07, 0.13, 0.11)
NUCLEUS, PALE_NUCLEUS = (0.45, 0.70, 0.18), (0.15, 0.28, 0.06)  # PBC, BCCD
CYTOPLASM, PLATELET = (0.08, 0.12, 0.04), (0.20, 0.32, 0.08)


class Painting:
    """A slide of width x height µm at `mpp`; `disc` adds optical density, `rgb` is what a scanner sees."""

    def __init__(self, width_um: float, height_um: float, mpp: float):
        self.mpp = mpp
        self.od = np.zeros((round(height_um / mpp), round(width_um / mpp), 3), np.float32)

    def disc(
        self, x_um: float, y_um: float, diameter_um: float, od, pallor: float = 0.0
    ) -> Painting:
        """A soft-edged disc centred there, the denser of it and what was there; `pallor` thins its middle."""
        reach = diameter_um / 2 / self.mpp + 2
        cx, cy = x_um / self.mpp, y_um / self.mpp
        x0, y0 = max(0, int(cx - reach)), max(0, int(cy - reach))
        part = self.od[y0 : int(cy + reach) + 1, x0 : int(cx + reach) + 1]
        yy, xx = np.mgrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] + 0.5
        r = np.hypot(xx - cx, yy - cy)
        cover = np.clip(diameter_um / 2 / self.mpp - r + 0.5, 0, 1)
        cover *= 1 - pallor * np.clip(1 - r / (diameter_um / 5 / self.mpp), 0, 1)
        np.maximum(part, cover[..., None] * np.array(od, np.float32), out=part)
        return self

    def rgb(self, noise: float = 0.0, seed: int = 0) -> np.ndarray:
        """uint8 [h, w, 3]."""
        light = (np.array(GLASS, np.float32) + 1) * 10**-self.od - 1
        if noise:
            light += noise * np.random.default_rng(seed).standard_normal(self.od.shape, np.float32)
        return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def smear_rgb(
    width_um: float, height_um: float, mpp: float, seed: int = 0, cells: int = 8
) -> np.ndarray:
    """A painted smear: red cells about 11 µm apart, platelets, and `cells` nucleated cells anywhere; uint8."""
    rng, painting = np.random.default_rng(seed), Painting(width_um, height_um, mpp)
    for y in np.arange(6, height_um, 11.0):
        for x in np.arange(6, width_um, 11.0):
            painting.disc(
                x + rng.uniform(-2, 2),
                y + rng.uniform(-2, 2),
                rng.normal(7.3, 0.3),
                RED_CELL,
                pallor=0.4,
            )
    for _ in range(cells):
        x, y = rng.uniform(0, width_um), rng.uniform(0, height_um)
        painting.disc(x, y, rng.uniform(9, 16), CYTOPLASM).disc(x, y, rng.uniform(6, 11), NUCLEUS)
        painting.disc(rng.uniform(0, width_um), rng.uniform(0, height_um), 2.4, PLATELET)
    return painting.rgb(noise=3, seed=seed)


def resized(rgb: np.ndarray, factor: float) -> np.ndarray:
    """The nearest pixel of every `factor`-th place: uint8."""
    h, w = round(rgb.shape[0] / factor), round(rgb.shape[1] / factor)
    y = np.minimum(((np.arange(h) + 0.5) * factor).astype(int), rgb.shape[0] - 1)
    x = np.minimum(((np.arange(w) + 0.5) * factor).astype(int), rgb.shape[1] - 1)
    return rgb[np.ix_(y, x)]


class ArrayReader:
    """`reader.SlideReader` over an array; levels are `downsamples` of it. Keeps the sizes of what was read."""

    def __init__(self, rgb: np.ndarray, mpp: float, downsamples: tuple[float, ...] = (1.0,)):
        self._levels = [rgb, *(resized(rgb, d) for d in downsamples[1:])]
        sizes = tuple((level.shape[1], level.shape[0]) for level in self._levels)
        self.slide = Slide(
            "/array", "array", "0", *sizes[0], mpp, sizes, tuple(downsamples), "test", "image"
        )
        self.pixels_read: list[int] = []
        self.damaged: dict = {}

    def read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        self.pixels_read.append(w * h)
        out = np.full((h, w, 3), 255, np.uint8)
        source = self._levels[level]
        left, top = max(x, 0), max(y, 0)
        part = source[top : max(y + h, top), left : max(x + w, left)]
        out[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] = part
        return out

    def whole(self) -> tuple[int, int, int, int]:
        return 0, 0, self.slide.width, self.slide.height
