"""What hangs, dies or runs out costs its own slide or region at most: opening, planning, memory, graphics cards."""

import json
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import hanging_slides
import painted_network
import psutil
import pytest
from checkout import SUPPORT
from click.testing import CliRunner
from painted_slides import smear, write_pyramid
from run_results import content, left_behind, reason, states

from hemax_batch import pipeline
from hemax_batch.cli.app import main
from hemax_batch.errors import HemaxError, SlideError
from hemax_batch.inference.patch_predictor import PatchPredictor
from hemax_batch.publishing import run_tables
from hemax_batch.results.cleanup import remove_stale_files
from hemax_batch.results.folder import ResultsFolder
from hemax_batch.results.journal import RegionJournal, SlideFailure, record_failure
from hemax_batch.results.lock import OutputLock, describe_holder
from hemax_batch.scheduling import dask_cluster, executor_factory, stopping, work_queue
from hemax_batch.scheduling.executors import SerialExecutor, TaskResult, WorkerDied
from hemax_batch.scheduling.stopping import StopFlag, StopNow
from hemax_batch.scheduling.subprocess_caller import CallCancelled, CallTimedOut, SubprocessCaller

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two slides of 6 and 4 regions of 64 µm."""
    folder = tmp_path_factory.mktemp("slides")
    write_pyramid(folder / "one.tif", smear(700, 500, 4), mpp=0.25)
    write_pyramid(folder / "two.tif", smear(500, 500, 3), mpp=0.25)
    return folder


@pytest.fixture(scope="module")
def go(weights):
    """Runs `hemax-batch run` in this process with the painted network: its exit code and output."""

    def run(inputs, out, *more, workers=0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(work_queue, "process_region", painted_network.process_region)
            given = [
                "run",
                inputs,
                "--out",
                out,
                "--weights",
                weights,
                "--engine",
                "torch",
                "--core-um",
                64,
                "--workers",
                workers,
                *more,
            ]
            result = CliRunner().invoke(main, [str(part) for part in given])
            assert result.exception is None or isinstance(result.exception, SystemExit), (
                result.exc_info
            )
            return result.exit_code, result.output

    return run


@pytest.fixture(scope="module")
def whole(go, slides, tmp_path_factory):
    """Results of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert go(slides, out)[0] == 0
    return out


@pytest.fixture
def no_hard_limit(monkeypatch):
    """Signals to this very process do not end it."""
    monkeypatch.setattr(stopping, "HARD_LIMIT_S", 1e5)


def assert_same_results(out, whole):
    for name in ("one", "two"):
        assert content(out / name) == content(whole / name), name


def lost_regions(out: Path) -> dict[str, list[int]]:
    return {
        s["slide"]: s["unreadable_regions"]
        for s in json.loads((out / "run.json").read_text())["slides"]
    }


# calls aside


def test_calls_aside_give_what_calls_here_give():
    with SubprocessCaller() as aside:
        assert aside.call(divmod, 17, 5, timeout_s=60) == (3, 2)
        first = aside._child[0].pid
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            aside.call(divmod, 1, 0, timeout_s=60)
        with pytest.raises(SlideError, match="nowhere"):
            aside.call(hanging_slides.record_slide, "/nowhere/x.tif", "x", None, timeout_s=60)
        assert aside._child[0].pid == first
    assert not psutil.pid_exists(first)


def test_a_call_that_hangs_or_crashes_is_given_up_and_the_next_one_works():
    with SubprocessCaller() as aside:
        assert aside.call(len, "abc", timeout_s=60) == 3
        with pytest.raises(CallTimedOut, match=r"within 0\.3 s"):
            aside.call(time.sleep, 60, timeout_s=0.3)
        with pytest.raises(CallTimedOut, match="exit code 9"):
            aside.call(os._exit, 9, timeout_s=60)
        assert aside.call(len, "abc", timeout_s=60) == 3
        aside.is_cancelled = lambda: True
        with pytest.raises(CallCancelled):
            aside.call(time.sleep, 60, timeout_s=60)


