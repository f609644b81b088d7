"""One writer per results folder, whatever crashes."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from hemax_batch.errors import LockedError
from hemax_batch.results.lock import LockHolder, OutputLock, process_start

HOLD = """
import sys, time, pathlib
from hemax_batch.results.lock import OutputLock
with OutputLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def locks(folder):
    return sorted(p.name for p in folder.iterdir())


def write_lock(folder, number, **changes):
    held = {**LockHolder.this_process().__dict__, **changes}
    (folder / f"lock.{number}").write_text(json.dumps(held))


def test_a_second_run_is_refused_and_told_who_holds_it(tmp_path):
    with (
        OutputLock(tmp_path),
        pytest.raises(LockedError, match=f"process {os.getpid()} .*delete .*lock.1"),
        OutputLock(tmp_path),
    ):
        pass
    with OutputLock(tmp_path):
        assert locks(tmp_path) == ["lock.2"]


def test_waiting_for_the_lock_ends_when_it_is_released(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError), OutputLock(tmp_path):
            pass
        holder.kill()
        begun = time.monotonic()
        with OutputLock(
            tmp_path, wait_s=20
        ):  # the killed process stays a zombie until it is waited for
            assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"released": True}, True),
        ({"started": "1"}, True),  # the pid now belongs to another process
        ({"boot": "another"}, True),
        ({}, False),
        ({"host": "elsewhere", "pid": 1}, False),
        ({"space": "pid:[1]", "pid": 1}, False),  # a container on this host
    ],
)
def test_stale_locks_are_told_from_live_ones(tmp_path, changes, gone):
    write_lock(tmp_path, 7, **changes)
    if gone:
        with OutputLock(tmp_path):
            assert locks(tmp_path) == ["lock.8"]
    else:
        with pytest.raises(LockedError, match="lock.7"), OutputLock(tmp_path):
            pass


def test_a_damaged_lock_is_not_taken_over(tmp_path):
    (tmp_path / "lock.3").write_text("{")
    with pytest.raises(LockedError, match="damaged"), OutputLock(tmp_path):
        pass


def test_our_own_start_time_is_stable_and_a_dead_pid_has_none():
    assert process_start(os.getpid()) == process_start(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        pass
    assert process_start(child.pid) is None


def take_in_turn(folder, counter, rounds):
    for _ in range(rounds):
        while True:
            try:
                with OutputLock(folder):
                    value = int(counter.read_text())
                    time.sleep(0.001)
                    counter.write_text(str(value + 1))
                break
            except LockedError:
                time.sleep(0.002)


@pytest.mark.slow
def test_four_processes_that_compete_never_hold_it_together(tmp_path):
    counter = tmp_path / "counter.txt"
    counter.write_text("0")
    folder = tmp_path / "state"
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=take_in_turn, args=(folder, counter, 25)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 4
    assert int(counter.read_text()) == 100


@pytest.fixture
def no_hard_links(monkeypatch):
    """A file system such as exFAT."""

    def link(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


def test_a_file_system_without_hard_links_has_one_writer_too(tmp_path, no_hard_links):
    with OutputLock(tmp_path):
        assert locks(tmp_path) == ["lock.1"]
        with pytest.raises(LockedError, match=f"process {os.getpid()}"), OutputLock(tmp_path):
            pass
    with OutputLock(tmp_path):
        assert locks(tmp_path) == ["lock.2"]


def test_without_hard_links_a_lock_that_another_created_first_is_respected(tmp_path, no_hard_links):
    from hemax_batch.results import lock

    (tmp_path / "lock.1").write_text("first")
    (tmp_path / "partial").write_text("second")
    with pytest.raises(FileExistsError):
        lock._create_from(tmp_path / "partial", tmp_path / "lock.1")
    assert (tmp_path / "lock.1").read_text() == "first"


def test_a_lock_whose_content_is_late_is_waited_for(tmp_path):
    (tmp_path / "lock.1").touch()
    text = json.dumps(LockHolder.this_process().__dict__)
    writer = threading.Timer(0.3, (tmp_path / "lock.1").write_text, (text,))
    writer.start()
    with pytest.raises(LockedError, match="held by process"), OutputLock(tmp_path):
        pass
    writer.join()
