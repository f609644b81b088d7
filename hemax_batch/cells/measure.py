"""Sizes from the masks: areas, N:C by both of its definitions, and the diameter against the slide's own red cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records import Cells, unpack_mask

NORMAL_RBC_UM = 7.3  # mean diameter of a normal red cell on a dried smear (7-8 µm)
ENOUGH_RBC = 20


@dataclass(frozen=True)
class Measures:
    """Of N cells, parallel to them; areas in µm², NaN where a figure does not exist.

    nc_ratio          nucleus area / cytoplasm area; NaN where no cytoplasm is seen
    nucleus_fraction  nucleus area / cell area
    diameter_um       of the circle with the cell's area
    size_vs_rbc       diameter_um / rbc_diameter_um
    rbc_diameter_um   the slide's median red cell, or 7.3 µm where fewer than `ENOUGH_RBC` were measured
    rbc_measured      how many were
    """

    nucleus_area_um2: np.ndarray
    cell_area_um2: np.ndarray
    nc_ratio: np.ndarray
    nucleus_fraction: np.ndarray
    diameter_um: np.ndarray
    size_vs_rbc: np.ndarray
    rbc_diameter_um: float
    rbc_measured: int


def measure(cells: Cells, mpp: float, rbc_diameters_um: np.ndarray) -> Measures:
    """Measure all cells of a slide; `mpp` µm per level-0 pixel, `rbc_diameters_um` the single red cells measured on
    it."""
    counts = np.zeros((len(cells), 2), np.int64)
    for i, (packed, hw) in enumerate(zip(cells.masks, cells.mask_hw, strict=True)):
        mask = unpack_mask(packed, hw)
        counts[i] = np.count_nonzero(mask == 2), np.count_nonzero(mask)
    nucleus, cell = (counts * mpp**2).astype(np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(cell > nucleus, nucleus / (cell - nucleus), np.nan)
        fraction = np.where(cell > 0, nucleus / cell, np.nan)
    diameter = 2 * np.sqrt(cell / np.pi)
    enough = len(rbc_diameters_um) >= ENOUGH_RBC
    rbc = float(np.median(rbc_diameters_um)) if enough else NORMAL_RBC_UM
    return Measures(nucleus, cell, ratio, fraction, diameter, diameter / rbc, rbc, len(rbc_diameters_um))
