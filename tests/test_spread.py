"""A map over processes gives what `map` gives, in order, and survives a process that dies."""

import os
import time

import pytest

from hemax_batch.bench import merging
from hemax_batch.running import spread as spread_module
from hemax_batch.running.spread import Spread

HERE = os.getpid()


def squared(x: int) -> int:
    time.sleep(0.002 * (x % 3))
    return x * x


def dies_elsewhere(job: tuple[int, int]) -> int:
    x, parent = job
    if x == 3 and os.getpid() != parent:
        os._exit(1)
    return x


def refuses(x: int) -> int:
    raise OSError(28, "no space left")


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_values_come_in_order(processes):
    with Spread(processes) as spread:
        assert list(spread.map(squared, range(20))) == [x * x for x in range(20)]
        assert list(spread.map(squared, [])) == []


def test_jobs_are_taken_as_they_are_needed():
    taken = []
    with Spread(2) as spread:
        values = spread.map(squared, (taken.append(x) or x for x in range(50)))
        next(values)
        assert len(taken) == 4


def test_what_a_dead_process_had_in_hand_is_done_here():
    with Spread(2) as spread:
        assert list(spread.map(dies_elsewhere, [(x, HERE) for x in range(12)])) == list(range(12))


def test_an_error_is_told_as_map_tells_it():
    with Spread(2) as spread, pytest.raises(OSError, match="no space left"):
        list(spread.map(refuses, range(5)))


def test_a_slide_written_by_processes_is_the_same_to_the_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("hemax_batch.running.publish.MANY_CELLS", 50)
    made = {}
    for processes in (0, 2):
        root = tmp_path / str(processes)
        merging.fill_journal(root, 300, (9000, 6000))
        merging.publish(root, (9000, 6000), processes)
        folder = root / "made-up"
        made[processes] = {
            str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name not in ("result.json", "report.html", "differential.csv", "differential.json")
        }  # fmt: skip
    assert made[0] == made[2] and len(made[0]) > 20
    assert spread_module.MANY_CELLS > 50
