"""The run as a laboratory meets it: whole runs on painted slides, with a stand-in for the network."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import painted_network
import pytest
import tifffile
import zarr
from checkout import SUPPORT
from click.testing import CliRunner
from painted_slides import smear, write_field, write_pyramid
from run_results import content, left_behind, reason, rows, states

from hemax_batch import pipeline
from hemax_batch.cli.app import main
from hemax_batch.errors import OutputError
from hemax_batch.publishing.run_record import summarise_run
from hemax_batch.scheduling import work_queue
from hemax_batch.vocabulary import WHITE_NAMES

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, str(SUPPORT / "painted_network.py"), "run"]


@pytest.fixture(scope="session")
def slide(tmp_path_factory):
    """250 x 175 µm with about 15 violet cells: 12 regions of 64 µm."""
    return write_pyramid(
        tmp_path_factory.mktemp("slides") / "smear.tif", smear(1000, 700, 3), mpp=0.25
    )


@pytest.fixture(autouse=True)
def _painted(monkeypatch):
    monkeypatch.setattr(work_queue, "process_region", painted_network.process_region)


@pytest.fixture
def go(weights, tmp_path):
    """Runs `hemax-batch run` in this process; extra arguments go last. Returns its result."""

    def run(*args, out=tmp_path / "out", workers=0):
        given = ["--out", out, "--weights", weights, "--core-um", 64, "--workers", workers, *args]
        return CliRunner().invoke(main, ["run", *map(str, given)])

    return run


def arguments(slide, out, weights, *more):
    return [str(a) for a in (slide, "--out", out, "--weights", weights, "--core-um", 64, *more)]


def test_a_run_gives_tables_masks_and_a_record(go, slide, tmp_path):
    result = go(slide)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    cells = rows(out / "cells.csv")
    assert 10 < len(cells) < 20 and f"{len(cells)} cells" in result.output
    assert [c["cell_id"] for c in cells] == [str(i + 1) for i in range(len(cells))]
    assert (out / "cells.csv").read_bytes() == (out / "smear" / "cells.csv").read_bytes()
    for name in ("cell", "nucleus"):
        values = np.unique(
            zarr.open_array(out / "smear" / "masks.zarr" / "labels" / name / "0", mode="r")[:]
        )
        assert set(values) - {0} == set(range(1, len(cells) + 1))
    assert len(rows(out / "differential.csv")) == 1
    record = json.loads((out / "run.json").read_text())
    assert record["slides"][0]["cells"] == len(cells) and record["exit_code"] == 0
    assert "research use only" in record["claim"]
    assert left_behind(out) == []


def test_two_workers_give_the_same_bytes_as_none(go, slide, tmp_path):
    assert go(slide, out=tmp_path / "serial").exit_code == 0
    assert go(slide, out=tmp_path / "two", workers=2).exit_code == 0
    assert content(tmp_path / "serial" / "smear") == content(tmp_path / "two" / "smear")


@pytest.mark.parametrize("more", [["--core-um", 61], ["--core-um", 300], ["--batch-size", 1]])
def test_regions_and_batches_do_not_change_the_cells(go, slide, tmp_path, more):
    go(slide, out=tmp_path / "a")
    assert go(slide, *more, out=tmp_path / "b").exit_code == 0
    assert (tmp_path / "a" / "cells.csv").read_bytes() == (
        tmp_path / "b" / "cells.csv"
    ).read_bytes()


@pytest.mark.parametrize("more", [(), ("--exhaustive",)])
def test_cells_wider_than_the_lattice_shows_whole_are_found(go, tmp_path, more):
    """At every phase of the lattice's step, 25 µm across."""
    pixels, (yy, xx) = np.full((1000, 1000, 3), (240, 236, 228), np.uint8), np.mgrid[:1000, :1000]
    middles = [(x, y) for y in range(110, 950, 163) for x in range(110, 950, 171)]
    for x, y in middles:
        pixels[np.hypot(xx - x, yy - y) < 50] = (120, 60, 150)
    assert go(write_pyramid(tmp_path / "large.tif", pixels, mpp=0.25), *more).exit_code == 0
    found = [
        (float(r["x0"]) / 2 + float(r["x1"]) / 2, float(r["y0"]) / 2 + float(r["y1"]) / 2)
        for r in rows(tmp_path / "out" / "large" / "cells.csv")
    ]
    assert len(found) == len(middles)
    assert all(min(np.hypot(x - u, y - v) for u, v in found) < 6 for x, y in middles)


