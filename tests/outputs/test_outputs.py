"""Tables, masks and GeoJSON, each read back by somebody else's reader."""

import csv
import json
import uuid
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import shapely
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cells import cells_at, disc
from scipy import ndimage
from skimage.measure import find_contours

from hemax_batch.cells import contours
from hemax_batch.cells.classify import classify_cells
from hemax_batch.cells.contours import trace_outlines, trace_rings
from hemax_batch.cells.differential import count_differential
from hemax_batch.cells.false_calls import FalseCalls
from hemax_batch.cells.measure import measure_cells
from hemax_batch.cells.merge import merge_cells
from hemax_batch.outputs import differential_json, geojson, mask_blocks, masks, tables
from hemax_batch.outputs.outlines import add_outlines
from hemax_batch.records import MergedCells, Slide
from hemax_batch.vocabulary import CLASS_NAMES, CLASSES, WHITE_NAMES


def slide_of(width, height, mpp=0.25):
    return Slide(
        "/s.tif", "s", "f", width, height, mpp, ((width, height),), (1.0,), "generic", "tiff"
    )


WIDTH, HEIGHT = 750, 625


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks, chunks and the end of the pyramid at an eighth of their size: the same steps on small arrays."""
    monkeypatch.setattr(mask_blocks, "BLOCK_PX", 512)
    monkeypatch.setattr(mask_blocks, "CHUNK_PX", 32)
    monkeypatch.setattr(masks, "SMALLEST_PX", 128)


@pytest.fixture(scope="module")
def done():
    """Four cells: one across the border of two blocks, two overlapping, one at the slide's corner."""
    slide = slide_of(WIDTH, HEIGHT)
    merged = merge_cells(
        [
            cells_at(
                [(496, 100), (300, 300), (322, 300), (710, 585)],
                [40, 40, 30, 40],
                ["monocyte", "lymphocyte", "basophil", "blast"],
            )
        ]
    )
    measures = measure_cells(merged.cells, slide.mpp, np.full(30, 7.0))
    return slide, merged, measures, classify_cells(merged.cells, measures, (WIDTH, HEIGHT), 0.5)


def test_cells_table_has_the_promised_columns_and_the_same_bytes_twice(done, tmp_path):
    _, merged, measures, calls = done
    for name in ("a.csv", "b.csv"):
        tables.write_table(
            tmp_path / name, tables.CELL_COLUMNS, tables.cell_rows("s", merged, measures, calls)
        )
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    table = pd.read_csv(tmp_path / "a.csv")
    assert table.cell_id.tolist() == [1, 2, 3, 4] and set(table["class"]) == {
        "monocyte",
        "lymphocyte",
        "basophil",
        "blast",
    }
    attributes = ("granularity", "cytoplasm_colour", "nucleus_shape", "size_vs_rbc")
    assert list(table.columns) == [
        "slide",
        "cell_id",
        "class",
        "confidence",
        "x0",
        "y0",
        "x1",
        "y1",
        *(f"p_{name}" for name in CLASS_NAMES),
        *(column for name in attributes for column in (name, f"{name}_confidence")),
        "diameter_um",
        "diameter_vs_rbc",
        "nucleus_area_um2",
        "cell_area_um2",
        "nc_ratio",
        "nucleus_fraction",
        "zone",
        "in_differential",
        "left_out",
        "review",
        "review_reasons",
        "explanation",
        "sample_id",
    ]
    assert np.allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-3) and set(
        table.size_vs_rbc
    ) == {"small"}
    assert table.in_differential.all() and np.allclose(
        table.nc_ratio, table.nucleus_fraction / (1 - table.nucleus_fraction), atol=1e-3
    )
    text = (tmp_path / "a.csv").read_text()
    assert (
        ",496.0,100.0,536.0,140.0," in text
        and "\r" not in text
        and text.startswith("slide,cell_id,")
    )


def test_our_own_reader_gives_back_what_was_written(done, tmp_path):
    _, merged, measures, calls = done
    name = '=odd, "name"\n\'é\r'
    tables.write_table(
        tmp_path / "a.csv", tables.CELL_COLUMNS, tables.cell_rows(name, merged, measures, calls)
    )
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes())
    for file in ("a.csv", "bom.csv"):
        rows = list(tables.read_table(tmp_path / file))
        assert [r["slide"] for r in rows] == [name] * 4
        assert [r["explanation"] for r in rows] == [reading.explanation for reading in calls]
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 5  # a row is a line


