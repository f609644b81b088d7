"""Where on the smear a place lies: in the monolayer, the thick part, the feathered edge, or on bare glass.

The slide is paved with squares of about 40 µm, whole pixels of the screen's lattice, from the slide's origin. In each,
what the screen reads anyway is sorted by *layers*, the green optical density above the glass in units of the slide's
typical red cell; pixels of nuclei are left aside. A square is judged by its neighbourhood, the 5 x 5 squares round it
(200 µm, about one field of an oil-immersion objective, some hundred red cells), whose pixels are counted together:

    cover    share of the neighbourhood in red cells: half a layer or more above its own glass
    overlap  share of that cover where red cells lie on one another: 1.5 layers or more

    blank      cover below 0.01, and next to no nuclei
    feathered  cover below 0.10
    thick      cover above 0.75, or overlap above 0.25
    monolayer  all else: red cells side by side, few on one another

Measured with these definitions on photographed monolayers of four laboratories (222 fields of PBC, Raabin, BCCD and
Chula; the 2nd to the 98th percentile of each): cover 0.19 to 0.62, overlap 0.00 to 0.17. Discs dropped at random with one
layer on average would overlap on 0.42 of their cover. Judged so, a place's zone depends on the slide alone, not on
regions, workers or order. The sums are of whole numbers, hence exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..records import Rect, Slide, Squares, StainProfile
from .lattice import Lattice, lattice_of
from .screen import STEP_UM, SUPPORT_UM, View, blue_weight, nuclear_stain

BLANK, FEATHERED, MONOLAYER, THICK = range(4)
ZONES = ("blank", "feathered", "monolayer", "thick")

SQUARE_UM = 40.0  # at most; a square that a core reaches into lies whole in its window
AROUND = 5  # squares each way
MIN_COVER, MAX_COVER, MAX_OVERLAP = 0.10, 0.75, 0.25
BLANK_COVER, BLANK_NUCLEI = 0.01, 0.001

BINS_PER_LAYER, BINS = 8, 40  # from -1 layer (brighter than the glass) to 4 layers and more
_GLASS_SHARE = 0.05  # the thinnest 5 % of a neighbourhood are glass,
_GLASS_MOST = 12  # unless they are over half a layer thick (a bin): then there is none to be seen
_COVERED, _OVERLAID = BINS_PER_LAYER // 2, BINS_PER_LAYER * 3 // 2  # bins above the glass
_ROWS_AT_ONCE = 64
assert SQUARE_UM < SUPPORT_UM


@dataclass(frozen=True)
class Paving:
    """The slide's squares: `side` lattice pixels each, `side_px` level-0 pixels; `columns` x `rows` of them."""

    lattice: Lattice
    side: int
    side_px: float
    columns: int
    rows: int


