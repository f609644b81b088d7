"""Classify places on the smear: monolayer, thick part, feathered edge, or bare glass.

The slide is divided into squares of about 40 µm: whole pixels of the screen's lattice, from the
slide's origin. The pixels that the screen reads are measured there in *layers*. A layer is the
green optical density of the slide's typical red cell. Density is relative to the square's own glass.
Pixels of nuclei are left out. The zone of a square is decided by its neighbourhood, the 5 x 5
squares around it (200 µm, about one field of an oil-immersion objective):

    cover    share of the pixels in red cells: half a layer or more
    overlap  share of that cover with stacked red cells: 1.5 layers or more

    blank      cover below 0.01, and next to no nuclei
    feathered  cover below 0.10
    thick      cover above 0.75, or overlap above 0.25
    monolayer  all else: red cells lie side by side, few are stacked

Evidence: 222 photographed monolayers of four laboratories (fields of PBC, Raabin, BCCD and Chula)
have a cover of 0.19 to 0.62 and an overlap of 0.00 to 0.17 (2nd to 98th percentile of each). Discs
placed at random, one layer thick on average, would overlap on 0.42 of their cover.

A zone depends on the slide alone, and not on regions, workers or order. The squares belong to the
slide, and the counts are whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..records import FilmSquares, Rect, Slide, StainProfile
from ..vocabulary import ZONES
from .lattice import lattice_of
from .screen_view import STEP_UM, SUPPORT_UM, ScreenView, blue_weight, nuclear_stain

BLANK, FEATHERED, MONOLAYER, THICK = range(len(ZONES))

# Largest side. It is below the screen's margin, so every square that a core reaches into lies in
# the core's window.
SQUARE_UM = 40.0
NEIGHBOURHOOD = 5  # squares each way
MIN_COVER, MAX_COVER, MAX_OVERLAP = 0.10, 0.75, 0.25
BLANK_COVER, BLANK_NUCLEI = 0.01, 0.001

# Bins from -1 layer (brighter than the slide's glass) to 4 layers and more.
_BINS_PER_LAYER, _BINS = 8, 40
# The thinnest 5 % of a square are its glass, so uneven light does not matter. If they are thicker
# than a layer (bin 16), the square shows no glass.
_GLASS_SHARE = 0.05
_GLASS_MOST = 16
_COVERED, _OVERLAID = _BINS_PER_LAYER // 2, _BINS_PER_LAYER * 3 // 2  # bins above the glass
_PALEST_OD = 0.03  # of a red cell; a smaller figure is replaced by this one
assert SQUARE_UM < SUPPORT_UM


@dataclass(frozen=True)
class SquareGrid:
    """The slide's squares, columns x rows of them. Those at the right and bottom edge are cut.

    Attributes
    ----------
    side
        Side of a square in pixels of the screen's lattice.
    side_px
        Side of a square in level-0 pixels.
    """

    side: int
    side_px: float
    columns: int
    rows: int


def square_grid(slide: Slide) -> SquareGrid:
    """Divide a slide into squares.

    At a lattice step of 0.4 µm a square has 100 pixels. A slide of 16 x 8 mm has 400 x 200 squares.
    """
    lattice = lattice_of(slide, STEP_UM)
    side = max(1, int(SQUARE_UM / lattice.step_um))
    return SquareGrid(
        side, side * lattice.step_px, -(-lattice.width // side), -(-lattice.height // side)
    )


def measure_squares(view: ScreenView, core: Rect, slide: Slide) -> FilmSquares:
    """Measure every square that `core` (level-0 pixels) reaches into, row-major.

    `view` is the view of the core's window.

    Steps: cut out the squares, separate nuclei from film, count each square's film pixels by
    thickness, find its glass, sum up.
    """
    grid, stain = square_grid(slide), view.stain
    left, right = _reached(core[0], core[2], grid.side_px, grid.columns)
    top, bottom = _reached(core[1], core[3], grid.side_px, grid.rows)
    if view.pixels.size == 0 or left >= right or top >= bottom:
        return FilmSquares.empty()
    place = _place_of(view, (left, top, right, bottom), grid.side)
    green, nuclear = view.pixels[place][..., 1], view.nuclear[place] - _nuclear_of_glass(stain)
    columns, count = right - left, (right - left) * (bottom - top)
    row, column = (np.arange(size) // grid.side for size in green.shape)
    square = row[:, None] * columns + column
    is_nucleus = nuclear > stain.nucleus_od_threshold * 4096
    bins = np.where(is_nucleus, np.uint8(_BINS), _bin_of_green(stain).take(green))
    layers = np.bincount(
        (square * (_BINS + 1) + bins).ravel(), minlength=count * (_BINS + 1)
    ).reshape(count, -1)
    nuclear_od = np.bincount(square[is_nucleus], nuclear[is_nucleus], count) / 4096
    film, covered, overlaid, single_layers = thickness_of(layers[:, :_BINS])
    single_od = single_layers * stain.rbc_od_rgb[1]
    j, i = np.divmod(np.arange(count), columns)
    places = np.stack([i + left, j + top], 1).astype(np.int32)
    film, covered, overlaid, nuclei = (
        a.astype(np.int32) for a in (film, covered, overlaid, layers[:, _BINS])
    )
    return FilmSquares(places, film, covered, overlaid, single_od, nuclei, nuclear_od)


def thickness_of(layers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count the pixels of squares by thickness.

    Parameters
    ----------
    layers
        Pixels per square and thickness bin, int [S, _BINS].

    Returns
    -------
    tuple of ndarray
        All, covered and overlaid pixels, int [S] each, and the sum of the layers of the pixels that
        are covered and not overlaid, float [S].
    >>> pixels = np.zeros((1, _BINS), int); pixels[0, [8, 16, 24]] = 60, 30, 10  # glass, one layer, two layers
    >>> [v.tolist() for v in thickness_of(pixels)]
    [[100], [40], [10], [30.0]]
    """
    total = layers.sum(axis=1)
    glass = np.minimum(
        (np.cumsum(layers, axis=1) < _GLASS_SHARE * total[:, None]).sum(axis=1), _GLASS_MOST
    )
    above = np.arange(_BINS) - glass[:, None]
    overlaid = layers * (above >= _OVERLAID)
    single = layers * ((above >= _COVERED) & (above < _OVERLAID))
    singles, overlaid = single.sum(axis=1), overlaid.sum(axis=1)
    return total, singles + overlaid, overlaid, (single * above).sum(axis=1) / _BINS_PER_LAYER


