"""One field around one cell with its ground truth: training images."""

from __future__ import annotations

import numpy as np

from .cell_recipes import RECIPES
from .compose import apply_sensor, composite
from .platelet import paint_platelet, paint_speck
from .red_cell import FOCUS_STEPS_UM, RedCellLayout, red_cell_layout, red_cells_in, stamp_red_cells
from .stain import Stain, random_stain
from .white_cell import (
    RBC_UM,
    PaintedCell,
    SmearCell,
    draw_diameter_um,
    paint_cell,
)

#: Number of red-cell layouts; a patch is a random part of one.
_LAYOUTS = 4


def draw_cell_patch(
    rng: np.random.Generator,
    class_name: str,
    size_px: int,
    mpp: float,
    stain: Stain | None = None,
    off_centre_um: float = 2.5,
    neighbours: float = 0.25,
) -> tuple[np.ndarray, list[SmearCell]]:
    """Draw a field with a cell of a class near its centre.

    Steps: place and paint nucleated cells, platelets and specks; draw red cells below them; apply
    illumination and noise.

    Parameters
    ----------
    rng
        Random generator.
    class_name
        Class of the central cell.
    size_px, mpp
        Side of the field in pixels, and µm per pixel.
    stain
        Stain of the field; a random one if None.
    off_centre_um
        Standard deviation of the cell's position.
    neighbours
        Mean number of further nucleated cells, of any class.

    Returns
    -------
    pixels : ndarray of uint8 [S, S, 3]
    cells : list of SmearCell
        The central cell, then the others, platelets included. A cell at the border is returned
        whole: its box and label may reach outside the field.
    """
    stain = stain or random_stain(rng)
    focus_um = float(np.clip(abs(rng.normal(0, 0.16)) - 0.08, 0, 0.5))
    painted = _nucleated(rng, class_name, size_px, mpp, stain, off_centre_um, neighbours, focus_um)
    whites = [p.cell for p in painted if p.cell and p.cell.class_name != "platelet"]
    painted += _platelets_and_specks(rng, size_px, mpp, stain, whites, focus_um)
    plane = _red_cell_plane(rng, size_px, mpp, whites, focus_um)
    light = composite(plane, 0, 0, painted, stain)
    light *= _uneven_light(rng, size_px)
    return apply_sensor(rng, light, stain.noise), [p.cell for p in painted if p.cell is not None]


def _nucleated(
    rng: np.random.Generator,
    class_name: str,
    size_px: int,
    mpp: float,
    stain: Stain,
    off_centre_um: float,
    neighbours: float,
    focus_um: float,
) -> list[PaintedCell]:
    """Paint the central cell and others at a distance; the field's border may cut those."""
    middle = size_px / 2
    xy = middle + np.clip(rng.normal(0, off_centre_um / mpp, 2), -0.3 * size_px, 0.3 * size_px)
    if class_name == "platelet":
        out, taken = [paint_platelet(rng, xy, mpp, stain, focus_um)], [(*xy, 3.0)]
    else:
        diameter = draw_diameter_um(rng, class_name)
        out, taken = (
            [paint_cell(rng, class_name, xy, mpp, stain, diameter, focus_um)],
            [(*xy, 0.56 * diameter)],
        )
    names = tuple(RECIPES)
    for _ in range(rng.poisson(neighbours)):
        name = names[rng.integers(len(names))]
        diameter = draw_diameter_um(rng, name)
        at = rng.uniform(0, size_px, 2)
        if all(np.hypot(at[0] - x, at[1] - y) * mpp > r + 0.56 * diameter for x, y, r in taken):
            out.append(paint_cell(rng, name, at, mpp, stain, diameter, focus_um))
            taken.append((*at, 0.56 * diameter))
    return out


def _platelets_and_specks(
    rng: np.random.Generator,
    size_px: int,
    mpp: float,
    stain: Stain,
    whites: list[SmearCell],
    focus_um: float,
) -> list[PaintedCell]:
    """Paint platelets, sometimes a clump, and specks of stain, clear of the nucleated cells."""
    area_um2 = (size_px * mpp) ** 2
    places = list(rng.uniform(0, size_px, (rng.poisson(0.0011 * area_um2), 2)))
    if rng.random() < 0.05:
        centre = rng.uniform(0, size_px, 2)
        places += list(centre + rng.normal(0, 2.2 / mpp, (rng.integers(3, 8), 2)))
    out = [
        paint_platelet(rng, xy, mpp, stain, focus_um)
        for xy in places
        if _clear(xy, whites, 3.0 / mpp)
    ]
    specks = rng.uniform(0, size_px, (rng.poisson(0.0006 * area_um2), 2))
    return out + [paint_speck(rng, xy, mpp, stain, focus_um) for xy in specks]


def _clear(xy: np.ndarray, whites: list[SmearCell], margin_px: float) -> bool:
    """Return whether a point is at least a margin away from every cell."""
    for cell in whites:
        x0, y0, x1, y1 = cell.box_xyxy
        if (
            np.hypot(xy[0] - (x0 + x1) / 2, xy[1] - (y0 + y1) / 2)
            < max(x1 - x0, y1 - y0) / 2 + margin_px
        ):
            return False
    return True


def _red_cell_plane(
    rng: np.random.Generator, size_px: int, mpp: float, whites: list[SmearCell], focus_um: float
) -> np.ndarray:
    """Draw the thickness of red cells, int16 [S, S].

    It is a part of a layout, thinned and clear of nucleated cells.
    """
    layout: RedCellLayout = red_cell_layout(int(rng.integers(_LAYOUTS)))
    side_um, margin = size_px * mpp, RBC_UM
    xy_um, index = red_cells_in(
        layout, (-margin, -margin, side_um + margin, side_um + margin), rng.uniform(0, 1000, 2)
    )
    keep = layout.rank[index] < rng.uniform(0.15, 1.1)
    for cell in whites:
        x0, y0, x1, y1 = np.array(cell.box_xyxy) * mpp
        reach = (x1 - x0 + y1 - y0) / 4 + 0.3 * RBC_UM
        keep &= np.hypot(xy_um[:, 0] - (x0 + x1) / 2, xy_um[:, 1] - (y0 + y1) / 2) > reach
    xy_um, index = xy_um[keep], index[keep]
    focus = np.searchsorted(FOCUS_STEPS_UM, np.abs(rng.normal(focus_um, 0.12, len(index)))).clip(
        0, len(FOCUS_STEPS_UM) - 1
    )
    plane = np.zeros((size_px, size_px), np.int16)
    stamp_red_cells(
        plane, 0, 0, xy_um / mpp, rng.permutation(64)[layout.variant[index]], focus, mpp
    )
    return plane


def _uneven_light(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Draw a slow variation of illumination over the field: float32 [S, S, 1], about 1."""
    axis = np.linspace(-1, 1, size_px, dtype=np.float32)
    a, b, c = rng.normal(0, 0.012, 3)
    light: np.ndarray = (
        1 + a * axis[None, :] + b * axis[:, None] + c * (axis[None, :] ** 2 + axis[:, None] ** 2)
    )
    return light[..., None]
