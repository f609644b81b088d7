"""Measure how a slide is stained.

The stain is measured once per slide on a bounded sample, so all regions and workers use the same
numbers. Optical density is -log10((v + 1) / (background + 1)) per channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from skimage.filters import threshold_otsu

from ..records import Rect, StainProfile
from .lattice import Lattice, WindowReader, lattice_of, read_lattice
from .quality import MIN_CONTRAST_OD, rbc_diameters_um
from .screen_view import STEP_UM, blue_weight

RGB = tuple[float, float, float]

_WINDOWS = 8  # the stain is measured in at most 8 x 8 evenly spaced windows
_WINDOW_PX = 256  # largest side of a window in lattice pixels
_WINDOW_READ_PX = 768  # largest side in pixels of the file, for slides without a pyramid
# The brightest pixels of a view are glass. Any smear but a thick one is over 5 % glass.
_GLASS_SHARE = 0.05
_DARK = 60  # a lower background is not a bright-field scan
# Of 255: difference between channels. A picture with less in 99 of 100 pixels is grey.
_GREY = 8
_ENOUGH_MM2 = 0.05  # a lack of red cells means something only in a larger stained area
# Mosaics of smear fields show 400-1000 single round red cells per mm², tissue sections 0-10.
FEW_RED_CELLS_PER_MM2 = 100
#: Used if no red cell is found: the palest usual one. It gives the smallest blue weight, which
#: suits pale rapid stains.
DEFAULT_RBC_OD: RGB = (0.06, 0.12, 0.12)
_THICKER = 1.4  # density ratio of two windows beyond which the film's thickness may differ
_FAR_MORE = 1.5  # ratio of single red cells; fields of several laboratories side by side have 1.2
# Nuclear stain. Red cells have 0..0.1 on their slide, the palest nuclei 0.3.
_BASE_THRESHOLD = 0.12
_TOP_THRESHOLD = 0.20
# Red over blue density of red cells: 0.7 in two laboratories' fields, 1.24 in a third's, and the
# inverse if colours are swapped. So the nuclei, which absorb more red, must agree.
_SWAPPED = 1.15
_DARKEST = 1  # per cent of the pixels: nuclei, if there are any


def measure_stain(reader: WindowReader) -> StainProfile:
    """Measure the slide's stain on at most 64 windows at the screen's scale. It is deterministic.

    Steps: read evenly spaced windows; find clear glass over all of them; find red cells in each
    window, against its own brightest glass, so that uneven light does not matter; find the typical
    single red cell; set the screen's threshold above the red cells; collect warnings.
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
    weights = np.array([1, 1, -k])
    red_cell_stain = [np.percentile(red @ weights, 90) for red in red_cells]
    reached = float(np.median(red_cell_stain)) if red_cell_stain else 0.0
    stain = StainProfile(
        background, rbc_od, min(max(_BASE_THRESHOLD, reached + 0.05), _TOP_THRESHOLD)
    )
    return replace(stain, warnings=_warnings(stain, views, lattice.step_um))


def is_bright_field(stain: StainProfile) -> bool:
    """Return whether the background is light in every channel.

    Optical density means nothing on a dark background.
    """
    return min(stain.background_rgb) >= _DARK


