"""Measure the focus of a window and the size of its red cells."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..geometry import fill_holes
from ..records import StainProfile
from .screen_view import blue_weight, nuclear_stain

# Green. A window below this contrast is empty. The palest red cells measured have 0.13 (BCCD).
MIN_CONTRAST_OD = 0.03
#: A window with a lower `focus` is out of focus. Fields of four laboratories have 0.12 and more
#: (2nd percentile of each). Blurred by a Gaussian of 1 µm they have 0.03 and less (median of each).
MIN_FOCUS = 0.05
#: Red cells with a lower green optical density above the glass are pale. Fields of four
#: laboratories have 0.06 and more.
MIN_STAIN_CONTRAST = 0.05

# Equivalent diameters of microcytes to macrocytes. Platelets and pairs of cells lie outside.
_RBC_RANGE_UM = (4.5, 11.0)
_MIN_AXIS_RATIO = 0.80  # excludes pairs and elliptocytes, which do not show a red cell's diameter
_MAX_ELLIPSE_MISFIT = 0.04  # excludes overlapping cells, whose outline has a waist
_MAX_SAMPLE = 200


def focus(pixels: np.ndarray, stain: StainProfile) -> float:
    """Measure the sharpness of a window at the screen's scale.

    Returns
    -------
    float
        Variance of the Laplacian of the green optical density, divided by the variance of that
        density. The ratio depends on neither stain nor number of cells. NaN if nothing is stained.
    """
    if min(pixels.shape[:2]) < 3:
        return float("nan")
    density = -np.log10((np.arange(256) + 1.0) / (stain.background_rgb[1] + 1.0)).astype(np.float32)
    green = density.take(pixels[..., 1])
    variance = float(green.var())
    if variance < (MIN_CONTRAST_OD / 4) ** 2:
        return float("nan")
    return float(ndimage.laplace(green).var()) / variance


def rbc_diameters_um(pixels: np.ndarray, spacing_um: float, stain: StainProfile) -> np.ndarray:
    """Measure single, round, whole red cells in a window at the screen's scale.

    Steps: find pixels that are denser than the surrounding glass by half a red cell, fill holes,
    label. Keep what lies off the border, has no nuclear stain, has a red cell's size, and has the
    area of the ellipse with the same moments.

    Returns
    -------
    ndarray
        Equivalent diameters in µm, float32 [R], R <= 200.
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
    diameters_um: np.ndarray = diameter[keep][:_MAX_SAMPLE].astype(np.float32)
    return diameters_um


def _local_background(density: np.ndarray, spacing_um: float) -> np.ndarray:
    """Estimate the density of the glass around each pixel: float [h, w].

    The estimate is the 10th percentile over 28 µm, smoothed.
    """
    block = max(1, round(4.0 / spacing_um))
    h, w = density.shape
    padded = np.pad(density, ((0, -h % block), (0, -w % block)), mode="edge")
    low = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block).min(
        axis=(1, 3)
    )
    glass = ndimage.uniform_filter(
        ndimage.percentile_filter(low, 20, 7, mode="nearest"), 3, mode="nearest"
    )
    background: np.ndarray = glass.repeat(block, 0).repeat(block, 1)[:h, :w]
    return background


def _ellipse_fit(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit an ellipse to each label 1..count by its moments.

    Returns
    -------
    tuple of ndarray
        Area in pixels, minor over major axis, and |1 - area / area of the ellipse|, each [count].
    """
    y, x = np.nonzero(labels)
    flat, y, x = labels[y, x], y.astype(float), x.astype(float)
    area = np.bincount(flat, minlength=count + 1).astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        means: np.ndarray = np.bincount(flat, values, count + 1) / np.maximum(area, 1)
        return means

    mx, my = mean(x), mean(y)
    dx, dy = x - mx[flat], y - my[flat]
    xx, yy, xy = mean(dx * dx) + 1 / 12, mean(dy * dy) + 1 / 12, mean(dx * dy)
    middle, half = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    major, minor = np.sqrt(middle + half), np.sqrt(np.maximum(middle - half, 1e-9))
    misfit = np.abs(1 - area / (4 * np.pi * major * minor))
    return area[1:], (minor / major)[1:], misfit[1:]


def _on_border(labels: np.ndarray, count: int) -> np.ndarray:
    """Return whether each label 1..count touches the window's border: bool [count]."""
    touching = np.zeros(count + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touching[edge] = True
    return touching[1:]
