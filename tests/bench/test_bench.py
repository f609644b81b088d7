"""The measuring itself: that a bench counts what it says it counts. Its figures are no matter of tests."""

import csv
import importlib
import sys
from pathlib import Path

import pytest
from painted_slides import smear, write_pyramid

from hemax_batch.bench import merging
from hemax_batch.bench.benchmark import Benchmark
from hemax_batch.bench.compare_figures import compare_figures
from hemax_batch.bench.components import KINDS, measure_component
from hemax_batch.bench.markdown_table import fit_growth, markdown_table
from hemax_batch.bench.peer import STRIDE_PX, extrapolate_s
from hemax_batch.bench.process_monitor import CommandCost, measure_command
from hemax_batch.bench.recall import recall
from hemax_batch.bench.stages import STAGES, StageClock
from hemax_batch.errors import HemaxError
from hemax_batch.outputs.outlines import outline_texts

RUN = CommandCost(wall_s=7.0, cpu_s=10.0, peak_mb=1, read_mb=1, gpu_percent=None, output="")


def table(path, boxes, classes="mmm"):
    with open(path, "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(("x0", "y0", "x1", "y1", "class"))
        rows.writerows(
            (*box, {"m": "monocyte", "u": "unidentified"}[c])
            for box, c in zip(boxes, classes, strict=False)
        )
    return path


def test_recall_counts_cells_found_again(tmp_path):
    everywhere = table(
        tmp_path / "a.csv", [(0, 0, 10, 10), (50, 50, 60, 60), (90, 0, 100, 10)], "mmu"
    )
    screened = table(tmp_path / "b.csv", [(1, 0, 11, 10), (50, 50, 60, 60), (200, 200, 210, 210)])
    assert recall(everywhere, screened) == {
        "everywhere": 3,
        "screened": 3,
        "of_them_found": 2,
        "recall": 0.6667,
        "named_everywhere": 2,
        "of_the_named_found": 2,
        "recall_of_named": 1.0,
        "labelled": 0,
        "labelled_everywhere": 0,
        "of_these_found": 0,
        "recall_of_labelled": None,
    }
    assert recall(everywhere, table(tmp_path / "none.csv", []))["recall"] == 0


def test_recall_of_labelled_cells_leaves_false_finds_and_what_the_network_does_not_see_out(
    tmp_path,
):
    boxes = [(0, 0, 10, 10), (50, 50, 60, 60), (90, 0, 100, 10), (300, 0, 310, 10)]
    everywhere = table(tmp_path / "a.csv", boxes, "mmum")
    screened = table(tmp_path / "b.csv", boxes[:1], "m")
    truth = table(tmp_path / "c.csv", [(0, 1, 10, 10), (50, 50, 60, 61), (500, 500, 510, 510)])
    told = recall(everywhere, screened, truth)
    assert told["recall"] == 0.25 and told["recall_of_labelled"] == 0.5
    assert [told[k] for k in ("labelled", "labelled_everywhere", "of_these_found")] == [3, 2, 1]


def test_growth_is_a_line_and_says_what_leaves_it():
    assert fit_growth([100, 400, 1600], [3.0, 6.0, 18.0])["largest_deviation_percent"] == 0
    assert fit_growth([100, 400, 1600], [3.0, 6.0, 40.0])["largest_deviation_percent"] > 10


def test_a_table_shows_what_is_missing():
    assert (
        markdown_table("t", [{"a": 1.23456, "b": None}])
        == "t\n\n| a | b |\n| --- | --- |\n| 1.235 | – |\n"
    )


@pytest.mark.slow
def test_a_watched_command_is_told_by_its_processes():
    hungry = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(10**8); import time; time.sleep(1.5)'])"
    watched = measure_command([sys.executable, "-c", hungry], {})
    assert watched.peak_mb > 95 and watched.wall_s > 1.5
    with pytest.raises(HemaxError, match="exit code 3: alas"):
        measure_command([sys.executable, "-c", "import sys; print('alas'); sys.exit(3)"], {})


@pytest.mark.slow
def test_each_way_of_reading_reads_the_whole_slide_once(tmp_path):
    slide = write_pyramid(tmp_path / "smear.tif", smear(2500, 2100, 3), mpp=0.25)
    for kind in ("reading", "openslide"):
        done = [KINDS[kind](str(slide), share, 3, 0).run() for share in range(3)]
        assert sum(items for items, _ in done) == 4
        assert sum(megapixels for _, megapixels in done) == pytest.approx(2500 * 2100 / 1e6)
    assert measure_component("reading", str(slide), 2, 0)["items"] == 4


def stand_in(path, words):
    """A "Python" that notes what it is asked, and answers."""
    path.write_text(f'#!/bin/sh\necho "$PYTHONPATH $@" > {path}.asked\n{words}\n', "utf-8")
    path.chmod(0o755)
    return path


def test_a_peer_is_asked_in_its_own_environment_and_extrapolated(tmp_path):
    slide = write_pyramid(tmp_path / "smear.tif", smear(600, 500, 3), mpp=0.25)
    answer = (
        '{"peer": "P 1", "before_s": 2, "timed_s": 10, "after_s": 1, "items": 50, "of_items": 1000,'
    )
    answer += '"before_cpu_s": 3, "timed_cpu_s": 20, "after_cpu_s": 1}'
    python = stand_in(tmp_path / "python", f"echo warned; echo '{answer}'")
    told = Benchmark(tmp_path, 2, 1, python).peer(slide, 0.25, RUN)
    assert (
        told["peer_s_extrapolated"] == 203
        and told["peer/run"] == 29
        and told["peer_patches_timed"] == "50 of 1000"
    )
    assert told["peer/run, cpu_s"] == round(404 / 10, 2)
    assert told["peer_without_overlap/run"] == round((3 + 200 * (STRIDE_PX / 320) ** 2) / 7, 2)
    root, *asked = (tmp_path / "python.asked").read_text("utf-8").split()
    assert asked[:5] == ["-m", "hemax_batch.bench.peer", str(slide), "0.25", "2"]
    assert root == str(Path(merging.__file__).parents[2]) and len(asked) == 7


def test_without_a_peer_nothing_is_said_of_one_and_a_failing_one_is_told(tmp_path):
    assert Benchmark(tmp_path, 2, 1).peer(tmp_path / "x.tif", 0.25, RUN) == {}
    python = stand_in(tmp_path / "python", "echo no such module; exit 1")
    with pytest.raises(HemaxError, match="no such module"):
        Benchmark(tmp_path, 2, 1, python).peer(tmp_path / "x.tif", 0.25, RUN)


def test_a_peer_s_time_grows_with_its_patches():
    told = {"before_s": 2.0, "timed_s": 10.0, "after_s": 1.0, "items": 50, "of_items": 1000}
    assert extrapolate_s(told) == 203 and extrapolate_s(told, "s", 2 * STRIDE_PX) == 53


def test_benches_are_compared_by_slide_and_what_one_lacks_is_left_out():
    def bench(*rows):
        return {"side by side": [{"slide": name, "run_s": s} for name, s in rows]}

    rows = compare_figures(bench(("a", 4.0), ("b", 8.0)), bench(("b", 2.0), ("c", 1.0)))
    assert rows == [
        {"figure": "side by side / b / run_s", "before": 8.0, "after": 2.0, "after/before": 0.25}
    ]


def test_a_stage_does_not_count_the_time_of_one_within_it():
    clock = StageClock(iter([0.0, 1.0, 4.0, 5.0]).__next__)
    inner = clock.timed("inner", lambda: None)
    clock.timed("outer", inner)()
    assert clock.seconds == {"inner": 3.0, "outer": 2.0}


def test_every_stage_s_functions_exist():
    for _, module, name in STAGES:
        owner = importlib.import_module(f"hemax_batch.{module}")
        for part in name.split("."):
            owner = getattr(owner, part)
        assert callable(owner)


def test_made_up_cells_are_merged_to_as_many(tmp_path):
    merging.fill_journal(tmp_path, 90, (6000, 3000))
    told = merging.publish(tmp_path, (6000, 3000))
    assert told["cells"] == 90 and {"seconds", "cpu_ms_a_cell", "over_base_mb"} <= set(told)
    region = next(merging.synthetic_job(tmp_path, (6000, 3000)).journal.results())
    assert min(map(len, region.cells.pictures)) > 3000


def test_made_up_outlines_are_those_that_would_be_traced(tmp_path):
    merging.fill_journal(tmp_path, 40, (6000, 3000))
    for result in merging.synthetic_job(tmp_path, (6000, 3000)).journal.results():
        assert list(result.cells.outlines) == outline_texts(result.cells)
