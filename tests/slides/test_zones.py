"""Where on the smear: zones, what of them is counted, the overview, and what the audit says of the whole."""

import csv
import json
import math

import array_slide
import numpy as np
import painted_network
import pytest
from array_slide import ArrayReader, Painting
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_slides import write_pyramid
from PIL import Image
from scipy import stats

from hemax_batch.cells.cell_selection import select_cells, selection_warning
from hemax_batch.cells.screening_audit import estimate_missed, poisson_limits
from hemax_batch.cli.app import main
from hemax_batch.records import FilmSquares, Slide, StainProfile
from hemax_batch.scheduling import work_queue
from hemax_batch.slides import overview, quality, screen_view, zones
from hemax_batch.slides.stain import measure_stain
from hemax_batch.slides.tiling import plan_regions
from hemax_batch.vocabulary import ZONES

STAIN = StainProfile(array_slide.GLASS, array_slide.RED_CELL, 0.12)
MPP = 0.5


def film(
    width_um: float, height_um: float, layers: float, mpp: float = MPP, seed: int = 0
) -> np.ndarray:
    """Red cells dropped at random, `layers` of them on average, whose densities add up; uint8."""
    rng = np.random.default_rng(seed)
    painting = Painting(width_um, height_um, mpp)
    whole = np.zeros_like(painting.od)
    for _ in range(round(layers * width_um * height_um / (np.pi / 4 * 7.3**2))):
        x, y = rng.uniform(0, width_um), rng.uniform(0, height_um)
        one = Painting(16.0, 16.0, mpp).disc(8.0, 8.0, 7.3, array_slide.RED_CELL).od
        i, j = int(y / mpp) - one.shape[0] // 2, int(x / mpp) - one.shape[1] // 2
        y0, x0 = max(i, 0), max(j, 0)
        y1, x1 = min(i + one.shape[0], whole.shape[0]), min(j + one.shape[1], whole.shape[1])
        whole[y0:y1, x0:x1] += one[y0 - i : y1 - i, x0 - j : x1 - j]
    painting.od = whole
    return painting.rgb(noise=2, seed=seed)


def monolayer(width_um: float, height_um: float, step_um: float = 10.0) -> Painting:
    """Red cells side by side."""
    rng, painting = np.random.default_rng(5), Painting(width_um, height_um, MPP)
    for y in np.arange(6, height_um, step_um):
        for x in np.arange(6, width_um, step_um):
            painting.disc(
                x + rng.uniform(-1, 1),
                y + rng.uniform(-1, 1),
                7.3,
                array_slide.RED_CELL,
                pallor=0.4,
            )
    return painting


def map_of(reader: ArrayReader, core_um: float) -> zones.ZoneMap:
    regions = plan_regions(reader, STAIN, core_um).regions
    return zones.zone_map(reader.slide, [squares_of(reader, r) for r in regions])


def squares_of(reader: ArrayReader, region) -> FilmSquares:
    view = screen_view.read_view(reader, region.window, STAIN)
    return zones.measure_squares(view, region.core, reader.slide)


# --- zones ------------------------------------------------------------------------------------------------------------


def middle(rgb: np.ndarray) -> str:
    """The zone in the middle of a slide that is of one kind."""
    reader = ArrayReader(rgb, MPP)
    found = map_of(reader, 400)
    return ZONES[found.zones_at(np.array([[reader.slide.width / 2, reader.slide.height / 2]]))[0]]


def test_a_film_is_thicker_the_more_red_cells_lie_on_one_another():
    assert middle(film(240, 240, 0.03)) == "feathered"
    assert middle(film(240, 240, 0.3)) == middle(monolayer(240, 240).rgb(noise=2)) == "monolayer"
    assert (
        middle(film(240, 240, 1.5))
        == middle(film(240, 240, 3.0))
        == middle(film(240, 240, 6.0))
        == "thick"
    )


