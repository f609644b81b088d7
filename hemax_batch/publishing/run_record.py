"""Write `run.json` and the summary: arguments, inputs, the state of each slide, the exit code."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from .. import __version__
from ..errors import exit_code_for
from ..results.atomic_files import write_file
from ..results.folder import ResultsFolder
from ..scheduling.resources import cpu_limit, memory_limit_bytes
from ..scheduling.slide_job import SlideJob
from ..scheduling.stopping import EXIT_MAX_MINUTES
from ..settings import FORMAT_VERSION, RunOptions, RunSettings
from ..vocabulary import CLAIM

_PACKAGES = (
    "torch", "numpy", "scipy", "scikit-image", "openslide-python", "openslide-bin", "tifffile", "imagecodecs", "zarr",
    "dask", "distributed", "pillow", "safetensors", "openvino",
)  # fmt: skip


@dataclass(frozen=True)
class RunSummary:
    """How a run ended: the exit code, and one line with the reason."""

    exit_code: int
    text: str


def summarise_run(
    jobs: list[SlideJob], stop_reason: str, stop_code: int, seconds: float, out: str
) -> RunSummary:
    """Return the exit code and the summary line.

    The code is that of the stop. Otherwise it is 4 if every slide failed, 3 if some failed, else 0. The
    end of the time hides no failure, and it is ignored if all slides were done by then.
    """
    states = Counter(job.state for job in jobs)
    code = stop_code or exit_code_for(states["failed"], len(jobs))
    if stop_code == EXIT_MAX_MINUTES:
        code = exit_code_for(states["failed"], len(jobs)) or (
            stop_code if states["not reached"] or not jobs else 0
        )
    parts = [f"{states[s]} {s}" for s in ("done", "skipped", "failed", "not reached") if states[s]]
    cells = sum(job.cells for job in jobs if job.state == "done")
    text = f"{len(jobs)} slide{'s' * (len(jobs) != 1)}: {', '.join(parts)}; {cells} cells in {seconds:.1f} s; {out}"
    return RunSummary(code, f"{text} ({stop_reason})" if stop_reason else text)


def write_run_record(
    results: ResultsFolder, jobs: list[SlideJob], settings: RunSettings, options: RunOptions, weights_sha256: str,
    started: float, summary: RunSummary, workers: str, warnings: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write `run.json` atomically."""
    record = {
        "claim": CLAIM,
        "format": FORMAT_VERSION,
        "summary": summary.text,
        "exit_code": summary.exit_code,
        "begun": _iso_time(started),
        "ended": _iso_time(time.time()),
        "seconds": round(time.time() - started, 2),
        "command_line": list(options.command_line),
        "settings": asdict(settings),
        "weights": {
            "path": str(options.weights) if options.weights else "shipped",
            "sha256": weights_sha256,
        },
        "workers": workers,
        "warnings": list(warnings),
        "versions": {
            "hemax-batch": __version__,
            "python": platform.python_version(),
            **_versions(),
        },
        "hardware": _hardware(),
        "slides": [_slide_entry(job) for job in sorted(jobs, key=lambda w: w.slide_id)],
    }
    write_file(
        results.root / "run.json",
        (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"
        ),
    )


def _slide_entry(job: SlideJob) -> dict[str, Any]:
    """Return the entry of a slide in `run.json`."""
    return {
        "slide": job.slide_id,
        "path": str(job.file.path),
        "state": job.state,
        "reason": job.reason,
        "cells": job.cells,
        "seconds": round(job.seconds, 2),
        "fingerprint": job.fingerprint,
        "regions": len(job.plan.regions) if job.has_plan else 0,
        "unreadable_regions": sorted(job.unreadable),
        "unreadable_places": [
            {"rect": rect, "reason": why} for rect, why in sorted(job.damaged.items())
        ],
        "warnings": list(job.warnings),
    }


def _versions() -> dict[str, str]:
    """Return the versions of the libraries that affect results."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _hardware() -> dict[str, Any]:
    """Describe this machine and what this process may use of it."""
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": cpu_limit(),
        "memory_gib": round(memory_limit_bytes() / 2**30, 1),
        "executable": sys.executable,
    }


def _iso_time(seconds: float) -> str:
    """Format a time in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(timespec="seconds")
