"""Benchmark of the network on a GPU: `python -m hemax_batch.bench.gpu OUT.json [--weights FILE]`.

It takes at most 45 s. Patches are painted in memory, so it needs only this package, torch,
safetensors, numpy, scipy and Pillow. For each batch size these are timed, all in bfloat16, as in a
run:

    network   the network on patches that lie on the GPU, kernels launched one by one
    recorded  pixels to the GPU, and the network replayed as a CUDA graph
    answers   as in a run: pixels to the GPU, the network, its output in the host's memory
    cells     as in a run's worker: the masks drawn too, on one core, while the GPU waits

The GPU's cells are compared with the CPU's. The kernels of a few batches are listed by their time.
Without a GPU a few patches are measured on the CPU, and the report says so.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..records import PatchBatch
from ..scheduling.resources import cpu_limit
from ..synthetic import draw_cell_patch
from ..vocabulary import CLASS_NAMES
from .gpu_agreement import agreement
from .gpu_utilisation import GpuUtilisation
from .markdown_table import markdown_table

if TYPE_CHECKING:
    from ..model.predictor import Predictor

_MPP, _TOP_KERNELS = 0.12, 15


@dataclass(frozen=True)
class MeasuringPlan:
    """Amount of measuring.

    Attributes
    ----------
    painted, compared : int
        Patches that are painted, and compared with the CPU.
    batch_sizes : tuple of int
    figure_s : float
        Least seconds of a measurement.
    cut_after_s : float
        No measurement starts later than this.
    """

    painted: int = 32
    compared: int = 64
    batch_sizes: tuple[int, ...] = (64, 256, 16, 1)
    figure_s: float = 0.7
    cut_after_s: float = 33.0


WITHOUT_GPU = MeasuringPlan(
    painted=2, compared=4, batch_sizes=(1, 2), figure_s=0.2, cut_after_s=float("inf")
)


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes
    ----------
    busy_percent : float, optional
        Utilisation from the driver, whose window may be longer than the measurement.
    patches_s : float, optional
        Patches per second; None if the batch did not fit the device's memory.
    """

    batch: int
    of: str
    patches_s: float | None
    busy_percent: float | None
    peak_mb: float | None


def measure(
    out: Path, weights: str | None = None, effort: MeasuringPlan | None = None
) -> dict[str, Any]:
    """Measure everything; write `out` after every step, so an interrupted run leaves its figures.

    Steps: paint, load, figures, agreement with the CPU, kernels.
    """
    begun = time.perf_counter()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    effort = effort or (MeasuringPlan() if device == "cuda" else WITHOUT_GPU)
    pixels = paint_patches(effort.painted)
    predictor = load(device, weights)
    report: dict[str, Any] = {
        "machine": machine(device),
        "patches painted": len(pixels),
        "painted and loaded after_s": _seconds_since(begun),
    }
    report["figures"] = []
    for figure in figures(predictor, pixels, effort, begun + effort.cut_after_s):
        report["figures"].append(asdict(figure))
        _write(out, report)
    report["agreement"] = agreement(predictor, batch_of(pixels, effort.compared), _MPP, weights)
    _write(out, report)
    report["kernels"] = kernels(predictor, batch_of(pixels, effort.batch_sizes[0]))
    report["took_s"] = _seconds_since(begun)
    _write(out, report)
    return report


def paint_patches(n: int) -> np.ndarray:
    """Paint patches of all classes in turn: uint8 [n, 3, 320, 320]; independent of the cores."""
    with ProcessPoolExecutor(min(cpu_limit(), n), multiprocessing.get_context("spawn")) as pool:
        return np.stack(list(pool.map(_paint_patch, range(n))))


def _paint_patch(seed: int) -> np.ndarray:
    """Paint one patch, uint8 [3, 320, 320]."""
    rng = np.random.default_rng(seed)
    return draw_cell_patch(rng, CLASS_NAMES[seed % len(CLASS_NAMES)], 320, _MPP)[0].transpose(
        2, 0, 1
    )


def batch_of(pixels: np.ndarray, n: int) -> PatchBatch:
    """Make a batch of n patches from the painted ones and their mirror images."""
    both = np.concatenate([pixels, pixels[..., ::-1]])
    return PatchBatch(both[np.arange(n) % len(both)], np.zeros((n, 2)), 1.0)


def load(device: str, weights: str | None) -> Predictor:
    """Load a predictor on a device."""
    import torch

    from ..model.predictor import Predictor

    torch.set_num_threads(1)  # As in a run's workers.
    return Predictor.load(weights, device)


