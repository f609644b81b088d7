"""Cost of a command: wall time, and its processes' CPU time, memory, reads and GPU utilisation."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from statistics import fmean

import psutil

from ..errors import HemaxError
from .gpu_utilisation import nvidia_smi_utilisation

#: Interval between samples of memory; shorter peaks are missed.
_EVERY_S = 0.25
_GPU_EVERY_S = 1.0


@dataclass(frozen=True)
class CommandCost:
    """Cost of a command; `peak_mb` counts memory shared between its processes once (PSS)."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    read_mb: float
    gpu_percent: float | None
    output: str


def measure_command(command: list[str], env: dict[str, str]) -> CommandCost:
    """Run a command to its end and measure it.

    Raises
    ------
    HemaxError
        The command failed; the message holds the end of its output.
    """
    peak, next_gpu = 0, 0.0
    gpu: list[float] = []
    read: dict[int, int] = {}
    cpu: dict[int, float] = {}
    begun = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            command, env=env, stdout=output, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        while process.poll() is None:
            peak = max(peak, _sample_processes(process.pid, read, cpu))
            if time.perf_counter() >= next_gpu and (busy := nvidia_smi_utilisation()) is not None:
                gpu.append(busy)
                next_gpu = time.perf_counter() + _GPU_EVERY_S
            time.sleep(_EVERY_S)
        wall_s = time.perf_counter() - begun
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise HemaxError(f"{' '.join(command)}: exit code {process.returncode}: {text[-600:]}")
    return CommandCost(
        round(wall_s, 2),
        round(sum(cpu.values()), 2),
        round(peak / 2**20),
        round(sum(read.values()) / 1e6, 1),
        round(fmean(gpu), 1) if gpu else None,
        text,
    )


def _sample_processes(pid: int, read: dict[int, int], cpu: dict[int, float]) -> int:
    """Return the bytes held by a process and its descendants.

    Each process's reads and CPU time are recorded in `read` and `cpu`.
    """
    held = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            held += (
                process.memory_full_info().pss
                if sys.platform == "linux"
                else process.memory_info().rss
            )
            times = process.cpu_times()
            cpu[process.pid] = times.user + times.system
            read[process.pid] = process.io_counters().read_chars if sys.platform == "linux" else 0
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return held