def test_glass_is_blank_and_uneven_light_changes_nothing():
    reader = ArrayReader(np.full((800, 800, 3), 240, np.uint8), MPP)
    part = zones.measure_squares(
        screen_view.read_view(reader, reader.whole(), STAIN), reader.whole(), reader.slide
    )
    assert (zones.zone_map(reader.slide, [part]).zones == zones.BLANK).all()
    sparse = monolayer(400, 400, 14.0).rgb(noise=2)
    shaded = (sparse * np.linspace(1.0, 0.8, sparse.shape[1])[None, :, None]).astype(
        np.uint8
    )  # OD 0.1
    assert (
        map_of(ArrayReader(shaded, MPP), 400).zones == map_of(ArrayReader(sparse, MPP), 400).zones
    ).all()


def test_white_cells_do_not_make_a_thick_area():
    painting = monolayer(400, 400)
    for x in range(15, 400, 30):
        for y in range(15, 400, 30):
            painting.disc(x, y, 14, array_slide.CYTOPLASM).disc(x, y, 9, array_slide.NUCLEUS)
    assert middle(painting.rgb(noise=2)) == "monolayer"


HALVES = ArrayReader(
    np.concatenate([monolayer(300, 240).rgb(noise=2), film(333, 240, 2.0)], axis=1), MPP
)


@settings(max_examples=8)
@given(st.floats(50, 700))
def test_zones_squares_and_overview_are_the_same_however_the_slide_is_cut(core_um):
    whole, cut = (plan_regions(HALVES, STAIN, um).regions for um in (700, core_um))
    np.testing.assert_array_equal(map_of(HALVES, core_um).zones, map_of(HALVES, 700).zones)
    known = squares_of(HALVES, whole[0])
    rows = {tuple(place): i for i, place in enumerate(known.places.tolist())}
    for region in cut:
        part = squares_of(HALVES, region)
        same = [rows[tuple(place)] for place in part.places.tolist()]
        for name in ("film", "covered", "overlaid", "single_od", "nuclei", "nuclear_od"):
            np.testing.assert_array_equal(getattr(part, name), getattr(known, name)[same])
    np.testing.assert_array_equal(*(picture(HALVES, regions) for regions in (whole, cut)))


SMEARS_END = ArrayReader(
    np.concatenate([monolayer(370, 400, 14.0).rgb(noise=2), film(700, 400, 0.0)], axis=1), MPP
)


@pytest.mark.parametrize("core_um", [64, 100, 200, 300])
def test_how_much_glass_the_plan_leaves_out_beside_the_smear_changes_no_zone(core_um):
    assert (
        plan_regions(SMEARS_END, STAIN, core_um).blank_mm2 > 0.2
        and plan_regions(SMEARS_END, STAIN, 1200).blank_mm2 == 0
    )
    np.testing.assert_array_equal(map_of(SMEARS_END, core_um).zones, map_of(SMEARS_END, 1200).zones)
    assert set(map_of(SMEARS_END, core_um).zones.ravel()) == {
        zones.BLANK,
        zones.FEATHERED,
        zones.MONOLAYER,
    }


def test_what_was_lost_is_neither_glass_nor_film():
    regions = plan_regions(HALVES, STAIN, 150).regions
    lost = [r.core for r in regions if r.core[0] * MPP >= 150]
    left = [squares_of(HALVES, r) for r in regions if r.core not in lost]
    assert set(zones.zone_map(HALVES.slide, left, lost).zones.ravel()) == {
        zones.BLANK,
        zones.MONOLAYER,
    }
    assert (
        zones.zone_map(HALVES.slide, left).zones == zones.FEATHERED
    ).any()  # as if it were glass


def picture(reader, regions) -> np.ndarray:
    views = [(screen_view.read_view(reader, r.window, STAIN), r.core) for r in regions]
    return overview.assemble_overview(
        reader.slide, STAIN, [overview.overview_piece(v, c, reader.slide) for v, c in views]
    )


def test_the_border_between_monolayer_and_thick_area_is_found():
    found = map_of(HALVES, 400)
    centres_um = (np.arange(found.zones.shape[1]) + 0.5) * found.side_px * MPP
    assert (found.zones[:, centres_um < 200] == zones.MONOLAYER).all()
    assert (found.zones[:, centres_um > 400] == zones.THICK).all()


