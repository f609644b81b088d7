"""Measurements of one slide: the run, its parts and the alternatives, one after the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import HemaxError
from ..slides.reader import open_slide
from .peer import PATCH_PX, extrapolate_s
from .process_monitor import CommandCost, measure_command
from .recall import recall

_PATCH_MM2 = (320 * 0.12 / 1000) ** 2
#: Patches that are profiled.
_PROFILED = 10
#: Tiles of the plain loop that are timed; the rest is extrapolated.
_PLAIN_SAMPLE = 60
#: Patches of the peer that are timed; the rest is extrapolated.
_PEER_SAMPLE = 160
_PACKAGE_AT = Path(__file__).parents[2]


@dataclass(frozen=True)
class RunCost:
    """Cost of one `hemax-batch run`, with figures from its log and results.

    Attributes
    ----------
    cost : CommandCost
    to_first_region_opened_s, to_first_region_s : float
        Seconds from the command's start to the first region being opened, and being done.
    after_last_region_s : float
        Seconds from the last region to the end of the slide.
    patches, cells : int
    """

    cost: CommandCost
    to_first_region_opened_s: float
    to_first_region_s: float
    after_last_region_s: float
    patches: int
    cells: int


@dataclass(frozen=True)
class Benchmark:
    """Settings of a benchmark.

    Attributes
    ----------
    folder : Path
        Working folder.
    cores : int
        Cores for every part.
    repeat : int
        Repetitions of each measurement; the median is kept.
    peer_python : Path, optional
        Python of an environment with a peer (see `peer`).
    """

    folder: Path
    cores: int
    repeat: int
    peer_python: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment with one thread per numeric library; processes use the cores."""
        return os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
        )

    def run(self, slide: Path, *options: str) -> RunCost:
        """Run `hemax-batch run` on one slide into a fresh folder.

        The result is the run of median wall time.
        """
        runs = [self._run_once(slide, options) for _ in range(self.repeat)]
        return sorted(runs, key=lambda run: run.cost.wall_s)[len(runs) // 2]

    def _run_once(self, slide: Path, options: tuple[str, ...]) -> RunCost:
        """Run once and read the log."""
        out, log = self.folder / "out", self.folder / "log.jsonl"
        shutil.rmtree(out, ignore_errors=True)
        log.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "hemax_batch",
            "run",
            str(slide),
            "--out",
            str(out),
            "--quiet",
        ]
        launched = time.time()
        cost = measure_command([*command, "--log-json", str(log), *options], self.environment())
        events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        done = [e for e in events if e["event"] == "region_done"]
        if not done:
            raise HemaxError(f"{slide}: no region was processed: {cost.output[-300:]}")
        ended = next(_event_time(e) for e in events if e["event"] == "slide_ended")
        opened = min(_event_time(e) - e["seconds_read"] - e["seconds_network"] for e in done)
        audited_mm2 = json.loads(next(out.glob("*/result.json")).read_text("utf-8"))["figures"][
            "audited_mm2"
        ]
        return RunCost(
            cost,
            round(opened - launched, 2),
            round(_event_time(done[0]) - launched, 2),
            round(ended - _event_time(done[-1]), 2),
            sum(e["patches"] for e in done) + round(audited_mm2 / _PATCH_MM2),
            sum(e["cells"] for e in done),
        )

    def component(self, kind: str, slide: Path, count: int = 0) -> dict[str, Any]:
        """Measure one part by itself on all cores (see `components`).

        The result is the median repetition.
        """
        command = [
            sys.executable,
            "-m",
            "hemax_batch.bench.components",
            kind,
            str(slide),
            str(self.cores),
            str(count),
        ]
        measured: list[dict[str, Any]] = []
        for _ in range(self.repeat):
            cost = measure_command(command, self.environment())
            measured.append(
                json.loads(cost.output.strip().splitlines()[-1]) | {"peak_mb": cost.peak_mb}
            )
        return sorted(measured, key=lambda one: one["seconds"])[len(measured) // 2]

    def side_by_side(self, slide: Path) -> dict[str, Any]:
        """Measure one slide's row: run, reading, network, OpenSlide, plain loop and peer."""
        with open_slide(slide, slide.stem) as reader:
            megapixels, mpp = reader.slide.width * reader.slide.height / 1e6, reader.slide.mpp
        run = self.run(slide, "--workers", str(self.cores))
        reading, slow = self.component("reading", slide), self.component("openslide", slide)
        network = self.component("network", slide, run.patches)
        plain = self.component("plain", slide, _PLAIN_SAMPLE)
        plain_s = plain["seconds"] / plain["items"] * plain["of_items"]
        wall_s, both_s = run.cost.wall_s, reading["seconds"] + network["seconds"]
        return {
            "slide": slide.name,
            "megapixels": round(megapixels),
            "cells": run.cells,
            "patches": run.patches,
            "run_s": wall_s,
            "reading_s": reading["seconds"],
            "network_s": network["seconds"],
            "run/(reading+network)": round(wall_s / both_s, 3),
            "to_first_look_s": run.to_first_region_opened_s,
            "to_first_region_s": run.to_first_region_s,
            "after_last_region_s": run.after_last_region_s,
            "openslide_s": slow["seconds"],
            "openslide/reading": round(slow["seconds"] / reading["seconds"], 2),
            "plain_s_extrapolated": round(plain_s, 1),
            "plain_tiles_timed": f"{plain['items']} of {plain['of_items']}",
            "plain/run": round(plain_s / wall_s, 2),
            "peak_mb": run.cost.peak_mb,
            "read_mb": run.cost.read_mb,
            "cpu_s": run.cost.cpu_s,
            "gpu_percent": run.cost.gpu_percent,
        } | self.peer(slide, mpp, run.cost)

    def peer(self, slide: Path, mpp: float, run: CommandCost) -> dict[str, Any]:
        """Measure a peer's engine on the slide with the same network; {} without a peer."""
        if self.peer_python is None:
            return {}
        measured = []
        for _ in range(self.repeat):
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                arguments = (slide.resolve(), mpp, self.cores, _PEER_SAMPLE, Path(folder).resolve())
                command = [str(self.peer_python), "-m", "hemax_batch.bench.peer"]
                command += map(str, arguments)
                cost = measure_command(
                    command, self.environment() | {"PYTHONPATH": str(_PACKAGE_AT)}
                )
            measured.append(
                json.loads(cost.output.strip().splitlines()[-1]) | {"peak_mb": cost.peak_mb}
            )
        median_run = sorted(measured, key=extrapolate_s)[len(measured) // 2]
        whole_s, whole_cpu_s = extrapolate_s(median_run), extrapolate_s(median_run, "cpu_s")
        apart_s = extrapolate_s(median_run, "s", PATCH_PX)
        return {
            "peer": median_run["peer"],
            "peer_s_extrapolated": whole_s,
            "peer_cpu_s_extrapolated": whole_cpu_s,
            "peer_patches_timed": f"{median_run['items']} of {median_run['of_items']}",
            "peer/run": round(whole_s / run.wall_s, 2),
            "peer/run, cpu_s": round(whole_cpu_s / run.cpu_s, 2),
            "peer_without_overlap/run": round(apart_s / run.wall_s, 2),
            "peer_peak_mb": median_run["peak_mb"],
        }

    def scaling(self, slide: Path) -> dict[str, Any]:
        """Compare one worker with one per core, in turn."""
        pairs = [
            [self._run_once(slide, ("--workers", str(n))).cost.wall_s for n in (1, self.cores)]
            for _ in range(self.repeat)
        ]
        return {
            "slide": slide.name,
            "one_worker_s": round(median(p[0] for p in pairs), 2),
            f"{self.cores}_workers_s": round(median(p[1] for p in pairs), 2),
            "speed-up": round(median(one / many for one, many in pairs), 2),
        }

    def recall(self, slide: Path) -> dict[str, Any]:
        """Measure the screen's recall against an exhaustive run.

        Recall of labelled cells is added if `<stem>.truth.csv` lies beside the slide.
        """
        tables: dict[str, Path] = {}
        truth = slide.with_suffix(".truth.csv")
        for name, options in (("everywhere", ["--exhaustive"]), ("screened", [])):
            self._run_once(slide, ("--workers", str(self.cores), *options))
            tables[name] = self.folder / f"{name}.csv"
            shutil.copyfile(self.folder / "out" / "cells.csv", tables[name])
        return {
            "slide": slide.name,
            **recall(**tables, truth=truth if truth.exists() else None),
        }

    def stages(self, slide: Path) -> dict[str, object]:
        """Measure the CPU seconds of a run without workers by stage, see `stages`.

        The result is the run of median sum.
        """
        out = self.folder / "stages"
        runs: list[dict[str, Any]] = []
        for _ in range(self.repeat):
            shutil.rmtree(out, ignore_errors=True)
            command = [sys.executable, "-m", "hemax_batch.bench.stages", str(slide), str(out)]
            printed = measure_command(command, self.environment()).output
            runs.append(json.loads(printed.strip().splitlines()[-1]))
        shutil.rmtree(out)
        median_run = sorted(runs, key=lambda run: run["all"])[len(runs) // 2]
        return {"slide": slide.name, **median_run}

    def profile(self, slide: Path) -> str:
        """Profile the network, the slowest part on a CPU."""
        command = [
            sys.executable,
            "-m",
            "hemax_batch.bench.components",
            "profile",
            str(slide),
            "1",
            str(_PROFILED),
        ]
        return measure_command(command, self.environment()).output

    def start_up(self) -> dict[str, float]:
        """Measure the seconds of `--help`, median of five."""
        command = [sys.executable, "-m", "hemax_batch", "--help"]
        return {"help_s": median(_wall_s(command) for _ in range(5))}

    def merging(self, cells: int, size_px: tuple[int, int]) -> dict[str, Any]:
        """Merge and write generated cells of a slide of size_px (width, height), see `merging`."""
        folder = self.folder / "merging"
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "hemax_batch.bench.merging"]
        command += map(str, (folder, cells, *size_px, self.cores))
        cost = measure_command(command, self.environment())
        shutil.rmtree(folder)
        figures: dict[str, Any] = json.loads(cost.output.strip().splitlines()[-1])
        return figures | {"peak_mb_of_all_processes": cost.peak_mb}


def _event_time(event: dict[str, Any]) -> float:
    """Return an event's time in seconds."""
    return datetime.fromisoformat(event["time"]).timestamp()


def _wall_s(command: list[str]) -> float:
    """Return the wall seconds of a command."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return round(time.perf_counter() - begun, 3)
