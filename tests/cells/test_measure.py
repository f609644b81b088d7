"""Sizes and N:C from masks."""

from dataclasses import replace

import numpy as np
import pytest
from made_cells import cells_at

from hemax_batch.cells.measure import MIN_RBC, NORMAL_RBC_UM, measure_cells
from hemax_batch.mask_packing import pack_mask
from hemax_batch.records import Cells


def with_mask(mask: np.ndarray) -> Cells:
    cells = cells_at([(0, 0)], 10)
    return replace(
        cells, masks=(pack_mask(mask.astype(np.uint8)),), mask_hw=np.array([mask.shape], np.int32)
    )


@pytest.mark.parametrize(("mpp", "diameter_px"), [(0.05, 200), (0.1, 100), (0.25, 40)])
def test_areas_and_ratios_of_a_disc_are_the_same_at_any_scale(mpp, diameter_px):
    m = measure_cells(cells_at([(0, 0)], diameter_px), mpp, np.full(50, 5.0))
    assert m.cell_area_um2[0] == pytest.approx(np.pi * 25, rel=0.01)
    assert m.nucleus_area_um2[0] == pytest.approx(np.pi * 9, rel=0.02)
    assert m.nucleus_fraction[0] == pytest.approx(0.36, abs=0.01)
    assert m.nc_ratio[0] == pytest.approx(0.36 / 0.64, abs=0.02)
    assert m.diameter_um[0] == pytest.approx(10, rel=0.01)
    assert m.diameter_vs_rbc[0] == pytest.approx(2, rel=0.01)


def test_both_ratios_count_pixels():
    mask = np.ones((4, 5))
    mask[0, :4] = 2
    m = measure_cells(with_mask(mask), 1.0, np.zeros(0))
    assert (m.nc_ratio[0], m.nucleus_fraction[0]) == (4 / 16, 4 / 20)


def test_ratios_that_do_not_exist_are_nan():
    no_nucleus, no_cytoplasm, nothing = (
        measure_cells(with_mask(np.full((4, 4), v)), 1.0, np.zeros(0)) for v in (1, 2, 0)
    )
    assert np.isnan([no_nucleus.nc_ratio[0], no_nucleus.nucleus_fraction[0]]).all()
    assert np.isnan(no_cytoplasm.nc_ratio[0]) and no_cytoplasm.nucleus_fraction[0] == 1
    assert np.isnan([nothing.nc_ratio[0], nothing.diameter_um[0], nothing.diameter_vs_rbc[0]]).all()
    assert nothing.cell_area_um2[0] == 0


def test_a_normal_red_cell_stands_in_for_too_few():
    cell = cells_at([(0, 0)], 100)
    few = measure_cells(cell, 0.1, np.full(MIN_RBC - 1, 5.0))
    assert (
        few.rbc_is_assumed
        and few.rbc_diameter_um == NORMAL_RBC_UM
        and few.rbc_measured == MIN_RBC - 1
    )
    enough = measure_cells(cell, 0.1, np.array([4.0] * 5 + [5.0] * 10 + [9.0] * 5 + [np.nan]))
    assert not enough.rbc_is_assumed and enough.rbc_diameter_um == 5 and enough.rbc_measured == 20


def test_no_cells_have_no_measures():
    m = measure_cells(Cells.empty(), 0.1, np.zeros(0))
    assert len(m.nc_ratio) == len(m.diameter_um) == 0
