"""Faults injected into real processes: kills, signals, full disks, dead workers, hung reads, hostile names.

Nothing here depends on how fast the machine is, but for the 30 s promised after a signal. HEMAX_FAULTS=all in the
environment also kills at 20 random moments by the clock.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from checkout import SUPPORT
from painted_slides import smear, write_field, write_pyramid
from run_results import content, left_behind, reason, rows, states

pytestmark = pytest.mark.slow

ALL = os.environ.get("HEMAX_FAULTS") == "all"
KILLS = 20
LONG_S = 600  # for what takes seconds on a machine that has time
WITHIN_S = 30  # promised after a signal


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two slides: 12 regions of 64 µm, and 6."""
    folder = tmp_path_factory.mktemp("slides")
    write_pyramid(folder / "one.tif", smear(1000, 700, 3), mpp=0.25)
    write_pyramid(folder / "two.tif", smear(700, 500, 4), mpp=0.25)
    return folder


@pytest.fixture(scope="module")
def start(weights):
    """Starts `hemax-batch run` as a process of its own session, with the painted network."""
    running = []

    def popen(inputs, out, *more, workers=0, fault="", first_fault=""):
        command = [
            sys.executable,
            SUPPORT / "faulty_run.py",
            "run",
            inputs,
            "--out",
            out,
            "--weights",
            weights,
        ]
        command += ["--core-um", 64, "--workers", workers, *more]
        env = {
            **os.environ,
            "HEMAX_TEST_FAULT": first_fault,
            "HEMAX_FAULT": fault,
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [str(part) for part in command],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield popen
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def whole(start, slides, tmp_path_factory):
    """Results of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ended(start(slides, out), 0)
    return out


def ended(process, code, timeout_s=LONG_S) -> str:
    """What a run printed, once it has ended with `code`."""
    output, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == code, output
    return output


def assert_same_results(out, whole):
    for name in ("one", "two"):
        assert content(out / name) == content(whole / name), name
    for name in ("cells.csv", "differential.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def wait_until(condition, process):
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kept_regions(out: Path) -> int:
    return len(list(out.glob(".hemax/regions/*/*.region")))


KILL_BEFORE = [  # what the process was about to do: event, words of its path, how many such there were
    ("os.rename", "/making/one", 1),  # put a new result in place
    ("shutil.rmtree", "one-", 1),  # clear the journal of a published slide
    ("os.rename", ".run.json", 1),
    ("os.link", "lock.", 1),
    (
        "os.rename",
        "/making/one",
        1,
    ),  # put a result in the place of an earlier one, which has just been moved away
    ("shutil.rmtree", "one", 2),  # remove that
]


def test_killed_just_before_or_after_each_step_of_publishing(start, slides, whole, tmp_path):
    """Each run goes on from what the kill before it left; the slides that are done are done again."""
    out = tmp_path / "out"
    for i, (event, words, nth) in enumerate(KILL_BEFORE):
        again = ["--overwrite"] if i > 2 else []
        process = start(slides / "one.tif", out, *again, fault=f"kill:{event}:{words}:{nth}")
        assert process.wait(LONG_S) == -signal.SIGKILL, (event, words, process.communicate()[0])
        assert_whole_or_absent(out, whole)
    ended(start(slides, out), 0)
    assert_same_results(out, whole)
    assert_nothing_left(out)


def test_killed_at_random_writes_and_resumed_gives_the_same_bytes(start, slides, whole, tmp_path):
    """Counted in writes, not in seconds, so that it kills on any machine."""
    out, chance = tmp_path / "out", random.Random(5)
    for _ in range(3):
        process = start(slides, out, "--overwrite", fault=f"kill:::{chance.randint(20, 300)}")
        assert process.wait(LONG_S) in (-signal.SIGKILL, 0)
        assert_whole_or_absent(out, whole)
    ended(start(slides, out), 0)
    assert_same_results(out, whole)
    assert_nothing_left(out)


@pytest.mark.skipif(not ALL, reason="20 kills by the clock: HEMAX_FAULTS=all")
def test_killed_at_20_random_moments_and_resumed_gives_the_same_bytes(
    start, slides, whole, tmp_path
):
    """Each run is killed somewhere between its start and its end; the next resumes what that left."""
    out, chance = tmp_path / "out", random.Random(5)
    began = time.monotonic()
    ended(start(slides, tmp_path / "timed"), 0)
    lasts_s, killed = time.monotonic() - began, 0
    while killed < KILLS:
        process = start(slides, out, "--overwrite" if chance.random() < 0.3 else "--quiet")
        try:
            process.wait(chance.uniform(0.2, 1.0) * lasts_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        assert_whole_or_absent(out, whole)
        if states_so_far(out) == {"one": "done", "two": "done"}:
            shutil.rmtree(out / chance.choice(["one", "two"]), ignore_errors=True)
    ended(start(slides, out), 0)
    assert_same_results(out, whole)
    assert_nothing_left(out)


def states_so_far(out: Path) -> dict[str, str]:
    return {name: "done" for name in ("one", "two") if (out / name / "result.json").exists()}


def assert_whole_or_absent(out: Path, whole: Path) -> None:
    """Whatever a reader can see."""
    for name in ("one", "two"):
        if (out / name).exists():
            assert content(out / name) == content(whole / name), name


def assert_nothing_left(out: Path) -> None:
    assert left_behind(out) == []
    assert not [p for p in out.iterdir() if p.name.startswith(".") and p.name != ".hemax"]


def test_of_two_runs_at_once_one_works_and_one_exits_5(start, slides, whole, tmp_path):
    """The one that works waits at a gate until the other has gone."""
    gate = tmp_path / "gate"
    both = [start(slides, tmp_path / "out", first_fault=f"gate:{gate}:0") for _ in range(2)]
    wait_until(
        lambda: any(process.poll() is not None for process in both),
        SimpleNamespace(poll=lambda: None),
    )
    loser, winner = sorted(both, key=lambda process: process.poll() is None)
    output = ended(loser, 5)
    assert "--wait-lock" in output
    gate.touch()
    ended(winner, 0)
    assert_same_results(tmp_path / "out", whole)


@contextmanager
def small_disk(folder: Path, kib: int):
    """A file system of `kib` KiB mounted on `folder`."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_keeps_what_is_done_and_goes_on_once_there_is_space(
    start, slides, whole, tmp_path
):
    with small_disk(tmp_path / "disk", 8192) as disk:
        out, ballast = disk / "out", disk / "ballast"
        ended(start(slides / "one.tif", out), 0)
        assert content(out / "one") == content(whole / "one")
        free = os.statvfs(disk)
        ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 24 * 1024)))
        output = ended(start(slides, out), 6)
        assert "check space" in output and "Traceback" not in output
        assert content(out / "one") == content(whole / "one") and not (out / "two").exists()
        ballast.unlink()
        ended(start(slides, out), 0)
        assert_same_results(out, whole)


