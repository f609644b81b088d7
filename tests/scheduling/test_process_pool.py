"""A map over processes gives what `map` gives, in order, and survives a process that dies."""

import os
import sys
from subprocess import PIPE, Popen

import psutil
import pytest
from pool_jobs import dies_elsewhere, refuses, squared

from hemax_batch.scheduling.process_pool import ProcessPool

pytestmark = pytest.mark.slow


def test_values_come_in_order_and_jobs_are_taken_as_they_are_needed():
    for processes in (0, 1):
        with ProcessPool(processes) as spread:
            assert list(spread.map(squared, range(20))) == [x * x for x in range(20)]
    taken = []
    with ProcessPool(2) as spread:
        assert list(spread.map(squared, [])) == []
        values = spread.map(squared, (taken.append(x) or x for x in range(20)))
        assert next(values) == 0 and len(taken) == 4
        assert list(values) == [x * x for x in range(1, 20)]
        with pytest.raises(OSError, match="no space left for 0"):
            list(spread.map(refuses, range(5)))


def test_what_a_dead_process_had_in_hand_is_done_here():
    with ProcessPool(2) as spread:
        assert list(spread.map(dies_elsewhere, [(x, os.getpid()) for x in range(12)])) == list(
            range(12)
        )


def test_processes_end_when_their_run_is_killed():
    code = (
        "import time\nfrom hemax_batch.scheduling.process_pool import ProcessPool\n"
        "spread = ProcessPool(2); next(spread.map(abs, range(9)))\n"
        "print(*spread._pool._processes, flush=True); time.sleep(600)"
    )
    with Popen([sys.executable, "-c", code], stdout=PIPE, text=True) as run:
        theirs = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
        run.kill()
    left = psutil.wait_procs(theirs, timeout=30)[1]
    for process in left:
        process.kill()
    assert theirs and not left


def test_a_slide_written_by_processes_is_the_same_to_the_byte(tmp_path, monkeypatch):
    from hemax_batch.bench import merging

    monkeypatch.setattr("hemax_batch.publishing.publish.MIN_CELLS_FOR_POOL", 50)
    made = {}
    for processes in (0, 2):
        root = tmp_path / str(processes)
        merging.fill_journal(root, 300, (9000, 6000))
        merging.publish(root, (9000, 6000), processes)
        folder = root / "made-up"
        made[processes] = {
            str(p.relative_to(folder)): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
            and p.name
            not in ("result.json", "report.html", "differential.csv", "differential.json")
        }
    assert made[0] == made[2] and len(made[0]) > 20
