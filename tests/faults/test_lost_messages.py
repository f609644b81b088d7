"""Results first: a message that cannot be written never ends a run."""

import json
import os
import subprocess
import sys

import pytest
from checkout import SUPPORT
from painted_slides import smear, write_pyramid


@pytest.fixture
def command(weights, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        write_pyramid(tmp_path / "in" / f"{name}.tif", smear(300, 300, 1), mpp=0.25)
    given = [sys.executable, SUPPORT / "painted_network.py", "run", tmp_path / "in"]
    given += ["--out", tmp_path / "out", "--weights", weights, "--workers", 0]
    return [str(a) for a in given]


def run_record(tmp_path):
    return json.loads((tmp_path / "out" / "run.json").read_text())


def assert_done(tmp_path, code):
    record = run_record(tmp_path)
    assert code == 0 and record["exit_code"] == 0
    assert [s["state"] for s in record["slides"]] == ["done", "done"]


@pytest.mark.parametrize("stream", ["1", "2"])
@pytest.mark.parametrize("where", [">&-", ">/dev/full", "| true"])
def test_a_run_without_its_output_streams_is_done(command, tmp_path, stream, where):
    words = " ".join(command)
    redirect = f"{stream}{where}"
    if where == "| true":
        redirect = "2>&1 >/dev/null | true" if stream == "2" else "2>/dev/null | true"
    shell = f"{words} {redirect}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True)
    assert_done(tmp_path, ended.returncode)


def test_a_log_that_cannot_be_written_is_noted_in_the_run_record(command, tmp_path):
    ended = subprocess.run([*command, "--log-json", "/dev/full"], capture_output=True, text=True)
    assert_done(tmp_path, ended.returncode)
    assert any("--log-json /dev/full" in text for text in run_record(tmp_path)["warnings"])


def test_a_log_that_is_a_pipe_without_a_reader_does_not_hang(command, tmp_path):
    os.mkfifo(tmp_path / "log")
    ended = subprocess.run([*command, "--log-json", str(tmp_path / "log")], timeout=120)
    assert_done(tmp_path, ended.returncode)
