"""Place patches on a grid that covers the slide, for exhaustive runs and for the screening audit."""

from __future__ import annotations

import math

import numpy as np

from ..records import Rect


def lattice_centres(rect: Rect, step_um: float, mpp: float) -> np.ndarray:
    """Return the centres of the slide-wide grid of patches in `rect` (half-open, level-0 pixels).

    Grid place (i, j) is ((i + 0.5), (j + 0.5)) * step for every rect, so each place belongs to
    exactly one core. A cell of 22 µm lies whole in some patch of 38.4 µm if step_um <= 16.

    Returns
    -------
    ndarray
        Centres (x, y), float64 [N, 2], row-major.
    """
    i, j = _grid_places(rect, step_um / mpp)
    centres_xy: np.ndarray = np.stack([i + 0.5, j + 0.5], 1) * (step_um / mpp)
    return centres_xy


def audit_sample(
    core: Rect,
    proposals_xy: np.ndarray,
    fraction: float,
    seed: int,
    mpp: float,
    patch_um: float,
    size_wh: tuple[float, float] = (math.inf, math.inf),
) -> tuple[np.ndarray, float, float]:
    """Draw a random sample of the patches in which the screen found nothing.

    The slide is divided into squares of `patch_um`. A square is passed over if it is centred in
    `core` and contains no proposal. A hash of place and seed draws `fraction` of these squares, so
    the sample does not depend on the grid of cores.

    Parameters
    ----------
    proposals_xy
        Candidates, float64 [M, 2], at least patch_um / 2 beyond the core. Give those of the window.
    size_wh
        Size of the slide in level-0 pixels. Parts of squares beyond it do not add to the areas.

    Returns
    -------
    tuple
        Centres of the sample, float64 [N, 2], its area, and the area passed over, both in µm².
    """
    step_px = patch_um / mpp
    i, j = _grid_places(core, step_px)
    drawn = hash_places(i.astype(np.uint32), j.astype(np.uint32), seed) < fraction * 2.0**32
    proposed = {(x, y) for x, y in np.floor(proposals_xy / step_px).astype(int).tolist()}
    passed_over = np.array(
        [place not in proposed for place in zip(i.tolist(), j.tolist(), strict=True)], bool
    )
    places = np.stack([i, j], 1)
    areas_um2 = (np.minimum(np.array(size_wh) - places * step_px, step_px) * mpp).prod(1)
    sample = drawn & passed_over
    return (
        (places[sample] + 0.5) * step_px,
        float(areas_um2[sample].sum()),
        float(areas_um2[passed_over].sum()),
    )


def _grid_places(rect: Rect, step_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (i, j), row-major, of the places whose centres lie in the half-open rect."""
    spans = []
    for low, high in ((rect[0], rect[2]), (rect[1], rect[3])):
        k = np.arange(math.floor(low / step_px) - 1, math.ceil(high / step_px) + 1)
        centres = (k + 0.5) * step_px
        spans.append(k[(centres >= low) & (centres < high)])
    j, i = np.meshgrid(spans[1], spans[0], indexing="ij")
    return i.ravel(), j.ravel()


def hash_places(i: np.ndarray, j: np.ndarray, seed: int = 0) -> np.ndarray:
    """Hash lattice places (uint32 arrays, which wrap around) to 32 well-mixed bits: uint32."""
    h: np.ndarray = i * np.uint32(0x9E3779B1) ^ (
        j * np.uint32(0x85EBCA77) + np.uint32(seed & 0xFFFFFFFF)
    )
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0xC2B2AE3D)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0x27D4EB2F)
    h = h ^ (h >> np.uint32(16))
    return h
