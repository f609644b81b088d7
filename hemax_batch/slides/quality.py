"""What a slide's stain is like, whether it is in focus, and how large its red cells are.

The stain is measured once per slide, on a bounded sample, so that every region and worker uses the same figures.
Optical density is -log10((v + 1) / (background + 1)) per channel.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from ..records import StainProfile
from .lattice import Lattice, lattice_of, read_lattice
from .screen import STEP_UM, blue_weight, nuclear_stain

_WINDOWS = 8  # the stain is measured in at most 8 x 8 windows, evenly spaced,
_WINDOW_PX = 256  # of at most so many lattice pixels each way
_WINDOW_READ_PX = 768  # and, where there is no pyramid, of so many pixels of the file
_GLASS_SHARE = 0.05  # the brightest pixels of a view with red cells are glass: over 5 % of any smear but a thick one
_MIN_CONTRAST_OD = 0.03  # green; below, a window holds nothing stained (the palest red cells met: 0.13, BCCD)
_DARK = 60  # background below this: not a bright-field scan
_NUCLEAR_SHARE = 0.30  # of the view; more is a tissue section or a marrow particle

#: Where no red cell is seen: the palest usual, and the smallest blue weight, which is right for pale rapid stains.
DEFAULT_RBC_OD = (0.06, 0.12, 0.12)
_BASE_THRESHOLD = 0.12  # nuclear stain; red cells lie at 0..0.1 of their slide, the palest nuclei at 0.3
_TOP_THRESHOLD = 0.20

_RBC_RANGE_UM = (4.5, 11.0)  # equivalent diameters kept: microcytes to macrocytes; platelets and doublets fall outside
_MIN_AXIS_RATIO = 0.80  # a doublet or elliptocyte is no measure of a red cell's diameter
_MAX_ELLIPSE_MISFIT = 0.04  # area against the ellipse of its moments: overlapping cells have waists
_MAX_SAMPLE = 200


def measure_stain(reader) -> StainProfile:
    """Measure the slide's stain, once, on at most 64 windows at the screen's scale; deterministic.

    Steps: read evenly spaced windows, find clear glass over all, red cells window by window (each against its own
    brightest glass, so that uneven light does not matter), set the screen's threshold above what red cells reach, warn.
    """
    lattice = lattice_of(reader.slide, STEP_UM)
    windows = [read_lattice(reader, lattice, rect, (255, 255, 255)) for rect in _sample_rects(lattice)]
    pixels = np.concatenate([w.reshape(-1, 3) for w in windows]) if windows else np.zeros((0, 3), np.uint8)
    background = _background(pixels)
    stained = [found for found in map(_red_and_nuclear, windows) if found is not None]
    red_cells = [red for red, _ in stained if len(red)]
    rbc_od = _median_of([np.median(red, axis=0) for red in red_cells], DEFAULT_RBC_OD)
    k = blue_weight(StainProfile(background, rbc_od, _BASE_THRESHOLD))
    reached = _median_of([[np.percentile(red @ np.array([1, 1, -k]), 90)] for red in red_cells], (0.0,))[0]
    threshold = min(max(_BASE_THRESHOLD, reached + 0.05), _TOP_THRESHOLD)
    nuclear_share = _median_of([[share] for _, share in stained], (0.0,))[0]
    return StainProfile(background, rbc_od, threshold, _warnings(background, len(stained), nuclear_share))


def focus(pixels: np.ndarray, stain: StainProfile) -> float:
    """Sharpness of a window at the screen's scale: variance of the Laplacian of the green optical density over the
    variance of that density itself, so that neither stain nor cell count matters; NaN where nothing is stained.
    """
    if min(pixels.shape[:2]) < 3:
        return float("nan")
    green = -np.log10((pixels[..., 1] + 1.0) / (stain.background_rgb[1] + 1.0)).astype(np.float32)
    spread = float(green.var())
    if spread < (_MIN_CONTRAST_OD / 4) ** 2:
        return float("nan")
    return float(ndimage.laplace(green).var()) / spread


def rbc_diameters_um(pixels: np.ndarray, spacing_um: float, stain: StainProfile) -> np.ndarray:
    """Equivalent diameters of single, round, whole red cells in a window at the screen's scale: float32 [R <= 200].

    Steps: cells are what is denser than the glass around by half a red cell, holes filled; keep those off the border,
    without nuclear stain, of a red cell's size, and of an ellipse's area for their moments.
    """
    if min(pixels.shape[:2]) < 16:
        return np.zeros(0, np.float32)
    density = -np.log10((pixels[..., 1] + 1.0) / 256.0)
    cells = density > _local_glass(density, spacing_um) + max(stain.rbc_od_rgb[1] / 2, _MIN_CONTRAST_OD)
    labels, count = ndimage.label(ndimage.binary_fill_holes(cells))
    if not count:
        return np.zeros(0, np.float32)
    area, axis_ratio, misfit = _ellipse_fit(labels, count)
    diameter = 2 * np.sqrt(area / np.pi) * spacing_um
    nuclear = nuclear_stain(pixels, blue_weight(stain)) / 4096
    over = nuclear - np.percentile(nuclear, 25) > stain.nucleus_od_threshold
    nuclear_share = np.bincount(labels.ravel(), over.ravel(), count + 1)[1:] / area
    keep = (diameter > _RBC_RANGE_UM[0]) & (diameter < _RBC_RANGE_UM[1]) & (nuclear_share < 0.05)
    keep &= (axis_ratio > _MIN_AXIS_RATIO) & (misfit < _MAX_ELLIPSE_MISFIT) & ~_on_border(labels, count)
    return diameter[keep][:_MAX_SAMPLE].astype(np.float32)


def _sample_rects(lattice: Lattice):
    """At most 8 x 8 windows, evenly spaced over the lattice: rectangles in lattice pixels."""
    side = min(_WINDOW_PX, max(16, _WINDOW_READ_PX // lattice.average))
    spans = []
    for size in (lattice.width, lattice.height):
        n = min(_WINDOWS, -(-size // side))
        starts = [round((size - side) * (i + 0.5) / n + side * (i + 0.5 - n / 2) / n) for i in range(n)]
        spans.append([(max(s, 0), min(max(s, 0) + side, size)) for s in starts])
    return [(x0, y0, x1, y1) for y0, y1 in spans[1] for x0, x1 in spans[0]]


def _background(pixels: np.ndarray) -> tuple[float, float, float]:
    """Clear glass: the median of the brightest 3 % in green, white fill where nothing was scanned left aside."""
    scanned = pixels[(pixels != 255).any(axis=1)]
    if len(scanned) < max(1, 0.02 * len(pixels)):
        return (255.0, 255.0, 255.0)
    bright = scanned[scanned[:, 1] >= np.percentile(scanned[:, 1], 97)]
    return tuple(float(v) for v in np.median(bright, axis=0))


def _red_and_nuclear(window: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Densities of a sample of the red cells' pixels, float [R, 3], and the share of the view that is nuclear.

    None where all is glass. The densities are against the window's own brightest 5 %. What absorbs little blue is
    nuclear and set aside; what Otsu's threshold on green then parts from the rest is red cells, if it is dense enough.
    """
    pixels = window.reshape(-1, 3)
    green = pixels[:, 1]
    glass = np.median(pixels[green >= np.percentile(green, 100 * (1 - _GLASS_SHARE))], axis=0)
    density = -np.log10((pixels + 1.0) / (glass + 1.0))
    nuclear = density @ np.array([1, 1, -2]) > 0.25
    rest = density[~nuclear]
    if np.log10((np.percentile(green, 97) + 1) / (np.percentile(green, 10) + 1)) < _MIN_CONTRAST_OD:
        return None
    red = rest[rest[:, 1] > threshold_otsu(np.clip(rest[:, 1], 0, 0.5))][::8] if len(rest) > 64 else rest[:0]
    if len(red) < 0.01 * len(density) / 8 or np.median(red[:, 1]) < _MIN_CONTRAST_OD:
        red = red[:0]
    return red, float(nuclear.mean())