def paving_of(slide: Slide) -> Paving:
    """The squares of a slide; those at its right and bottom edge are cut."""
    lattice = lattice_of(slide, STEP_UM)
    side = max(1, int(SQUARE_UM / lattice.step_um))
    return Paving(lattice, side, side * lattice.step_px, -(-lattice.width // side), -(-lattice.height // side))


def measure_squares(view: View, core: Rect, slide: Slide, stain: StainProfile) -> Squares:
    """Measure every square that `core` (level-0 pixels) reaches into, row-major; `view` is of the core's window."""
    paving = paving_of(slide)
    left, right = _reached(core[0], core[2], paving.side_px, paving.columns)
    top, bottom = _reached(core[1], core[3], paving.side_px, paving.rows)
    if view.pixels.size == 0 or left >= right or top >= bottom:
        return Squares.empty()
    x0, y0 = left * paving.side, top * paving.side
    x1, y1 = min(right * paving.side, paving.lattice.width), min(bottom * paving.side, paving.lattice.height)
    pixels = view.pixels[y0 - view.rect[1] : y1 - view.rect[1], x0 - view.rect[0] : x1 - view.rect[0]]
    columns, rows = right - left, bottom - top
    square = (np.arange(y1 - y0) // paving.side * columns)[:, None] + np.arange(x1 - x0) // paving.side
    k = blue_weight(stain)
    glass = nuclear_stain(np.clip(np.rint([[stain.background_rgb]]), 0, 255).astype(np.uint8), k)[0, 0]
    nuclear = nuclear_stain(pixels, k) - glass
    is_nucleus = nuclear > stain.nucleus_od_threshold * 4096
    bins = np.where(is_nucleus, np.uint8(BINS), _bin_of_green(stain)[pixels[..., 1]])
    counts = np.bincount((square * (BINS + 1) + bins).ravel(), minlength=columns * rows * (BINS + 1))
    counts = counts.reshape(-1, BINS + 1).astype(np.uint16)
    nuclear_od = np.bincount(square[is_nucleus], nuclear[is_nucleus], columns * rows)
    j, i = np.divmod(np.arange(columns * rows), columns)
    return Squares(np.stack([i + left, j + top], 1).astype(np.int32), counts[:, :BINS], counts[:, BINS], nuclear_od)


def _reached(low: float, high: float, side_px: float, count: int) -> tuple[int, int]:
    """The first square that low..high reaches into, and the one after the last."""
    return max(0, math.floor(low / side_px)), min(count, math.ceil(high / side_px))


def _bin_of_green(stain: StainProfile) -> np.ndarray:
    """The bin of each value of the green channel: uint8 [256]."""
    density = -np.log10((np.arange(256) + 1) / (stain.background_rgb[1] + 1))
    layers = density / max(stain.rbc_od_rgb[1], 0.03)
    return np.clip(np.floor((layers + 1) * BINS_PER_LAYER), 0, BINS - 1).astype(np.uint8)


def cover_and_overlap(layers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cover and overlap, float [...], of pixels counted by layers, int [..., BINS]; 0 where there are none.

    The glass is the bin in which the thinnest 5 % end.

    >>> counts = np.zeros(BINS, int); counts[[8, 16, 24]] = 60, 30, 10  # glass, one layer, two layers
    >>> [round(float(v), 2) for v in cover_and_overlap(counts)]
    [0.4, 0.25]
    """
    total = layers.sum(axis=-1)
    glass = np.minimum((np.cumsum(layers, axis=-1) < _GLASS_SHARE * total[..., None]).sum(axis=-1), _GLASS_MOST)
    above = np.arange(BINS) - glass[..., None]
    covered = (layers * (above >= _COVERED)).sum(axis=-1)
    overlaid = (layers * (above >= _OVERLAID)).sum(axis=-1)
    return covered / np.maximum(total, 1), overlaid / np.maximum(covered, 1)


def classify(layers: np.ndarray, nuclear: np.ndarray) -> np.ndarray:
    """The zone, uint8 [...], of neighbourhoods: pixels by layers, int [..., BINS], and pixels of nuclei, int [...]."""
    cover, overlap = cover_and_overlap(layers)
    nuclei = nuclear / np.maximum(layers.sum(axis=-1) + nuclear, 1)
    zone = np.where((cover > MAX_COVER) | (overlap > MAX_OVERLAP), THICK, MONOLAYER)
    zone = np.where(cover < MIN_COVER, FEATHERED, zone)
    return np.where((cover < BLANK_COVER) & (nuclei < BLANK_NUCLEI), BLANK, zone).astype(np.uint8)


@dataclass(frozen=True)
class ZoneMap:
    """The zone of every square, uint8 [rows, columns]; blank where none was measured, for only glass is passed over."""

    zones: np.ndarray
    side_px: float

    def at(self, points_xy: np.ndarray) -> np.ndarray:
        """Zones, uint8 [N], of points [N, 2] (level-0 pixels) where cells lie; so blank counts as feathered."""
        rows, columns = self.zones.shape
        if not rows or not columns:
            return np.full(len(points_xy), MONOLAYER, np.uint8)
        i, j = np.floor(points_xy / self.side_px).astype(int).T
        return np.maximum(self.zones[np.clip(j, 0, rows - 1), np.clip(i, 0, columns - 1)], FEATHERED)

    def areas_in(self, rect: Rect) -> np.ndarray:
        """Area of each of `ZONES` in a rectangle, in level-0 pixels: float64 [4], which sum to its area."""
        x0, y0, x1, y1 = rect
        areas = np.zeros(len(ZONES))
        rows, columns = self.zones.shape
        wide, i = _overlaps(x0, x1, self.side_px, columns)
        high, j = _overlaps(y0, y1, self.side_px, rows)
        weights = high[:, None] * wide[None, :]
        np.add.at(areas, self.zones[np.ix_(j, i)], weights)
        areas[BLANK] += (x1 - x0) * (y1 - y0) - weights.sum()
        return areas


def _overlaps(low: float, high: float, side_px: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """How much of low..high lies in each square it reaches into, and their indices; the last one goes on for ever."""
    k = np.arange(*_reached(low, high, side_px, count))
    ends = np.where(k == count - 1, np.maximum(high, (k + 1) * side_px), (k + 1) * side_px)
    return np.minimum(high, ends) - np.maximum(low, k * side_px), k


def zone_map(slide: Slide, parts: Iterable[Squares]) -> ZoneMap:
    """The map of a slide from the squares of its regions; a square that two of them measured is the same in both.

    Steps: lay the squares out, count each one's 5 x 5 together, classify; in stripes, so that memory stays small.
    """
    paving = paving_of(slide)
    counts = np.zeros((paving.rows, paving.columns, BINS + 1), np.uint16)
    for squares in parts:
        if len(squares.places):
            i, j = squares.places.T
            counts[j, i, :BINS], counts[j, i, BINS] = squares.layers, squares.nuclear
    zones = np.zeros((paving.rows, paving.columns), np.uint8)
    reach, ones = AROUND // 2, np.ones(AROUND, int)
    for top in range(0, paving.rows, _ROWS_AT_ONCE):
        bottom = min(top + _ROWS_AT_ONCE, paving.rows)
        above = max(top - reach, 0)
        stripe = counts[above : bottom + reach].astype(np.int32)
        for axis in (0, 1):
            stripe = ndimage.correlate1d(stripe, ones, axis, mode="constant")
        stripe = stripe[top - above : bottom - above]
        zones[top:bottom] = classify(stripe[..., :BINS], stripe[..., BINS])
    return ZoneMap(zones, paving.side_px)


def film_figures(squares: Squares, stain: StainProfile) -> tuple[float, float, float, float]:
    """Of some squares together: cover, overlap, stain contrast and nuclear contrast; NaN where nothing is stained.

    stain contrast    mean green optical density, above the glass, of what is covered and not overlaid: of single red cells
    nuclear contrast  mean nuclear stain (slides.screen) of the pixels of nuclei
    """
    nan = float("nan")
    if not len(squares.places):
        return nan, nan, nan, nan
    layers = squares.layers.sum(axis=0, dtype=np.int64)
    cover, overlap = (float(v) for v in cover_and_overlap(layers))
    glass = min(int((np.cumsum(layers) < _GLASS_SHARE * layers.sum()).sum()), _GLASS_MOST)
    single = layers[glass + _COVERED : glass + _OVERLAID]
    thickness = (np.arange(len(single)) + _COVERED) / BINS_PER_LAYER
    contrast = float((single * thickness).sum() / single.sum()) * stain.rbc_od_rgb[1] if single.sum() else nan
    nuclei = int(squares.nuclear.sum(dtype=np.int64))
    return cover, overlap, contrast, float(squares.nuclear_od.sum()) / nuclei / 4096 if nuclei else nan
