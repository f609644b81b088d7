"""The command line with the painted network and a fault on order: python faulty_run.py run …

HEMAX_FAULT names it: `hang:FOLDER` makes the first read of region 1 last for ever, once (FOLDER remembers it);
`hang-always` makes every read of region 1 do so; `kill:EVENT:WORDS:N` sends SIGKILL to this process just before the
N-th thing of the kind EVENT (a Python audit event; empty: any) that it does to a path with WORDS in it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import painted_network

from hemax_batch.inference.config import RegionTask
from hemax_batch.records import RegionResult
from hemax_batch.scheduling import work_queue
from hemax_batch.slides.reader import SlideReader

_WRITING = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "open"}


def process_region(task: RegionTask) -> RegionResult:
    """The painted one; region 1 hangs in its first read where that is ordered."""
    fault = os.environ.get("HEMAX_FAULT", "")
    if fault.startswith("hang") and task.region.index == 1:
        marker = Path(fault.partition(":")[2] or "/nowhere", "hung")
        if not marker.exists():
            if ":" in fault:
                marker.touch()
            SlideReader.read = _hang
    return painted_network.process_region(task)


def _hang(*_args, **_kwargs):
    time.sleep(3600)


def _kill_on_order(event: str, words: str, nth: int) -> None:
    """Kill this process at the `nth` of its events that change something on the disk."""
    left = [nth]

    def hook(happening: str, arguments: tuple) -> None:
        if (
            happening not in _WRITING
            or (event and happening != event)
            or words not in str(arguments[0])
        ):
            return
        if happening == "open" and not (
            isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        ):
            return
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    work_queue.process_region = process_region
    if os.environ.get("HEMAX_FAULT", "").startswith("kill:"):
        _, event, words, nth = os.environ["HEMAX_FAULT"].split(":")
        _kill_on_order(event, words, int(nth))
    from hemax_batch.cli.app import main

    main()