def test_figures_that_do_not_exist_are_empty(tmp_path):
    d = count_differential([])
    row = dict(
        zip(tables.DIFFERENTIAL_COLUMNS, tables.differential_row("s", "p", d, 0, ()), strict=True)
    )
    assert row["lymphocyte_percent"] == row["nrbc_per_100_white"] == row["corrected_wbc"] == ""
    assert (
        row["lymphocyte_count"] == "0"
        and row["sufficient"] == "false"
        and "insufficient" in row["flags"]
    )


_HOSTILE = st.text(st.sampled_from("=+-@\t\r\n'\" a1,;\uff1d\xa0"), max_size=8)


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="␊␍"), max_size=30),
        _HOSTILE,
    )
)
def test_no_text_is_a_formula_and_every_text_comes_back(text):
    safe = tables.safe_text(text)
    assert not safe.lstrip(' \t"').startswith(("=", "+", "-", "@", "\uff1d"))
    assert not set(safe) & set("\r\n")
    assert tables.plain_text(safe) == text


def test_a_file_name_of_no_encoding_can_be_written(tmp_path):
    row = tables.differential_row("s", "/x/\udcff.tif", count_differential([]), 0, ())
    tables.write_table(tmp_path / "d.csv", tables.DIFFERENTIAL_COLUMNS, [row])
    assert "/x/\\udcff.tif" in (tmp_path / "d.csv").read_text("utf-8")


def test_a_hostile_slide_name_is_safe_in_the_differential(tmp_path):
    d = count_differential(["lymphocyte"] * 3)
    row = tables.differential_row('=cmd|"/c calc"!A1', "/x/=cmd.tif", d, 0, ())
    tables.write_table(tmp_path / "d.csv", tables.DIFFERENTIAL_COLUMNS, [row])
    with open(tmp_path / "d.csv", newline="") as f:
        (read,) = csv.DictReader(f)
    assert (
        read["slide"].startswith("'=")
        and read["sufficient"] == "false"
        and read["lymphocyte_percent"] == "100.00"
    )
    assert "research use only" in read["claim"] and len(row) == len(tables.DIFFERENTIAL_COLUMNS)


def test_mask_values_are_exactly_the_ids_and_lie_where_the_cells_are(done, tmp_path):
    slide, merged, _, calls = done
    path = tmp_path / "masks.zarr"
    masks.write_masks(path, slide, merged, calls.names)
    cell = zarr.open_array(path / "labels/cell/0")
    assert cell.shape == (HEIGHT, WIDTH) and cell.dtype == np.uint32
    whole = cell[:]
    assert set(np.unique(whole)) == {0, *merged.ids.tolist()}
    assert set(np.unique(zarr.open_array(path / "labels/nucleus/0")[:])) == {
        0,
        *merged.ids.tolist(),
    }
    i = int(np.flatnonzero(merged.cells.mask_xy[:, 0] == 496)[0])  # the one across two blocks
    assert np.array_equal(whole[100:140, 496:536] == merged.ids[i], disc(40) > 0)
    files = [
        p for p in (path / "labels/cell/0").rglob("*") if p.is_file() and p.name != "zarr.json"
    ]
    assert len(files) == 3  # of four blocks, the one without a cell is not written


def test_masks_open_with_ome_zarr_py_and_validate(done, tmp_path):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr_models.v05 import Image
    from ome_zarr_models.v05.image_label import ImageLabel

    slide, merged, _, calls = done
    path = tmp_path / "masks.zarr"
    masks.write_masks(path, slide, merged, calls.names)
    Image.from_zarr(zarr.open_group(path, mode="r"))
    ImageLabel.from_zarr(zarr.open_group(path / "labels/cell", mode="r"))
    assert (
        len(list(Reader(parse_url(path))())) >= 2
    )  # the folder as a whole: its image and its labels
    nodes = list(Reader(parse_url(path / "labels/cell"))())
    data = nodes[0].data
    assert [d.shape for d in data] == masks.level_shapes(HEIGHT, WIDTH)
    assert set(np.unique(np.asarray(data[-1]))) == {0, *merged.ids.tolist()}
    scale = nodes[0].metadata["coordinateTransformations"]
    assert scale[0] == [{"type": "scale", "scale": [0.25, 0.25]}]
    assert scale[1] == [
        {"type": "scale", "scale": [0.5, 0.5]},
        {"type": "translation", "translation": [0.125, 0.125]},
    ]
    assert zarr.open_group(path / "labels", mode="r").attrs["ome"] == {
        "version": "0.5",
        "labels": ["cell", "nucleus"],
    }
    named = zarr.open_group(path / "labels/nucleus", mode="r").attrs["ome"]["image-label"]
    assert [entry["label-value"] for entry in named["colors"]] == merged.ids.tolist()
    assert [entry["class"] for entry in named["properties"]] == calls.names
    assert [entry["confidence"] for entry in named["properties"]] == calls.confidences[:, 0].round(
        4
    ).tolist()
    assert [entry["label-value"] for entry in named["properties"]] == merged.ids.tolist()
    colours = {c.name: c.colour for c in CLASSES}
    for entry, reading in zip(named["colors"], calls, strict=True):
        assert (
            "#{:02X}{:02X}{:02X}".format(*entry["rgba"][:3]) == colours[reading.class_name]
            and entry["rgba"][3] == 255
        )


