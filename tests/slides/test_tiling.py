import math

import array_slide
import numpy as np
import pytest
from array_slide import ArrayReader, Painting
from hypothesis import given, settings
from hypothesis import strategies as st

from hemax_batch.records import Slide, StainProfile
from hemax_batch.slides import screen_view, tiling
from hemax_batch.slides.stain import measure_stain

STAIN = StainProfile(array_slide.GLASS, array_slide.RED_CELL, 0.12)


def stained(width: int, height: int, mpp: float) -> ArrayReader:
    return ArrayReader(np.broadcast_to(np.uint8(120), (height, width, 3)), mpp)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 900), st.integers(1, 900), st.floats(0.05, 0.5), st.floats(5, 300), st.floats(0, 60), st.data()
)  # fmt: skip
def test_cores_partition_the_plane_and_windows_hold_core_and_halo(
    width, height, mpp, core_um, halo_um, data
):
    plan = tiling.plan_regions(stained(width, height, mpp), STAIN, core_um, halo_um)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    owners = [r for r in plan.regions if r.core[0] <= x < r.core[2] and r.core[1] <= y < r.core[3]]
    assert len(owners) == 1
    (x0, y0, x1, y1), window = owners[0].core, owners[0].window
    halo = math.ceil(halo_um / mpp)
    assert window == (
        max(x0 - halo, 0),
        max(y0 - halo, 0),
        min(x1 + halo, width),
        min(y1 + halo, height),
    )
    assert [r.index for r in plan.regions] == list(range(len(plan.regions)))
    assert [r.core[1::-1] for r in plan.regions] == sorted(
        r.core[1::-1] for r in plan.regions
    )  # by (y0, x0)
    assert (
        sum((r.core[2] - r.core[0]) * (r.core[3] - r.core[1]) for r in plan.regions)
        == width * height
    )
    assert plan.scanned_mm2 + plan.blank_mm2 == pytest.approx(width * height * (mpp / 1000) ** 2)


def test_cores_are_whole_tiles_of_the_file():
    plan = tiling.plan_regions(stained(9000, 5000, 0.1), STAIN)
    assert plan.regions[0].core == (0, 0, 4096, 4096)
    assert {v % 256 for r in plan.regions for v in r.core[:2]} == {0}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(0.25, (1.0,)), (0.25, (1.0, 4.0, 16.0)), (0.5, (1.0, 8.0)), (0.4, (1.0, 2.0, 4.0, 8.0))]),
    st.floats(0, 200), st.floats(0, 140),
)  # fmt: skip
def test_one_pale_lymphocyte_on_blank_glass_keeps_its_core(layout, x_um, y_um):
    mpp, levels = layout
    painting = Painting(200, 140, mpp).disc(x_um, y_um, 7.0, array_slide.PALE_NUCLEUS)
    reader = ArrayReader(painting.rgb(noise=1.5), mpp, levels)
    if not (painting.od[..., 1] > 0.2).any():
        return  # it lies wholly beyond the edge
    plan = tiling.plan_regions(reader, STAIN, core_um=50, halo_um=20)
    x, y = min(x_um / mpp, reader.slide.width - 1), min(y_um / mpp, reader.slide.height - 1)
    assert any(r.core[0] <= x < r.core[2] and r.core[1] <= y < r.core[3] for r in plan.regions)
    assert len(plan.regions) <= 9


def test_blank_glass_is_left_out_and_its_area_reported():
    painting = Painting(400, 200, 0.25).disc(30, 30, 10, array_slide.NUCLEUS)
    plan = tiling.plan_regions(ArrayReader(painting.rgb(noise=2), 0.25), STAIN, core_um=100)
    assert [r.core for r in plan.regions] == [(0, 0, 512, 512)]
    assert plan.scanned_mm2 == pytest.approx(0.128**2)
    assert plan.blank_mm2 == pytest.approx(0.4 * 0.2 - 0.128**2)


@pytest.mark.parametrize("value", [255, 238, 4, 0])
def test_a_blank_slide_has_no_regions(value):
    reader = ArrayReader(np.full((700, 900, 3), value, np.uint8), 0.25, (1.0, 4.0))
    plan = tiling.plan_regions(reader, measure_stain(reader))
    assert (
        plan.regions == ()
        and plan.scanned_mm2 == 0
        and plan.blank_mm2 == pytest.approx(0.7 * 0.9 / 16)
    )


def test_a_single_pixel_is_one_region_or_none():
    assert len(tiling.plan_regions(stained(1, 1, 0.1), STAIN).regions) == 1


def test_the_halo_is_no_narrower_than_the_screens_support():
    assert tiling.HALO_UM >= screen_view.SUPPORT_UM


class EndlessGlass:
    """A slide of 200,000 x 100,000 pixels that is made as it is read: glass, and one cell's width of stain."""

    def __init__(self, levels: tuple[float, ...]):
        sizes = tuple((int(200_000 / d), int(100_000 / d)) for d in levels)
        self.slide = Slide(
            "/endless", "endless", "0", *sizes[0], 0.1, sizes, levels, "test", "image"
        )
        self.largest = 0
        self.damaged: dict = {}

    def read(self, level, x, y, w, h):
        self.largest = max(self.largest, w * h)
        out = np.full((h, w, 3), 240, np.uint8)
        if y == 0:
            out[2:6, 2:6] = (120, 60, 150)
        return out


def test_a_huge_slide_is_looked_at_in_stripes():
    reader = EndlessGlass((1.0, 4.0, 16.0, 32.0))
    plan = tiling.plan_regions(reader, STAIN)
    assert [r.core for r in plan.regions] == [(0, 0, 4096, 4096)]
    assert reader.largest <= 8_000_000


def test_a_huge_slide_without_a_pyramid_is_worked_on_whole_rather_than_read_twice():
    reader = EndlessGlass((1.0,))
    assert len(tiling.plan_regions(reader, STAIN).regions) == math.ceil(200_000 / 4096) * math.ceil(
        100_000 / 4096
    )
    assert reader.largest == 0
