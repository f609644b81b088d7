"""Whether a window of a slide is in focus, and how large its red cells are."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..geometry import fill_holes
from ..records import StainProfile
from .screening import blue_weight, nuclear_stain

MIN_CONTRAST_OD = (
    0.03  # green; below, a window holds nothing stained (the palest red cells met: 0.13, BCCD)
)


#: Below this `focus` a window is out of focus. Photographed fields of four laboratories have 0.12 and more (the 2nd
#: percentile of each); blurred by a Gaussian of 1 µm, 0.03 and less (the median of each).
MIN_FOCUS = 0.05
#: Red cells whose green optical density above the glass is lower are pale: four laboratories' fields have 0.06 and more.
MIN_STAIN_CONTRAST = 0.05

_RBC_RANGE_UM = (
    4.5,
    11.0,
)  # equivalent diameters kept: microcytes to macrocytes; platelets and doublets fall outside
_MIN_AXIS_RATIO = 0.80  # a doublet or elliptocyte is no measure of a red cell's diameter
_MAX_ELLIPSE_MISFIT = 0.04  # area against the ellipse of its moments: overlapping cells have waists
_MAX_SAMPLE = 200


def focus(pixels: np.ndarray, stain: StainProfile) -> float:
    """Sharpness of a window at the screen's scale: variance of the Laplacian of the green optical density over the
    variance of that density itself, so that neither stain nor cell count matters; NaN where nothing is stained.
    """
    if min(pixels.shape[:2]) < 3:
        return float("nan")
    of_value = -np.log10((np.arange(256) + 1.0) / (stain.background_rgb[1] + 1.0)).astype(
        np.float32
    )
    green = of_value.take(pixels[..., 1])
    spread = float(green.var())
    if spread < (MIN_CONTRAST_OD / 4) ** 2:
        return float("nan")
    return float(ndimage.laplace(green).var()) / spread


def rbc_diameters_um(pixels: np.ndarray, spacing_um: float, stain: StainProfile) -> np.ndarray:
    """Equivalent diameters of single, round, whole red cells in a window at the screen's scale: float32 [R <= 200].

    Steps: cells are what is denser than the glass around by half a red cell, holes filled; keep those off the border,
    without nuclear stain, of a red cell's size, and of an ellipse's area for their moments.
    """
    if min(pixels.shape[:2]) < 16:
        return np.zeros(0, np.float32)
    density = (-np.log10((np.arange(256) + 1.0) / 256.0)).take(pixels[..., 1])
    cells = density > _local_background(density, spacing_um) + max(
        stain.rbc_od_rgb[1] / 2, MIN_CONTRAST_OD
    )
    labels, count = ndimage.label(fill_holes(cells))
    if not count:
        return np.zeros(0, np.float32)
    area, axis_ratio, misfit = _ellipse_fit(labels, count)
    diameter = 2 * np.sqrt(area / np.pi) * spacing_um
    nuclear = nuclear_stain(pixels, blue_weight(stain)) / 4096
    over = nuclear - np.percentile(nuclear, 25) > stain.nucleus_od_threshold
    nuclear_share = np.bincount(labels.ravel(), over.ravel(), count + 1)[1:] / area
    keep = (diameter > _RBC_RANGE_UM[0]) & (diameter < _RBC_RANGE_UM[1]) & (nuclear_share < 0.05)
    keep &= (
        (axis_ratio > _MIN_AXIS_RATIO) & (misfit < _MAX_ELLIPSE_MISFIT) & ~_on_border(labels, count)
    )
    return diameter[keep][:_MAX_SAMPLE].astype(np.float32)


def _local_background(density: np.ndarray, spacing_um: float) -> np.ndarray:
    """Density of the glass around each pixel: the 10th percentile over 28 µm, smoothed; float [h, w]."""
    block = max(1, round(4.0 / spacing_um))
    h, w = density.shape
    padded = np.pad(density, ((0, -h % block), (0, -w % block)), mode="edge")
    low = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block).min(
        axis=(1, 3)
    )
    glass = ndimage.uniform_filter(
        ndimage.percentile_filter(low, 20, 7, mode="nearest"), 3, mode="nearest"
    )
    return glass.repeat(block, 0).repeat(block, 1)[:h, :w]


def _ellipse_fit(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per label 1..count: area in pixels, minor over major axis, |1 - area / area of the ellipse of its moments|."""
    y, x = np.nonzero(labels)
    flat, y, x = labels[y, x], y.astype(float), x.astype(float)
    area = np.bincount(flat, minlength=count + 1).astype(float)

    def mean(values):
        return np.bincount(flat, values, count + 1) / np.maximum(area, 1)

    mx, my = mean(x), mean(y)
    dx, dy = x - mx[flat], y - my[flat]
    xx, yy, xy = mean(dx * dx) + 1 / 12, mean(dy * dy) + 1 / 12, mean(dx * dy)
    middle, half = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    major, minor = np.sqrt(middle + half), np.sqrt(np.maximum(middle - half, 1e-9))
    misfit = np.abs(1 - area / (4 * np.pi * major * minor))
    return area[1:], (minor / major)[1:], misfit[1:]


def _on_border(labels: np.ndarray, count: int) -> np.ndarray:
    """Whether each label 1..count touches the window's border: bool [count]."""
    touching = np.zeros(count + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touching[edge] = True
    return touching[1:]
