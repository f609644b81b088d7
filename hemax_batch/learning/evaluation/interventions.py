"""Interventions: image changes that a morphologist would describe by one attribute only.

Each takes a patch uint8 [S, S, 3] at `mpp` µm/px with the cell's label map uint8 [S, S] (0 outside,
1 cytoplasm, 2 nucleus). It returns the changed patch, or None if the cell is not suitable. The
changes are simple enough to check by eye, and strong enough to change an expert's description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Change = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], np.ndarray | None]

#: Colours of pale and of deep blue cytoplasm.
_PALE, _BASOPHILIC = np.array([214, 208, 226.0]), np.array([128, 138, 196.0])
_GRANULE = np.array([112, 44, 96.0])
#: Least share of cytoplasm in a cell whose colour or granules are changed.
_MIN_CYTOPLASM = 0.12


def recolour(target: np.ndarray) -> Change:
    """Make a change that moves the cytoplasm's mean colour to `target` and keeps its texture."""

    def change(
        pixels: np.ndarray, label: np.ndarray, mpp: float, rng: np.random.Generator
    ) -> np.ndarray | None:
        where = label == 1
        if where.sum() < _MIN_CYTOPLASM * (label > 0).sum():
            return None
        moved = pixels.astype(float)
        moved[where] += target - moved[where].mean(0)
        return _blend(pixels, moved, where, mpp)

    return change


def add_granules(
    pixels: np.ndarray, label: np.ndarray, mpp: float, rng: np.random.Generator
) -> np.ndarray | None:
    """Add coarse dark granules of 0.8 µm all over the cytoplasm."""
    where = label == 1
    if where.sum() < _MIN_CYTOPLASM * (label > 0).sum():
        return None
    seeds = (rng.random(label.shape) < 0.9 * mpp**2) & where  # some 0.9 a µm²
    grains = ndimage.distance_transform_edt(~seeds) * mpp < 0.4
    out = pixels.astype(float)
    out[grains & where] = _GRANULE
    return _blend(pixels, ndimage.gaussian_filter(out, (0.1 / mpp, 0.1 / mpp, 0)), where, mpp)


def remove_granules(
    pixels: np.ndarray, label: np.ndarray, mpp: float, rng: np.random.Generator
) -> np.ndarray | None:
    """Smooth the cytoplasm over 1.2 µm without mixing in nucleus or surroundings."""
    where = label == 1
    if where.sum() < _MIN_CYTOPLASM * (label > 0).sum():
        return None
    weight = ndimage.gaussian_filter(where.astype(float), 1.2 / mpp)
    smooth = ndimage.gaussian_filter(
        pixels * where[..., None].astype(float), (1.2 / mpp, 1.2 / mpp, 0)
    )
    return _blend(pixels, smooth / np.maximum(weight, 1e-3)[..., None], where, mpp)


def round_nucleus(
    pixels: np.ndarray, label: np.ndarray, mpp: float, rng: np.random.Generator
) -> np.ndarray | None:
    """Draw the nucleus as a disc of its own area and texture, inside the cell."""
    cell, nucleus = label > 0, label == 2
    radius = np.sqrt(nucleus.sum() / np.pi)
    depth = ndimage.distance_transform_edt(cell)
    if nucleus.sum() < 50 or depth.max() < 0.9 * radius:
        return None
    best = np.argwhere(depth >= min(radius, depth.max()))
    middle = np.argwhere(nucleus).mean(0)
    y, x = best[np.hypot(*(best - middle).T).argmin()]
    yy, xx = np.indices(label.shape)
    return _with_nucleus(pixels, label, np.hypot(yy - y, xx - x) <= radius, mpp, rng)


def lobulate(
    pixels: np.ndarray, label: np.ndarray, mpp: float, rng: np.random.Generator
) -> np.ndarray | None:
    """Cut the nucleus across its long axis into three lobes by two clefts of 1 µm."""
    nucleus = label == 2
    if nucleus.sum() < 50 or (label == 1).sum() < _MIN_CYTOPLASM * (label > 0).sum():
        return None
    points = np.argwhere(nucleus)
    middle = points.mean(0)
    axis = np.linalg.eigh(np.cov((points - middle).T))[1][:, 1]
    along = (np.indices(label.shape).transpose(1, 2, 0) - middle) @ axis
    low, high = np.percentile(along[nucleus], [33, 67])
    clefts = (np.abs(along - low) * mpp < 0.5) | (np.abs(along - high) * mpp < 0.5)
    return _with_nucleus(pixels, label, nucleus & ~clefts, mpp, rng)


