"""A whole synthetic smear, drawn window by window; a window depends on seed and position only.

Nucleated cells are assigned to blocks of BLOCK_UM, each with its own random generator. A cell too
near a cell of higher priority, in its own or the next block, is left out (Matérn's second
process). Neighbouring blocks therefore agree. Red cells lie on an endless torus, thinned by slow
waves of density and by the film's border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import UsageError
from ..vocabulary import CLASS_NAMES
from .cell_recipes import RECIPES
from .compose import add_noise, composite
from .platelet import paint_platelet, paint_speck
from .red_cell import (
    FOCUS_STEPS_UM,
    THICKNESS,
    VARIANTS,
    red_cell_layout,
    red_cells_in,
    stamp_red_cells,
)
from .stain import STAINS, Stain
from .white_cell import (
    RBC_UM,
    PaintedCell,
    SmearCell,
    draw_diameter_um,
    paint_cell,
)

_RectUm = tuple[float, float, float, float]  # x0, y0, x1, y1 in µm

#: A mild left shift with all ten white-cell types and some nucleated red cells, in per cent.
DEFAULT_MIXTURE: dict[str, float] = {
    "blast": 2, "promyelocyte": 3, "myelocyte": 5, "metamyelocyte": 6, "band_neutrophil": 11,
    "segmented_neutrophil": 38, "eosinophil": 5, "basophil": 3, "monocyte": 8, "lymphocyte": 16, "erythroblast": 3,
}  # fmt: skip
BLOCK_UM = 192.0
#: The image is drawn in squares of this size.
WINDOW_PX = 1024
#: Largest extent of a cell from its centre, in diameters.
_REACH = 0.58
_GAP_UM = 0.6
#: Largest diameter of anything painted.
_WIDEST_UM = 30.0
_PLATELETS_PER_UM2 = 0.0009
_SPECKS_PER_UM2 = 0.0003


@dataclass(frozen=True)
class PlacedCell:
    """A cell that will be painted; `key` seeds its generator, so every window shows the same cell.

    `kind` is a class or "speck".
    """

    key: tuple[int, ...]
    kind: str
    x_um: float
    y_um: float
    diameter_um: float
    priority: float = 0.0


def draw_smear(
    seed: int,
    width: int,
    height: int,
    mpp: float,
    white_per_mm2: float = 150.0,
    mixture: dict[str, float] | None = None,
    stain: str | Stain = "wright-giemsa",
    margin_um: float | None = None,
) -> Smear:
    """Define a synthetic smear. `Smear.window` and `Smear.cells` draw it on demand.

    Parameters
    ----------
    seed
        Seed of all random numbers.
    width, height, mpp
        Size in pixels and µm per pixel.
    white_per_mm2
        Density of nucleated cells.
    mixture
        Weights of the nucleated classes in any unit; DEFAULT_MIXTURE if None.
    stain
        A name in STAINS, or a Stain.
    margin_um
        Width of clear glass around the film; 4 % of the shorter side if None.

    Raises
    ------
    UsageError
        A class or the stain is unknown.
    """
    mixture = DEFAULT_MIXTURE if mixture is None else mixture
    for name in mixture:
        if name not in RECIPES:
            raise UsageError(
                f"mixture: {name!r} is no nucleated class; known: {', '.join(RECIPES)}"
            )
    if isinstance(stain, str) and stain not in STAINS:
        raise UsageError(f"stain {stain!r} is unknown; known: {', '.join(STAINS)}")
    stain = STAINS[stain] if isinstance(stain, str) else stain
    margin_um = 0.04 * min(width, height) * mpp if margin_um is None else margin_um
    return Smear(seed, width, height, mpp, white_per_mm2, mixture, stain, margin_um)


class Smear:
    """A smear that is drawn on demand. Memory holds the requested squares and the last blocks."""

    def __init__(
        self,
        seed: int,
        width: int,
        height: int,
        mpp: float,
        white_per_mm2: float,
        mixture: dict[str, float],
        stain: Stain,
        margin_um: float,
    ) -> None:
        self.seed, self.width, self.height = int(seed), int(width), int(height)
        self.mpp = float(mpp)
        self.stain, self.margin_um = stain, margin_um
        self._names = [n for n in CLASS_NAMES if mixture.get(n, 0) > 0]
        weights = np.array([mixture[n] for n in self._names], float)
        self._weights = weights / weights.sum() if len(weights) else weights
        self._per_um2 = _before_thinning(white_per_mm2 * 1e-6)
        rng = np.random.default_rng([self.seed, 0])
        self._density, self._focus, self._film = (
            _SmoothField(rng, lengths) for lengths in ((250, 900), (400, 1500), (60, 700))
        )
        self._red_shift_um = rng.uniform(0, 1000, 2)
        self._candidates = lru_cache(maxsize=256)(self._draw_candidates)
        self._paint = lru_cache(maxsize=256)(self._paint_place)

    def window(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Draw pixels uint8 [y1 - y0, x1 - x0, 3]; they do not depend on the window."""
        out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        for ya, yb in _spans(y0, y1):
            for xa, xb in _spans(x0, x1):
                out[ya - y0 : yb - y0, xa - x0 : xb - x0] = self._draw(xa, ya, xb, yb)
        return out

    def cells(
        self, x0: int = 0, y0: int = 0, x1: int | None = None, y1: int | None = None
    ) -> Iterator[SmearCell]:
        """Yield the nucleated cells and platelets whose centres lie in a half-open window.

        Cells are whole, also at the window's border.
        """
        right, bottom = x1 or self.width, y1 or self.height
        rect_um = (x0 * self.mpp, y0 * self.mpp, right * self.mpp, bottom * self.mpp)
        for place in self._places(rect_um):
            inside = rect_um[0] <= place.x_um < rect_um[2] and rect_um[1] <= place.y_um < rect_um[3]
            cell = self._paint(place).cell if inside else None
            if cell is not None:
                yield cell

    # --- drawing ------------------------------------------------------------------------------------------------

    def _draw(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Draw one square: film and red cells as thickness, painted cells over them, noise."""
        m = _WIDEST_UM / 2
        rect_um = (x0 * self.mpp - m, y0 * self.mpp - m, x1 * self.mpp + m, y1 * self.mpp + m)
        places = list(self._places(rect_um))
        plane = self._film_plane(x0, y0, x1, y1)
        self._stamp_reds(plane, x0, y0, rect_um, places)
        light = composite(plane, x0, y0, [self._paint(p) for p in places], self.stain)
        return add_noise(light, self.stain.noise, x0, y0)

    def _film_plane(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Draw the plasma's faint stain in slow waves: int16 [h, w]."""
        x_um, y_um = np.arange(x0, x1) * self.mpp, np.arange(y0, y1) * self.mpp
        thickness: np.ndarray = THICKNESS * 0.05 * (self._density.on_grid(x_um, y_um) + 0.5)
        rounded: np.ndarray = np.rint(thickness)
        return rounded.astype(np.int16)

    def _stamp_reds(
        self, plane: np.ndarray, x0: int, y0: int, rect_um: _RectUm, places: list[PlacedCell]
    ) -> None:
        """Stamp red cells on the film, clear of nucleated cells, each in its focus."""
        layout = red_cell_layout(self.seed % 4)
        xy, index = red_cells_in(layout, rect_um, self._red_shift_um)
        wanted = (0.72 + 0.5 * self._density.at(xy)) * np.clip(self.film(xy), 0, 1)
        keep = layout.rank[index] < wanted
        for p in places:
            if p.kind in RECIPES:
                keep &= (
                    np.hypot(xy[:, 0] - p.x_um, xy[:, 1] - p.y_um)
                    > p.diameter_um / 2 + 0.3 * RBC_UM
                )
        xy, index = xy[keep], index[keep]
        blur = np.abs(self._blur_um(xy) + 0.25 * (layout.rank[index] - 0.5))
        variant = (
            layout.variant[index] + np.floor(xy[:, 0] + self._red_shift_um[0]).astype(int) * 7
        ) % VARIANTS
        focus = np.searchsorted(FOCUS_STEPS_UM, blur).clip(0, len(FOCUS_STEPS_UM) - 1)
        stamp_red_cells(plane, x0, y0, xy / self.mpp, variant, focus, self.mpp)

    def film(self, xy_um: np.ndarray) -> np.ndarray:
        """Return the film's thickness at points [n, 2].

        It is below 0 on clear glass and above 1 well inside the film.
        """
        x, y = xy_um[:, 0], xy_um[:, 1]
        edge = np.minimum(
            np.minimum(x, self.width * self.mpp - x), np.minimum(y, self.height * self.mpp - y)
        )
        if self.margin_um <= 0:
            return np.ones(len(xy_um))
        thickness: np.ndarray = (edge / self.margin_um - 1 - 0.8 * self._film.at(xy_um)) * 2.5
        return thickness

    def _blur_um(self, xy_um: np.ndarray) -> np.ndarray:
        """Return the defocus (sigma) at points [n, 2]."""
        return np.clip(0.02 + 0.22 * self._focus.at(xy_um), 0, 0.35)

    # --- places -------------------------------------------------------------------------------------------------

    def _places(self, rect_um: _RectUm) -> Iterator[PlacedCell]:
        """Yield everything whose centre lies in the rectangle, block by block."""
        x0, y0, x1, y1 = rect_um
        for by in range(int(y0 // BLOCK_UM), int(y1 // BLOCK_UM) + 1):
            for bx in range(int(x0 // BLOCK_UM), int(x1 // BLOCK_UM) + 1):
                for p in self._candidates(bx, by):
                    if x0 <= p.x_um < x1 and y0 <= p.y_um < y1 and self._stays(p, bx, by):
                        yield p

    def _draw_candidates(self, bx: int, by: int) -> tuple[PlacedCell, ...]:
        """Draw a block's candidates (nucleated cells, platelets, specks) on the film."""
        rng = np.random.default_rng([self.seed, 1, bx + 2**20, by + 2**20])
        area = BLOCK_UM**2
        counts = [
            rng.poisson(d * area) for d in (self._per_um2, _PLATELETS_PER_UM2, _SPECKS_PER_UM2)
        ]
        xy = (np.array([bx, by]) + rng.random((sum(counts), 2))) * BLOCK_UM
        priority, film = rng.random(len(xy)), self.film(xy)
        size_um = np.array([self.width, self.height]) * self.mpp
        out = []
        for i in range(len(xy)):
            kind, diameter = ("platelet", 3.0) if i < counts[0] + counts[1] else ("speck", 0.0)
            if i < counts[0] and self._names:
                kind = self._names[rng.choice(len(self._names), p=self._weights)]
                diameter = draw_diameter_um(rng, kind)
            needs_film = {"speck": -99.0, "platelet": 0.2}.get(kind, 0.8)
            if film[i] > needs_film and (xy[i] >= 0).all() and (xy[i] < size_um).all():
                out.append(
                    PlacedCell(
                        (bx, by, i),
                        kind,
                        float(xy[i, 0]),
                        float(xy[i, 1]),
                        diameter,
                        float(priority[i]),
                    )
                )
        return tuple(out)

    def _stays(self, place: PlacedCell, bx: int, by: int) -> bool:
        """Return whether no candidate of higher priority is too near.

        Nucleated cells exclude each other by priority, and they exclude every platelet.
        """
        if place.kind == "speck":
            return True
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                for other in self._candidates(bx + dx, by + dy):
                    if other.kind not in RECIPES or other.key == place.key:
                        continue
                    rules = place.kind == "platelet" or (other.priority, other.key) > (
                        place.priority,
                        place.key,
                    )
                    near = _REACH * (place.diameter_um + other.diameter_um) + _GAP_UM
                    if rules and np.hypot(place.x_um - other.x_um, place.y_um - other.y_um) < near:
                        return False
        return True

    def _paint_place(self, place: PlacedCell) -> PaintedCell:
        """Paint one cell, platelet or speck."""
        rng = np.random.default_rng([self.seed, 2, *(k + 2**20 for k in place.key)])
        xy = (place.x_um / self.mpp, place.y_um / self.mpp)
        blur_um = float(self._blur_um(np.array([[place.x_um, place.y_um]]))[0]) * rng.uniform(
            0.4, 1.0
        )
        if place.kind == "platelet":
            return paint_platelet(rng, xy, self.mpp, self.stain, blur_um)
        if place.kind == "speck":
            return paint_speck(rng, xy, self.mpp, self.stain, blur_um)
        return paint_cell(rng, place.kind, xy, self.mpp, self.stain, place.diameter_um, blur_um)


class _SmoothField:
    """A slow field of about -1..1 over the plane: three products of sines of random wavelength."""

    def __init__(self, rng: np.random.Generator, lengths_um: tuple[float, float]) -> None:
        self._k = 2 * np.pi / rng.uniform(*lengths_um, (3, 2))
        self._phase = rng.uniform(0, 2 * np.pi, (3, 2))

    def at(self, xy_um: np.ndarray) -> np.ndarray:
        """Evaluate the field at points [n, 2]."""
        waves = zip(self._k, self._phase, strict=True)
        values: np.ndarray = sum(np.sin(xy_um * k + p).prod(1) for k, p in waves)
        return values / 2

    def on_grid(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        """Evaluate the field at every (y, x): float32 [h, w]."""
        out = np.zeros((len(y_um), len(x_um)), np.float32)
        for k, p in zip(self._k, self._phase, strict=True):
            out += (
                np.sin(y_um * k[1] + p[1]).astype(np.float32)[:, None]
                * np.sin(x_um * k[0] + p[0]).astype(np.float32)[None, :]
            )
        return out / 2


def _spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Split start..stop at multiples of WINDOW_PX."""
    while start < stop:
        end = min(stop, (start // WINDOW_PX + 1) * WINDOW_PX)
        yield start, end
        start = end


def _before_thinning(per_um2: float) -> float:
    """Return the density of candidates that leaves `per_um2` after thinning (Matérn II).

    left = (1 - exp(-d A)) / A for d candidates and A = the area that a cell keeps free.
    """
    area = np.pi * (2 * _REACH * 14.5 + _GAP_UM) ** 2
    return float(-np.log(1 - min(per_um2 * area, 0.9)) / area)
