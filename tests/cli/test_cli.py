"""The command line: help that teaches, options that are checked, start-up that is quick."""

import json
import os
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner
from painted_slides import smear, write_pyramid
from PIL import Image
from tiny_network import tiny_weights

from hemax_batch.cli import doctor
from hemax_batch.cli.app import main
from hemax_batch.errors import LockedError, UsageError
from hemax_batch.results.lock import OutputLock
from hemax_batch.settings import RunOptions, RunSettings


def commands(group=main, path=()):
    """Every command with its words, groups too."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("cli") / "smear.tif", smear(600, 500), mpp=0.25)


def invoke(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda v: "-".join(v) if type(v) is tuple else ""
)
def test_every_command_has_help_with_an_example(path, command):
    for flag in ("-h", "--help"):
        result = invoke(*path, flag)
        assert result.exit_code == 0
        assert (
            "Example:" in result.output and f"hemax-batch {' '.join(path)}".strip() in result.output
        )
    assert all(
        p.help
        for p in command.params
        if isinstance(p, click.Option) and p.name not in ("seed", "device")
    )


def test_help_starts_within_a_third_of_a_second():
    def seconds():
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "hemax_batch", "--help"], check=True, capture_output=True
        )
        return time.perf_counter() - begun

    assert min(seconds() for _ in range(4)) < 0.3


@pytest.mark.parametrize(
    "bad",
    [["--mpp", "0"], ["--mpp", "-1"], ["--audit", "1.5"], ["--core-um", "1"], ["--workers", "-1"],
     ["--batch-size", "0"],
     ["--scheduler", "tcp://a:1", "--scheduler-file", "x"], ["--no-such-option"], ["--min-confidence", "nan"]],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_usage_errors(slide, tmp_path, bad):
    result = invoke("run", slide, "--out", tmp_path / "out", *bad)
    assert result.exit_code == 2 and bad[0] in result.output
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_not_there_are_usage_errors(tmp_path):
    weights = tiny_weights(tmp_path)
    result = invoke(
        "run", tmp_path / "nowhere.svs", "--out", tmp_path / "out", "--weights", weights
    )
    assert result.exit_code == 2 and "nowhere.svs" in result.output
    inside = invoke(
        "run", tmp_path / "gone", "--out", tmp_path / "gone" / "results", "--weights", weights
    )
    assert (
        inside.exit_code == 2 and "is mounted" in inside.output and not (tmp_path / "gone").exists()
    )
    (tmp_path / "empty").mkdir()
    assert (
        invoke("run", tmp_path / "empty", "--out", tmp_path / "out", "--weights", weights).exit_code
        == 2
    )


def test_a_config_file_gives_defaults_and_the_command_line_goes_first(slide, tmp_path, monkeypatch):
    from hemax_batch import pipeline
    from hemax_batch.publishing.run_record import RunSummary

    seen = []
    monkeypatch.setattr(
        pipeline, "run", lambda inputs, out, s, o: seen.append((s, o)) or RunSummary(0, "ran")
    )
    config = tmp_path / "run.toml"
    config.write_text('core-um = 250\naudit = 0.1\nretry-failed = true\nlog_json = "run.jsonl"\n')
    result = invoke("run", slide, "--out", tmp_path / "out", "--config", config, "--audit", "0.2")
    assert result.exit_code == 0, result.output
    settings, options = seen[0]
    assert (settings.core_um, settings.audit) == (250, 0.2)
    assert options.retry_failed and str(options.log_json) == "run.jsonl"
    config.write_text("cor-um = 250\n")
    result = invoke("run", slide, "--out", tmp_path / "out", "--config", config)
    assert result.exit_code == 2 and "cor_um" in result.output


@pytest.mark.parametrize(("ended", "code"), [(0, 5), (3, 3), (7, 7)])
def test_how_a_run_ended_is_said_though_another_holds_the_folder_when_it_would_export(
    slide, tmp_path, monkeypatch, ended, code
):
    from hemax_batch import pipeline
    from hemax_batch.interchange import export
    from hemax_batch.publishing.run_record import RunSummary

    def refuse(*_, overwrite, wait_lock_s):
        raise LockedError(f"held, after {wait_lock_s:g} s")

    monkeypatch.setattr(pipeline, "run", lambda *_: RunSummary(ended, "ran"))
    monkeypatch.setattr(export, "export_all", refuse)
    result = invoke("run", slide, "--out", tmp_path / "out", "--fhir", "--wait-lock", 60)
    assert result.exit_code == code, result.output
    assert "ran\n" in result.output and "held, after 60 s" in result.output


def test_info_describes_slides_and_fails_on_bad_ones(slide, tmp_path):
    result = invoke("info", slide)
    assert (
        result.exit_code == 0
        and "600 x 500 px, 0.25 µm/px" in result.output
        and "regions" in result.output
    )
    (tmp_path / "bad.tif").write_bytes(b"")
    result = invoke("info", slide, tmp_path / "bad.tif", "--json")
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert result.exit_code == 3 and lines[0]["mpp"] == 0.25 and "0 bytes" in lines[1]["error"]
    assert invoke("info", tmp_path / "bad.tif").exit_code == 4


def test_doctor_exits_non_zero_when_something_is_wrong(tmp_path):
    weights = tiny_weights(tmp_path)
    well = invoke("doctor", "--weights", weights, "--out", tmp_path / "out")
    assert well.exit_code == 0 and "all is well" in well.output and "SHA-256" in well.output
    (tmp_path / "scans").mkdir()
    assert (
        "can be written"
        in invoke("doctor", "--weights", weights, "--out", tmp_path / "scans").output
    )
    assert not list((tmp_path / "scans").iterdir())  # no results folder yet
    (tmp_path / "file").write_text("")
    assert invoke("doctor", "--weights", weights, "--out", tmp_path / "file").exit_code == 1
    weights.write_bytes(weights.read_bytes()[:-10])
    ill = invoke("doctor", "--weights", weights)
    assert ill.exit_code == 1 and "1 thing to put right" in ill.output


def test_doctor_names_a_library_that_does_not_import():
    assert doctor._library("ours", "no_such_library_of_ours").level == "wrong"


def level_of(subject: str, out=None) -> str:
    return next(
        finding.level for finding in doctor.check_installation(out) if finding.subject == subject
    )


def test_doctor_finds_an_openslide_that_cannot_read(monkeypatch):
    assert level_of("OpenSlide") == "ok"
    monkeypatch.setattr("openslide.OpenSlide.read_region", lambda *_: Image.new("RGB", (64, 64)))
    assert level_of("OpenSlide") == "wrong"
    monkeypatch.setattr("openslide.OpenSlide.__init__", lambda *_: 1 / 0)
    assert level_of("OpenSlide") == "wrong"


def test_doctor_finds_a_gpu_that_does_not_work(monkeypatch, tmp_path):
    (tmp_path / "driver").touch()
    monkeypatch.setattr(doctor, "_NVIDIA", (tmp_path / "driver",))
    assert level_of("GPU") == "warning"  # a driver, and no GPU for PyTorch
    monkeypatch.setattr(doctor, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "broken")
    monkeypatch.setattr("torch.zeros", lambda *_, **__: 1 / 0)
    assert level_of("GPU") == "wrong"


@pytest.mark.parametrize(
    ("limit", "value", "subject"),
    [
        ("RLIMIT_NOFILE", 64, "files"),
        ("RLIMIT_FSIZE", 10_000, "file size"),
        ("RLIMIT_AS", 2**30, "limits"),
    ],
)
def test_doctor_finds_limits_that_are_too_low(monkeypatch, limit, value, subject):
    real = doctor.resource.getrlimit
    number = getattr(doctor.resource, limit)
    monkeypatch.setattr(
        doctor.resource, "getrlimit", lambda n: (value, value) if n == number else real(n)
    )
    assert level_of(subject) == "wrong"


def test_doctor_finds_a_full_disk_a_folder_that_may_not_be_written_and_a_run_at_work(
    monkeypatch, tmp_path
):
    assert level_of("disk", tmp_path) in ("ok", "warning") and level_of("lock", tmp_path) == "ok"
    (tmp_path / ".hemax").mkdir()
    with OutputLock(tmp_path / ".hemax"):
        assert level_of("lock", tmp_path) == "warning"
    full = os.statvfs_result((4096, 4096, 10**6, 10, 10, 10**6, 10**6, 10**6, 0, 255))
    monkeypatch.setattr(doctor.os, "statvfs", lambda _: full)
    assert level_of("disk", tmp_path) == "wrong"
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert level_of("results", tmp_path / "below") == "wrong"


def test_synth_writes_a_slide_that_info_reads_and_its_truth(tmp_path):
    path = tmp_path / "made" / "smear.tif"
    result = invoke(
        "synth", path, "--seed", 3, "--width", 1024, "--height", 768, "--white-per-mm2", 800
    )
    assert result.exit_code == 0, result.output
    assert path.with_suffix(".truth.csv").exists()
    assert "1024 x 768 px, 0.1 µm/px" in invoke("info", path).output


def test_settings_that_change_results_change_the_fingerprint():
    base = RunSettings().result_fingerprint("slide", "weights")
    others = [
        RunSettings(core_um=300),
        RunSettings(exhaustive=True),
        RunSettings(audit=0.5),
        RunSettings(wbc=5.0),
        RunSettings(min_confidence=0.9),
        RunSettings(target_cells=100),
        RunSettings(mpp=0.1),
        RunSettings(max_unreadable=0.2),
        RunSettings(engine="openvino"),
    ]
    prints = {s.result_fingerprint("slide", "weights") for s in others}
    prints |= {
        RunSettings().result_fingerprint("other", "weights"),
        RunSettings().result_fingerprint("slide", "other"),
    }
    assert len(prints | {base}) == len(others) + 3
    assert RunSettings().result_fingerprint("slide", "weights") == base
    with pytest.raises(UsageError):
        RunOptions(workers=-1)


def test_more_gpus_than_there_are_is_a_usage_error(tmp_path, monkeypatch):
    from hemax_batch.scheduling import resources

    monkeypatch.setattr(resources, "visible_gpus", lambda: [])
    (tmp_path / "a.png").touch()
    given = ["run", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--gpus", "1"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2 and "--gpus 1: 0 can be used" in done.output
    assert not (tmp_path / "out").exists()


def test_doctor_takes_a_lock_and_writes_where_the_results_are_to_lie(tmp_path, monkeypatch):
    import os

    from hemax_batch.cli.doctor import _file_system

    found = _file_system(tmp_path / "out")
    assert "lock, write and rename work" in found.text and "MB/s" in found.text
    assert list(tmp_path.iterdir()) == []

    def rename(*_):
        raise OSError("cannot rename")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="cannot rename"):
        _file_system(tmp_path / "out")