def test_exhaustive_finds_what_the_screen_found(go, slide, tmp_path):
    go(slide, out=tmp_path / "a")
    assert go(slide, "--exhaustive", out=tmp_path / "b").exit_code == 0

    def boxes(out):
        cells = rows(tmp_path / out / "cells.csv")
        return np.array([[float(c[k]) for k in ("x0", "y0", "x1", "y1")] for c in cells])

    found, all_cells = boxes("a"), boxes("b")
    near = (
        np.abs(all_cells[:, None] - found[None]).max(2).min(1) <= 8
    )  # 2 µm: pieces of discs at the slide's border
    assert near.mean() > 0.9


def test_current_slides_are_skipped_and_changed_ones_done_again(go, slide, tmp_path):
    own = tmp_path / "copy.tif"
    own.write_bytes(slide.read_bytes())
    assert go(own).exit_code == 0
    first = content(tmp_path / "out" / "copy")
    again = go(own)
    assert (
        again.exit_code == 0
        and "1 skipped" in again.output
        and states(tmp_path / "out") == {"copy": "skipped"}
    )
    assert "1 done" in go(own, "--target-cells", 100).output
    assert content(tmp_path / "out" / "copy") != first
    assert "1 done" in go(own, "--overwrite").output
    assert content(tmp_path / "out" / "copy") == first
    write_pyramid(own, smear(600, 500, 9), mpp=0.25)
    assert "1 done" in go(own).output
    assert len(rows(tmp_path / "out" / "cells.csv")) < 10


def test_slides_of_one_name_do_not_share_results(go, slide, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "smear.tif").write_bytes(slide.read_bytes())
    write_pyramid(tmp_path / "b" / "smear.tif", smear(600, 500, 9), mpp=0.25)
    assert go(tmp_path / "a", tmp_path / "b").exit_code == 0
    by_slide = {
        r["slide"]: int(r["white_cells"]) for r in rows(tmp_path / "out" / "differential.csv")
    }
    assert len(by_slide) == 2 and len(set(by_slide.values())) == 2