def test_a_process_aside_ends_when_its_run_has_died(tmp_path):
    code = (
        "import os, sys, time\nfrom hemax_batch.scheduling.subprocess_caller import SubprocessCaller\n"
        "aside = SubprocessCaller(); aside.call(len, '', timeout_s=60)\n"
        "aside._child[1].send((time.sleep, (3600,))); print(aside._child[0].pid, flush=True); os._exit(0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    deadline = time.monotonic() + 60
    while psutil.pid_exists(int(ran.stdout)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(int(ran.stdout))


def test_slides_that_hang_or_crash_when_opened_fail_alone(go, slides, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "record_slide", hanging_slides.record_slide)
    for name in ("a_hangs", "b_crashes", "c_hangs"):
        (tmp_path / f"{name}.tif").write_bytes((slides / "two.tif").read_bytes())
    out = tmp_path / "out"
    assert go(tmp_path, out, slides / "one.tif", "--open-timeout", 5)[0] == 3
    assert states(out) == {
        "a_hangs": "failed",
        "b_crashes": "failed",
        "c_hangs": "failed",
        "one": "done",
    }
    assert "within 5 s" in reason(out, "a_hangs") and "SIGSEGV" in reason(out, "b_crashes")
    monkeypatch.undo()
    assert (
        go(tmp_path / "a_hangs.tif", out)[0] == 0
    )  # another night: no need to ask for another try


# blame


class Blaming(SerialExecutor):
    """Calls the first `times` plans of slide `two` lost, as dask does when a neighbour has killed their worker."""

    out_of_process = True
    capacity = 4
    times = 1

    def wait(self, timeout_s):
        if (
            self._waiting
            and self._waiting[0][0][1] is None
            and self._waiting[0][0][0].slide_id == "two"
            and self.times
        ):
            self.times -= 1
            return [TaskResult(self._waiting.popleft()[0], error=WorkerDied("died"))]
        return super().wait(timeout_s)


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 3)])
def test_a_plan_blamed_for_a_neighbour_is_made_again_alone(
    go, slides, whole, tmp_path, monkeypatch, times, code
):
    monkeypatch.setattr(Blaming, "times", times)
    monkeypatch.setattr(executor_factory, "connect_executor", lambda *_: Blaming())
    out = tmp_path / "out"
    assert go(slides, out)[0] == code
    if code:
        assert states(out) == {"one": "done", "two": "failed"} and "planning it, 2 times" in reason(
            out, "two"
        )
        monkeypatch.undo()
        assert go(slides, out)[0] == 0
    assert_same_results(out, whole)


def test_a_region_that_kills_every_worker_costs_no_other_slide(go, slides, whole, tmp_path, fault):
    """Slide two's plan and regions are in flight with the killer."""
    (tmp_path / "in").mkdir()
    write_pyramid(tmp_path / "in" / "zero.tif", smear(300, 280, 9), mpp=0.25)
    fault("kills:zero")
    out = tmp_path / "out"
    code, _ = go(tmp_path / "in", out, slides, "--max-unreadable", 0.9, workers=1)
    assert code == 0 and lost_regions(out) == {"zero": [0], "one": [], "two": []}
    assert content(out / "two")["cells.csv"] == content(whole / "two")["cells.csv"]


def test_reading_ahead_changes_nothing(go, slides, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(PatchPredictor, "prefetches", True)
    assert go(slides, tmp_path / "out", "--batch-size", 2)[0] == 0
    assert_same_results(tmp_path / "out", whole)


# memory


@pytest.mark.parametrize("prefetches", [False, True])
def test_a_batch_too_large_for_the_device_is_halved(
    go, slides, whole, tmp_path, monkeypatch, fault, prefetches
):
    monkeypatch.setattr(PatchPredictor, "prefetches", prefetches)
    fault("oom")
    assert go(slides, tmp_path / "out", "--batch-size", 8)[0] == 0
    assert_same_results(tmp_path / "out", whole)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
     RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")],
    ids=["numpy", "cuda", "cpu"],
)  # fmt: skip
def test_memory_short_even_for_one_patch_loses_the_region_with_a_reason(
    go, slides, tmp_path, monkeypatch, error
):
    def fail(_self, batch, _mpp, _size):
        raise error

    monkeypatch.setattr(painted_network.PaintedNetwork, "__call__", fail)
    out = tmp_path / "out"
    assert go(slides / "two.tif", out)[0] == 4
    assert "after 2 tries" in reason(out, "two") and type(error).__name__ in reason(out, "two")


