import csv

import array_slide
import numpy as np
import pytest
from array_slide import ArrayReader, Painting
from checkout import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from hemax_batch.geometry import fill_holes, inside
from hemax_batch.records import StainProfile
from hemax_batch.slides import lattice, patch_grid, screen_view, screening
from hemax_batch.slides.stain import measure_stain

STAIN = StainProfile(array_slide.GLASS, array_slide.RED_CELL, 0.12)
PBC = SHARED / "data/pbc"

SLIDES = {
    "pyramid by 4": ArrayReader(array_slide.smear_rgb(160, 150, 0.1, seed=1), 0.1, (1.0, 4.0)),
    "odd pyramid": ArrayReader(array_slide.smear_rgb(160, 150, 0.12, seed=2), 0.12, (1.0, 3.97)),
    "0.25 flat": ArrayReader(array_slide.smear_rgb(240, 200, 0.25, seed=3), 0.25),
    "0.5 flat": ArrayReader(array_slide.smear_rgb(260, 200, 0.5, seed=4), 0.5),
}


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(SLIDES)), st.data())
def test_a_candidate_is_the_same_from_whatever_window_it_is_seen(name, data):
    reader = SLIDES[name]
    width, height = reader.slide.width, reader.slide.height
    support = int(np.ceil(screen_view.SUPPORT_UM / reader.slide.mpp))
    x0, x1 = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    y0, y1 = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    interior = (
        x0 + support if x0 else 0,
        y0 + support if y0 else 0,
        x1 - support if x1 < width else width,
        y1 - support if y1 < height else height,
    )
    whole = screening.propose_candidates(reader, reader.whole(), STAIN)
    part = screening.propose_candidates(reader, (x0, y0, x1, y1), STAIN)
    np.testing.assert_array_equal(part[inside(part, interior)], whole[inside(whole, interior)])
    assert inside(part, (x0, y0, x1, y1)).all()


def test_the_grid_test_has_something_to_compare():
    for reader in SLIDES.values():
        assert len(screening.propose_candidates(reader, reader.whole(), STAIN)) >= 5


@pytest.mark.parametrize(
    "mpp, levels", [(0.05, (1.0,)), (0.1, (1.0, 2.0, 4.0)), (0.25, (1.0,)), (0.5, (1.0, 4.0))]
)
@pytest.mark.parametrize("nucleus", [array_slide.NUCLEUS, array_slide.PALE_NUCLEUS])
def test_one_proposal_in_the_middle_of_every_nucleated_cell_and_none_elsewhere(
    mpp, levels, nucleus
):
    painting, cells = Painting(80, 60, mpp), [(20.0, 30.0), (60.0, 44.0)]
    for x in np.arange(5, 80, 10.0):
        painting.disc(x, 10, 7.3, array_slide.PALE_RED_CELL).disc(
            x + 2, 13, 7.3, array_slide.PALE_RED_CELL
        )
    painting.disc(40, 44, 2.4, array_slide.PLATELET)
    for x, y in cells:
        painting.disc(x, y, 9, array_slide.CYTOPLASM).disc(x, y, 7, nucleus)
    reader = ArrayReader(painting.rgb(noise=2), mpp, levels)
    found = screening.propose_candidates(reader, reader.whole(), STAIN) * mpp
    assert len(found) == 2
    assert np.abs(found - cells).max() < 1.0


def test_two_lobes_are_one_cell_and_two_touching_lymphocytes_are_two():
    painting = Painting(80, 60, 0.2).disc(20, 30, 13, array_slide.CYTOPLASM)
    painting.disc(18, 28.5, 4, array_slide.NUCLEUS).disc(22, 31.5, 4, array_slide.NUCLEUS)
    painting.disc(50, 30, 7.5, array_slide.NUCLEUS).disc(57.5, 30, 7.5, array_slide.NUCLEUS)
    reader = ArrayReader(painting.rgb(), 0.2)
    found = screening.propose_candidates(reader, reader.whole(), STAIN) * 0.2
    assert len(found) == 3
    found = found[np.argsort(found[:, 0])]
    assert np.abs(found - [(20, 30), (50, 30), (57.5, 30)]).max() < 1.5