def test_a_disk_with_no_room_at_all_is_said_at_once(start, slides, tmp_path):
    with small_disk(tmp_path / "disk", 64) as disk:
        (disk / "ballast").write_bytes(bytes(64 * 1024 - 4096 * 2))
        assert "space" in ended(start(slides, disk / "out"), 6)


def test_a_read_only_results_folder_is_refused_and_keeps_its_results(
    start, slides, whole, tmp_path
):
    with small_disk(tmp_path / "disk", 8192) as disk:
        ended(start(slides / "one.tif", disk / "out"), 0)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        output = ended(start(slides, disk / "out"), 6)
        assert str(disk / "out") in output and "Traceback" not in output
        assert content(disk / "out" / "one") == content(whole / "one")


def workers_of(process) -> list[psutil.Process]:
    """The dask workers of a run: what its fork server has forked."""
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            found += child.children() if "forkserver" in " ".join(child.cmdline()) else []
    return found


def test_a_share_of_slides_that_vanishes_fails_its_slides_and_comes_back(
    start, slides, whole, tmp_path
):
    """Unmounted while slide one waits at a gate; slide two has not been opened yet."""
    out, gate = tmp_path / "out", tmp_path / "gate"
    with small_disk(tmp_path / "share", 8192) as share:
        for name in ("one.tif", "two.tif"):
            shutil.copy(slides / name, share)
        process = start(share, out, "--batch-size", 4, first_fault=f"gate:{gate}:1")
        wait_until(lambda: kept_regions(out) >= 1, process)
        subprocess.run(["umount", "--lazy", share], check=True)
        gate.touch()
        ended(process, 3)  # one was open already
        assert states(out) == {"one": "done", "two": "failed"} and "mounted" in reason(out, "two")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8192k", "tmpfs", share], check=True)
        for name in ("one.tif", "two.tif"):
            shutil.copy(slides / name, share)
        ended(start(share, out), 0)
    assert_same_results_but_path(out, whole)


