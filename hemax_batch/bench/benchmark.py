"""What `bin/bench` measures of one slide: the run, its pieces, and what one would do without it, one after the other."""

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

from ..errors import HemaxError
from ..slides.reader import open_slide
from .peer import PATCH_PX, extrapolate_s
from .process_monitor import CommandCost, measure_command
from .recall import recall

_PATCH_MM2 = (320 * 0.12 / 1000) ** 2
_PROFILED = 10  # patches
_PLAIN_SAMPLE = 60  # tiles of the plain loop that are timed; the rest is extrapolated
_PEER_SAMPLE = 160  # patches of the peer's, likewise
_PACKAGE_AT = Path(__file__).parents[2]


@dataclass(frozen=True)
class RunCost:
    """One `hemax-batch run`: its cost, and what its log and results say. Times to something count from the command's
    start: `to_first_look_s` to the first region being opened, weights loaded, to read its first tile."""

    cost: CommandCost
    to_first_region_opened_s: float
    to_first_region_s: float
    after_last_region_s: float
    patches: int
    cells: int


@dataclass(frozen=True)
class Benchmark:
    """Where to work, with how many cores, how often each figure is taken (the median is kept), and the Python of an
    environment that holds a peer (see `peer`), if one is to be compared with."""

    folder: Path
    cores: int
    repeat: int
    peer_python: Path | None = None

    def environment(self) -> dict[str, str]:
        """One thread for each numeric library: processes are what cores are given to."""
        return os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
        )

    def run(self, slide: Path, *options: str) -> RunCost:
        """`hemax-batch run` on one slide into a fresh folder; the run of median wall time."""
        runs = [self._run_once(slide, options) for _ in range(self.repeat)]
        return sorted(runs, key=lambda run: run.cost.wall_s)[len(runs) // 2]

    def _run_once(self, slide: Path, options: tuple[str, ...]) -> RunCost:
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
            raise HemaxError(f"{slide}: not a region was looked at: {cost.output[-300:]}")
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

    def component(self, kind: str, slide: Path, count: int = 0) -> dict[str, float]:
        """A piece by itself (see `components`), in so many cores; the middle of its repetitions."""
        command = [
            sys.executable,
            "-m",
            "hemax_batch.bench.components",
            kind,
            str(slide),
            str(self.cores),
            str(count),
        ]
        measured = []
        for _ in range(self.repeat):
            cost = measure_command(command, self.environment())
            measured.append(
                json.loads(cost.output.strip().splitlines()[-1]) | {"peak_mb": cost.peak_mb}
            )
        return sorted(measured, key=lambda one: one["seconds"])[len(measured) // 2]

    def side_by_side(self, slide: Path) -> dict[str, object]:
        """One slide's row: run, reading only, network only, their sum, OpenSlide's reading, the plain loop,
        the peer."""
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

    def peer(self, slide: Path, mpp: float, run: CommandCost) -> dict[str, object]:
        """A peer's engine on the same slide with the same network; nothing where no peer is given."""
        if self.peer_python is None:
            return {}
        measured = []
        for _ in range(self.repeat):
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                what = (slide.resolve(), mpp, self.cores, _PEER_SAMPLE, Path(folder).resolve())
                command = [str(self.peer_python), "-m", "hemax_batch.bench.peer", *map(str, what)]
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

    def scaling(self, slide: Path) -> dict[str, object]:
        """One worker against as many as there are cores, taken in turn."""
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

    def recall(self, slide: Path) -> dict[str, object]:
        """The screen's recall against a look everywhere; of labelled cells too where SLIDE.truth.csv lies beside it."""
        tables, truth = [], slide.with_suffix(".truth.csv")
        for name, options in (("everywhere", ["--exhaustive"]), ("screened", [])):
            self._run_once(slide, ("--workers", str(self.cores), *options))
            tables.append(self.folder / f"{name}.csv")
            shutil.copyfile(self.folder / "out" / "cells.csv", tables[-1])
        return {"slide": slide.name} | recall(*tables, truth if truth.exists() else None)

    def profile(self, slide: Path) -> str:
        """Where the network's time goes, which is the slowest part on a CPU."""
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
        """Seconds of `--help`, the median of five."""
        command = [sys.executable, "-m", "hemax_batch", "--help"]
        return {"help_s": median(_wall_s(command) for _ in range(5))}

    def merging(self, cells: int, size_px: tuple[int, int]) -> dict[str, float]:
        """Made-up cells of a slide of size_px (width, height), merged and written (see `merging`)."""
        with_room = self.folder / "merging"
        shutil.rmtree(with_room, ignore_errors=True)
        command = [sys.executable, "-m", "hemax_batch.bench.merging"]
        command += map(str, (with_room, cells, *size_px, self.cores))
        cost = measure_command(command, self.environment())
        shutil.rmtree(with_room)
        return json.loads(cost.output.strip().splitlines()[-1]) | {
            "peak_mb_of_all_processes": cost.peak_mb
        }


def _event_time(event: dict) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _wall_s(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return round(time.perf_counter() - begun, 3)