@pytest.mark.parametrize("apart_um", [8.0, 10.0, 13.0])
@pytest.mark.parametrize("darker", [array_slide.NUCLEUS, (60, 20, 95)])
def test_a_pale_nucleus_among_darker_ones_that_touch_it_is_whole_in_a_neighbour_s_patch(
    apart_um, darker
):
    """It may have no peak of its own on the slope of a darker one; a patch of 38.4 µm round that shows it all the same."""
    painting, middle = Painting(100, 80, 0.2), (50.0, 40.0)
    for x, y in (
        (50 - apart_um, 40),
        (50, 40 + apart_um),
        (50 + 0.7 * apart_um, 40 - 0.7 * apart_um),
    ):
        painting.disc(x, y, 9, darker)
    painting.disc(*middle, 9, array_slide.PALE_NUCLEUS)
    reader = ArrayReader(painting.rgb(noise=2), 0.2)
    found = screening.propose_candidates(reader, reader.whole(), STAIN) * 0.2
    assert np.abs(found - middle).max(1).min() + 5.5 < 38.4 / 2


def test_a_large_flat_nucleus_has_its_proposal_near_the_middle():
    reader = ArrayReader(
        Painting(80, 80, 0.2).disc(40, 40, 18, array_slide.NUCLEUS).rgb(noise=3), 0.2
    )
    found = screening.propose_candidates(reader, reader.whole(), STAIN) * 0.2
    assert len(found) and np.hypot(*(found - 40).T).max() < 6


@pytest.mark.parametrize(
    "colour", [(255, 255, 255), (0, 0, 0), (12, 10, 14), (240, 236, 228), (128, 128, 128)]
)
@pytest.mark.parametrize("size", [(1, 1), (3, 700), (400, 300)])
def test_nothing_is_proposed_on_an_even_plane(colour, size):
    reader = ArrayReader(np.full((*size, 3), colour, np.uint8), 0.1)
    assert screening.propose_candidates(reader, reader.whole(), STAIN).shape == (0, 2)


def test_a_plane_full_of_nuclear_stain_neither_hangs_nor_floods():
    reader = ArrayReader(np.full((900, 900, 3), (90, 40, 140), np.uint8), 0.4)
    found = screening.propose_candidates(reader, reader.whole(), STAIN)
    assert len(found) < 900 * 900 * 0.4**2 / 16  # at most one in the square of the least distance


def test_a_window_beyond_the_slide_holds_nothing():
    reader = SLIDES["0.5 flat"]
    assert screening.propose_candidates(reader, (9000, 0, 9900, 100), STAIN).shape == (0, 2)
    assert screening.propose_candidates(reader, (10, 10, 10, 50), STAIN).shape == (0, 2)


@pytest.mark.parametrize("a", [1, 2, 3, 5, 50])
def test_a_block_s_mean_depends_on_that_block_alone(a):
    rgb = np.random.default_rng(1).integers(0, 256, (4 * a, 6 * a, 3), dtype=np.uint8)
    whole = lattice.block_mean(rgb, a)
    exact = rgb.reshape(4, a, 6, a, 3).mean(axis=(1, 3))
    assert np.abs(whole - exact).max() <= 1
    for y, x in ((0, 0), (1, 2), (3, 5)):
        block = rgb[y * a : (y + 1) * a, x * a : (x + 1) * a]
        assert np.array_equal(lattice.block_mean(block, a)[0, 0], whole[y, x])


