"""Faults injected into real processes: kills, signals, full disks, dead workers, hung reads, hostile names.

HEMAX_FAULTS=all in the environment kills at 20 random moments; the default suite at a handful.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from painted import smear, write_field, write_pyramid
from test_run import content, left_behind, reason, rows, states
from tiny_network import tiny_weights

HERE = Path(__file__).parent
ALL = os.environ.get("HEMAX_FAULTS") == "all"
KILLS = 20 if ALL else 4
WITHIN_S = 30  # promised after a signal


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


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

    def popen(inputs, out, *more, workers=0, slow_s=0.0, fault=""):
        command = [sys.executable, HERE / "faulty_run.py", "run", inputs, "--out", out, "--weights", weights]
        command += ["--core-um", 64, "--workers", workers, *more]
        env = {**os.environ, "HEMAX_TEST_FAULT": f"slow:{slow_s}", "HEMAX_FAULT": fault, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [str(part) for part in command], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
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


def ended(process, code, timeout_s=120) -> str:
    """What a run printed, once it has ended with `code`."""
    output, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == code, output
    return output


def assert_same_results(out, whole):
    for name in ("one", "two"):
        assert content(out / name) == content(whole / name), name
    for name in ("cells.csv", "differential.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def wait_until(condition, process, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kept_regions(out: Path) -> int:
    return len(list(out.glob(".hemax/regions/*/*.npz")))


def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(start, slides, whole, tmp_path):
    """Each run is killed somewhere between its start and a little beyond its end; the next resumes what that left."""
    out, chance = tmp_path / "out", random.Random(5)
    began = time.monotonic()
    ended(start(slides, tmp_path / "timed"), 0)
    lasts_s = time.monotonic() - began
    killed = 0
    for _ in range(KILLS):
        process = start(slides, out, "--overwrite" if chance.random() < 0.2 else "--quiet")
        try:
            process.wait(chance.uniform(0.3, 1.0) * lasts_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        for name in ("one", "two"):  # whatever a reader can see is whole
            if (out / name).exists():
                assert content(out / name) == content(whole / name)
    assert killed
    ended(start(slides, out), 0)
    assert_same_results(out, whole)
    assert left_behind(out) == []
    assert not [p for p in out.iterdir() if p.name.startswith(".") and p.name != ".hemax"]


def test_of_two_runs_at_once_one_works_and_one_exits_5(start, slides, whole, tmp_path):
    both = [start(slides, tmp_path / "out", slow_s=0.3) for _ in range(2)]
    codes = sorted(process.wait(120) for process in both)
    assert codes == [0, 5]
    assert_same_results(tmp_path / "out", whole)


@contextmanager
def small_disk(folder: Path, kib: int):
    """A file system of `kib` KiB mounted on `folder`."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_keeps_what_is_done_and_goes_on_once_there_is_space(start, slides, whole, tmp_path):
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


def test_a_read_only_results_folder_is_refused_and_keeps_its_results(start, slides, whole, tmp_path):
    with small_disk(tmp_path / "disk", 8192) as disk:
        ended(start(slides / "one.tif", disk / "out"), 0)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        output = ended(start(slides, disk / "out"), 6)
        assert str(disk / "out") in output and "Traceback" not in output
        assert content(disk / "out" / "one") == content(whole / "one")


def workers_of(process) -> list[psutil.Process]:
    """The dask workers of a run: children of its nannies' processes that were spawned."""
    below = psutil.Process(process.pid).children(recursive=True)
    return [p for p in below if "spawn_main" in " ".join(p.cmdline())]


def test_workers_killed_at_random_cost_nothing(start, slides, whole, tmp_path):
    out, chance = tmp_path / "out", random.Random(1)
    process = start(slides, out, workers=2, slow_s=0.15)
    for kept in (1, 4) if not ALL else (1, 3, 5, 7):
        wait_until(lambda least=kept: kept_regions(out) >= least or (out / "one").exists(), process)
        alive = workers_of(process)
        if alive:
            chance.choice(alive).kill()
    ended(process, 0)
    assert_same_results(out, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_obeyed_within_30_seconds_whatever_is_in_hand(start, slides, whole, tmp_path, number):
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


def test_the_main_process_alone_is_told_to_stop_and_its_workers_go_with_it(start, slides, whole, tmp_path):
    out = tmp_path / "out"
    process = start(slides, out, workers=2, slow_s=0.3)
    wait_until(lambda: kept_regions(out) >= 2, process)
    theirs = workers_of(process)
    process.send_signal(signal.SIGTERM)
    ended(process, 143, timeout_s=WITHIN_S)
    psutil.wait_procs(theirs, timeout=10)
    assert theirs and not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in theirs)
    ended(start(slides, out), 0)
    assert_same_results(out, whole)


def test_a_read_that_hangs_once_is_tried_again(start, slides, whole, tmp_path):
    process = start(slides, tmp_path / "out", "--region-timeout", 4, workers=1, fault=f"hang:{tmp_path}")
    ended(process, 0)
    assert (tmp_path / "hung").exists()
    assert_same_results(tmp_path / "out", whole)


def test_a_pipe_in_the_place_of_a_slide_fails_at_once(start, slides, tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    out = tmp_path / "out"
    listed = tmp_path / "list.txt"
    listed.write_text(f"{tmp_path / 'pipe.tif'}\n{slides / 'two.tif'}\n")
    ended(start(listed, out), 3, timeout_s=60)
    assert states(out) == {"pipe": "failed", "two": "done"} and "regular file" in reason(out, "pipe")


def test_hostile_names_stay_inside_the_folder_and_plain_in_the_tables(start, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = [
        "<script>alert(1)<>.png", "$(touch pwned);`touch pwned`.png", "=cmd|' call'!A0.png", "+1-2@x.png", "-rf.png",
        "x" * 200 + ".png", "…\u202egnp.png", "涂片 №1.png", "new\nline.png", "a..%2f..b.png", "con.png",
    ]  # fmt: skip
    for name in names:
        write_small_field(folder / name)
    (folder / b"\xff\xfe latin.png".decode("utf-8", "surrogateescape")).symlink_to(folder / "con.png")
    (folder / "loop").symlink_to(folder)
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    before = {p.name for p in tmp_path.iterdir()}
    ended(start(folder, out), 0)
    done = states(out)
    assert len(done) >= len(names) and set(done.values()) == {"done"}
    made = {p.name for p in out.iterdir() if p.is_dir() and p.name != ".hemax"}
    assert made == set(done) and all(len(name) <= 80 and name.isascii() for name in made)
    assert {p.name for p in tmp_path.iterdir()} - before == {"out"} and not list(HERE.glob("pwned"))
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
