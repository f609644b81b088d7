"""Sizes from the masks: areas, N:C by both of its definitions, and the diameter against the slide's own red cells.

Areas are of what is seen, in two dimensions: a nucleus/cytoplasm ratio of areas runs well below a textbook's N:C, which
is of volumes (Zheng's expert masks: neutrophils 0.5, lymphocytes 1.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..mask_packing import count_pixels
from ..records import Cells

NORMAL_RBC_UM = 7.3  # mean diameter of a normal red cell on a dried smear (7-8 µm)
MIN_RBC = 20


@dataclass(frozen=True)
class CellMeasures:
    """Of N cells, parallel to them; areas in µm², NaN where a figure does not exist (an empty field in the tables).

    nc_ratio          nucleus area / cytoplasm area. NaN without a nucleus or without cytoplasm: 0 and infinity would be
                      figures of a failed outline, not of a nucleated cell
    nucleus_fraction  nucleus area / cell area, 0..1; 1 where the nucleus fills the cell, NaN without a nucleus
    diameter_um       of the circle with the cell's area; NaN where nothing was outlined
    diameter_vs_rbc   diameter_um / rbc_diameter_um
    rbc_diameter_um   the slide's median red cell, or `NORMAL_RBC_UM` where fewer than `MIN_RBC` were measured
    rbc_measured      how many were
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
        """Whether too few red cells were measured, so that a normal one stands in for them."""
        return self.rbc_measured < MIN_RBC


def measure_cells(cells: Cells, mpp: float, rbc_diameters_um: np.ndarray) -> CellMeasures:
    """Measure all cells of a slide.

    mpp               µm per level-0 pixel, the scale of the masks
    rbc_diameters_um  [R], the single red cells measured on this slide
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
    seen_nucleus = np.where(nucleus > 0, nucleus, np.nan)
    seen_cell = np.where(cell > 0, cell, np.nan)
    diameter = 2 * np.sqrt(seen_cell / np.pi)
    measured = rbc_diameters_um[np.isfinite(rbc_diameters_um)]
    rbc = float(np.median(measured)) if len(measured) >= MIN_RBC else NORMAL_RBC_UM
    return CellMeasures(
        nucleus,
        cell,
        seen_nucleus / cytoplasm,
        seen_nucleus / seen_cell,
        diameter,
        diameter / rbc,
        rbc,
        len(measured),
    )