def classify_zones(
    film: np.ndarray, covered: np.ndarray, overlaid: np.ndarray, nuclei: np.ndarray
) -> np.ndarray:
    """Return the zone, uint8 [...], of neighbourhoods from their pixel counts, int [...] each.

    The counts are those of `FilmSquares`.
    """
    cover = covered / np.maximum(film, 1)
    overlap = overlaid / np.maximum(covered, 1)
    zone = np.where((cover > MAX_COVER) | (overlap > MAX_OVERLAP), THICK, MONOLAYER)
    zone = np.where(cover < MIN_COVER, FEATHERED, zone)
    blank = (cover < BLANK_COVER) & (nuclei <= BLANK_NUCLEI * (film + nuclei))
    return np.where(blank, BLANK, zone).astype(np.uint8)


@dataclass(frozen=True)
class ZoneMap:
    """The zone of every square, uint8 [rows, columns]."""

    zones: np.ndarray
    side_px: float

    def zones_at(self, points_xy: np.ndarray) -> np.ndarray:
        """Return the zones, uint8 [N], of cells at points [N, 2] (level-0 pixels).

        A cell in a blank square counts as in the feathered edge.
        """
        rows, columns = self.zones.shape
        if not rows or not columns:
            return np.full(len(points_xy), FEATHERED, np.uint8)
        i, j = np.floor(points_xy / self.side_px).astype(int).T
        zones: np.ndarray = np.maximum(
            self.zones[np.clip(j, 0, rows - 1), np.clip(i, 0, columns - 1)], FEATHERED
        )
        return zones

    def areas_in(self, rect: Rect) -> np.ndarray:
        """Return the area of each of `ZONES` in a rectangle: float64 [4], in level-0 pixels.

        The areas sum to the area of the rectangle.
        """
        x0, y0, x1, y1 = rect
        areas = np.zeros(len(ZONES))
        rows, columns = self.zones.shape
        widths, i = _parts(x0, x1, self.side_px, columns)
        heights, j = _parts(y0, y1, self.side_px, rows)
        if len(i) and len(j):
            np.add.at(areas, self.zones[np.ix_(j, i)], heights[:, None] * widths)
        areas[BLANK] += (x1 - x0) * (y1 - y0) - areas.sum()
        return areas