def assert_same_results_but_path(out: Path, whole: Path) -> None:
    for name in ("one", "two"):
        assert (out / name / "cells.csv").read_bytes() == (whole / name / "cells.csv").read_bytes()


def test_the_event_log_may_be_moved_away_at_any_time(start, slides, tmp_path):
    """As logrotate does: what comes after goes to a new file, and nothing is lost."""
    log, gate = tmp_path / "log.jsonl", tmp_path / "gate"
    process = start(
        slides / "two.tif", tmp_path / "out", "--log-json", log, first_fault=f"gate:{gate}:2"
    )
    wait_until(lambda: log.exists() and "region_done" in log.read_text(), process)
    log.rename(tmp_path / "log.jsonl.1")
    gate.touch()
    ended(process, 0)
    before, after = (
        (tmp_path / name).read_text().splitlines() for name in ("log.jsonl.1", "log.jsonl")
    )
    events = [json.loads(line) for line in (*before, *after)]
    assert sorted(e["region"] for e in events if e["event"] == "region_done") == list(range(6))
    assert (events[0]["event"], events[-1]["event"]) == ("run_started", "run_ended")


def test_workers_killed_while_they_work_cost_nothing(start, slides, whole, tmp_path):
    """All wait at a gate in slide one's later regions while workers are killed."""
    out, gate = tmp_path / "out", tmp_path / "gate"
    process = start(slides / "one.tif", out, workers=2, first_fault=f"gate:{gate}:4")
    wait_until(lambda: kept_regions(out) >= 4, process)
    first = workers_of(process)
    for worker in first:
        worker.kill()
        psutil.wait_procs([worker], timeout=LONG_S)
    wait_until(
        lambda: len({p.pid for p in workers_of(process)} - {p.pid for p in first}) >= 1, process
    )
    gate.touch()
    ended(process, 0)
    ended(start(slides, out), 0)
    assert_same_results(out, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_obeyed_within_30_seconds_whatever_is_in_hand(
    start, slides, whole, tmp_path, number
):
    """Region 1 hangs: nothing but ending the process gets it out of there."""
    out = tmp_path / "out"
    process = start(slides, out, workers=0, fault="hang-always")
    wait_until(lambda: kept_regions(out) >= 1, process)
    time.sleep(0.5)
    begun = time.monotonic()
    process.send_signal(number)
    ended(process, 128 + number, timeout_s=WITHIN_S)
    assert time.monotonic() - begun < WITHIN_S
    assert kept_regions(out) >= 1
    ended(start(slides, out), 0)
    assert_same_results(out, whole)


def test_the_main_process_alone_is_told_to_stop_and_its_workers_go_with_it(
    start, slides, whole, tmp_path
):
    out = tmp_path / "out"
    process = start(slides / "one.tif", out, workers=2, first_fault=f"gate:{tmp_path / 'gate'}:2")
    wait_until(lambda: kept_regions(out) >= 2, process)
    theirs = workers_of(process)
    process.send_signal(signal.SIGTERM)
    ended(process, 143, timeout_s=WITHIN_S)
    psutil.wait_procs(theirs, timeout=60)
    assert theirs and not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in theirs)
    ended(start(slides, out), 0)
    assert_same_results(out, whole)