def broken(folder: Path, slide: Path) -> None:
    """One of each kind of bad slide, and some that are odd but sound (their names begin with "ok")."""
    raw, rgb = slide.read_bytes(), smear(300, 200, 4)
    (folder / "not_a_slide.tif").write_bytes(b"this is text, not a slide" * 100)
    (folder / "truncated.tif").write_bytes(raw[: len(raw) // 3])
    (folder / "zero_bytes.svs").write_bytes(b"")
    write_pyramid(folder / "no_mpp.tif", rgb, mpp=None)
    write_pyramid(folder / "too_coarse.tif", rgb, mpp=2.0)
    (folder / "vanished.tif").symlink_to(folder / "nowhere.tif")
    write_field(
        folder / "ok_blank.png", np.full((200, 300, 3), 240, np.uint8), dpi=(101600, 101600)
    )
    write_field(
        folder / "ok_one_pixel.png", np.full((1, 1, 3), 200, np.uint8), dpi=(101600, 101600)
    )
    write_field(folder / "ok_grey.png", rgb[..., 1], dpi=(101600, 101600))
    write_pyramid(
        folder / "ok_deep.tif",
        rgb.astype(np.uint16) << 4,
        mpp=0.25,
        compression="deflate",
        photometric="rgb",
        levels=1,
    )
    (folder / "ok_smear.tif").write_bytes(raw)


def test_bad_slides_fail_by_name_and_the_others_are_done(go, slide, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    broken(folder, slide)
    result = go(folder)
    assert result.exit_code == 3, result.output
    got = states(out)
    assert len(got) == 11
    for slide_id, state in got.items():
        assert state == ("done" if slide_id.startswith("ok") else "failed"), (
            slide_id,
            reason(out, slide_id),
        )
        if state == "failed":
            assert slide_id in reason(out, slide_id) and not (out / slide_id).exists()
    assert "--mpp" in reason(out, "no_mpp") and "0 bytes" in reason(out, "zero_bytes")
    counts = {r["slide"]: int(r["white_cells"]) for r in rows(out / "differential.csv")}
    assert counts["ok_blank"] == counts["ok_one_pixel"] == 0 and counts["ok_smear"] > 10
    assert rows(out / "ok_blank" / "cells.csv") == []
    assert go(folder / "no_mpp.tif", folder / "zero_bytes.svs").exit_code == 4


def test_the_output_must_be_a_folder_of_ours(go, slide, tmp_path):
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        result = go(slide, out=out)
        assert result.exit_code == 6 and str(out) in result.output
    assert go(slide, out=tmp_path / "ours").exit_code == 0
    within = go(slide, out=tmp_path / "ours" / "smear")
    assert within.exit_code == 6 and "results of one slide" in within.output
    for name in ("cells.csv", "index.html"):
        theirs = tmp_path / name.replace(".", "_") / name
        theirs.parent.mkdir()
        theirs.write_text("precious")
        assert go(slide, out=theirs.parent).exit_code == 6
        assert (tmp_path / "file").read_text() == theirs.read_text() == "precious"


def test_overwrite_leaves_alone_what_is_not_ours(go, slide, tmp_path):
    theirs = tmp_path / "out" / "smear"
    theirs.mkdir(parents=True)
    (theirs / "thesis.docx").write_text("precious")
    result = go(slide, "--overwrite")
    assert result.exit_code == 4 and "left alone" in reason(tmp_path / "out", "smear")
    assert content(theirs) == {"thesis.docx": b"precious"}
    for record in (
        '{"tool": "other"}',
        '{"slide_id": "smear"}',
        "[]",
        "half",
    ):  # many tools write a result.json
        (theirs / "result.json").write_text(record)
        result = go(slide, "--overwrite")
        assert result.exit_code == 4 and content(theirs) == {
            "thesis.docx": b"precious",
            "result.json": record.encode(),
        }


def test_corrupt_weights_are_refused(go, slide, tmp_path, weights):
    raw = bytearray(weights.read_bytes())
    raw[-1000] ^= 0xFF
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(raw)
    result = go(slide, "--weights", bad)
    assert result.exit_code == 1 and "damaged" in result.output
    assert not (tmp_path / "out" / "smear").exists()


def test_nothing_is_written_by_a_dry_run(go, slide, tmp_path):
    result = go(slide, "--dry-run")
    assert result.exit_code == 0 and "12 regions" in result.output
    assert not (tmp_path / "out").exists()


def test_a_dry_run_leaves_a_damaged_region_to_the_next_run(go, slide, tmp_path, monkeypatch):
    """It does not hold the folder: another run may be at work in it."""

    def full(*_):
        raise OutputError("no space left")

    monkeypatch.setattr(pipeline.RunContext, "publish", full)
    assert go(slide).exit_code == OutputError.exit_code
    [damaged] = (tmp_path / "out").rglob("00003.region")
    damaged.write_bytes(b"damaged")
    before = sorted((tmp_path / "out").rglob("*"))
    assert "11 finished before" in go(slide, "--dry-run").output
    assert sorted((tmp_path / "out").rglob("*")) == before


def damage_tiles(path: Path, count: int) -> None:
    """Overwrite the compressed data of the first `count` tiles of level 0 with noise."""
    with tifffile.TiffFile(path) as tiff:
        spans = list(zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True))
    with open(path, "r+b") as file:
        for offset, length in spans[:count]:
            file.seek(offset)
            file.write(b"\x5a" * length)


@pytest.mark.parametrize(("tiles", "limit", "state"), [(2, "0.9", "done"), (2, "0.01", "failed")])
def test_unreadable_regions_are_counted_and_too_many_fail_the_slide(
    go, slide, tmp_path, tiles, limit, state
):
    own, out = tmp_path / "torn.tif", tmp_path / "out"
    own.write_bytes(slide.read_bytes())
    damage_tiles(own, tiles)
    result = go(own, "--max-unreadable", limit)
    assert states(out) == {"torn": state} and result.exit_code == (0 if state == "done" else 4)
    record = json.loads((out / "run.json").read_text())["slides"][0]
    assert record["unreadable_places"]
    if state == "done":
        assert "could not be read" in rows(out / "differential.csv")[0]["warnings"]
        assert "1 done" in go(own, "--max-unreadable", limit, "--retry-failed").output
        assert "1 skipped" in go(own, "--max-unreadable", limit).output
    else:
        assert "--max-unreadable" in record["reason"] and not (out / "torn").exists()
        assert "failed before" in go(own, "--max-unreadable", limit).output + reason(out, "torn")
        go(own, "--max-unreadable", limit, "--retry-failed")
        assert "failed before" not in reason(out, "torn")


def test_a_slide_that_vanishes_in_the_middle_fails_alone(go, slide, tmp_path, monkeypatch):
    doomed = tmp_path / "doomed.tif"
    doomed.write_bytes(slide.read_bytes())
    from hemax_batch.inference import worker_cache

    def vanish(job):
        if job.slide.slide_id == "doomed" and job.region.index == 2:
            doomed.unlink(missing_ok=True)
            worker_cache.close_cached_reader(job.slide)
        return painted_network.process_region(job)

    monkeypatch.setattr(work_queue, "process_region", vanish)
    result = go(doomed, slide)
    assert result.exit_code == 3 and states(tmp_path / "out") == {
        "doomed": "failed",
        "smear": "done",
    }
    assert "doomed.tif" in reason(tmp_path / "out", "doomed") and "mounted" in reason(
        tmp_path / "out", "doomed"
    )
    monkeypatch.setattr(work_queue, "process_region", painted_network.process_region)
    doomed.write_bytes(slide.read_bytes())  # the share is back: no need to ask for another try
    assert go(doomed, slide).exit_code == 0


def test_fail_fast_and_max_minutes_stop_in_good_order(go, slide, tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"")
    assert go(tmp_path / "bad.tif", slide, "--fail-fast").exit_code == 3
    assert states(tmp_path / "out") == {"bad": "failed", "smear": "not reached"}
    assert go(slide, "--max-minutes", 0).exit_code == 7
    assert states(tmp_path / "out") == {"smear": "not reached"}
    assert go(slide).exit_code == 0


@pytest.mark.parametrize(
    ("states_then", "code"),
    [
        (["done", "not reached"], 7),
        (["failed", "not reached"], 3),
        (["failed"], 4),
        (["done", "skipped"], 0),
        ([], 7),
    ],
)
def test_that_time_ran_out_hides_no_failure_and_is_nothing_where_all_was_done(states_then, code):
    works = [SimpleNamespace(state=state, cells=0) for state in states_then]
    assert summarise_run(works, "--max-minutes 1 reached", 7, 60.0, "out").exit_code == code


def spawn(*args, env=None, limit_bytes=None):
    def limit():
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.Popen(
        COMMAND + list(args),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )


def wait_for_regions(out: Path, count: int) -> None:
    deadline = time.monotonic() + 600
    while len(list(out.glob(".hemax/regions/*/*.region"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [(signal.SIGKILL, -9, 0), (signal.SIGTERM, 143, 0), (signal.SIGINT, 130, 2)],
)
def test_a_run_that_is_killed_goes_on_from_its_finished_regions(
    go, slide, weights, tmp_path, number, code, workers
):
    go(slide, out=tmp_path / "whole")
    out = tmp_path / "out"
    process = spawn(
        *arguments(slide, out, weights, "--workers", workers), env={"HEMAX_TEST_FAULT": "slow:1"}
    )
    wait_for_regions(out, 2)
    begun = time.monotonic()
    os.killpg(
        process.pid, number
    )  # as Ctrl-C and a service manager do: every process of the run gets it
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output
    assert time.monotonic() - begun < 30 and not (out / "smear").exists()
    kept = len(list(out.glob(".hemax/regions/*/*.region")))
    log = tmp_path / "log.jsonl"
    assert go(slide, "--log-json", log).exit_code == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(e["event"] == "region_done" for e in events) == 12 - kept < 11
    assert content(out / "smear") == content(tmp_path / "whole" / "smear")
    assert left_behind(out) == []


def test_one_of_two_runs_at_once_exits_5(go, slide, weights, tmp_path):
    out, gate = tmp_path / "out", tmp_path / "gate"
    process = spawn(
        *arguments(slide, out, weights, "--workers", 0), env={"HEMAX_TEST_FAULT": f"gate:{gate}:1"}
    )
    wait_for_regions(out, 1)
    second = go(slide)
    assert second.exit_code == 5 and "--wait-lock" in second.output
    gate.touch()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


def test_a_full_disk_stops_the_run_and_loses_nothing(go, slide, weights, tmp_path):
    go(slide, out=tmp_path / "whole")
    out = tmp_path / "out"
    process = spawn(*arguments(slide, out, weights, "--workers", 0), limit_bytes=6000)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 6 and "check space" in output, output
    assert not (out / "smear").exists()
    assert go(slide).exit_code == 0
    assert content(out / "smear") == content(tmp_path / "whole" / "smear")


def test_regions_of_a_killed_worker_are_done_again(go, slide, tmp_path, fault):
    go(slide, out=tmp_path / "whole")
    fault(f"die-once:{tmp_path}")
    assert go(slide, workers=2).exit_code == 0
    assert content(tmp_path / "out" / "smear") == content(tmp_path / "whole" / "smear")


@pytest.mark.parametrize("what", ["die", "hang"])
def test_a_region_that_kills_or_hangs_every_worker_is_lost_alone(go, slide, tmp_path, fault, what):
    fault(what)
    assert go(slide, "--max-unreadable", 0.5, "--region-timeout", 5, workers=1).exit_code == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())["slides"][0]
    assert record["unreadable_regions"] == [0] and record["cells"] > 5


def test_what_a_kill_left_between_two_renames_is_settled(tmp_path):
    from hemax_batch.results.folder import ResultsFolder

    results = ResultsFolder(tmp_path)
    for name in ("replaced", "orphan"):
        (results.state / "old" / name).mkdir(parents=True)
        (results.state / "old" / name / "result.json").write_text("{}")
    (tmp_path / "replaced").mkdir()
    (results.state / "making" / "half").mkdir(parents=True)
    results.recover_interrupted()
    assert (tmp_path / "orphan" / "result.json").exists() and (tmp_path / "replaced").exists()
    assert not list((results.state / "old").iterdir()) and not (results.state / "making").exists()


def test_a_journal_left_by_a_kill_after_publishing_is_cleared_by_the_next_run(
    go, slide, tmp_path, monkeypatch
):
    from hemax_batch.results.journal import RegionJournal

    with monkeypatch.context() as killed_before_clearing:
        killed_before_clearing.setattr(RegionJournal, "clear", lambda _self: None)
        assert go(slide).exit_code == 0
    kept = list((tmp_path / "out" / ".hemax" / "regions").rglob("*.region"))
    assert kept
    done = go(slide)
    assert done.exit_code == 0 and "1 skipped" in done.output
    assert not any(path.exists() for path in kept)


def test_a_slide_of_unfamiliar_cells_is_outside_everywhere(go, slide, tmp_path, monkeypatch):
    """In the log, the tables, the record, the flags and the report; and none of its cells counts."""

    def unfamiliar(*args, **more):
        found = painted_network.process_region(*args, **more)
        scores = np.full(len(found.cells), 1.4, np.float32)
        return replace(found, cells=replace(found.cells, ood_score=scores))

    monkeypatch.setattr(work_queue, "process_region", unfamiliar)
    result = go(slide)
    out, sentence = tmp_path / "out", "outside what the network was measured on"
    assert result.exit_code == 0 and f"warning: smear: this slide is {sentence}" in result.output
    [row] = rows(out / "differential.csv")
    assert row["reportable"] == "false" and row["white_cells"] == "0"
    assert sentence in row["not_reportable"] and sentence in row["flags"]
    assert sentence in row["warnings"]
    record = json.loads((out / "smear" / "result.json").read_text())
    assert record["outside"]["outside"] and record["outside"]["limit_percent"] == 5.0
    assert {c["class"] for c in rows(out / "cells.csv")} == {"unidentified"}
    assert sentence in (out / "smear" / "report.html").read_text("utf-8")
    again = go(slide)  # what was published is read back
    assert "skipped" in again.output


def test_calls_by_error_come_from_the_card_and_not_below_its_confidence(
    go, slide, tmp_path, monkeypatch
):
    right = {name: {name: 90, "blast": 10} for name in WHITE_NAMES if name != "blast"}
    calls = {"min_confidence": 0.1, "calls": {"a": {**right, "blast": {"blast": 100}}}}
    read_card = pipeline.read_card
    monkeypatch.setattr(
        pipeline, "read_card", lambda path: replace(read_card(path), metrics={"calls": calls})
    )
    assert go(slide).exit_code == 0
    [row] = rows(tmp_path / "out" / "differential.csv")
    others = int(row["white_cells"]) - int(row["blast_count"])
    assert float(row["blast_expected_false"]) == pytest.approx(others / 9, rel=0.5)
    assert int(row["blast_expected_false_high95"]) >= float(row["blast_expected_false"])
    report = (tmp_path / "out" / "smear" / "report.html").read_text("utf-8")
    assert "By error" in report and f"({row['blast_expected_false_low95']}–" in report
    assert go(slide, "--min-confidence", 0.05).exit_code == 0
    [row] = rows(tmp_path / "out" / "differential.csv")
    assert row["blast_expected_false"] == ""


def test_a_manifest_gives_each_slide_its_own_sample_resolution_and_white_count(go, tmp_path):
    pixels = smear(600, 400, 3)
    for name in ("a.png", "b.png"):
        write_field(tmp_path / name, pixels)
    table = tmp_path / "slides.csv"
    table.write_bytes(
        "path;sample_id;mpp;wbc\r\na.png;24-Ü1;0,25;12,5\r\nb.png;=24-2;0,2;\r\n".encode("cp1252")
    )
    done = go("--manifest", table)
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    records = {name: json.loads((out / name / "result.json").read_text()) for name in "ab"}
    assert [records[name]["mpp"] for name in "ab"] == [0.25, 0.2]
    assert [records[name]["sample_id"] for name in "ab"] == ["24-Ü1", "=24-2"]
    assert [row["sample_id"] for row in rows(out / "differential.csv")] == ["24-Ü1", "'=24-2"]
    assert {row["sample_id"] for row in rows(out / "a" / "cells.csv")} <= {"24-Ü1"}
    differential = json.loads((out / "a" / "differential.json").read_text())
    assert differential["sample_id"] == "24-Ü1"
    assert differential["nucleated_red_cells"]["wbc"] == 12.5
    assert "24-Ü1" in (out / "a" / "report.html").read_text("utf-8")
    assert go("--manifest", table).exit_code == 0
    assert states(out) == {"a": "skipped", "b": "skipped"}
    table.write_text("path,sample_id,mpp,wbc\na.png,24-Ü1,0.25,12.5\nb.png,24-3,0.2,\n", "utf-8")
    go("--manifest", table)
    assert states(out) == {"a": "skipped", "b": "done"}


def test_wrong_rows_of_a_manifest_are_refused_by_number(go, tmp_path):
    write_field(tmp_path / "a.png", smear(300, 200, 3))
    table = tmp_path / "slides.csv"
    table.write_text("path,mpp,age_group\na.png,0.25,\nb.png,,\na.png,,\n,0.2,\n")
    done = go("--manifest", table)
    assert done.exit_code == 2 and not (tmp_path / "out").exists()
    for words in (
        "row 3: b.png: no such slide",
        "row 4: the slide 'a.png' is in row 2",
        "row 5: no path",
    ):
        assert words in done.output
    table.write_text("path,mpp,age_group\na.png,wide,\n")
    assert "row 2: mpp 'wide': is no number" in go("--manifest", table).output
    table.write_text("path,mpp,age_group\na.png,,child\n")
    assert "row 2: age_group 'child': selects a table of --rules" in go("--manifest", table).output


def test_times_of_the_run_record_are_rfc_3339():
    from hemax_batch.publishing.run_record import _iso_time

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", _iso_time(1.8e9))