def test_every_level_is_the_halved_one_before_and_nuclei_lie_in_their_cells(done, tmp_path):
    slide, merged, _, calls = done
    masks.write_masks(tmp_path / "m.zarr", slide, merged, calls.names)
    for name in ("cell", "nucleus"):
        levels = [zarr.open_array(tmp_path / f"m.zarr/labels/{name}/{k}")[:] for k in range(4)]
        assert [v.shape for v in levels] == [(625, 750), (313, 375), (157, 188), (79, 94)]
        for finer, coarser in pairwise(levels):
            h, w = finer.shape
            even = np.pad(finer, ((0, h % 2), (0, w % 2)))
            assert np.array_equal(coarser, even.reshape(coarser.shape[0], 2, -1, 2).max((1, 3)))
    cell, nucleus = (
        zarr.open_array(tmp_path / f"m.zarr/labels/{name}/0")[:] for name in ("cell", "nucleus")
    )
    assert np.array_equal(nucleus[nucleus > 0], cell[nucleus > 0])


def test_masks_are_stored_as_promised(done, tmp_path, monkeypatch):
    monkeypatch.undo()
    merged = merge_cells([cells_at([(4080, 100)], 40)])
    masks.write_masks(tmp_path / "m.zarr", slide_of(9000, 4200), merged, ["blast"])
    level = zarr.open_array(tmp_path / "m.zarr/labels/cell/0")
    assert level.dtype == np.uint32 and level.chunks == (256, 256) and level.shards == (4096, 4096)
    assert np.array_equal(level[100:140, 4080:4120] > 0, disc(40) > 0)
    assert [c.to_dict()["name"] for c in level.compressors] == ["zstd"]
    files = [
        p
        for p in (tmp_path / "m.zarr/labels/cell/0").rglob("*")
        if p.is_file() and p.name != "zarr.json"
    ]
    assert (
        len(files) == 2 and sum(p.stat().st_size for p in files) < 20_000
    )  # of six shards two, and in them two chunks
    assert masks.level_shapes(100_000, 90_000)[-1] == (782, 704)


def test_a_slide_without_cells_has_valid_empty_masks(tmp_path):
    masks.write_masks(tmp_path / "m.zarr", slide_of(100, 80), merge_cells([]), [])
    assert not zarr.open_array(tmp_path / "m.zarr/labels/cell/0")[:].any()


@pytest.mark.parametrize("border", [0, 512 - 65])  # within a block, and across the border of two
def test_a_cell_hidden_by_others_keeps_a_pixel(tmp_path, border):
    slide = slide_of(700, 200)
    places = [(50, 50), (40, 50), (60, 50), (50, 40), (50, 60), (50, 50), (50, 50)]
    cells = cells_at([(x + border, y) for x, y in places], [30, 26, 26, 26, 26, 30, 30])
    merged = MergedCells(cells, np.arange(1, 8), {})
    masks.write_masks(tmp_path / "m.zarr", slide, merged, ["blast"] * 7)
    cell, nucleus = (
        zarr.open_array(tmp_path / f"m.zarr/labels/{name}/0")[:] for name in ("cell", "nucleus")
    )
    assert set(np.unique(cell)) == set(range(8))
    assert np.array_equal(nucleus[nucleus > 0], cell[nucleus > 0])


