"""What a run records of stain, glass and unfamiliar cells, as `monitor` and `verify` read it."""

from __future__ import annotations

import json

import numpy as np
import painted_network
import pytest
from painted_slides import smear, write_pyramid

from hemax_batch.laboratory.nights import SlideTimes, read_nights
from hemax_batch.review.load_results import load_record
from hemax_batch.scheduling import work_queue


@pytest.fixture
def results(tmp_path, weights, monkeypatch, invoke):
    """Results of a run on a painted slide, with a stand-in for the network."""
    monkeypatch.setattr(work_queue, "process_region", painted_network.process_region)
    slide = write_pyramid(tmp_path / "smear.tif", smear(1000, 700, 3), mpp=0.25)
    out = tmp_path / "results"
    run = ("run", slide, "--out", out, "--weights", weights, "--core-um", 64, "--workers", 0)
    result = invoke(*run)
    assert result.exit_code == 0, result.output
    return out


def test_a_run_records_what_the_charts_need(results):
    """The glass is light, red cells absorb green most, and the record is read back as valid."""
    account = json.loads((results / "smear" / "result.json").read_text())["smear"]
    assert all(150 < account[f"background_{c}"] <= 255 for c in ("red", "green", "blue"))
    assert account["red_cell_od_green"] > account["red_cell_od_red"] > 0
    assert account["nuclear_contrast"] > 0 and account["unfamiliar_cells"] >= 0
    load_record(results / "smear")
    values = read_nights(results, SlideTimes()).values
    for measure in (
        "stain_strength",
        "red_over_green",
        "background",
        "focus",
        "unfamiliar",
        "missed",
    ):
        assert np.isfinite(values[measure]).all(), measure


def test_results_of_earlier_versions_have_no_such_figures_and_are_read(results):
    path = results / "smear" / "result.json"
    record = json.loads(path.read_text())
    for name in [n for n in record["smear"] if n.startswith(("background", "red_cell", "unfam"))]:
        del record["smear"][name]
    path.write_text(json.dumps(record))
    load_record(results / "smear")
    values = read_nights(results, SlideTimes()).values
    assert np.isnan(values["background"]).all() and np.isfinite(values["stain_strength"]).all()
    (results / "differential.csv").unlink()  # a run that still goes on: the slide's own table tells
    assert np.isfinite(read_nights(results, SlideTimes()).values["unidentified"]).all()


def test_a_real_count_is_verified_against_itself(results, tmp_path, invoke):
    """The tool's own counts given as manual ones: no bias, and every slide within the limits."""
    record = json.loads((results / "smear" / "differential.json").read_text())
    counts = {c["class"]: c["count"] for c in record["classes"][1:]}
    manual = tmp_path / "manual.csv"
    head, row = ",".join(counts), ",".join(map(str, counts.values()))
    manual.write_text(f"slide,examiner,cells,{head}\nsmear,A,{record['white_cells']},{row}\n")
    assert invoke("verify", manual, results, "--out", tmp_path / "v").exit_code == 0
    classes = json.loads((tmp_path / "v" / "verification.json").read_text())["classes"]
    assert {c["bias"]["value"] for c in classes.values()} == {0.0}
    assert classes["neutrophils"]["within"]["value"] == 1