def test_a_worker_that_takes_too_much_memory_is_ended_and_its_region_done_with_less(
    go, slides, whole, tmp_path, monkeypatch, fault
):
    monkeypatch.setattr(dask_cluster, "_worker_memory_limit", lambda _workers: 700 * 2**20)
    fault(f"hog:{600 * 2**20}")
    assert go(slides, tmp_path / "out", workers=1)[0] == 0
    assert_same_results(tmp_path / "out", whole)


# graphics cards


@pytest.fixture
def two_gpus(monkeypatch):
    """As far as the scheduler knows."""
    monkeypatch.setattr(dask_cluster, "visible_gpus", lambda: ["0", "1"])


@pytest.mark.parametrize("loss", ["cpu", "retire"])
def test_the_other_workers_go_on_when_a_gpu_is_lost(
    go, slides, whole, tmp_path, fault, two_gpus, loss
):
    fault("gpu:1")
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    code, output = go(slides, out, "--on-gpu-loss", loss, "--log-json", log, workers=2)
    assert code == 0, output
    assert_same_results(out, whole)
    told = [
        event["text"]
        for event in map(json.loads, log.read_text().splitlines())
        if event["event"] == "warning" and "red cells measure" not in event["text"]
    ]
    assert told and all("GPU 1" in text and "device-side assert" in text for text in told)
    assert len(told) <= 4  # a process that lost its GPU says so once, and does no further region


def test_without_any_gpu_left_the_cpu_goes_on_or_the_run_stops_as_configured(
    go, slides, whole, tmp_path, monkeypatch, fault, two_gpus
):
    fault("gpu:")
    assert go(slides, tmp_path / "cpu", workers=2)[0] == 0
    assert_same_results(tmp_path / "cpu", whole)
    code, output = go(slides, tmp_path / "out", "--on-gpu-loss", "retire", workers=2)
    assert code == 1 and "no GPU is left" in output and "--on-gpu-loss cpu" in output
    assert set(states(tmp_path / "out").values()) == {"not reached"}
    monkeypatch.delenv("HEMAX_TEST_FAULT")
    assert go(slides, tmp_path / "out")[0] == 0
    assert_same_results(tmp_path / "out", whole)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--on-gpu-loss", "cpu"), 0),
        (("--on-gpu-loss", "retire"), 1),
        (("--gpus", 0, "--on-gpu-loss", "retire"), 0),
    ],
)
def test_this_process_alone_loses_its_gpu_or_is_told_to_use_none(
    go, slides, whole, tmp_path, monkeypatch, options, code
):
    see = painted_network.PaintedNetwork.__call__

    def lost_unless_on_the_cpu(self, *batch):
        if self.device != "cpu":
            raise RuntimeError("CUDA error: the launch timed out and was terminated")
        return see(self, *batch)

    monkeypatch.setattr(painted_network.PaintedNetwork, "__call__", lost_unless_on_the_cpu)
    assert go(slides, tmp_path / "out", *options)[0] == code
    if code == 0:
        assert_same_results(tmp_path / "out", whole)


# a read that hangs without workers