@settings(max_examples=60)
@given(st.lists(st.integers(0, 500), min_size=zones._BINS, max_size=zones._BINS))
def test_thickness_of_a_square_against_a_slow_oracle(counts):
    pixels = [b for b, n in enumerate(counts) for _ in range(n)]
    rank = math.ceil(0.05 * len(pixels))
    glass = min(pixels[max(rank - 1, 0)] if pixels else 0, zones._GLASS_MOST)
    covered = [b - glass for b in pixels if b - glass >= 4]
    single = [above for above in covered if above < 12]
    found = zones.thickness_of(np.array([counts]))
    assert [int(v[0]) for v in found[:3]] == [len(pixels), len(covered), len(covered) - len(single)]
    assert found[3][0] == pytest.approx(sum(single) / 8)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**4))
def test_more_cover_never_makes_a_zone_thinner_nor_more_overlap(film_px, a, b, nuclei):
    covered, overlaid = sorted((min(a, film_px), min(b, film_px)), reverse=True)
    zone = zones.classify_zones(*np.array([film_px, covered, overlaid, nuclei]))
    assert zones.classify_zones(*np.array([film_px, covered, covered, nuclei])) >= zone
    assert (
        zones.classify_zones(*np.array([film_px, film_px, overlaid, nuclei])) >= zone
        or overlaid > 0.25 * covered
    )


@settings(max_examples=60)
@given(st.data())
def test_areas_of_a_rectangle_are_those_of_its_parts_and_sum_to_it(data):
    rows, columns = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6))
    seed, side = data.draw(st.integers(0, 99)), data.draw(st.floats(3, 40))
    found = zones.ZoneMap(
        np.random.default_rng(seed).integers(0, 4, (rows, columns)).astype(np.uint8), side
    )
    x0, x1, x2 = sorted(data.draw(st.tuples(*[st.integers(0, 300)] * 3)))
    y0, y1 = sorted(data.draw(st.tuples(*[st.integers(0, 300)] * 2)))
    whole = found.areas_in((x0, y0, x2, y1))
    np.testing.assert_allclose(
        found.areas_in((x0, y0, x1, y1)) + found.areas_in((x1, y0, x2, y1)), whole, atol=1e-6
    )
    assert whole.sum() == pytest.approx((x2 - x0) * (y1 - y0)) and (whole >= -1e-6).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (70, 2)])
def test_a_tiny_image_has_zones_and_an_overview(size):
    reader = ArrayReader(np.full((*size, 3), 120, np.uint8), 0.1)
    view = screen_view.read_view(reader, reader.whole(), STAIN)
    part = zones.measure_squares(view, reader.whole(), reader.slide)
    found = zones.zone_map(reader.slide, [part])
    assert found.zones_at(np.array([[0.5, 0.5]])).tolist() != [zones.BLANK]
    piece = overview.overview_piece(view, reader.whole(), reader.slide)
    assert overview.assemble_overview(reader.slide, STAIN, [piece]).size >= 3


@pytest.mark.parametrize("size", [(300_000, 90_000), (1601, 1), (5000, 5000)])
def test_the_overview_of_any_slide_is_at_most_1600_pixels_long(size):
    slide = Slide("/s", "s", "0", *size, 0.25, (size,), (1.0,), "test", "image")
    assert 1 <= max(overview.assemble_overview(slide, STAIN, []).shape[:2]) <= 1600


def test_a_slide_that_is_mostly_thick_is_measured_by_its_single_red_cells():
    """Found on this very slide: the median window shows two red cells on one another, and no single one was seen."""
    rgb = np.concatenate(
        [monolayer(240, 240).rgb(noise=2), *[film(240, 240, 2.0, seed=s) for s in (1, 2)]], axis=1
    )
    stain = measure_stain(ArrayReader(rgb, MPP))
    assert stain.rbc_od_rgb[1] == pytest.approx(array_slide.RED_CELL[1], abs=0.04)
    assert len(quality.rbc_diameters_um(rgb[:, :400], MPP, stain)) > 50


