"""A scanner's clock that is ahead: its slides are done, and a warning names the clock."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from painted_slides import smear, write_pyramid
from run_results import states

from hemax_batch import pipeline
from hemax_batch.cli.app import main
from hemax_batch.slides.formats import companion_files
from hemax_batch.slides.formats.companion_files import FileTimes, file_times

YEARS_S = 4 * 365 * 86400


@pytest.fixture
def slide(tmp_path):
    (tmp_path / "in").mkdir()
    path = write_pyramid(tmp_path / "in" / "a.tif", smear(300, 300, 1), mpp=0.25)
    os.utime(path, (time.time() + YEARS_S,) * 2)
    return path


@pytest.fixture
def go(weights, tmp_path, slide):
    def run(settle_s):
        given = ["run", tmp_path / "in", "--out", tmp_path / "out", "--weights", weights]
        given += ["--workers", 0, "--settle", settle_s]
        return CliRunner().invoke(main, [str(a) for a in given])

    return run


def test_a_slide_of_the_future_is_done_once_its_time_of_change_has_settled(go, slide, tmp_path):
    assert states_after(go(600), tmp_path) == {"a": "not reached"}  # written just now
    time.sleep(1.1)
    result = go(1)
    assert states_after(result, tmp_path) == {"a": "done"}
    assert "in the future" in result.output and "scanner's clock" in result.output
    warnings = json.loads((tmp_path / "out" / "run.json").read_text())["warnings"]
    assert any("in the future" in text for text in warnings)


def states_after(result, tmp_path):
    assert result.exit_code == 0, result.output
    return states(tmp_path / "out")


@pytest.mark.parametrize("grows", [False, True])
def test_where_the_servers_clock_is_ahead_too_sizes_are_compared(go, monkeypatch, tmp_path, grows):
    sizes = iter(range(1000))

    def ahead(path: Path) -> FileTimes:
        size = next(sizes) if grows else 7
        return FileTimes(-5.0, time.time() + 100, ((size, 1, 1),), True)

    monkeypatch.setattr(pipeline, "file_times", ahead)
    monkeypatch.setattr(pipeline.SubprocessCaller, "call", lambda self, f, *a, timeout_s: f(*a))
    assert states_after(go(0.6), tmp_path) == {"a": "not reached" if grows else "done"}


def test_times_in_the_past_count_as_before(slide):
    os.utime(slide, (0, 0))
    assert file_times(slide).age_s < 60 and not file_times(slide).future
    assert file_times(slide.with_name("missing.tif")).age_s == float("inf")
    assert companion_files.slide_files(slide) == (slide,)