def test_outlines_are_valid_polygons_of_the_masks_area(done, tmp_path):
    _, merged, measures, calls = done
    geojson.write_geojson(tmp_path / "c.geojson", "s", merged, measures, calls)
    features = json.loads((tmp_path / "c.geojson").read_text())["features"]
    assert [f["properties"]["name"] for f in features] == ["1", "2", "3", "4"]
    for f, area in zip(features, measures.cell_area_um2 / 0.25**2, strict=True):
        shape = shapely.geometry.shape(f["geometry"])
        assert shape.is_valid and shape.area == pytest.approx(area, rel=0.05)
        assert shape.buffer(1).contains(shapely.geometry.shape(f["nucleusGeometry"]))
    box = shapely.geometry.shape(features[0]["geometry"]).bounds
    assert np.allclose(box, merged.cells.boxes_xyxy[0], atol=1)
    assert len({f["id"] for f in features}) == 4
    traced = replace(merged, cells=add_outlines(merged.cells))
    geojson.write_geojson(tmp_path / "traced.geojson", "s", traced, measures, calls)
    assert (tmp_path / "traced.geojson").read_bytes() == (tmp_path / "c.geojson").read_bytes()
    geojson.write_geojson(tmp_path / "d.geojson", "other slide", merged, measures, calls)
    others = json.loads((tmp_path / "d.geojson").read_text())["features"]
    assert not {f["id"] for f in features} & {
        f["id"] for f in others
    }  # QuPath keeps objects apart by id


def read_nothing(empty):
    measures = measure_cells(empty.cells, 0.1, np.zeros(0))
    return measures, classify_cells(empty.cells, measures, (100, 100), 0.5)


def test_a_slide_without_cells_has_a_valid_empty_collection(tmp_path):
    empty = merge_cells([])
    geojson.write_geojson(tmp_path / "c.geojson", "s", empty, *read_nothing(empty))
    read = json.loads((tmp_path / "c.geojson").read_text())
    assert read["features"] == [] and "research use only" in read["claim"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0.0, 6.0))
