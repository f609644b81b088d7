"""The examples for cron, systemd, Slurm, Docker and logrotate, checked as far as that goes without those services."""

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hemax_batch.cli.app import main
from hemax_batch.slides.formats.companion_files import file_times

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "operations"
FILES = sorted(p for p in FOLDER.iterdir() if p.is_file())


def text_of(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def commands(text: str) -> list[list[str]]:
    """The words after `hemax-batch run` of every such command in a file, continuation lines joined."""
    return [
        shlex.split(found, comments=True)
        for found in re.findall(r"hemax-batch run (.+?)(?: &)?$", text, re.M)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_option_in_the_examples_exists_and_parses(path, monkeypatch, tmp_path):
    known = {option for param in main.commands["run"].params for option in param.opts}
    for words in commands(path.read_text("utf-8")):
        assert "--out" in words, words
        assert {word for word in words if word.startswith("--")} <= known, words
        parent = click.Context(
            main, **main.context_settings
        )  # without one, click would keep `run` from knowing -h
        context = main.commands["run"].make_context("run", words, parent=parent)
        assert context.params["inputs"] and context.params["out"]


def test_the_nightly_examples_leave_slides_alone_that_are_still_copied():
    for name in ("hemax-batch.crontab", "hemax-batch.service", "hemax-batch.slurm"):
        assert any(
            "--settle" in words and "--quiet" in words for words in commands(text_of(name))
        ), name


def test_the_crontab_line_is_one():
    lines = [
        line for line in text_of("hemax-batch.crontab").splitlines() if line and line[0] not in "#M"
    ]
    assert len(lines) == 1
    *when, user, program = lines[0].split()[:7]
    assert all(re.fullmatch(r"[\d*/,-]+", part) for part in when) and (user, program) == (
        "hemax",
        "/opt/hemax-batch/bin/hemax-batch",
    )  # cron's PATH has no such
    assert "%" not in lines[0]  # cron takes it for the end of the line


def test_systemd_takes_the_units(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    for path in FOLDER.glob("hemax-batch.*"):
        if path.suffix in (".service", ".timer"):
            here = path.read_text("utf-8").replace("/opt/hemax-batch/bin/hemax-batch", "/bin/true")
            (tmp_path / path.name).write_text(here.replace("User=hemax", "User=root"))
    for name in ("hemax-batch.service", "hemax-batch.timer"):
        checked = subprocess.run(
            ["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True
        )
        ours = [line for line in checked.stderr.splitlines() if "hemax-batch" in line]
        assert not ours, ours


def test_the_service_outlasts_the_promised_30_seconds_and_names_exit_codes_that_exist():
    unit = text_of("hemax-batch.service")
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > 30
    told = CliRunner().invoke(main, ["run", "--help"]).output
    for code in re.search(r"SuccessExitStatus=(.+)", unit)[1].split():
        assert re.search(rf"\b{code} ", told), code


def test_the_slurm_script_is_sound_and_passes_the_signal_and_the_exit_code_on(tmp_path):
    script = FOLDER / "hemax-batch.slurm"
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)
    stand_in = tmp_path / "hemax-batch"
    stand_in.write_text(
        '#!/bin/bash\ntrap "sleep 0.3; exit 143" TERM\ntouch "$2.up"\nfor i in {1..200}; do sleep 0.05; done\n'
    )
    stand_in.chmod(0o755)
    process = subprocess.Popen(
        ["bash", script, tmp_path / "in", tmp_path / "out"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "in.up").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(20) == 143


def test_the_dockerfile_copies_what_is_there_and_runs_without_privileges():
    lines = [
        line for line in text_of("Dockerfile").splitlines() if line and not line.startswith("#")
    ]
    words = [line.split()[0] for line in lines]
    assert set(words) <= {
        "ARG",
        "FROM",
        "ENV",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "ENTRYPOINT",
        "CMD",
    }
    assert words.index("ARG") < words.index("FROM") and words[-2:] == ["ENTRYPOINT", "CMD"]
    user = next(line for line in lines if line.startswith("USER")).split()[1]
    assert user.split(":")[0] not in ("0", "root")
    assert (ROOT / "constraints.txt").is_file() and (ROOT / "setup.cfg").is_file()


def test_the_settling_time_is_of_the_last_change_whatever_the_file_claims(tmp_path):
    path = tmp_path / "slide.tif"
    path.write_bytes(b"x")
    os.utime(path, (0, 0))  # as a copying tool sets back the times of the original
    assert 0 <= file_times(path).age_s + 1 < 30
    assert file_times(tmp_path / "missing.tif").age_s == float("inf")