def test_a_lattice_read_in_stripes_is_the_plain_block_mean(monkeypatch):
    rgb = np.random.default_rng(0).integers(0, 256, (103, 87, 3), dtype=np.uint8)
    reader = ArrayReader(rgb, 0.1)
    grid = lattice.lattice_of(reader.slide, 0.5)
    assert (grid.average, grid.width, grid.height) == (5, 17, 20)
    want = np.rint(rgb[:100, :85].reshape(20, 5, 17, 5, 3).mean(axis=(1, 3), dtype=float)).astype(
        np.uint8
    )
    monkeypatch.setattr(lattice, "_MAX_PIXELS_PER_READ", 1000)
    got = lattice.read_lattice(reader, grid, (-2, -1, 19, 22), (7, 8, 9))
    np.testing.assert_allclose(got[1:21, 2:19].astype(int), want, atol=1)
    outside = np.ones((23, 21), bool)
    outside[1:21, 2:19] = False
    assert (got[outside] == (7, 8, 9)).all()
    assert max(reader.pixels_read) <= 1000


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 0.5), st.integers(1, 3000), st.integers(1, 3000))
def test_patches_of_the_exhaustive_lattice_belong_to_one_core_and_none_is_missed(mpp, cut_x, cut_y):
    size = 3000
    cores = [
        (0, 0, cut_x, cut_y),
        (cut_x, 0, size, cut_y),
        (0, cut_y, cut_x, size),
        (cut_x, cut_y, size, size),
    ]
    parts = np.concatenate([patch_grid.lattice_centres(core, 16.0, mpp) for core in cores])
    whole = patch_grid.lattice_centres((0, 0, size, size), 16.0, mpp)
    assert sorted(map(tuple, parts)) == sorted(map(tuple, whole))


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 0.5), st.floats(20, 80), st.floats(20, 80))
def test_a_cell_of_22_um_is_whole_in_some_patch_of_the_exhaustive_lattice(mpp, x_um, y_um):
    centres_um = (
        patch_grid.lattice_centres((0, 0, round(100 / mpp), round(100 / mpp)), 16.0, mpp) * mpp
    )
    reach = np.abs(centres_um - (x_um, y_um)).max(axis=1) + 11
    assert reach.min() <= 38.4 / 2


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 3), st.floats(0.1, 0.9))
def test_the_audit_draws_the_same_patches_however_the_slide_is_cut(cut, seed, fraction):
    proposals = np.random.default_rng(seed).uniform(0, 5000, (60, 2))
    args = (proposals, fraction, seed, 0.1, 38.4)
    whole, area, passed_over = patch_grid.audit_sample((0, 0, 5000, 5000), *args)
    left, *_ = patch_grid.audit_sample((0, 0, cut, 5000), *args)
    right, *_ = patch_grid.audit_sample((cut, 0, 5000, 5000), *args)
    assert sorted(map(tuple, np.concatenate([left, right]))) == sorted(map(tuple, whole))
    assert area == pytest.approx(len(whole) * 38.4**2)
    _, of_it, passed_of_it = patch_grid.audit_sample(
        (0, 0, 4000, 4100), np.zeros((0, 2)), 1.0, seed, 0.1, 38.4, (4000, 4100)
    )
    assert (
        of_it == passed_of_it <= 400 * 410 and passed_of_it > 0.9 * 400 * 410
    )  # nothing beyond the slide
    for centre in whole:
        assert (np.abs(proposals - centre).max(axis=1) >= 192 - 1e-6).all()


def test_the_audit_draws_about_the_fraction_and_another_seed_draws_others():
    core, none = (0, 0, 40_000, 40_000), np.zeros((0, 2))
    every, *_ = patch_grid.audit_sample(core, none, 1.0, 0, 0.1, 38.4)
    some, *_ = patch_grid.audit_sample(core, none, 0.05, 0, 0.1, 38.4)
    others, *_ = patch_grid.audit_sample(core, none, 0.05, 1, 0.1, 38.4)
    assert 0.04 < len(some) / len(every) < 0.06
    assert len({*map(tuple, some)} & {*map(tuple, others)}) < len(some) / 4
    assert not len(patch_grid.audit_sample(core, none, 0.0, 0, 0.1, 38.4)[0])


def test_real_white_cells_are_proposed():
    if not PBC.exists():
        pytest.skip(f"no {PBC}: real smear images are not part of the project")
    with open(PBC / "labels.csv") as file:
        rows = [
            r
            for r in csv.DictReader(file)
            if r["split"] == "val" and r["box_cx"] and r["class"] != "platelet"
        ]
    for row in rows[::16]:
        reader = ArrayReader(
            np.asarray(Image.open(PBC / "images" / row["file"]).convert("RGB")), 0.1
        )
        width, height = reader.slide.width, reader.slide.height
        found = screening.propose_candidates(reader, reader.whole(), measure_stain(reader))
        cx, cy, w, h = (float(row[k]) for k in ("box_cx", "box_cy", "box_w", "box_h"))
        box = (
            (cx - w / 2) * width,
            (cy - h / 2) * height,
            (cx + w / 2) * width,
            (cy + h / 2) * height,
        )
        assert inside(found, box).any(), row["file"]
        assert len(found) <= 5, row["file"]


@pytest.mark.parametrize("name", sorted(SLIDES))
def test_looking_only_where_anything_is_stained_finds_the_same(name, monkeypatch):
    reader = SLIDES[name]
    found = screening.propose_candidates(reader, reader.whole(), STAIN)
    whole = [slice(0, None)] * 2
    monkeypatch.setattr(
        screening, "_stained_parts", lambda stained, _reach: [(tuple(whole), np.ones_like(stained))]
    )
    assert np.array_equal(found, screening.propose_candidates(reader, reader.whole(), STAIN))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(1, 25), st.floats(0.1, 0.9))
def test_filling_holes_is_scipys(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([3, 7, 13]),
    st.integers(0, 99),
)
def test_a_percentile_of_the_ground_is_scipys(seed, height, width, size, percentile):
    image = np.random.default_rng(seed).integers(-500, 500, (height, width), dtype=np.int32)
    expected = ndimage.percentile_filter(image, percentile, size, mode="nearest")
    assert np.array_equal(screening._percentile(image, percentile, size), expected)