def _median_of(rows, default) -> tuple[float, ...]:
    return tuple(float(v) for v in np.median(np.asarray(rows, float), axis=0)) if len(rows) else tuple(default)


def _warnings(background, stained_windows: int, nuclear_share: float) -> tuple[str, ...]:
    shown = tuple(round(v) for v in background)
    if max(background) < _DARK:
        return (f"no stained smear: the background is dark (RGB {shown} of 255), as in fluorescence",)
    if not stained_windows:
        return (f"no stained smear: nothing darker than the glass (RGB {shown}) in the places looked at",)
    if nuclear_share > _NUCLEAR_SHARE:
        return (
            f"nuclear stain covers {100 * nuclear_share:.0f} % of the view, on a smear under "
            f"{100 * _NUCLEAR_SHARE:.0f} %: a tissue section, or marrow particles? Compare the cells with the slide",
        )
    return ()


def _local_glass(density: np.ndarray, spacing_um: float) -> np.ndarray:
    """Density of the glass around each pixel: the 10th percentile over 28 µm, smoothed; float [h, w]."""
    block = max(1, round(4.0 / spacing_um))
    h, w = density.shape
    padded = np.pad(density, ((0, -h % block), (0, -w % block)), mode="edge")
    low = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block).min(axis=(1, 3))
    glass = ndimage.uniform_filter(ndimage.percentile_filter(low, 20, 7, mode="nearest"), 3, mode="nearest")
    return glass.repeat(block, 0).repeat(block, 1)[:h, :w]


def _ellipse_fit(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per label 1..count: area in pixels, minor over major axis, |1 - area / area of the ellipse of its moments|."""
    flat = labels.ravel()
    y, x = (v.ravel().astype(float) for v in np.indices(labels.shape))
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