def figures(
    predictor: Predictor, pixels: np.ndarray, effort: MeasuringPlan, until: float
) -> Iterator[Figure]:
    """Yield measurements; none starts after `until` (perf_counter)."""
    import torch

    for batch_size in effort.batch_sizes:
        batch = batch_of(pixels, batch_size)
        predictor.batch_size = batch_size
        for name, call in _calls(predictor, batch).items():
            if time.perf_counter() > until:
                return
            figure = Figure(batch_size, name, None, None, None)
            try:
                yield _figure(figure, call, 0 if name == "cells" else 2, effort.figure_s)
            except torch.OutOfMemoryError:
                yield figure


def _calls(predictor: Predictor, batch: PatchBatch) -> dict[str, Callable[[], object]]:
    """Return the timed calls by name."""
    from ..model.engines.torch_engine import TorchEngine

    network = predictor.network
    assert isinstance(network, TorchEngine)
    on_device = network.to_device(batch.pixels)
    calls: dict[str, Callable[[], object]] = {"network": lambda: network.run_network(on_device)}
    if predictor.device == "cuda":
        calls["recorded"] = lambda: network.replay_graph(batch.pixels)
    calls["answers"] = lambda: network(batch.pixels)
    calls["cells"] = lambda: predictor(batch, _MPP)
    return calls


def _figure(figure: Figure, call: Callable[[], object], warm_up: int, least_s: float) -> Figure:
    """Time a call repeatedly for `least_s`, at least once."""
    import torch

    cuda = torch.cuda.is_available()
    for _ in range(warm_up):
        call()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    _synchronise()
    calls, begun = 0, time.perf_counter()
    with GpuUtilisation() as busy:
        while calls == 0 or time.perf_counter() - begun < least_s:
            call()
            calls += 1
            _synchronise()
    took_s = time.perf_counter() - begun
    peak_mb = round(torch.cuda.max_memory_allocated() / 2**20) if cuda else None
    return replace(
        figure,
        patches_s=round(calls * figure.batch / took_s, 1),
        busy_percent=busy.percent,
        peak_mb=peak_mb,
    )


def _synchronise() -> None:
    """Wait until the GPU is idle."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def kernels(predictor: Predictor, batch: PatchBatch, calls: int = 3) -> dict[str, Any]:
    """List the kernels (operators without a GPU) by their time, over a few calls as in a run.

    The result also holds the busy part of the wall time.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    cuda = torch.cuda.is_available()
    predictor.batch_size = len(batch)
    with profile(
        activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU], acc_events=True
    ) as profiler:
        begun = time.perf_counter()
        for _ in range(calls):
            predictor.network(batch.pixels)
        _synchronise()
        wall_us = (time.perf_counter() - begun) * 1e6
    field = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = [
        e for e in profiler.key_averages() if e.device_type.name == ("CUDA" if cuda else "CPU")
    ]
    timed = sorted(((getattr(e, field), e.count, e.key) for e in events), reverse=True)
    total_us = sum(us for us, *_ in timed)
    rows = [
        {
            "kernel": key[:90],
            "calls": count,
            "ms": round(us / 1000, 3),
            "percent": round(100 * us / (total_us or 1), 1),
        }
        for us, count, key in timed[:_TOP_KERNELS]
    ]
    at_work = round(100 * total_us / wall_us, 1)
    return {"batch": len(batch), "calls": calls, "at work, percent of wall": at_work, "top": rows}


def machine(device: str) -> dict[str, object]:
    """Describe the machine."""
    import torch

    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else "none: a few patches on the CPU instead"
    )
    return {
        "gpu": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": cpu_limit(),
        "fp32 convolutions may use TF32": torch.backends.cudnn.allow_tf32,
    }


def as_tables(report: dict[str, Any]) -> str:
    """Format the report as Markdown tables."""
    titles = {
        "machine": [report["machine"]],
        "figures": report["figures"],
        "agreement": [report["agreement"]],
    }
    shares = {k: v for k, v in report["kernels"].items() if k != "top"}
    titles |= {"profile": [shares], "kernels": report["kernels"]["top"]}
    return "\n".join(markdown_table(title, rows) for title, rows in titles.items())


def _seconds_since(begun: float) -> float:
    """Return the seconds since a perf_counter time."""
    return round(time.perf_counter() - begun, 1)


def _write(out: Path, report: dict[str, Any]) -> None:
    """Write the report as JSON."""
    out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--weights"]
    print(as_tables(measure(Path(arguments[0]), arguments[1] if arguments[1:] else None)))