def zone_map(
    slide: Slide,
    parts: Iterable[FilmSquares],
    lost: Iterable[Rect] = (),
    damaged: Iterable[Rect] = (),
) -> ZoneMap:
    """Compute the zone map of a slide from the squares of its regions.

    A square that two regions measured has equal counts in both. A square that no region measured is
    bare glass, because the plan leaves out only glass. It counts with its whole area, so the map
    does not depend on the regions. Squares of `lost` cores count as nothing, because nothing is
    known of them. The same holds for squares that a `damaged` place reaches into.
    """
    grid, lattice = square_grid(slide), lattice_of(slide, STEP_UM)
    counts = np.zeros((4, grid.rows, grid.columns), np.int32)
    widths, heights = (
        np.diff(np.minimum(np.arange(n + 1) * grid.side, size))
        for n, size in ((grid.columns, lattice.width), (grid.rows, lattice.height))
    )
    counts[0] = heights[:, None] * widths

    def clear(rects: Iterable[Rect]) -> None:
        for x0, y0, x1, y1 in rects:
            rows = slice(*_reached(y0, y1, grid.side_px, grid.rows))
            columns = slice(*_reached(x0, x1, grid.side_px, grid.columns))
            counts[:, rows, columns] = 0

    clear(lost)
    for squares in parts:
        i, j = squares.places.T
        counts[:, j, i] = squares.film, squares.covered, squares.overlaid, squares.nuclei
    clear(damaged)
    for axis in (1, 2):
        counts = ndimage.correlate1d(counts, np.ones(NEIGHBOURHOOD, int), axis, mode="constant")
    return ZoneMap(classify_zones(*counts), grid.side_px)


def film_statistics(squares: FilmSquares) -> tuple[float, float, float, float]:
    """Return cover, overlap, stain contrast and nuclear contrast of some squares together.

    A value is NaN if nothing is stained. The stain contrast is the mean green optical density,
    above the glass, of single red cells. The nuclear contrast is the mean nuclear stain (see
    `slides.screen_view`) of the pixels of nuclei.
    """
    film, covered, overlaid, single_od, nuclei, nuclear_od = (
        float(a.sum(dtype=np.float64))
        for a in (
            squares.film,
            squares.covered,
            squares.overlaid,
            squares.single_od,
            squares.nuclei,
            squares.nuclear_od,
        )
    )
    return (
        _ratio(covered, film),
        _ratio(overlaid, covered),
        _ratio(single_od, covered - overlaid),
        _ratio(nuclear_od, nuclei),
    )


def _ratio(part: float, whole: float) -> float:
    """Return a ratio, or NaN if the whole is 0."""
    return part / whole if whole else math.nan


def _place_of(view: ScreenView, squares: Rect, side: int) -> tuple[slice, slice]:
    """Return where in the view a rectangle of squares lies, up to the lattice's end."""
    left, top, right, bottom = (edge * side for edge in squares)
    right, bottom = min(right, view.lattice.width), min(bottom, view.lattice.height)
    x0, y0 = view.rect[:2]
    return np.s_[top - y0 : bottom - y0, left - x0 : right - x0]


def _reached(low: float, high: float, side_px: float, count: int) -> tuple[int, int]:
    """Return the first square that low..high reaches into, and the index after the last one."""
    return max(0, math.floor(low / side_px)), min(count, math.ceil(high / side_px))


def _parts(low: float, high: float, side_px: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the length of low..high in each square that it reaches into, and their indices."""
    k = np.arange(*_reached(low, high, side_px, count))
    return np.minimum(high, (k + 1) * side_px) - np.maximum(low, k * side_px), k


def _nuclear_of_glass(stain: StainProfile) -> int:
    """Return the nuclear stain of the slide's glass, in 1/4096."""
    glass = np.clip(np.rint([[stain.background_rgb]]), 0, 255).astype(np.uint8)
    return int(nuclear_stain(glass, blue_weight(stain))[0, 0])


def _bin_of_green(stain: StainProfile) -> np.ndarray:
    """Return the bin of each value of the green channel: uint8 [256]."""
    density = -np.log10((np.arange(256) + 1) / (stain.background_rgb[1] + 1))
    layers = density / max(stain.rbc_od_rgb[1], _PALEST_OD)
    return np.clip(np.floor((layers + 1) * _BINS_PER_LAYER), 0, _BINS - 1).astype(np.uint8)