# --- what counts ------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["lymphocyte", "monocyte", "erythroblast", "unidentified"])
PLACES = st.lists(st.tuples(NAMES, st.sampled_from(ZONES[1:])), max_size=40)


@given(PLACES, st.integers(1, 30), st.sampled_from(["monolayer", "all"]), st.booleans())
def test_cells_are_left_out_only_where_the_monolayer_holds_enough_white_cells(
    cells, target, count_in, is_smear
):
    names, places = [c[0] for c in cells], [c[1] for c in cells]
    counting = select_cells(names, places, count_in, target, is_smear)
    enough = sum(n in ("lymphocyte", "monocyte") and p == "monolayer" for n, p in cells) >= target
    assert (counting.counted_in == "monolayer") == (enough and count_in == "monolayer" and is_smear)
    for place, reason in zip(places, counting.left_out, strict=True):
        assert bool(reason) == (counting.counted_in == "monolayer" and place != "monolayer")
    kept = sum(
        n in ("lymphocyte", "monocyte") and not r
        for n, r in zip(names, counting.left_out, strict=True)
    )
    assert kept >= min(target, sum(n in ("lymphocyte", "monocyte") for n in names))
    assert counting.because


def test_what_lies_outside_the_monolayer_is_always_told():
    names, places = (
        ["lymphocyte"] * 5 + ["erythroblast"],
        ["monolayer"] * 3 + ["thick", "feathered", "thick"],
    )
    left = selection_warning(select_cells(names, places, "monolayer", 3, True), names)
    assert (
        left
        == "2 white cells outside the monolayer (feathered 1, thick 1) left out of the differential"
    )
    few = selection_warning(select_cells(names, places, "monolayer", 4, True), names)
    assert few.endswith("counted: the monolayer holds 3 white cells, 4 are asked for")
    assert (
        selection_warning(select_cells(names[:3], places[:3], "monolayer", 3, True), names[:3])
        == ""
    )


# --- the audit --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2000), st.floats(0.5, 0.999))
def test_poisson_limits_are_garwoods(k, level):
    low, high = poisson_limits(k, level)
    tail = (1 - level) / 2
    assert low == pytest.approx(stats.chi2.ppf(tail, 2 * k) / 2 if k else 0)
    assert high == pytest.approx(stats.chi2.ppf(1 - tail, 2 * k + 2) / 2)
    assert stats.poisson.cdf(k, high) == pytest.approx(tail)
    assert k == 0 or stats.poisson.sf(k - 1, low) == pytest.approx(tail)


def test_the_audit_speaks_of_the_whole_slide_also_when_it_found_nothing():
    nothing = estimate_missed(0, 0.1, 10.0)
    assert (nothing.missed_estimate, nothing.low95) == (0, 0) and nothing.high95 == pytest.approx(
        3.689 * 99, rel=1e-3
    )
    assert nothing.warning(100) == ""
    some = estimate_missed(2, 0.1, 10.0)
    assert (
        some.missed_estimate == 200
        and some.low95 < 200 < some.high95
        and "200 on the slide" in some.warning(100)
    )
    every = estimate_missed(2, 10.0, 10.0)
    assert every.missed_estimate == every.low95 == every.high95 == 2
    assert estimate_missed(0, 0.0, 10.0).high95 is None
    with pytest.raises(ValueError, match="negative"):
        poisson_limits(-1)


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_thick(tmp_path_factory):
    """600 x 240 µm: a monolayer with 12 white cells, a thick area with 6; in each a nucleated cell every 60 µm."""
    left, right = monolayer(330, 240).rgb(noise=2), film(270, 240, 2.0)
    rgb = np.concatenate([left, right], axis=1)
    yy, xx = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
    for x in (*range(40, 260, 60), *range(440, 600, 60)):
        for y in (60, 120, 180):
            rgb[np.hypot(xx - x / MPP, yy - y / MPP) < 6 / MPP] = (120, 60, 150)
    return write_pyramid(
        tmp_path_factory.mktemp("slides") / "half.tif",
        rgb,
        mpp=MPP,
        levels=2,
        compression="deflate",
    )


