"""Results in other programs' formats, each read back by that program's own library and equal to `cells.csv`."""

import json
import subprocess
import sys
from pathlib import Path

import anndata
import highdicom as hd
import numpy as np
import pandas as pd
import pydicom
import pytest
import zarr
from checkout import ROOT
from click.testing import CliRunner
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from made_cells import cells_at
from made_results import make_results
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid
from shapely.geometry import Polygon, shape

from hemax_batch.cells.classify import classify_cells
from hemax_batch.cells.differential import LOINC, LOINC_SMUDGE
from hemax_batch.cells.measure import measure_cells
from hemax_batch.cells.merge import merge_cells
from hemax_batch.cli.app import main
from hemax_batch.interchange import export
from hemax_batch.outputs.geojson import write_geojson
from hemax_batch.outputs.masks import write_masks
from hemax_batch.outputs.tables import CELL_COLUMNS, cell_rows, read_table, write_table
from hemax_batch.records import Slide
from hemax_batch.results.cleanup import remove_stale_files
from hemax_batch.results.folder import ResultsFolder
from hemax_batch.vocabulary import CLAIM, CLASS_NAMES

ALL = ("--parquet", "--anndata", "--fhir", "--dicom-ann")


def write_dicom_header(path: Path, side_px: int, series: str) -> Path:
    """The header of a whole-slide image instance, without its pixels."""
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = (
        VLWholeSlideMicroscopyImageStorage,
        generate_uid(entropy_srcs=[str(path)]),
    )
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(entropy_srcs=["study"]), series
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "p1", "", "", ""
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260102", "030405", "1", ""
    ds.ReferringPhysicianName, ds.Modality, ds.ImageType = (
        "",
        "SM",
        ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
    )
    ds.TotalPixelMatrixColumns = ds.TotalPixelMatrixRows = side_px
    ds.Rows = ds.Columns = 256
    ds.NumberOfFrames = 1
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A slide's folder with every export, of a slide that is a DICOM series of two levels; what was said."""
    root = tmp_path_factory.mktemp("interchange")
    fine, coarse = root / "level-0.dcm", root / "level-1.dcm"
    folder = make_results(root / "out", "S1", 40, str(coarse))
    side_px = json.loads((folder / "result.json").read_text())["width"]
    series = generate_uid(entropy_srcs=["series"])
    write_dicom_header(fine, side_px, series)
    write_dicom_header(coarse, side_px // 2, series)
    done = CliRunner().invoke(main, ["export", str(root / "out"), *ALL])
    assert done.exit_code == 0, done.output
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(read_table(folder / "cells.csv"))


def figure(text: str) -> float:
    return float(text) if text else np.nan


def test_parquet_equals_the_table(exported):
    table, rows = pd.read_parquet(exported / "cells.parquet"), rows_of(exported)
    assert list(table.columns) == list(rows[0]) and len(table) == 40
    for name in table.columns:
        theirs, ours = table[name].tolist(), [row[name] for row in rows]
        if table[name].dtype.kind in "if":
            assert theirs == pytest.approx([figure(v) for v in ours], nan_ok=True), name
        elif table[name].dtype == bool:
            assert theirs == [v == "true" for v in ours]
        else:
            assert theirs == ours


def test_anndata_equals_the_table(exported):
    data, rows = anndata.read_h5ad(exported / "cells.h5ad"), rows_of(exported)
    assert data.shape == (40, 6) and list(data.obs_names) == [row["cell_id"] for row in rows]
    assert data.obs["class"].tolist() == [row["class"] for row in rows]
    assert data.obs["explanation"].tolist() == [row["explanation"] for row in rows]
    assert data.obs["review"].tolist() == [row["review"] == "true" for row in rows]
    for name in data.var_names:
        assert data[:, name].X.ravel() == pytest.approx(
            [figure(r[name]) for r in rows], rel=1e-6, nan_ok=True
        )
    middles = [
        ((figure(r["x0"]) + figure(r["x1"])) / 2, (figure(r["y0"]) + figure(r["y1"])) / 2)
        for r in rows
    ]
    assert np.allclose(data.obsm["spatial"], middles)
    assert np.allclose(
        data.obsm["class_probabilities"], [[float(r[f"p_{c}"]) for c in CLASS_NAMES] for r in rows]
    )
    assert data.uns["claim"] == CLAIM and data.uns["slide"] == "S1"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Five cells that do not overlap, as table, masks and outlines, at 0.25 µm/px."""
    folder = tmp_path_factory.mktemp("drawn")
    slide = Slide("/s.tif", "s", "f", 900, 700, 0.25, ((900, 700),), (1.0,), "generic", "tiff")
    names = ["monocyte", "lymphocyte", "basophil", "blast", "segmented_neutrophil"]
    places = [(60, 40), (300, 80), (500, 300), (790, 590), (20, 620)]
    merged = merge_cells([cells_at(places, [60, 40, 48, 90, 56], names)])
    measures = measure_cells(merged.cells, slide.mpp, np.full(30, 7.0))
    calls = classify_cells(merged.cells, measures, (slide.width, slide.height), 0.5)
    write_table(folder / "cells.csv", CELL_COLUMNS, cell_rows("s", merged, measures, calls))
    write_masks(folder / "masks.zarr", slide, merged, calls.names)
    write_geojson(folder / "cells.geojson", "s", merged, measures, calls)
    return folder


def test_masks_read_by_ome_zarr_py_equal_the_table(drawn):
    rows = rows_of(drawn)
    labels = {node.metadata.get("name"): node for node in Reader(parse_url(drawn / "masks.zarr"))()}
    pixels = {name: np.asarray(labels[name].data[0]) for name in ("cell", "nucleus")}
    assert set(np.unique(pixels["cell"])) == {0, *(int(row["cell_id"]) for row in rows)}
    for row in rows:
        for name in ("cell", "nucleus"):
            area_um2 = np.count_nonzero(pixels[name] == int(row["cell_id"])) * 0.25**2
            assert area_um2 == pytest.approx(float(row[f"{name}_area_um2"]), abs=0.006)
        ys, xs = np.nonzero(pixels["cell"] == int(row["cell_id"]))
        assert np.allclose(
            [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1],
            [float(row[k]) for k in ("x0", "y0", "x1", "y1")],
            atol=1,
        )
    for name in ("cell", "nucleus"):
        told = labels[name].metadata["properties"]
        assert [
            (str(value), p["class"], f"{p['confidence']:.4f}") for value, p in told.items()
        ] == [(row["cell_id"], row["class"], row["confidence"]) for row in rows]
        assert set(labels[name].metadata["color"]) >= {int(row["cell_id"]) for row in rows}


def test_outlines_read_by_shapely_equal_the_table(drawn):
    features, rows = json.loads((drawn / "cells.geojson").read_text())["features"], rows_of(drawn)
    columns = {
        "confidence": "confidence",
        "nucleus area um^2": "nucleus_area_um2",
        "cell area um^2": "cell_area_um2",
        "nucleus/cytoplasm area ratio": "nc_ratio",
        "nucleus/cell area fraction": "nucleus_fraction",
        "diameter um": "diameter_um",
        "diameter/red cell": "diameter_vs_rbc",
    }
    assert len(features) == len(rows) == 5
    for feature, row in zip(features, rows, strict=True):
        told, cell, nucleus = (
            feature["properties"],
            shape(feature["geometry"]),
            shape(feature["nucleusGeometry"]),
        )
        assert (told["name"], told["classification"]["name"]) == (row["cell_id"], row["class"])
        assert told["metadata"]["explanation"] == row["explanation"]
        for name, column in columns.items():
            assert told["measurements"][name] == pytest.approx(float(row[column]), abs=0.006)
        assert cell.is_valid and nucleus.is_valid and cell.buffer(0.5).contains(nucleus)
        assert cell.area * 0.25**2 == pytest.approx(float(row["cell_area_um2"]), rel=0.02)
        assert nucleus.area * 0.25**2 == pytest.approx(float(row["nucleus_area_um2"]), rel=0.02)


@pytest.mark.slow
def test_the_example_plots_results(tmp_path):
    folder = make_results(tmp_path / "out", "S1", 15)
    side_px = json.loads((folder / "result.json").read_text())["width"]
    for name in ("cell", "nucleus"):  # blank: made-up results have no masks
        zarr.create_array(
            folder / f"masks.zarr/labels/{name}/0", shape=(side_px, side_px), dtype="uint32"
        )
    script = ROOT / "examples" / "plot_results.py"
    done = subprocess.run(
        [sys.executable, script, folder, tmp_path / "p.png"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("15 cells, 12 of them in the gallery")
    assert len(np.unique(np.asarray(Image.open(tmp_path / "p.png")).reshape(-1, 4), axis=0)) > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "more"),
    [("plot_results.py", ["p.png"]), ("read_results.py", []), ("read_results.py", ["p.png"])],
)
def test_the_examples_read_a_slide_without_cells(tmp_path, script, more):
    folder = make_results(tmp_path / "out", "S1", 0)
    for name in ("cell", "nucleus"):
        zarr.create_array(folder / f"masks.zarr/labels/{name}/0", shape=(64, 64), dtype="uint32")
    script = ROOT / "examples" / script
    arguments = [sys.executable, script, folder, *(tmp_path / name for name in more)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout.startswith("0 cells"), done.stderr


def test_a_table_that_is_missing_is_said_and_the_other_formats_follow(tmp_path):
    folder = make_results(tmp_path / "out", "S1", 3)
    (folder / "cells.csv").unlink()
    done = CliRunner().invoke(main, ["export", str(tmp_path / "out"), "--parquet", "--fhir"])
    assert (
        done.exit_code == 4
        and "cells.csv: is missing" in done.output
        and "--overwrite" in done.output
    )


def test_fhir_is_a_preliminary_report_of_the_differential(exported):
    report = DiagnosticReport.model_validate_json((exported / "fhir.json").read_bytes())
    d = json.loads((exported / "differential.json").read_text())
    assert report.status == "preliminary" and CLAIM[1:] in report.conclusion
    observations = {
        o.code.text: o for o in report.contained if o.get_resource_type() == "Observation"
    }
    assert len(report.result) == len(observations) == len(d["classes"]) + 4
    for entry in d["classes"]:
        words = f"{entry['words'][0].upper()}{entry['words'][1:]}, per 100 white cells"
        seen = observations[words]
        assert float(seen.valueQuantity.value) == entry["percent"] and seen.status == "preliminary"
        assert [float(c.valueQuantity.value) for c in seen.component] == [
            entry["low95"],
            entry["high95"],
            entry["count"],
        ]
        assert [c.code for c in seen.code.coding or []] == (
            [entry["loinc"]] if "loinc" in entry else []
        )
        if "reference_percent" in entry:
            [limits] = seen.referenceRange
            assert [float(limits.low.value), float(limits.high.value)] == entry["reference_percent"]
    codes = {c.code for o in observations.values() for c in o.code.coding or []}
    assert codes == {*LOINC.values(), LOINC_SMUDGE}


def test_fhir_without_white_cells_says_so(tmp_path):
    make_results(tmp_path / "out", "S1", 0)
    assert CliRunner().invoke(main, ["export", str(tmp_path / "out"), "--fhir"]).exit_code == 0
    report = DiagnosticReport.model_validate_json(
        (tmp_path / "out" / "S1" / "fhir.json").read_bytes()
    )
    blasts = next(o for o in report.contained if o.get_resource_type() == "Observation")
    assert (
        blasts.valueQuantity is None and blasts.dataAbsentReason.coding[0].code == "not-applicable"
    )


def test_dicom_annotations_refer_to_the_finest_level_and_hold_every_outline(exported):
    ann = hd.ann.annread(exported / "annotations.dcm")
    assert ann.Modality == "ANN" and ann.ContentDate == "20260102"
    [referenced] = ann.ReferencedImageSequence
    fine = pydicom.dcmread(exported.parent.parent / "level-0.dcm")
    assert referenced.ReferencedSOPInstanceUID == fine.SOPInstanceUID
    features = {
        f["properties"]["name"]: f
        for f in json.loads((exported / "cells.geojson").read_text())["features"]
    }
    rows = rows_of(exported)
    for row_class in sorted({row["class"] for row in rows}):
        mine = [row for row in rows if row["class"] == row_class]
        [group] = (
            ann.get_annotation_groups(annotation_group_label=row_class)
            if hasattr(ann, "annotation_group_label")
            else [g for g in ann.get_annotation_groups() if g.label == row_class]
        )
        polygons = group.get_graphic_data(coordinate_type="2D")
        assert len(polygons) == len(mine)
        for polygon, row in zip(polygons, mine, strict=True):
            drawn = shape(features[row["cell_id"]]["geometry"])
            assert Polygon(polygon).area == pytest.approx(drawn.area, rel=1e-3)
            assert Polygon(polygon).centroid.distance(drawn.centroid) < 0.1
        names, values, _ = group.get_measurements()
        assert values[:, 0] == pytest.approx(
            [figure(row["diameter_um"]) for row in mine], nan_ok=True
        )
        assert values[:, 1] == pytest.approx([figure(row["confidence"]) for row in mine])


def test_the_same_results_give_the_same_files(exported):
    names = ("cells.parquet", "fhir.json", "annotations.dcm")
    before = {name: (exported / name).read_bytes() for name in names}
    assert CliRunner().invoke(main, ["export", str(exported.parent), *ALL]).exit_code == 0
    assert {name: (exported / name).read_bytes() for name in names} == before


def test_a_slide_that_is_no_dicom_is_said_and_no_failure(tmp_path):
    make_results(tmp_path / "out", "S1", 3, "/slides/S1.svs")
    done = CliRunner().invoke(main, ["export", str(tmp_path / "out"), "--dicom-ann", "--parquet"])
    assert (
        done.exit_code == 0
        and "no annotations.dcm: /slides/S1.svs is not there any more" in done.output
    )
    assert (tmp_path / "out" / "S1" / "cells.parquet").exists()
    assert not list((tmp_path / "out" / ".hemax").glob("*.dcm"))


def test_a_dicom_slide_without_a_patient_is_annotated_and_one_without_identity_is_said(
    exported, tmp_path
):
    header = pydicom.dcmread(exported.parent.parent / "level-0.dcm")
    for keyword in (
        "PatientID",
        "PatientName",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
    ):
        delattr(header, keyword)
    header.save_as(tmp_path / "a.dcm")
    folder = make_results(tmp_path / "out", "S1", 40, str(tmp_path / "a.dcm"))
    done = CliRunner().invoke(main, ["export", str(tmp_path / "out"), "--dicom-ann"])
    assert done.exit_code == 0, done.output
    ann = hd.ann.annread(folder / "annotations.dcm")
    assert (
        ann.PatientID == ""
        and ann.ReferencedImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
    )
    (folder / "annotations.dcm").unlink()
    del header.FrameOfReferenceUID
    header.save_as(tmp_path / "a.dcm")
    done = CliRunner().invoke(main, ["export", str(tmp_path / "out"), "--dicom-ann"])
    assert (
        done.exit_code == 0
        and "no annotations.dcm" in done.output
        and "has no FrameOfReferenceUID" in done.output
    )


def test_what_cannot_be_exported_is_said(tmp_path, monkeypatch):
    good, bad = (make_results(tmp_path / "out", name, 3) for name in ("good", "bad"))
    out = str(tmp_path / "out")
    (bad / "cells.csv").write_text("slide,cell_id\nbad,one\n")
    (bad / "differential.json").write_text("{}")
    done = CliRunner().invoke(main, ["export", out, "--fhir"])
    assert done.exit_code == 3 and "bad: failed:" in done.output and (good / "fhir.json").exists()
    assert CliRunner().invoke(main, ["export", out, "--fhir", "--slide", "bad"]).exit_code == 4
    done = CliRunner().invoke(main, ["export", out, "--fhir", "--slide", "worse"])
    assert done.exit_code == 2 and "no results of 'worse'; there are bad, good" in done.output
    done = CliRunner().invoke(main, ["export", out])
    assert done.exit_code == 2 and "choose at least one" in done.output
    monkeypatch.setattr(export, "_is_installed", lambda package: package != "anndata")
    done = CliRunner().invoke(main, ["export", out, "--anndata"])
    assert done.exit_code == 2 and "pip install 'hemax-batch[interchange]'" in done.output


def test_what_a_killed_export_leaves_goes_with_the_next_run(tmp_path, monkeypatch):
    from hemax_batch.interchange import parquet

    asides = []
    monkeypatch.setattr(parquet, "write", lambda path, _folder: asides.append(path))
    make_results(tmp_path / "out", "S1", 3)
    CliRunner().invoke(main, ["export", str(tmp_path / "out"), "--parquet"])
    [left] = asides
    left.touch()
    remove_stale_files(ResultsFolder(tmp_path / "out"))
    assert left.suffix == ".parquet" and not left.exists()


def test_a_librarys_own_failure_stops_no_other_slide(tmp_path, monkeypatch):
    from hemax_batch.interchange import parquet

    bad, good = (make_results(tmp_path / "out", name, 3) for name in ("bad", "good"))
    real = parquet.write

    def write(path, folder):
        if folder == bad:
            raise RuntimeError("two\nlines")
        real(path, folder)

    monkeypatch.setattr(parquet, "write", write)
    done = CliRunner().invoke(main, ["export", str(tmp_path / "out"), "--parquet"])
    assert done.exit_code == 3 and "bad: failed: RuntimeError: two lines" in done.output
    assert (good / "cells.parquet").exists() and not (bad / "cells.parquet").exists()


def test_anndata_takes_repeated_texts(tmp_path):
    """Real results repeat explanations and review reasons: AnnData makes categories of them."""
    folder = make_results(tmp_path, "S1", 150)
    rows = list(read_table(folder / "cells.csv"))
    assert len({row["explanation"] for row in rows}) < len(rows)
    done = CliRunner().invoke(main, ["export", str(tmp_path), "--anndata"])
    assert done.exit_code == 0, done.output
    data = anndata.read_h5ad(folder / "cells.h5ad")
    assert data.obs["explanation"].tolist() == [row["explanation"] for row in rows]
    assert data.obs["cell_id"].tolist() == [int(row["cell_id"]) for row in rows]
    attributes = data.uns["spatialdata_attrs"]
    assert attributes["instance_key"] == "cell_id"
    assert set(data.obs[attributes["region_key"]]) == {attributes["region"]}