def _sample_rects(lattice: Lattice) -> list[Rect]:
    """Return at most 8 x 8 evenly spaced windows, in lattice pixels."""
    side = min(_WINDOW_PX, max(16, _WINDOW_READ_PX // lattice.average))
    spans = []
    for size in (lattice.width, lattice.height):
        n = min(_WINDOWS, -(-size // side))
        starts = [
            round((size - side) * (i + 0.5) / n + side * (i + 0.5 - n / 2) / n) for i in range(n)
        ]
        spans.append([(max(s, 0), min(max(s, 0) + side, size)) for s in starts])
    return [(x0, y0, x1, y1) for y0, y1 in spans[1] for x0, x1 in spans[0]]


def _background(pixels: np.ndarray) -> RGB:
    """Return the colour of clear glass: the median of the brightest 3 % in green.

    The pure white or black fill of places that were not scanned is left out.
    """
    red, green, blue = pixels.T
    scanned = pixels[(red != green) | (red != blue) | ((red > 0) & (red < 255))]
    if len(scanned) < max(1, 0.02 * len(pixels)):
        fill = 0.0 if len(pixels) and np.median(pixels) == 0 else 255.0
        return (fill, fill, fill)
    bright = scanned[scanned[:, 1] >= np.percentile(scanned[:, 1], 97)]
    red_median, green_median, blue_median = np.median(bright, axis=0).tolist()
    return (red_median, green_median, blue_median)


def _is_stained(window: np.ndarray) -> bool:
    """Return whether a view contains anything, by the contrast of its green channel."""
    dark, light = np.percentile(window[..., 1], [10, 97])
    return bool(np.log10((light + 1) / (dark + 1)) >= MIN_CONTRAST_OD)


def _red_cell_densities(window: np.ndarray) -> np.ndarray:
    """Return the optical densities of a sample of red-cell pixels: float [R, 3].

    The result is empty if there are hardly any. Densities are relative to the window's own
    brightest 5 %. Pixels that absorb little blue are nuclear and are left out. Otsu's threshold on
    green separates the red cells from the rest, if they are dense enough.
    """
    pixels = window.reshape(-1, 3)
    green = pixels[:, 1]
    glass = np.median(pixels[green >= np.percentile(green, 100 * (1 - _GLASS_SHARE))], axis=0)
    density_of_value = -np.log10((np.arange(256)[:, None] + 1.0) / (glass + 1.0))
    density = np.stack([density_of_value[:, c].take(pixels[:, c]) for c in range(3)], 1)
    rest: np.ndarray = density[density @ np.array([1, 1, -2]) < 0.25]
    if len(rest) < 64:
        return rest[:0]
    threshold = threshold_otsu(np.clip(rest[:, 1], 0, 0.5))
    red: np.ndarray = rest[rest[:, 1] > threshold][::8]
    enough = len(red) > 0.01 * len(density) / 8 and np.median(red[:, 1]) > MIN_CONTRAST_OD
    return red if enough else red[:0]


def _typical_red_cell(
    medians: list[np.ndarray], views: list[np.ndarray], background: RGB, spacing_um: float
) -> RGB:
    """Return the optical density per channel of a single red cell, from the medians of windows.

    If much of the film is thick, most windows show red cells on top of each other. The least dense
    fifth of the windows then shows single cells. It is used only if far more round single cells are
    found with it.
    """
    typical = _median_of(medians, DEFAULT_RBC_OD)
    if len(medians) < 2:
        return typical
    green = np.array([median[1] for median in medians])
    least = [median for median in medians if median[1] <= np.percentile(green, 20)]
    if np.percentile(green, 90) < _THICKER * np.percentile(green, 10):
        return typical
    palest = _median_of(least, DEFAULT_RBC_OD)
    singles, palest_singles = (
        sum(
            len(rbc_diameters_um(view, spacing_um, StainProfile(background, od, _BASE_THRESHOLD)))
            for view in _subsample(views)
        )
        for od in (typical, palest)
    )
    return palest if palest_singles > _FAR_MORE * singles else typical


def _subsample(views: list[np.ndarray]) -> list[np.ndarray]:
    """Return at most 12 of the views, evenly spaced."""
    return views[:: -(-len(views) // 12)] if views else []


def _median_of(rows: Sequence[np.ndarray], default: RGB) -> RGB:
    """Return the median of [3] arrays per channel, or `default` if there are none."""
    if not len(rows):
        return default
    red, green, blue = np.median(np.asarray(rows, float), axis=0).tolist()
    return (red, green, blue)


def _warnings(stain: StainProfile, views: list[np.ndarray], spacing_um: float) -> tuple[str, ...]:
    """Return the reasons why the slide may be no smear, from up to 12 views.

    The reasons are a dark background, nothing stained, no colour, and no single red cells.
    """
    shown = tuple(round(v) for v in stain.background_rgb)
    if not is_bright_field(stain):
        return (
            f"no stained smear: the background is dark (RGB {shown} of 255), as in fluorescence",
        )
    if not views:
        return (
            f"no stained smear: nothing darker than the glass (RGB {shown}) in the places measured",
        )
    views = _subsample(views)
    if max(np.percentile(np.ptp(view, axis=-1), 99) for view in views) < _GREY:
        return (
            "no visible stain: the picture is grey (red, green and blue are equal); scan it in colour",
        )
    if _is_swapped(stain, views):
        return (
            "red cells absorb more red than blue and nuclei more blue than red: "
            "the file's colours may be in the order blue, green, red; export it as RGB",
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


def _is_swapped(stain: StainProfile, views: list[np.ndarray]) -> bool:
    """Return whether red cells and nuclei look as in blue-green-red order."""
    if stain.rbc_od_rgb[0] <= _SWAPPED * stain.rbc_od_rgb[2]:
        return False
    pixels = np.concatenate([view.reshape(-1, 3) for view in views])
    dark = pixels[pixels[:, 1] <= np.percentile(pixels[:, 1], _DARKEST)]
    red, _, blue = np.median((dark + 1.0) / (np.array(stain.background_rgb) + 1), axis=0).tolist()
    return bool(blue < red)  # transmitted: less is absorbed more
