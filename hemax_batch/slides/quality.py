"""What a slide's stain is like, whether it is in focus, and how large its red cells are.

The stain is measured once per slide, on a bounded sample, so that every region and worker uses the same figures.
Optical density is -log10((v + 1) / (background + 1)) per channel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from ..geometry import filled
from ..records import StainProfile
from .lattice import Lattice, lattice_of, read_lattice
from .screen import STEP_UM, blue_weight, nuclear_stain

_WINDOWS = 8  # the stain is measured in at most 8 x 8 windows, evenly spaced,
_WINDOW_PX = 256  # of at most so many lattice pixels each way
_WINDOW_READ_PX = 768  # and, where there is no pyramid, of so many pixels of the file
_GLASS_SHARE = 0.05  # the brightest pixels of a view with red cells are glass: over 5 % of any smear but a thick one
_MIN_CONTRAST_OD = (
    0.03  # green; below, a window holds nothing stained (the palest red cells met: 0.13, BCCD)
)
_DARK = 60  # background below this: not a bright-field scan
_GREY = 8  # of 255 between the channels: less in 99 of 100 pixels is no colour, though a JPEG may tint a little
_ENOUGH_MM2 = 0.05  # of stained view, before a lack of red cells says anything:
FEW_RED_CELLS_PER_MM2 = (
    100  # mosaics of smear fields show 400-1000 round single ones, tissue sections 0-10
)

#: Where no red cell is seen: the palest usual, and the smallest blue weight, which is right for pale rapid stains.
DEFAULT_RBC_OD = (0.06, 0.12, 0.12)
_THICKER = 1.4  # times as dense in one window as in another: the film may differ in thickness
_FAR_MORE = 1.5  # times as many single red cells (fields of several laboratories side by side: 1.2)
_BASE_THRESHOLD = (
    0.12  # nuclear stain; red cells lie at 0..0.1 of their slide, the palest nuclei at 0.3
)
_TOP_THRESHOLD = 0.20

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


def measure_stain(reader) -> StainProfile:
    """Measure the slide's stain, once, on at most 64 windows at the screen's scale; deterministic.

    Steps: read evenly spaced windows, find clear glass over all, red cells window by window (each against its own
    brightest glass, so that uneven light does not matter), of these the typical single one, set the screen's threshold
    above what red cells reach, warn.
    """
    lattice = lattice_of(reader.slide, STEP_UM)
    windows = [
        read_lattice(reader, lattice, rect, (255, 255, 255)) for rect in _sample_rects(lattice)
    ]
    pixels = (
        np.concatenate([w.reshape(-1, 3) for w in windows])
        if windows
        else np.zeros((0, 3), np.uint8)
    )
    background = _background(pixels)
    views = [window for window in windows if _is_stained(window)]
    red_cells = [red for red in map(_red_cell_densities, views) if len(red)]
    rbc_od = _typical_red_cell(
        [np.median(red, axis=0) for red in red_cells], views, background, lattice.step_um
    )
    k = blue_weight(StainProfile(background, rbc_od, _BASE_THRESHOLD))
    reached = _median_of(
        [[np.percentile(red @ np.array([1, 1, -k]), 90)] for red in red_cells], (0.0,)
    )[0]
    stain = StainProfile(
        background, rbc_od, min(max(_BASE_THRESHOLD, reached + 0.05), _TOP_THRESHOLD)
    )
    return replace(stain, warnings=_warnings(stain, views, lattice.step_um))


def is_bright_field(stain: StainProfile) -> bool:
    """Whether the background is light in every channel; on a dark one, optical density means nothing."""
    return min(stain.background_rgb) >= _DARK


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
    density = (-np.log10((np.arange(256) + 1.0) / 256.0)).take(pixels[..., 1])
    cells = density > _local_glass(density, spacing_um) + max(
        stain.rbc_od_rgb[1] / 2, _MIN_CONTRAST_OD
    )
    labels, count = ndimage.label(filled(cells))
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


def _sample_rects(lattice: Lattice):
    """At most 8 x 8 windows, evenly spaced over the lattice: rectangles in lattice pixels."""
    side = min(_WINDOW_PX, max(16, _WINDOW_READ_PX // lattice.average))
    spans = []
    for size in (lattice.width, lattice.height):
        n = min(_WINDOWS, -(-size // side))
        starts = [
            round((size - side) * (i + 0.5) / n + side * (i + 0.5 - n / 2) / n) for i in range(n)
        ]
        spans.append([(max(s, 0), min(max(s, 0) + side, size)) for s in starts])
    return [(x0, y0, x1, y1) for y0, y1 in spans[1] for x0, x1 in spans[0]]


def _background(pixels: np.ndarray) -> tuple[float, float, float]:
    """Clear glass: the median of the brightest 3 % in green, the pure white or black fill of places
    that were not scanned left aside."""
    red, green, blue = pixels.T
    scanned = pixels[(red != green) | (red != blue) | ((red > 0) & (red < 255))]
    if len(scanned) < max(1, 0.02 * len(pixels)):
        fill = 0.0 if len(pixels) and np.median(pixels) == 0 else 255.0
        return (fill, fill, fill)
    bright = scanned[scanned[:, 1] >= np.percentile(scanned[:, 1], 97)]
    return tuple(float(v) for v in np.median(bright, axis=0))


def _is_stained(window: np.ndarray) -> bool:
    """Whether a view holds anything, by the contrast of its green channel."""
    dark, light = np.percentile(window[..., 1], [10, 97])
    return bool(np.log10((light + 1) / (dark + 1)) >= _MIN_CONTRAST_OD)


def _red_cell_densities(window: np.ndarray) -> np.ndarray:
    """Optical densities of a sample of the red cells' pixels: float [R, 3], none where there are hardly any.

    They are against the window's own brightest 5 %. What absorbs little blue is nuclear and set aside; what Otsu's
    threshold on green then parts from the rest is red cells, if it is dense enough.
    """
    pixels = window.reshape(-1, 3)
    green = pixels[:, 1]
    glass = np.median(pixels[green >= np.percentile(green, 100 * (1 - _GLASS_SHARE))], axis=0)
    of_value = -np.log10((np.arange(256)[:, None] + 1.0) / (glass + 1.0))
    density = np.stack([of_value[:, c].take(pixels[:, c]) for c in range(3)], 1)
    rest = density[density @ np.array([1, 1, -2]) < 0.25]
    if len(rest) < 64:
        return rest[:0]
    red = rest[rest[:, 1] > threshold_otsu(np.clip(rest[:, 1], 0, 0.5))][::8]
    enough = len(red) > 0.01 * len(density) / 8 and np.median(red[:, 1]) > _MIN_CONTRAST_OD
    return red if enough else red[:0]


def _typical_red_cell(
    medians: list[np.ndarray], views: list[np.ndarray], background, spacing_um: float
):
    """Optical density, per channel, of a single red cell, from the medians of windows.

    Where much of the film is thick, most windows show several red cells on one another; the least dense fifth then shows
    what a single one is like, and the proof is that far more round single cells are found with it.
    """
    typical = _median_of(medians, DEFAULT_RBC_OD)
    if len(medians) < 2:
        return typical
    green = np.array([median[1] for median in medians])
    least = [median for median in medians if median[1] <= np.percentile(green, 20)]
    if np.percentile(green, 90) < _THICKER * np.percentile(green, 10):
        return typical
    palest = _median_of(least, DEFAULT_RBC_OD)
    singles, more = (
        sum(
            len(rbc_diameters_um(view, spacing_um, StainProfile(background, od, _BASE_THRESHOLD)))
            for view in _some(views)
        )
        for od in (typical, palest)
    )
    return palest if more > _FAR_MORE * singles else typical


def _some(views: list[np.ndarray]) -> list[np.ndarray]:
    """At most 12 of them, evenly spaced."""
    return views[:: -(-len(views) // 12)] if views else []


def _median_of(rows, default) -> tuple[float, ...]:
    return (
        tuple(float(v) for v in np.median(np.asarray(rows, float), axis=0))
        if len(rows)
        else tuple(default)
    )


def _warnings(stain: StainProfile, views: list[np.ndarray], spacing_um: float) -> tuple[str, ...]:
    """What makes the slide no smear: a dark background, nothing stained, no colour or no single red cells (both in up to
    12 views)."""
    shown = tuple(round(v) for v in stain.background_rgb)
    if not is_bright_field(stain):
        return (
            f"no stained smear: the background is dark (RGB {shown} of 255), as in fluorescence",
        )
    if not views:
        return (
            f"no stained smear: nothing darker than the glass (RGB {shown}) in the places looked at",
        )
    views = _some(views)
    if max(np.percentile(np.ptp(view, axis=-1), 99) for view in views) < _GREY:
        return (
            "no stain to be seen: the picture is grey (red, green and blue alike); scan it in colour",
        )
    area_mm2 = sum(view.shape[0] * view.shape[1] for view in views) * (spacing_um / 1000) ** 2
    count = sum(len(rbc_diameters_um(view, spacing_um, stain)) for view in views)
    expected = FEW_RED_CELLS_PER_MM2 * area_mm2
    if area_mm2 > _ENOUGH_MM2 and count < expected:
        return (
            f"{count} single red cells in {area_mm2:.2f} mm², a smear shows over {expected:.0f}: "
            "a tissue section, marrow particles or a thick area? Check that the slide is a smear",
        )
    return ()


def _local_glass(density: np.ndarray, spacing_um: float) -> np.ndarray:
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
