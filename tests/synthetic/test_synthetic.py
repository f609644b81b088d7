"""The synthetic smear: its truth is exact, it depends on the seed alone, and its file is one that OpenSlide reads."""

from __future__ import annotations

import csv

import numpy as np
import openslide
import pytest

from hemax_batch.errors import UsageError
from hemax_batch.geometry import pairwise_iou
from hemax_batch.synthetic import DEFAULT_MIXTURE, STAINS, draw_cell_patch, draw_smear, write_smear
from hemax_batch.vocabulary import ATTRIBUTES, CLASS_NAMES, WHITE_NAMES

#: Classes that nobody has drawn a recipe for yet.
UNPAINTED = {"variant_lymphocyte", "plasma_cell", "smudge"}
PAINTED = [name for name in CLASS_NAMES if name not in UNPAINTED]

NUCLEATED = tuple(n for n in CLASS_NAMES if n != "platelet")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small crowded smear of 1500 x 1200 px at 0.2 µm/px, with masks."""
    path = tmp_path_factory.mktemp("smear") / "small.tif"
    return write_smear(
        path, 3, 1500, 1200, 0.2, white_per_mm2=900, truth_masks=True, smallest_px=700
    )


def truth_rows(path):
    with open(path.with_suffix(".truth.csv"), newline="") as f:
        return list(csv.DictReader(f))


def boxes_of(rows):
    return np.array([[float(r[k]) for k in ("x0", "y0", "x1", "y1")] for r in rows])


@pytest.mark.parametrize("name", PAINTED)
def test_patch_truth_is_exact(name):
    rgb, cells = draw_cell_patch(
        np.random.default_rng([1, CLASS_NAMES.index(name)]), name, 320, 0.12
    )
    assert rgb.shape == (320, 320, 3) and rgb.dtype == np.uint8
    assert cells[0].class_name == name
    for c in cells:
        h, w = c.label.shape
        assert c.box_xyxy == (c.x0, c.y0, c.x0 + w, c.y0 + h)
        inside = c.label > 0
        assert (
            inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
        )  # tight
        nucleus, cytoplasm = (c.label == 2).sum(), (c.label == 1).sum()
        assert c.nc_ratio == pytest.approx(nucleus / max(cytoplasm, 1))
        assert c.nucleus_fraction == pytest.approx(nucleus / inside.sum())
        assert (nucleus == 0) == (c.class_name == "platelet")
        for a in ATTRIBUTES:
            known = a.states if c.class_name != "platelet" else ("",)
            assert getattr(c, a.name) in known


def test_nucleus_is_where_the_label_says():
    """The labelled nucleus is darker in red light than the cytoplasm, which is darker than the glass round the cell."""
    for i, name in enumerate(("lymphocyte", "band_neutrophil", "monocyte", "erythroblast")):
        rgb, cells = draw_cell_patch(
            np.random.default_rng(i), name, 320, 0.12, STAINS["wright-giemsa"], neighbours=0
        )
        c = cells[0]
        h, w = c.label.shape
        red = rgb[c.y0 : c.y0 + h, c.x0 : c.x0 + w, 0].astype(float)
        assert red[c.label == 2].mean() + 25 < red[c.label == 1].mean() < 245


def test_patch_depends_on_its_random_numbers_alone():
    a = draw_cell_patch(np.random.default_rng(5), "eosinophil", 200, 0.15)
    draw_cell_patch(np.random.default_rng(6), "monocyte", 200, 0.15)
    b = draw_cell_patch(np.random.default_rng(5), "eosinophil", 200, 0.15)
    assert (a[0] == b[0]).all() and len(a[1]) == len(b[1])


def test_file_opens_in_openslide_with_its_scale(written):
    with openslide.OpenSlide(written) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.2)
        assert slide.level_dimensions == ((1500, 1200), (750, 600))
        fine = np.asarray(slide.read_region((0, 0), 0, (1500, 1200)).convert("RGB")).astype(float)
        coarse = np.asarray(slide.read_region((0, 0), 1, (750, 600)).convert("RGB")).astype(float)
    assert np.abs(fine.reshape(600, 2, 750, 2, 3).mean((1, 3)) - coarse).mean() < 3
    drawn = draw_smear(3, 1500, 1200, 0.2, 900).window(0, 0, 1500, 1200)
    assert (
        np.abs(fine - drawn).mean() < 3
    )  # JPEG: in particular, the colours are not another colour space's


def test_truth_table_agrees_with_the_masks(written):
    rows, masks = truth_rows(written), np.load(written.with_suffix(".truth.npz"))
    assert len(rows) == len(masks["x0"]) > 20
    for i, r in enumerate(rows):
        label = masks[f"label_{i}"]
        assert (int(r["x0"]), int(r["y0"])) == (masks["x0"][i], masks["y0"][i])
        assert (int(r["x1"]) - int(r["x0"]), int(r["y1"]) - int(r["y0"])) == label.shape[::-1]
        assert float(r["nc_ratio"]) == pytest.approx(
            (label == 2).sum() / (label == 1).sum(), abs=1e-4
        )
        assert r["class"] in NUCLEATED and r["source"] == "synthetic" and r["edge"] == "0"
        for a in ATTRIBUTES:
            assert r[a.name] in a.states


def test_nucleated_cells_keep_apart(written):
    iou = pairwise_iou(boxes_of(truth_rows(written)), boxes_of(truth_rows(written)))
    np.fill_diagonal(iou, 0)
    assert iou.max() < 0.1


def test_margin_is_clear_glass():
    margin = draw_smear(3, 1500, 1200, 0.2, margin_um=40).window(0, 0, 1500, 25)
    assert margin.min() > 170


def test_cells_at_the_border_are_clipped_and_marked(tmp_path):
    path = write_smear(tmp_path / "edge.tif", 1, 900, 700, 0.25, white_per_mm2=2000, margin_um=0)
    rows = truth_rows(path)
    boxes = boxes_of(rows)
    touching = (boxes[:, :2] <= 0).any(1) | (boxes[:, 2] >= 900) | (boxes[:, 3] >= 700)
    assert touching.any() and (~touching).any()
    assert [r["edge"] == "1" for r in rows] == touching.tolist()
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 900 and boxes[:, 3].max() <= 700


def test_pixels_do_not_depend_on_the_window():
    smear = draw_smear(11, 1600, 1400, 0.2, 600)
    whole = smear.window(0, 0, 1600, 1400)
    for x0, y0, x1, y1 in ((0, 0, 300, 1400), (700, 333, 1333, 1100), (1023, 1023, 1026, 1026)):
        fresh = draw_smear(11, 1600, 1400, 0.2, 600)
        assert (fresh.window(x0, y0, x1, y1) == whole[y0:y1, x0:x1]).all()


def test_file_does_not_depend_on_the_stripes_but_on_the_seed(tmp_path):
    paths = [tmp_path / n for n in ("a.tif", "b.tif", "c.tif")]
    for path, seed, rows in zip(paths, (4, 4, 5), (256, 1024, 1024), strict=True):
        write_smear(path, seed, 901, 1203, 0.25, stripe_rows=rows, smallest_px=300)
    a, b, c = (p.read_bytes() for p in paths)
    assert a == b != c
    a, b = (p.with_suffix(".truth.csv").read_bytes() for p in paths[:2])
    assert a == b


def test_density_and_mixture_are_as_asked():
    smear = draw_smear(2, 40000, 40000, 0.1, white_per_mm2=150, margin_um=0)
    kinds = [p.kind for p in smear._places((0, 0, 4000, 4000)) if p.kind in NUCLEATED]
    assert len(kinds) == pytest.approx(150 * 16, rel=0.08)
    assert set(kinds) == set(DEFAULT_MIXTURE) >= set(WHITE_NAMES) - UNPAINTED
    share = kinds.count("segmented_neutrophil") / len(kinds)
    assert share == pytest.approx(
        DEFAULT_MIXTURE["segmented_neutrophil"] / sum(DEFAULT_MIXTURE.values()), abs=0.05
    )


def test_no_white_cells_is_a_smear_too(tmp_path):
    assert truth_rows(write_smear(tmp_path / "none.tif", 0, 600, 500, 0.3, white_per_mm2=0)) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mixture": {"platelet": 1}}, "platelet"),
        ({"stain": "gram"}, "gram"),
        ({"stripe_rows": 100}, "of 256"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, wrong, message):
    with pytest.raises(UsageError, match=message):
        write_smear(tmp_path / "x.tif", 0, 600, 500, 0.3, **wrong)
