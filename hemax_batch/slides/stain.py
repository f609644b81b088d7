"""How a slide is stained.

The stain is measured once per slide, on a bounded sample, so that every region and worker uses the same figures.
Optical density is -log10((v + 1) / (background + 1)) per channel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from skimage.filters import threshold_otsu

from ..records import StainProfile
from .lattice import Lattice, lattice_of, read_lattice
from .quality import MIN_CONTRAST_OD, rbc_diameters_um
from .screening import STEP_UM, blue_weight

_WINDOWS = 8  # the stain is measured in at most 8 x 8 windows, evenly spaced,
_WINDOW_PX = 256  # of at most so many lattice pixels each way
_WINDOW_READ_PX = 768  # and, where there is no pyramid, of so many pixels of the file
_GLASS_SHARE = 0.05  # the brightest pixels of a view with red cells are glass: over 5 % of any smear but a thick one
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
    return bool(np.log10((light + 1) / (dark + 1)) >= MIN_CONTRAST_OD)


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
    enough = len(red) > 0.01 * len(density) / 8 and np.median(red[:, 1]) > MIN_CONTRAST_OD
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
            for view in _subsample(views)
        )
        for od in (typical, palest)
    )
    return palest if more > _FAR_MORE * singles else typical


def _subsample(views: list[np.ndarray]) -> list[np.ndarray]:
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
    views = _subsample(views)
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