def test_a_read_that_hangs_once_is_tried_again(start, slides, whole, tmp_path):
    process = start(
        slides, tmp_path / "out", "--region-timeout", 8, workers=1, fault=f"hang:{tmp_path}"
    )
    ended(process, 0)
    assert (tmp_path / "hung").exists()
    assert_same_results(tmp_path / "out", whole)


def test_a_pipe_in_the_place_of_a_slide_fails_at_once(start, slides, tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    out = tmp_path / "out"
    listed = tmp_path / "list.txt"
    listed.write_text(f"{tmp_path / 'pipe.tif'}\n{slides / 'two.tif'}\n")
    ended(start(listed, out), 3)
    assert states(out) == {"pipe": "failed", "two": "done"} and "regular file" in reason(
        out, "pipe"
    )


def test_hostile_names_stay_inside_the_folder_and_plain_in_the_tables(start, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = [
        "<script>alert(1)<>.png",
        "$(touch pwned);`touch pwned`.png",
        "=cmd|' call'!A0.png",
        "+1-2@x.png",
        "-rf.png",
        "x" * 200 + ".png",
        "…\u202egnp.png",
        "涂片 №1.png",
        "new\nline.png",
        "a..%2f..b.png",
        "con.png",
    ]
    for name in names:
        write_small_field(folder / name)
    (folder / b"\xff\xfe latin.png".decode("utf-8", "surrogateescape")).symlink_to(
        folder / "con.png"
    )
    (folder / "loop").symlink_to(folder)
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    before = {p.name for p in tmp_path.iterdir()}
    ended(start(folder, out), 0)
    done = states(out)
    assert len(done) >= len(names) and set(done.values()) == {"done"}
    made = {p.name for p in out.iterdir() if p.is_dir() and p.name != ".hemax"}
    assert made == set(done) and all(len(name) <= 80 and name.isascii() for name in made)
    assert {p.name for p in tmp_path.iterdir()} - before == {"out"} and not list(
        SUPPORT.glob("pwned")
    )
    for row in rows(out / "differential.csv"):
        assert all(not value.startswith(("=", "+", "@")) for value in row.values()), row


def write_small_field(path: Path) -> None:
    write_field(path, smear(120, 90, len(path.name)), dpi=(101600, 101600))


def test_a_slide_still_being_copied_is_left_for_the_next_run(start, tmp_path):
    (tmp_path / "in").mkdir()
    write_small_field(tmp_path / "in" / "new.png")
    out = tmp_path / "out"
    ended(start(tmp_path / "in", out, "--settle", 300), 0)
    assert states(out) == {"new": "not reached"} and "--settle" in reason(out, "new")
    ended(start(tmp_path / "in", out, "--settle", 0.01), 0)
    assert states(out) == {"new": "done"}


@pytest.mark.parametrize("target", ["../../elsewhere", "/etc"])
def test_a_results_folder_that_leads_elsewhere_is_left_alone(start, slides, tmp_path, target):
    out = tmp_path / "deep" / "er" / "out"
    out.mkdir(parents=True)
    (tmp_path / "deep" / "elsewhere").mkdir()
    (out / "two").symlink_to(target)
    ended(start(slides / "two.tif", out, "--overwrite"), 4)
    assert "left alone" in reason(out, "two")
    assert not list((tmp_path / "deep" / "elsewhere").iterdir()) and (out / "two").is_symlink()


def test_ids_written_by_somebody_else_cannot_lead_out_of_the_folder(start, slides, tmp_path):
    out = tmp_path / "out"
    (out / ".hemax").mkdir(parents=True)
    forged = {str(slides / "two.tif"): "../escaped"}
    (out / ".hemax" / "ids.json").write_text(json.dumps(forged))
    ended(start(slides / "two.tif", out), 0)
    assert not (tmp_path / "escaped").exists() and states(out) == {"two": "done"}
