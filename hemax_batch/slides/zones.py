"""Where on the smear a place lies: in the monolayer, the thick part, the feathered edge, or on bare glass.

The slide is paved with squares of about 40 µm, whole pixels of the screen's lattice, from the slide's origin. What the
screen reads anyway is measured there in *layers*: green optical density above the square's own glass, in units of the
slide's typical red cell; pixels of nuclei are left aside. A square is judged by its neighbourhood, the 5 x 5 squares
round it (200 µm, about one field of an oil-immersion objective), whose pixels are counted together:

    cover    share of them in red cells: half a layer or more
    overlap  share of that cover where red cells lie on one another: 1.5 layers or more

    blank      cover below 0.01, and next to no nuclei
    feathered  cover below 0.10
    thick      cover above 0.75, or overlap above 0.25
    monolayer  all else: red cells side by side, few on one another

By these definitions 222 photographed monolayers of four laboratories (fields of PBC, Raabin, BCCD and Chula, the 2nd to
98th percentile of each) have a cover of 0.19 to 0.62 and an overlap of 0.00 to 0.17; discs dropped at random, one layer
thick on average, would overlap on 0.42 of their cover. A zone depends on the slide alone, not on regions, workers or
order: the squares are the slide's, and what is counted together are whole numbers.
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
from .screening import STEP_UM, SUPPORT_UM, ScreenView, blue_weight, nuclear_stain

BLANK, FEATHERED, MONOLAYER, THICK = range(len(ZONES))

SQUARE_UM = 40.0  # at most, and less than the screen's margin: a square that a core reaches into lies in its window
NEIGHBOURHOOD = 5  # squares each way
MIN_COVER, MAX_COVER, MAX_OVERLAP = 0.10, 0.75, 0.25
BLANK_COVER, BLANK_NUCLEI = 0.01, 0.001

_BINS_PER_LAYER, _BINS = (
    8,
    40,
)  # from -1 layer (brighter than the slide's glass) to 4 layers and more
_GLASS_SHARE = 0.05  # the thinnest 5 % of a square are glass: so uneven light does not matter,
_GLASS_MOST = (
    16  # unless they are more than a layer thick (this bin): then there is none to be seen
)
_COVERED, _OVERLAID = _BINS_PER_LAYER // 2, _BINS_PER_LAYER * 3 // 2  # bins above the glass
_PALEST_OD = 0.03  # of a red cell; what is said to be paler is not measured by it
assert SQUARE_UM < SUPPORT_UM


@dataclass(frozen=True)
class SquareGrid:
    """The slide's squares: columns x rows of them, `side` pixels of the screen's lattice, `side_px` level-0 pixels.

    Those at the right and bottom edge are cut.
    """

    side: int
    side_px: float
    columns: int
    rows: int


def square_grid(slide: Slide) -> SquareGrid:
    """The squares of a slide.

    At a lattice step of 0.4 µm a square has 100 pixels; a slide of 16 x 8 mm has 400 x 200 squares.
    """
    lattice = lattice_of(slide, STEP_UM)
    side = max(1, int(SQUARE_UM / lattice.step_um))
    return SquareGrid(
        side, side * lattice.step_px, -(-lattice.width // side), -(-lattice.height // side)
    )


def measure_squares(view: ScreenView, core: Rect, slide: Slide) -> FilmSquares:
    """Measure every square that `core` (level-0 pixels) reaches into, row-major; `view` is of the core's window.

    Steps: cut out the squares, part nuclei from film, count each square's film by thickness, find its glass, sum up.
    """
    paving, stain = square_grid(slide), view.stain
    left, right = _reached(core[0], core[2], paving.side_px, paving.columns)
    top, bottom = _reached(core[1], core[3], paving.side_px, paving.rows)
    if view.pixels.size == 0 or left >= right or top >= bottom:
        return FilmSquares.empty()
    place = _place_of(view, (left, top, right, bottom), paving.side)
    green, nuclear = view.pixels[place][..., 1], view.nuclear[place] - _nuclear_of_glass(stain)
    columns, count = right - left, (right - left) * (bottom - top)
    row, column = (np.arange(size) // paving.side for size in green.shape)
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
    """Of squares' pixels by thickness, int [S, _BINS]: how many there are, how many are covered, how many overlaid (int
    [S] each), and the layers that the covered and not overlaid ones sum up to (float [S]).

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
    """The zone, uint8 [...], of neighbourhoods by their pixels, int [...] each (see `FilmSquares`)."""
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
        """Zones, uint8 [N], of points [N, 2] (level-0 pixels) where cells lie; blank is feathered there."""
        rows, columns = self.zones.shape
        if not rows or not columns:
            return np.full(len(points_xy), FEATHERED, np.uint8)
        i, j = np.floor(points_xy / self.side_px).astype(int).T
        return np.maximum(
            self.zones[np.clip(j, 0, rows - 1), np.clip(i, 0, columns - 1)], FEATHERED
        )

    def areas_in(self, rect: Rect) -> np.ndarray:
        """Area of each of `ZONES` in a rectangle, in level-0 pixels: float64 [4], which sum to its area."""
        x0, y0, x1, y1 = rect
        areas = np.zeros(len(ZONES))
        rows, columns = self.zones.shape
        wide, i = _parts(x0, x1, self.side_px, columns)
        high, j = _parts(y0, y1, self.side_px, rows)
        if len(i) and len(j):
            np.add.at(areas, self.zones[np.ix_(j, i)], high[:, None] * wide)
        areas[BLANK] += (x1 - x0) * (y1 - y0) - areas.sum()
        return areas