@pytest.fixture
def go(weights, half_thick, tmp_path, monkeypatch):
    monkeypatch.setattr(work_queue, "process_region", painted_network.process_region)

    def run(name, *args):
        given = [
            half_thick,
            "--out",
            tmp_path / name,
            "--weights",
            weights,
            "--core-um",
            128,
            "--workers",
            0,
            *args,
        ]
        result = CliRunner().invoke(main, ["run", *map(str, given)])
        assert result.exit_code == 0, result.output
        return tmp_path / name / "half"

    return run


def table(path):
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def test_with_enough_white_cells_in_the_monolayer_the_thick_part_is_left_out_and_reported(go):
    folder = go("out", "--target-cells", 5)
    cells, regions = table(folder / "cells.csv"), table(folder / "regions.csv")
    record, told = (
        json.loads((folder / "result.json").read_text()),
        json.loads((folder / "differential.json").read_text()),
    )
    thick = [c for c in cells if c["zone"] == "thick"]
    assert len(thick) == 9 and all(float(c["x0"]) * MPP > 330 for c in thick)
    assert all("thick area" in c["left_out"] and c["in_differential"] == "false" for c in thick)
    counted = sum(c["in_differential"] == "true" for c in cells)
    assert told["white_cells"] == counted == sum(c["zone"] == "monolayer" for c in cells) >= 9
    smear = told["smear"]
    assert (
        smear == record["smear"]
        and smear["counted_in"] == "monolayer"
        and smear["cells_left_out"] == len(cells) - counted
    )
    assert 0.03 < smear["thick_mm2"] < 0.08 and smear["left_out_mm2"] >= smear["thick_mm2"]
    parts = ("monolayer_mm2", "feathered_mm2", "thick_mm2", "bare_glass_mm2", "unreadable_mm2")
    assert sum(smear[k] for k in parts) == pytest.approx(smear["scanned_mm2"], abs=1e-5)
    for name in ("area_mm2", "used_mm2", "left_out_mm2"):
        total = smear["scanned_mm2"] if name == "area_mm2" else smear[name]
        assert sum(float(r[name]) for r in regions) == pytest.approx(total, abs=1e-4)
    out = [r for r in regions if r["used"] == "false"]
    assert out and all(
        r["zone"] == "thick" and "red cells lie on one another" in r["reason"] for r in out
    )
    assert any("left out of the differential" in w for w in told["warnings"])
    image = Image.open(folder / "overview.jpg")
    assert image.size == (1200, 480)


def test_with_few_white_cells_the_whole_smear_is_counted_and_that_is_said(go):
    folder = go("out")
    told, cells = (
        json.loads((folder / "differential.json").read_text()),
        table(folder / "cells.csv"),
    )
    assert told["white_cells"] == sum(c["in_differential"] == "true" for c in cells) and not any(
        c["left_out"] for c in cells
    )
    assert (
        told["smear"]["counted_in"] == "all"
        and "200 are asked for" in told["smear"]["counted_because"]
    )
    assert (
        told["smear"]["left_out_mm2"] == 0
        and told["smear"]["used_mm2"] > told["smear"]["thick_mm2"] > 0.03
    )
    assert any("outside the monolayer" in w and "200 are asked for" in w for w in told["warnings"])
    everything = go("all", "--target-cells", 5, "--count-in", "all")
    assert (
        json.loads((everything / "differential.json").read_text())["white_cells"]
        == told["white_cells"]
    )


@pytest.mark.parametrize(
    "more", [["--core-um", 61, "--batch-size", 1], ["--core-um", 700, "--workers", 2]]
)
def test_what_counts_does_not_depend_on_regions_workers_or_batches(go, more):
    first, second = go("a", "--target-cells", 5), go("b", "--target-cells", 5, *more)
    for name in ("cells.csv", "differential.csv", "overview.jpg"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    areas = [
        json.loads((folder / "result.json").read_text())["smear"] for folder in (first, second)
    ]
    for name in ("monolayer_mm2", "thick_mm2", "used_mm2", "left_out_mm2"):
        assert areas[0][name] == pytest.approx(areas[1][name], abs=2e-5)