def rescale_nucleus(factor: float) -> Change:
    """Make a change that scales the nucleus's outline inside the cell and continues its texture."""

    def change(
        pixels: np.ndarray, label: np.ndarray, mpp: float, rng: np.random.Generator
    ) -> np.ndarray | None:
        nucleus = label == 2
        if nucleus.sum() < 50:
            return None
        scaled = _rescale(nucleus.astype(float), np.argwhere(nucleus).mean(0), factor) > 0.5
        return _with_nucleus(pixels, label, scaled & (label > 0), mpp, rng)

    return change


def rescale_cell(factor: float) -> Change:
    """Make a change that scales the whole cell; its surroundings keep their size."""

    def change(
        pixels: np.ndarray, label: np.ndarray, mpp: float, rng: np.random.Generator
    ) -> np.ndarray | None:
        cell = label > 0
        if cell.sum() < 200 or np.sqrt(cell.sum()) * factor > 0.75 * len(label):
            return None
        middle = np.argwhere(cell).mean(0)
        ground = np.percentile(pixels.reshape(-1, 3), 90, axis=0)
        out = np.where(
            ndimage.binary_dilation(cell, iterations=2)[..., None], ground, pixels.astype(float)
        )
        alpha = _rescale(ndimage.gaussian_filter(cell.astype(float), 1.0), middle, factor)[
            ..., None
        ]
        drawn = np.stack(
            [_rescale(pixels[..., c].astype(float), middle, factor) for c in range(3)], -1
        )
        return _bytes(out * (1 - alpha) + drawn * alpha)

    return change


@dataclass(frozen=True)
class Intervention:
    """A change, and the reaction of a faithful explanation.

    The probability of `states` of `attribute` rises (`up`) or falls. The attribute
    "nucleus_fraction" is the measured nucleus/cell area, which has no states.
    """

    name: str
    change: Change
    attribute: str
    states: tuple[str, ...]
    up: bool = True


INTERVENTIONS = (
    Intervention("cytoplasm paler", recolour(_PALE), "cytoplasm_colour", ("light_blue",)),
    Intervention("cytoplasm bluer", recolour(_BASOPHILIC), "cytoplasm_colour", ("blue",)),
    Intervention("granules added", add_granules, "granularity", ("coarse",)),
    Intervention("granules removed", remove_granules, "granularity", ("agranular",)),
    Intervention("nucleus rounded", round_nucleus, "nucleus_shape", ("round",)),
    Intervention("nucleus lobulated", lobulate, "nucleus_shape", ("bilobed", "multilobed")),
    Intervention("cell enlarged by 1.25", rescale_cell(1.25), "size_vs_rbc", ("large",)),
    Intervention("cell shrunk to 0.8", rescale_cell(0.8), "size_vs_rbc", ("small",)),
    Intervention("nucleus enlarged by 1.2", rescale_nucleus(1.2), "nucleus_fraction", ()),
    Intervention("nucleus shrunk to 0.8", rescale_nucleus(0.8), "nucleus_fraction", (), up=False),
)


def _with_nucleus(
    pixels: np.ndarray, label: np.ndarray, nucleus: np.ndarray, mpp: float, rng: np.random.Generator
) -> np.ndarray:
    """Give the cell another nucleus.

    The old place becomes cytoplasm. The new place gets the old texture.
    """
    old, cytoplasm = label == 2, label == 1
    ink = (
        pixels[cytoplasm] if cytoplasm.any() else np.percentile(pixels[label > 0], 90, axis=0)[None]
    )
    out = pixels.astype(float)
    out[old] = ink.mean(0) + rng.normal(0, 3, (int(old.sum()), 3))
    # Each new place takes the pixel of the nearest old one.
    nearest = ndimage.distance_transform_edt(~old, return_distances=False, return_indices=True)
    out[nucleus] = pixels[nearest[0], nearest[1]][nucleus]
    return _blend(pixels, out, old | nucleus, mpp)


def _rescale(plane: np.ndarray, middle: np.ndarray, factor: float) -> np.ndarray:
    """Scale a plane bilinearly about `middle` (y, x)."""
    scaled: np.ndarray = ndimage.affine_transform(
        plane, np.eye(2) / factor, middle - middle / factor, order=1, mode="nearest"
    )
    return scaled


def _blend(pixels: np.ndarray, changed: np.ndarray, where: np.ndarray, mpp: float) -> np.ndarray:
    """Blend `changed` inside `where` with the image outside, over a soft border of 0.15 µm."""
    alpha = ndimage.gaussian_filter(where.astype(float), 0.15 / mpp)[..., None]
    return _bytes(pixels * (1 - alpha) + changed * alpha)


def _bytes(values: np.ndarray) -> np.ndarray:
    """Round and clip to uint8."""
    rounded: np.ndarray = np.clip(values, 0, 255).round()
    return rounded.astype(np.uint8)