def zone_map(
    slide: Slide,
    parts: Iterable[FilmSquares],
    lost: Iterable[Rect] = (),
    damaged: Iterable[Rect] = (),
) -> ZoneMap:
    """The map of a slide from the squares of its regions; a square that two of them measured is the same in both.

    A square that none measured is bare glass, for only that is left out of the plan: how much of it is measured hangs on
    the regions, and must not tell. Of cores that were `lost` nothing is known, and their squares count for nothing;
    nor do those that a `damaged` tile reaches into.
    """
    paving, lattice = square_grid(slide), lattice_of(slide, STEP_UM)
    counts = np.zeros((4, paving.rows, paving.columns), np.int32)
    wide, high = (
        np.diff(np.minimum(np.arange(n + 1) * paving.side, size))
        for n, size in ((paving.columns, lattice.width), (paving.rows, lattice.height))
    )
    counts[0] = high[:, None] * wide

    def count_nothing(rects: Iterable[Rect]) -> None:
        for x0, y0, x1, y1 in rects:
            rows = slice(*_reached(y0, y1, paving.side_px, paving.rows))
            columns = slice(*_reached(x0, x1, paving.side_px, paving.columns))
            counts[:, rows, columns] = 0

    count_nothing(lost)
    for squares in parts:
        i, j = squares.places.T
        counts[:, j, i] = squares.film, squares.covered, squares.overlaid, squares.nuclei
    count_nothing(damaged)
    for axis in (1, 2):
        counts = ndimage.correlate1d(counts, np.ones(NEIGHBOURHOOD, int), axis, mode="constant")
    return ZoneMap(classify_zones(*counts), paving.side_px)


def film_statistics(squares: FilmSquares) -> tuple[float, float, float, float]:
    """Of some squares together: cover, overlap, stain contrast, nuclear contrast; NaN where nothing is stained.

    stain contrast    mean green optical density, above the glass, of what single red cells cover
    nuclear contrast  mean nuclear stain (see slides.screening) of the pixels of nuclei
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
    return part / whole if whole else math.nan


def _place_of(view: ScreenView, squares: Rect, side: int) -> tuple[slice, slice]:
    """Where in the view a rectangle of squares lies, up to the lattice's end."""
    left, top, right, bottom = (edge * side for edge in squares)
    right, bottom = min(right, view.lattice.width), min(bottom, view.lattice.height)
    x0, y0 = view.rect[:2]
    return np.s_[top - y0 : bottom - y0, left - x0 : right - x0]


def _reached(low: float, high: float, side_px: float, count: int) -> tuple[int, int]:
    """The first square that low..high reaches into, and the one after the last."""
    return max(0, math.floor(low / side_px)), min(count, math.ceil(high / side_px))


def _parts(low: float, high: float, side_px: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """How much of low..high lies in each square that it reaches into, and their indices."""
    k = np.arange(*_reached(low, high, side_px, count))
    return np.minimum(high, (k + 1) * side_px) - np.maximum(low, k * side_px), k


def _nuclear_of_glass(stain: StainProfile) -> np.int32:
    """Nuclear stain of the slide's glass, in 1/4096."""
    glass = np.clip(np.rint([[stain.background_rgb]]), 0, 255).astype(np.uint8)
    return nuclear_stain(glass, blue_weight(stain))[0, 0]


def _bin_of_green(stain: StainProfile) -> np.ndarray:
    """The bin of each value of the green channel: uint8 [256]."""
    density = -np.log10((np.arange(256) + 1) / (stain.background_rgb[1] + 1))
    layers = density / max(stain.rbc_od_rgb[1], _PALEST_OD)
    return np.clip(np.floor((layers + 1) * _BINS_PER_LAYER), 0, _BINS - 1).astype(np.uint8)
