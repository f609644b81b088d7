"""Measurements from the masks: areas, N:C by both definitions, and diameter relative to red cells.

Areas are of the two-dimensional image. A nucleus/cytoplasm ratio of areas is well below a
textbook's N:C, which is of volumes (Zheng's expert masks: neutrophils 0.5, lymphocytes 1.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..mask_packing import count_pixels
from ..records import Cells

#: Mean diameter of a normal red cell on a dried smear (7-8 µm).
NORMAL_RBC_UM = 7.3
#: Fewer measured red cells than this give no reference diameter.
MIN_RBC = 20


@dataclass(frozen=True)
class CellMeasures:
    """Measures of N cells. A measure that does not exist is NaN, an empty field in the tables.

    Attributes
    ----------
    nucleus_area_um2, cell_area_um2 : ndarray [N]
        Areas in µm².
    nc_ratio : ndarray [N]
        Nucleus area / cytoplasm area. NaN without a nucleus or without cytoplasm: 0 and infinity
        would describe a failed outline, not a nucleated cell.
    nucleus_fraction : ndarray [N]
        Nucleus area / cell area, 0..1. 1 if the nucleus fills the cell, NaN without a nucleus.
    diameter_um : ndarray [N]
        Diameter of the circle with the cell's area; NaN without an outline.
    diameter_vs_rbc : ndarray [N]
        `diameter_um` / `rbc_diameter_um`.
    rbc_diameter_um : float
        The slide's median red cell, or `NORMAL_RBC_UM` below `MIN_RBC` measured red cells.
    rbc_measured : int
        Number of measured red cells.
    """

    nucleus_area_um2: np.ndarray
    cell_area_um2: np.ndarray
    nc_ratio: np.ndarray
    nucleus_fraction: np.ndarray
    diameter_um: np.ndarray
    diameter_vs_rbc: np.ndarray
    rbc_diameter_um: float
    rbc_measured: int

    @property
    def rbc_is_assumed(self) -> bool:
        """Whether too few red cells were measured, so a normal diameter is assumed."""
        return self.rbc_measured < MIN_RBC


def measure_cells(cells: Cells, mpp: float, rbc_diameters_um: np.ndarray) -> CellMeasures:
    """Measure all cells of a slide.

    Parameters
    ----------
    cells
        The cells.
    mpp
        µm per level-0 pixel, the scale of the masks.
    rbc_diameters_um : ndarray [R]
        Diameters of the slide's single red cells.
    """
    counts = np.array(
        [
            count_pixels(packed, hw)
            for packed, hw in zip(cells.masks, cells.mask_hw.tolist(), strict=True)
        ],
        np.float64,
    ).reshape(-1, 2)
    nucleus, cell = counts.T * mpp**2
    cytoplasm = np.where(counts[:, 1] > counts[:, 0], cell - nucleus, np.nan)
    nucleus_or_nan = np.where(nucleus > 0, nucleus, np.nan)
    cell_or_nan = np.where(cell > 0, cell, np.nan)
    diameter = 2 * np.sqrt(cell_or_nan / np.pi)
    measured = rbc_diameters_um[np.isfinite(rbc_diameters_um)]
    rbc = float(np.median(measured)) if len(measured) >= MIN_RBC else NORMAL_RBC_UM
    return CellMeasures(
        nucleus,
        cell,
        nucleus_or_nan / cytoplasm,
        nucleus_or_nan / cell_or_nan,
        diameter,
        diameter / rbc,
        rbc,
        len(measured),
    )
