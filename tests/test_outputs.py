"""Tables, masks and GeoJSON, each read back by somebody else's reader."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import shapely
import zarr
from cellbank import cells_at, disc
from hypothesis import given
from hypothesis import strategies as st

from hemax_batch.cells.differential import count
from hemax_batch.cells.explain import read_cells
from hemax_batch.cells.measure import measure
from hemax_batch.cells.merge import merge
from hemax_batch.outputs import geojson, masks, tables
from hemax_batch.records import Slide


def slide_of(width, height, mpp=0.25):
    return Slide("/s.tif", "s", "f", width, height, mpp, ((width, height),), (1.0,), "generic", "tiff")


@pytest.fixture(scope="module")
def done():
    """Four cells: one across the border of two blocks, two overlapping, one at the slide's corner."""
    slide = slide_of(6000, 5000)
    merged = merge(
        [
            cells_at(
                [(4080, 100), (300, 300), (322, 300), (5960, 4960)],
                [40, 40, 30, 40],
                ["monocyte", "lymphocyte", "basophil", "blast"],
            )
        ]
    )
    measures = measure(merged.cells, slide.mpp, np.full(30, 7.0))
    return slide, merged, measures, read_cells(merged.cells, measures, (6000, 5000), 0.5)


def test_cells_table_has_the_promised_columns_and_the_same_bytes_twice(done, tmp_path):
    _, merged, measures, readings = done
    for name in ("a.csv", "b.csv"):
        tables.write_table(tmp_path / name, tables.CELL_COLUMNS, tables.cell_rows("s", merged, measures, readings))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    table = pd.read_csv(tmp_path / "a.csv")
    assert table.cell_id.tolist() == [1, 2, 3, 4] and set(table["class"]) == {
        "monocyte",
        "lymphocyte",
        "basophil",
        "blast",
    }
    promised = ["slide", "cell_id", "class", "confidence", "x0", "y0", "x1", "y1", "granularity", "cytoplasm_colour", "nucleus_shape",
                "size_vs_rbc",
                "nucleus_area_um2", "cell_area_um2", "nc_ratio", "nucleus_fraction", "in_differential", "review",
                "review_reasons", "explanation"]  # fmt: skip
    assert set(promised) <= set(table.columns) and (table.filter(like="p_").sum(axis=1) > 0).all()
    assert table.in_differential.all() and np.allclose(
        table.nc_ratio, table.nucleus_fraction / (1 - table.nucleus_fraction), atol=1e-3
    )


@given(st.text(max_size=30))
def test_no_text_is_a_formula_and_single_lines_come_back(text):
    safe = tables.safe_text(text)
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    if not set(text) & set("\r\n"):
        assert tables.plain_text(safe) == text


def test_a_hostile_slide_name_is_safe_in_the_differential(tmp_path):
    d = count(["lymphocyte"] * 3)
    row = tables.differential_row('=cmd|"/c calc"!A1', "/x/=cmd.tif", d, 0, ())
    tables.write_table(tmp_path / "d.csv", tables.DIFFERENTIAL_COLUMNS, [row])
    with open(tmp_path / "d.csv", newline="") as f:
        (read,) = csv.DictReader(f)
    assert read["slide"].startswith("'=") and read["sufficient"] == "false" and read["lymphocyte_percent"] == "100.00"
    assert "research use only" in read["claim"] and len(row) == len(tables.DIFFERENTIAL_COLUMNS)


def test_mask_values_are_exactly_the_ids_and_lie_where_the_cells_are(done, tmp_path):
    slide, merged, _, readings = done
    path = tmp_path / "masks.zarr"
    masks.write_masks(path, slide, merged, [r.class_name for r in readings])
    cell = zarr.open_array(path / "labels/cell/0")
    assert cell.shape == (5000, 6000) and cell.dtype == np.uint32
    whole = cell[:]
    assert set(np.unique(whole)) == {0, *merged.ids.tolist()}
    assert set(np.unique(zarr.open_array(path / "labels/nucleus/0")[:])) == {0, *merged.ids.tolist()}
    i = int(np.flatnonzero(merged.cells.mask_xy[:, 0] == 4080)[0])  # the one across two blocks
    assert np.array_equal(whole[100:140, 4080:4120] == merged.ids[i], disc(40) > 0)
    files = [p for p in (path / "labels/cell/0").rglob("*") if p.is_file() and p.name != "zarr.json"]
    assert len(files) == 3  # of four blocks, the one without a cell is not written


def test_masks_open_with_ome_zarr_py_and_validate(done, tmp_path):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr_models.v05 import Image
    from ome_zarr_models.v05.image_label import ImageLabel

    slide, merged, _, readings = done
    path = tmp_path / "masks.zarr"
    masks.write_masks(path, slide, merged, [r.class_name for r in readings])
    Image.from_zarr(zarr.open_group(path, mode="r"))
    ImageLabel.from_zarr(zarr.open_group(path / "labels/cell", mode="r"))
    assert len(list(Reader(parse_url(path))())) >= 2  # the folder as a whole: its image and its labels
    nodes = list(Reader(parse_url(path / "labels/cell"))())
    data = nodes[0].data
    assert [d.shape for d in data] == masks.level_shapes(5000, 6000)
    assert set(np.unique(np.asarray(data[-1]))) == {0, *merged.ids.tolist()}
    scale = nodes[0].metadata["coordinateTransformations"]
    assert scale[0][0]["scale"] == [0.25, 0.25] and scale[1][0]["scale"] == [0.5, 0.5]


def test_a_slide_without_cells_has_valid_empty_masks(tmp_path):
    masks.write_masks(tmp_path / "m.zarr", slide_of(100, 80), merge([]), [])
    assert not zarr.open_array(tmp_path / "m.zarr/labels/cell/0")[:].any()


def test_a_cell_hidden_by_others_keeps_a_pixel(tmp_path):
    slide = slide_of(200, 200)
    cells = cells_at([(50, 50), (40, 50), (60, 50), (50, 40), (50, 60)], [30, 26, 26, 26, 26])
    from hemax_batch.records import MergedCells

    merged = MergedCells(cells, np.arange(1, 6), {})
    masks.write_masks(tmp_path / "m.zarr", slide, merged, ["blast"] * 5)
    assert set(np.unique(zarr.open_array(tmp_path / "m.zarr/labels/cell/0")[:])) == {0, 1, 2, 3, 4, 5}


def test_outlines_are_valid_polygons_of_the_masks_area(done, tmp_path):
    _, merged, measures, readings = done
    geojson.write_geojson(tmp_path / "c.geojson", "s", merged, measures, readings)
    features = json.loads((tmp_path / "c.geojson").read_text())["features"]
    assert [f["properties"]["name"] for f in features] == ["1", "2", "3", "4"]
    for f, area in zip(features, measures.cell_area_um2 / 0.25**2, strict=True):
        shape = shapely.geometry.shape(f["geometry"])
        assert shape.is_valid and shape.area == pytest.approx(area, rel=0.05)
        assert shape.buffer(1).contains(shapely.geometry.shape(f["nucleusGeometry"]))
    box = shapely.geometry.shape(features[0]["geometry"]).bounds
    assert np.allclose(box, merged.cells.boxes_xyxy[0], atol=1)