def test_outlines_of_any_mask_are_valid(seed, h, w, smooth):
    """Specks, spirals, holes and islands in holes: nuclei of a poor network."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(h, w)), smooth)
    mask = noise > np.median(noise)
    [rings] = trace_outlines([mask], np.array([[1000, 2000]]))
    if not mask.any():
        assert not rings
        return
    shape = shapely.MultiPolygon([[ring] for ring in rings])
    assert shape.is_valid and shape.area > 0
    x0, y0, x1, y1 = shape.bounds
    assert x0 >= 999.5 and y0 >= 1999.5 and x1 <= 1000 + w and y1 <= 2000 + h


@pytest.mark.slow
@given(st.text(max_size=12), st.integers(1, 10**9))
def test_an_objects_id_is_of_version_5(slide_id, number):
    name = f"{slide_id.encode('utf-8', 'backslashreplace')!r}/{number}"
    assert geojson._object_id(slide_id, number) == str(uuid.uuid5(geojson._NAMESPACE, name))


def numbers_one_by_one(values, decimals):
    return [tables._format_number(float(value), decimals) for value in values]


@given(st.lists(st.floats(width=32), max_size=20), st.integers(0, 4))
def test_a_column_is_written_as_its_numbers_are(values, decimals):
    column = np.array(values, np.float32)
    assert tables.format_column(column, decimals) == numbers_one_by_one(column, decimals)


def test_an_island_in_a_hole_has_no_ring_of_its_own():
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    island = ring.copy()
    island[4, 4] = True
    here = np.zeros((1, 2), int)
    assert (
        trace_outlines([island], here)
        == trace_outlines([ring], here)
        == trace_outlines([np.ones((9, 9), bool)], here)
    )


def turned(ring):
    """A closed ring as a tuple that starts at its least point, in its own direction."""
    points = [tuple(p) for p in ring[:-1].tolist()]
    at = points.index(min(points))
    return tuple(points[at:] + points[:at])


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.floats(0.0, 4.0))
def test_contours_are_those_of_skimage(seed, h, w, smooth):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(h, w)), smooth)
    mask = np.pad(noise > np.median(noise), 1)
    theirs = {turned(ring[:, ::-1]) for ring in find_contours(mask.astype(np.float32), 0.5)}
    points, ends = trace_rings(mask)
    ours = np.split(points, ends[:-1]) if len(ends) else []
    assert {turned(ring) for ring in ours} == theirs and len(ours) == len(theirs)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_an_outline_does_not_depend_on_what_is_traced_beside_it(seed, n):
    random = np.random.default_rng(seed)
    noise = [
        ndimage.gaussian_filter(random.normal(size=random.integers(1, 40, 2)), random.uniform(0, 5))
        for _ in range(n)
    ]
    masks = [values > np.quantile(values, random.uniform(0.1, 1.0)) for values in noise]
    masks_xy = random.integers(0, 200_000, (n, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contours, "_MASKS_PER_CANVAS", 5)
        together = trace_outlines(masks, masks_xy)
    assert together == [
        trace_outlines([mask], xy[None])[0] for mask, xy in zip(masks, masks_xy, strict=True)
    ]
    here = [
        [np.subtract(ring, xy).tolist() for ring in rings]
        for rings, xy in zip(together, masks_xy, strict=True)
    ]
    assert here == [trace_outlines([mask], np.zeros((1, 2), int))[0] for mask in masks]


def test_an_outline_has_few_points_and_keeps_its_area():
    for diameter in (20, 60, 150):
        mask = disc(diameter) > 0
        [[ring]] = trace_outlines([mask], np.zeros((1, 2), int))
        assert len(ring) < diameter and shapely.Polygon(ring).area == pytest.approx(
            mask.sum(), rel=0.02
        )


def test_the_differentials_record_is_whole(tmp_path):
    d = count_differential(
        ["lymphocyte"] * 30 + ["band_neutrophil"] * 10 + ["erythroblast"] * 4, wbc=8.0
    )
    measures = measure_cells(merge_cells([]).cells, 0.1, np.full(30, 7.0))
    differential_json.write_differential(
        tmp_path / "d.json", "s", "/x/s.tif", d, measures, 3, ("pale stain",)
    )
    read = json.loads((tmp_path / "d.json").read_text())
    assert [c["class"] for c in read["classes"]] == ["neutrophils", *WHITE_NAMES]
    band = read["classes"][5]
    assert (band["count"], band["percent"], band["loinc"]) == (10, 25.0, "26508-2")
    assert band["reference_percent"] == [0.0, 5.0] and band["low95"] < 25 < band["high95"]
    assert "loinc" not in read["classes"][6]  # none was verified for it
    assert read["nucleated_red_cells"] == {
        "count": 4,
        "per_100_white": 10.0,
        "wbc": 8.0,
        "corrected_wbc": 7.27,
        "expected_false": None,
        "expected_false_low95": None,
        "expected_false_high95": None,
    }
    assert read["smudge_cells"] == {"count": 0, "per_100_white": 0.0, "loinc": "34992-8"}
    assert read["reportable"] and read["not_reportable"] == []
    assert not read["sufficient"] and read["flags"][0]["rule"] == "sufficiency"
    assert "parasites" in read["not_assessed"] and "research use only" in read["claim"]
    assert read["red_cell_diameter_um"] == {"median": 7.0, "measured": 30, "assumed": False}


def test_calls_expected_by_error_stand_in_table_and_record_and_are_read_back(tmp_path):
    errors = {"blast": FalseCalls(0.84, 0, 3), "erythroblast": FalseCalls(0.1, 0, 1)}
    names = ["lymphocyte"] * 30 + ["blast"] * 4
    d = count_differential(names, false_calls=errors, not_reportable=("outside",))
    measures = measure_cells(merge_cells([]).cells, 0.1, np.full(30, 7.0))
    differential_json.write_differential(tmp_path / "d.json", "s", "/x/s.tif", d, measures, 0, ())
    read = json.loads((tmp_path / "d.json").read_text())
    assert differential_json.false_calls_from_record(read) == errors
    assert not read["reportable"] and read["not_reportable"] == ["outside"]
    cells = tables.differential_row("s", "p", d, 0, ())
    row = dict(zip(tables.DIFFERENTIAL_COLUMNS, cells, strict=True))
    assert (row["reportable"], row["not_reportable"]) == ("false", "outside")
    ends = ("expected_false", "expected_false_low95", "expected_false_high95")
    assert [row[f"blast_{end}"] for end in ends] == ["0.840", "0", "3"]
    assert [row[f"monocyte_{end}"] for end in ends] == ["", "", ""]
    assert row["nrbc_expected_false"] == "0.100" and row["smudge_per_100_white"] == "0.00"


def test_a_record_without_cells_has_nulls_not_nan(tmp_path):
    measures = measure_cells(merge_cells([]).cells, 0.1, np.zeros(0))
    differential_json.write_differential(
        tmp_path / "d.json", "s", "/x/\udcff", count_differential([]), measures, 0, ()
    )
    read = json.loads((tmp_path / "d.json").read_text("utf-8"))
    assert (
        read["classes"][0]["percent"] is None
        and read["nucleated_red_cells"]["per_100_white"] is None
    )