def test_without_workers_a_region_that_hangs_ends_the_run_and_the_next_one_goes_on_without_it(
    go, slides, whole, weights, tmp_path
):
    out = tmp_path / "out"
    command = [
        sys.executable,
        SUPPORT / "faulty_run.py",
        "run",
        slides,
        "--out",
        out,
        "--weights",
        weights,
    ]
    command += ["--engine", "torch", "--core-um", 64, "--workers", 0, "--region-timeout", 6]
    command += ["--max-unreadable", 0.5]
    env = {**os.environ, "HEMAX_FAULT": "hang-always"}
    ran = subprocess.run(
        [str(c) for c in command], env=env, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 8 and "--workers 1" in ran.stderr, ran.stderr
    assert states(out) == {"one": "not reached", "two": "not reached"}
    assert go(slides / "one.tif", out, "--max-unreadable", 0.5)[0] == 0
    assert lost_regions(out) == {"one": [1]}
    assert go(slides, out, "--max-unreadable", 0.5, "--retry-failed")[0] == 0
    assert go(slides, out)[0] == 0
    assert_same_results(out, whole)
    assert left_behind(out) == []


# a slide that is still being written when the run stops


class Beside(SerialExecutor):
    """Slides are written in a thread, as where there are workers."""

    out_of_process = True


@pytest.fixture
def slowly_written(slides, tmp_path, monkeypatch):
    """Inputs: a slide whose writing takes longer than a run waits for workers, and one that fails meanwhile."""
    finish = pipeline.RunContext.publish

    def slow(self, work):
        time.sleep(1.5)
        assert describe_holder(self.results.state)
        finish(self, work)

    monkeypatch.setattr(pipeline.RunContext, "publish", slow)
    monkeypatch.setattr(work_queue, "_DRAIN_S", 0.1)
    monkeypatch.setattr(executor_factory, "connect_executor", lambda *_: Beside())
    (tmp_path / "z_bad.tif").write_bytes(b"")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{slides / 'two.tif'}\n{tmp_path / 'z_bad.tif'}\n")
    return listed


def test_the_folder_is_held_until_a_slide_that_is_being_written_is_there_and_it_counts(
    go, whole, slowly_written, tmp_path
):
    out = tmp_path / "out"
    assert go(slowly_written, out, "--fail-fast")[0] == 3
    assert content(out / "two") == content(whole / "two") and not describe_holder(out / ".hemax")
    assert states(out) == {"two": "done", "z_bad": "failed"} and left_behind(out) == []


def test_a_signal_leaves_time_to_conclude_though_a_slide_is_being_written_and_the_folder_is_held_on(
    go, slowly_written, tmp_path, monkeypatch, no_hard_limit
):
    monkeypatch.setattr(stopping, "_FINALISE_AFTER_S", 0.0)
    end, out = work_queue.WorkQueue._end_slide, tmp_path / "out"

    def told_to_stop(self, work, state, reason=""):
        if state == "failed":
            signal.raise_signal(signal.SIGTERM)
        end(self, work, state, reason)

    monkeypatch.setattr(work_queue.WorkQueue, "_end_slide", told_to_stop)
    assert go(slowly_written, out)[0] == 143
    assert states(out) == {"two": "not reached", "z_bad": "failed"}
    assert (out / "two" / "result.json").exists() and not describe_holder(out / ".hemax")


# signals


@pytest.mark.parametrize(("more", "times", "code"), [(["--max-minutes", 0], 1, 7), ([], 2, 143)])
def test_signals_while_a_run_is_concluded_leave_its_record_and_its_exit_code(
    go, slides, tmp_path, monkeypatch, no_hard_limit, more, times, code
):
    tables, out = run_tables.write_run_tables, tmp_path / "out"

    def told_to_stop(results):
        for _ in range(times):
            signal.raise_signal(signal.SIGTERM)
        tables(results)

    monkeypatch.setattr(run_tables, "write_run_tables", told_to_stop)
    assert go(slides / "two.tif", out, *more)[0] == code
    assert json.loads((out / "run.json").read_text())["exit_code"] == code


@pytest.mark.parametrize(
    ("number", "more", "code"),
    [(signal.SIGINT, [], 130), (signal.SIGTERM, [], 143), (None, ["--max-minutes", 0], 7)],
)
def test_a_run_that_waits_for_the_lock_can_be_stopped(
    go, slides, tmp_path, monkeypatch, no_hard_limit, number, more, code
):
    results, take = ResultsFolder(tmp_path / "out"), OutputLock._try_to_take
    results.prepare()

    def told_to_stop(self):
        if number:
            signal.raise_signal(number)
        return take(self)

    with OutputLock(results.state):
        monkeypatch.setattr(OutputLock, "_try_to_take", told_to_stop)
        ended, output = go(slides, results.root, "--wait-lock", 600, *more)
    assert ended == code and "hemax-batch: " in output and not (results.root / "run.json").exists()


def test_a_second_signal_interrupts_only_what_may_be_left(no_hard_limit):
    with StopFlag() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopNow), stop.interruptible():
            signal.raise_signal(signal.SIGINT)
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.raise_signal(number)
        assert stop.exit_code == 130


