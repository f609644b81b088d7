"""`run.json` and the last line: what was asked, on what, what became of each slide, and the exit code that says so."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import metadata

from .. import __version__
from ..errors import exit_code_of
from ..results.durable import write_bytes
from ..results.folder import ResultsFolder
from ..settings import FORMAT_VERSION, RunOptions, RunSettings
from ..vocabulary import CLAIM
from .resources import cpu_limit, memory_limit_bytes
from .stopping import EXIT_MAX_MINUTES
from .workqueue import SlideWork

_PACKAGES = (
    "torch", "numpy", "scipy", "scikit-image", "openslide-python", "openslide-bin", "tifffile", "imagecodecs", "zarr",
    "dask", "distributed", "pillow", "safetensors", "openvino",
)  # fmt: skip


@dataclass(frozen=True)
class RunSummary:
    """How a run ended: the exit code and one line that says why."""

    exit_code: int
    text: str


def summarise(
    works: list[SlideWork], stop_reason: str, stop_code: int, seconds: float, out: str
) -> RunSummary:
    """The exit code: what stopped the run, else 4 where every slide failed, 3 where some did, 0 otherwise. That time ran out
    hides no failure, and is nothing where all was done by then."""
    states = Counter(work.state for work in works)
    code = stop_code or exit_code_of(states["failed"], len(works))
    if stop_code == EXIT_MAX_MINUTES:
        code = exit_code_of(states["failed"], len(works)) or (
            stop_code if states["not reached"] or not works else 0
        )
    parts = [f"{states[s]} {s}" for s in ("done", "skipped", "failed", "not reached") if states[s]]
    cells = sum(work.cells for work in works if work.state == "done")
    text = f"{len(works)} slide{'s' * (len(works) != 1)}: {', '.join(parts)}; {cells} cells in {seconds:.1f} s; {out}"
    return RunSummary(code, f"{text} ({stop_reason})" if stop_reason else text)


def write_run_record(
    results: ResultsFolder, works: list[SlideWork], settings: RunSettings, options: RunOptions, weights_sha256: str,
    begun: float, summary: RunSummary, workers: str,
) -> None:  # fmt: skip
    """Write `run.json`, atomically."""
    record = {
        "claim": CLAIM,
        "format": FORMAT_VERSION,
        "summary": summary.text,
        "exit_code": summary.exit_code,
        "begun": _iso(begun),
        "ended": _iso(time.time()),
        "seconds": round(time.time() - begun, 2),
        "command_line": list(options.command_line),
        "settings": asdict(settings),
        "weights": {
            "path": str(options.weights) if options.weights else "shipped",
            "sha256": weights_sha256,
        },
        "workers": workers,
        "versions": {
            "hemax-batch": __version__,
            "python": platform.python_version(),
            **_versions(),
        },
        "hardware": _hardware(),
        "slides": [_slide(work) for work in sorted(works, key=lambda w: w.slide_id)],
    }
    write_bytes(
        results.root / "run.json",
        (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"),
    )


def _slide(work: SlideWork) -> dict:
    return {
        "slide": work.slide_id,
        "path": str(work.file.path),
        "state": work.state,
        "reason": work.reason,
        "cells": work.cells,
        "seconds": round(work.seconds, 2),
        "fingerprint": work.fingerprint,
        "regions": len(work.plan.regions) if work.plan else 0,
        "unreadable_regions": sorted(work.lost),
        "warnings": list(work.warnings),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _hardware() -> dict:
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": cpu_limit(),
        "memory_gib": round(memory_limit_bytes() / 2**30, 1),
        "executable": sys.executable,
    }


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
