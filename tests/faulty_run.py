"""The command line with the painted network and a fault on order: python faulty_run.py run …

HEMAX_FAULT names it: `hang:FOLDER` makes the first read of region 1 last for ever, once (FOLDER remembers it);
`hang-always` makes every read of region 1 do so.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import painted_network

from hemax_batch.records import RegionResult
from hemax_batch.running import regions, workqueue
from hemax_batch.slides.reader import SlideReader


def process_region(job: regions.RegionJob) -> RegionResult:
    """The painted one; region 1 hangs in its first read where that is ordered."""
    fault = os.environ.get("HEMAX_FAULT", "")
    if fault.startswith("hang") and job.region.index == 1:
        marker = Path(fault.partition(":")[2] or "/nowhere", "hung")
        if not marker.exists():
            if ":" in fault:
                marker.touch()
            SlideReader.read = _hang
    return painted_network.process_region(job)


def _hang(*_args, **_kwargs):
    time.sleep(3600)


if __name__ == "__main__":
    workqueue.process_region = process_region
    from hemax_batch.cli import main

    main()