@pytest.mark.parametrize(
    ("stopped", "code"), [("", 143), ("--fail-fast", 143), ("--max-minutes", 7)]
)
def test_a_signal_bounds_the_run_whatever_has_stopped_it_before(monkeypatch, stopped, code):
    ended = queue.SimpleQueue()
    monkeypatch.setattr(stopping, "HARD_LIMIT_S", 0.01)
    monkeypatch.setattr(stopping, "os", SimpleNamespace(_exit=ended.put))
    with StopFlag() as stop:
        if stopped:
            stop.stop(stopped, code % 143)
        signal.raise_signal(signal.SIGTERM)
        assert ended.get(timeout=30) == code


# unexpected


def test_what_nobody_expected_is_one_slides_failure_when_it_is_opened_and_noted_when_it_is_not(
    go, slides, tmp_path, monkeypatch
):
    decide = pipeline.RunContext.resume_decision
    monkeypatch.setattr(
        pipeline.RunContext,
        "resume_decision",
        lambda self, work: 1 / 0 if work.slide_id == "one" else decide(self, work),
    )
    assert go(slides, tmp_path / "out")[0] == 3
    assert (
        "ZeroDivisionError" in reason(tmp_path / "out", "one")
        and states(tmp_path / "out")["two"] == "done"
    )
    monkeypatch.undo()
    monkeypatch.setattr(work_queue.WorkQueue, "_collect_finished", lambda *_: 1 / 0)
    with pytest.raises(AssertionError):
        go(slides, tmp_path / "bug")
    assert json.loads((tmp_path / "bug" / "run.json").read_text())["exit_code"] == 1
    assert "ZeroDivisionError" in json.loads((tmp_path / "bug" / "run.json").read_text())["summary"]


def test_an_error_of_the_whole_run_still_gives_its_record(go, slides, tmp_path, monkeypatch):
    def lose(*_):
        raise HemaxError("the dask scheduler is lost")

    monkeypatch.setattr(work_queue.WorkQueue, "_collect_finished", lose)
    code, output = go(slides, tmp_path / "out")
    assert code == 1 and "the dask scheduler is lost" in output
    assert set(states(tmp_path / "out").values()) == {"not reached"}


# what kills leave


def test_leftovers_of_the_dead_go_and_what_is_of_use_stays(go, slides, tmp_path):
    out = tmp_path / "out"
    assert go(slides / "one.tif", out)[0] == 0
    results = ResultsFolder(out)
    dead, record = 2**22 + 1, results.record("one")  # beyond any pid
    of_published = RegionJournal.for_slide(results.state, "one", record.fingerprint)
    of_other = RegionJournal.for_slide(results.state, "one", "f" * 64)
    of_absent = RegionJournal.for_slide(results.state, "elsewhere", "a" * 64)
    long_ago = RegionJournal.for_slide(results.state, "forgotten", "a" * 64)
    for journal in (of_published, of_other, of_absent, long_ago):
        journal.note_hung(0)
        (journal.folder / f".00001.region.{dead}.partial").touch()
    os.utime(long_ago.folder, (0, 0))
    gone = [
        results.state / f".ids.json.{dead}.partial",
        results.state / f"cells.csv.{dead}.partial",
        out / f".run.json.{dead}.partial",
        results.state / f".probe.{dead}",
    ]
    alive = [out / f".index.html.{os.getpid()}.partial", results.state / ".lock.9.elsewhere.77"]
    for path in (*gone, *alive):
        path.touch()
    remove_stale_files(results)
    assert not any(path.exists() for path in gone) and all(path.exists() for path in alive)
    assert [j.folder.exists() for j in (of_published, of_other, of_absent, long_ago)] == [
        False,
        True,
        True,
        False,
    ]
    assert not list(results.state.rglob("*.partial"))


def test_a_note_of_failure_left_by_a_kill_after_publishing_goes_when_the_slide_is_skipped(
    go, slides, tmp_path
):
    out = tmp_path / "out"
    assert go(slides / "one.tif", out)[0] == 0
    record_failure(out / ".hemax", "one", SlideFailure("of another setting", "too much lost"))
    assert go(slides / "one.tif", out)[0] == 0
    assert left_behind(out) == []
