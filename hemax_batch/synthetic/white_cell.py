"""One nucleated cell, painted with its exact masks.

Sizes and fractions are typical values of haematology, adjusted to measurements of the PBC images
and the Zheng masks. A cell flattened on glass is larger than a textbook's, and its two-dimensional
nucleus/cytoplasm ratio is lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .cell_recipes import RECIPES, CellRecipe
from .nucleus import nucleus_field
from .stain import Stain
from .texture import GRID_UM, Canvas, noise, packed_points, soft_step, stamp_granules

#: Diameter of a red cell.
RBC_UM = 7.3
#: WBCAtt's annotators change from "small" to "big" at 14.3 µm (medians of PBC boxes).
LARGE_FROM_RBC_DIAMETERS = 1.96
#: Width of a cell's border at best focus.
_EDGE_UM = 0.22


#: A position (x, y) in pixels.
Point = tuple[float, float] | np.ndarray


@dataclass(frozen=True)
class SmearCell:
    """Ground truth of one cell.

    Attributes
    ----------
    box_xyxy : tuple of float
        Tight box around label > 0 in level-0 pixels, half-open.
    x0, y0 : int
        Position of the label's top-left pixel.
    label : ndarray of uint8 [h, w]
        0 outside, 1 cytoplasm, 2 nucleus. A platelet has no nucleus.
    granularity, cytoplasm_colour, nucleus_shape, size_vs_rbc : str
        Vocabulary states; "" for a platelet, whose attributes nobody annotates.
    nc_ratio : float
        Nucleus area / cytoplasm area.
    """

    class_name: str
    box_xyxy: tuple[float, float, float, float]
    x0: int
    y0: int
    label: np.ndarray
    granularity: str
    cytoplasm_colour: str
    nucleus_shape: str
    size_vs_rbc: str
    nc_ratio: float

    @property
    def nucleus_fraction(self) -> float:
        """Nucleus area / cell area."""
        return self.nc_ratio / (1 + self.nc_ratio)


@dataclass(frozen=True)
class PaintedCell:
    """A layer over the red cells.

    Attributes
    ----------
    x0, y0 : int
        Position of the top-left pixel.
    through : ndarray [h, w, 3]
        Transmitted part of the light.
    cover : ndarray [h, w], optional
        Displacement of red cells, 0..1.
    cell : SmearCell, optional
        Ground truth; None for a speck.
    """

    x0: int
    y0: int
    through: np.ndarray
    cover: np.ndarray | None
    cell: SmearCell | None


def paint_cell(
    rng: np.random.Generator,
    class_name: str,
    xy: Point,
    mpp: float,
    stain: Stain,
    diameter_um: float | None = None,
    focus_um: float = 0.0,
) -> PaintedCell:
    """Paint a nucleated cell of a class centred at xy (pixels).

    Steps: outline; nucleus of the recipe's shape and fraction; masks; densities of cytoplasm,
    nucleus and granules. The diameter is drawn at random if None.
    """
    recipe = RECIPES[class_name]
    radius_um = (diameter_um or draw_diameter_um(rng, class_name)) / 2
    canvas = Canvas(2 * round((radius_um * 1.3 + 1.2 + 2 * focus_um) / mpp), mpp)
    shape, colour = _choose(rng, recipe.shapes), _choose(rng, recipe.colours)
    cell_depth, nucleus_depth = _depths(rng, recipe, shape, canvas, radius_um)
    cell, nucleus = cell_depth > 0, nucleus_depth > 0
    density = _cytoplasm(rng, recipe, canvas, cell_depth, nucleus_depth, stain, colour)
    inside_nucleus = soft_step(nucleus_depth, max(_EDGE_UM, mpp))[..., None]
    density += inside_nucleus * (_nucleus(rng, recipe, canvas, nucleus_depth, stain) - density)
    density = _granules(rng, recipe, canvas, cell, nucleus, density, stain)
    cover = soft_step(cell_depth, max(_EDGE_UM, mpp))
    density *= cover[..., None]
    x0, y0 = round(xy[0]) - canvas.side_px // 2, round(xy[1]) - canvas.side_px // 2
    truth = make_truth(class_name, cell, nucleus, x0, y0, mpp, (recipe.granularity, colour, shape))
    return to_light(x0, y0, density, cover, focus_um / mpp, truth)


def draw_diameter_um(rng: np.random.Generator, class_name: str) -> float:
    """Draw a diameter of a class in µm."""
    r = RECIPES[class_name]
    return float(
        np.clip(rng.normal(r.diameter_um, r.diameter_sd), r.diameter_um * 0.78, r.diameter_um * 1.3)
    )


def _choose(rng: np.random.Generator, weighted: tuple[tuple[str, float], ...]) -> str:
    """Draw a state by its weight."""
    weights = np.array([w for _, w in weighted])
    return weighted[int(rng.choice(len(weighted), p=weights / weights.sum()))][0]


def to_light(
    x0: int,
    y0: int,
    density: np.ndarray,
    cover: np.ndarray | None,
    blur_px: float,
    cell: SmearCell | None,
) -> PaintedCell:
    """Apply defocus and convert density to light."""
    if blur_px > 0.3:
        density = ndimage.gaussian_filter(density, (blur_px, blur_px, 0), truncate=2.5)
        cover = None if cover is None else ndimage.gaussian_filter(cover, blur_px, truncate=2.5)
    return PaintedCell(x0, y0, np.exp(density * np.float32(-np.log(10))), cover, cell)


def make_truth(
    class_name: str,
    cell: np.ndarray,
    nucleus: np.ndarray,
    x0: int,
    y0: int,
    mpp: float,
    attributes: tuple[str, str, str],
) -> SmearCell:
    """Make the ground truth of a painted cell."""
    ys, xs = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
    top, bottom, left, right = ys[0], ys[-1] + 1, xs[0], xs[-1] + 1
    label = (cell.astype(np.uint8) + (cell & nucleus))[top:bottom, left:right]
    box = (float(x0 + left), float(y0 + top), float(x0 + right), float(y0 + bottom))
    size_um = mpp * float(np.sqrt((right - left) * (bottom - top)))
    size = (
        ""
        if class_name == "platelet"
        else "large"
        if size_um >= LARGE_FROM_RBC_DIAMETERS * RBC_UM
        else "small"
    )
    ratio = float((label == 2).sum() / max((label == 1).sum(), 1))
    return SmearCell(
        class_name, box, int(x0 + left), int(y0 + top), label, *attributes, size, ratio
    )


# --- shapes -----------------------------------------------------------------------------------------------------


def _outline(
    rng: np.random.Generator, recipe: CellRecipe, canvas: Canvas, radius_um: float
) -> np.ndarray:
    """Draw the depth below the cell's border on the coarse grid."""
    x, y = canvas.grid()
    angle = np.arctan2(y, x)
    radius = np.ones_like(angle)
    for k in range(2, 6):
        radius += rng.normal(0, recipe.uneven / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    depth = radius_um * np.clip(radius, 0.72, 1.28) - np.hypot(x, y)
    rough: np.ndarray = depth + recipe.rough_um * noise(rng, depth.shape, 1.3 / GRID_UM)
    return rough


def _depths(
    rng: np.random.Generator, recipe: CellRecipe, shape: str, canvas: Canvas, radius_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the depth in µm below the borders of cell and nucleus at every pixel.

    The nucleus has the recipe's share of the cell.
    """
    outline = _outline(rng, recipe, canvas, radius_um)
    fraction = float(np.clip(rng.normal(recipe.fraction, recipe.fraction_sd), 0.2, 0.93))
    x, y = canvas.grid()
    sway = 0.35 if shape in ("round", "indented") else 0.25
    u = x + sway * noise(rng, outline.shape, 5 / GRID_UM)
    v = y + sway * noise(rng, outline.shape, 5 / GRID_UM)
    field = nucleus_field(shape, rng, u, v, radius_um, radius_um * np.sqrt(fraction))
    inner = outline - rng.uniform(0.08, 0.35)
    body = _shift_to_area(field.body, inner, fraction * (outline > 0).sum())
    if field.strands is not None:
        body = np.maximum(body, np.minimum(field.strands, inner))
    return canvas.interpolate(outline), canvas.interpolate(body)


def _shift_to_area(body: np.ndarray, inner: np.ndarray, wanted: float) -> np.ndarray:
    """Shift a field, kept inside `inner`, until it is positive at `wanted` points (bisection)."""
    low, high = -6.0, 6.0
    for _ in range(12):
        shift = (low + high) / 2
        too_small = (np.minimum(body + shift, inner) > 0).sum() < wanted
        low, high = (shift, high) if too_small else (low, shift)
    shifted: np.ndarray = np.minimum(body + (low + high) / 2, inner)
    return shifted


# --- densities --------------------------------------------------------------------------------------------------


def _cytoplasm(
    rng: np.random.Generator,
    recipe: CellRecipe,
    canvas: Canvas,
    cell_depth: np.ndarray,
    nucleus_depth: np.ndarray,
    stain: Stain,
    colour: str,
) -> np.ndarray:
    """Draw the density [h, w, 3] of mottled cytoplasm.

    Basophilic cytoplasm is paler at the nucleus and deeper at the border.
    """
    shape = cell_depth.shape
    base = np.array(_cytoplasm_colour(rng, recipe, stain, colour), np.float32)
    strength = (
        1
        + recipe.mottle * noise(rng, shape, 0.45 / canvas.mpp)
        + 0.08 * noise(rng, shape, 2.5 / canvas.mpp)
    )
    strength *= 1 + recipe.basophilia * (
        0.5 * np.exp(-cell_depth / 0.9) - 0.35 * np.exp(nucleus_depth / 0.8).clip(0, 1)
    )
    strength *= recipe.cytoplasm * rng.uniform(0.85, 1.15)
    strength += 0.12 * np.exp(-np.abs(cell_depth - 0.15) / 0.15)  # the membrane
    for _ in range(rng.poisson(recipe.vacuoles)):
        strength *= 1 - 0.75 * _spot(rng, canvas, cell_depth, rng.uniform(0.3, 0.7))
    return strength.clip(0.15, 2.5)[..., None] * base


def _cytoplasm_colour(
    rng: np.random.Generator, recipe: CellRecipe, stain: Stain, colour: str
) -> np.ndarray:
    """Return the stain's colour for a state; a granulocyte's light blue is pink or clear."""
    pale, blue = np.array(stain.pale), np.array(getattr(stain, colour))
    tint = blue
    if colour == "light_blue":
        tint = pale + (blue - pale) * np.clip(rng.normal(recipe.light_blueness, 0.15), 0, 1)
    elif recipe.haemoglobin:
        tint = blue + (np.array(stain.red) - blue) * rng.uniform(0, recipe.haemoglobin)
    return tint


def _spot(
    rng: np.random.Generator, canvas: Canvas, depth: np.ndarray, radius_um: float
) -> np.ndarray:
    """Draw a soft disc at a random place with `depth` > radius: float32 [h, w], 0..1."""
    ij = np.argwhere(depth > radius_um)
    if not len(ij):
        return np.zeros(depth.shape, np.float32)
    y, x = ij[rng.integers(len(ij))]
    return stamp_granules(
        depth.shape, np.array([[x, y]]), np.array([radius_um / canvas.mpp]), np.ones(1)
    )


def _nucleus(
    rng: np.random.Generator, recipe: CellRecipe, canvas: Canvas, depth: np.ndarray, stain: Stain
) -> np.ndarray:
    """Draw the density [h, w, 3] of chromatin: clumps, pale gaps, a darker rim, nucleoli."""
    clumps = noise(rng, depth.shape, recipe.clump_um / canvas.mpp)
    strength = 1 + recipe.clump * (
        np.tanh(1.5 * clumps) + 0.85 * noise(rng, depth.shape, 0.45 * recipe.clump_um / canvas.mpp)
    )
    strength -= recipe.gaps * np.clip(-clumps - 0.8, 0, 1)
    strength += 0.18 * np.exp(-np.abs(depth - 0.2) / 0.2)
    strength += 0.05 * noise(rng, depth.shape, 4 / canvas.mpp)
    for _ in range(rng.poisson(recipe.nucleoli)):
        strength *= 1 - 0.16 * _spot(rng, canvas, depth, rng.uniform(0.7, 1.2))
    strength *= recipe.nucleus * rng.uniform(0.93, 1.05)
    pinker = np.clip(1 - strength, 0, 0.6)[..., None] * np.array([-0.06, 0.0, 0.02], np.float32)
    return strength[..., None] * np.array(stain.nucleus, np.float32) + pinker


def _granules(
    rng: np.random.Generator,
    recipe: CellRecipe,
    canvas: Canvas,
    cell: np.ndarray,
    nucleus: np.ndarray,
    density: np.ndarray,
    stain: Stain,
) -> np.ndarray:
    """Add the recipe's granules to a density, over the nucleus as strongly as the recipe says."""
    for kind in recipe.granules:
        colour = np.array(getattr(stain, kind.colour), np.float32)
        room = cell if kind.over_nucleus > 0 else cell & ~nucleus
        patchy = noise(rng, cell.shape, 3 / canvas.mpp) > rng.normal(kind.patchy, 0.3)
        xy = packed_points(
            rng, room & patchy, kind.spacing_um / canvas.mpp, 0.22 if kind.solid else 0.42
        )
        radii = kind.radius_um / canvas.mpp * rng.uniform(0.7, 1.25, len(xy))
        strengths = rng.uniform(*kind.strength, len(xy))
        amount = stamp_granules(cell.shape, xy, radii, strengths)
        amount *= np.where(nucleus, kind.over_nucleus, 1.0)
        density = (
            density * (1 - (0.75 if kind.solid else 0.25) * amount[..., None])
            + amount[..., None] * colour
        )
    return density
