"""Parts of a run measured by themselves, each in `cores` fresh processes.

`python -m hemax_batch.bench.components KIND SLIDE CORES COUNT` prints a JSON object with `seconds`
of the work alone (from when every process is ready until the last is done), `items` and
`megapixels`.

    reading    every tile of the finest level, by the path that a run reads by
    openslide  the same windows by OpenSlide's read_region
    network    COUNT patches cut at the screen's proposals, from memory
    plain      COUNT of the tiles of OpenSlide's DeepZoomGenerator, evenly spread, each resized to a
               patch, through the same network one by one on CORES threads; `of_items` is the number
               of tiles

KIND `profile` prints torch.profiler's table of COUNT patches instead.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import TypeAlias

import numpy as np

#: Number of different patches; they are used repeatedly.
_MOST_PATCHES = 128
_WINDOW_PX = 2048
#: Start, end, items, megapixels and items of the whole slide.
_Measurement = tuple[float, float, int, float, int]
_Measurements: TypeAlias = "Queue[_Measurement]"


@dataclass(frozen=True)
class Work:
    """One process's share of the work.

    Attributes
    ----------
    run : callable
        Does the work; returns the number of items and megapixels.
    of_items : int, optional
        Number of items of the whole slide, if only a sample is done.
    """

    run: Callable[[], tuple[int, float]]
    of_items: int | None = None


def reading(slide: str, share: int, shares: int, _count: int) -> Work:
    """Decode this share's windows, whole tiles of the file if it is tiled."""
    from ..slides.reader import open_slide

    reader = open_slide(slide, "bench", mpp=0.25)
    windows = _windows(reader.slide.width, reader.slide.height)[share::shares]

    def work() -> tuple[int, float]:
        for x, y, w, h in windows:
            reader.read(0, x, y, w, h)
        return len(windows), sum(w * h for *_, w, h in windows) / 1e6

    return Work(work)


def openslide(slide: str, share: int, shares: int, _count: int) -> Work:
    """Decode the same windows by OpenSlide."""
    from openslide import OpenSlide

    opened = OpenSlide(slide)
    windows = _windows(*opened.dimensions)[share::shares]

    def work() -> tuple[int, float]:
        for x, y, w, h in windows:
            np.asarray(opened.read_region((x, y), 0, (w, h)).convert("RGB"))
        return len(windows), sum(w * h for *_, w, h in windows) / 1e6

    return Work(work)


def network(slide: str, share: int, shares: int, count: int, engine: str = "auto") -> Work:
    """Run the network on this share of `count` patches, in the engine and patches of a run."""
    from ..inference.patch_predictor import small_patch_px
    from ..model.engines.selection import resolve_engine
    from ..model.predictor import Predictor
    from ..scheduling.resources import visible_gpus
    from ..slides.patches import cut_patches
    from ..slides.reader import open_slide
    from ..slides.screening import propose_candidates
    from ..slides.stain import measure_stain

    on_cpu = not visible_gpus()
    engine, precision = resolve_engine(engine, "auto", on_cpu)
    predictor = Predictor.load(
        None, "cpu" if on_cpu else "cuda", engine=engine, precision=precision
    )
    size_px = small_patch_px(predictor.card.patch_px)
    with open_slide(slide, "bench") as reader:
        window = (0, 0, min(reader.slide.width, 16_384), min(reader.slide.height, 16_384))
        places_xy = propose_candidates(reader, window, measure_stain(reader))[:_MOST_PATCHES]
        if not len(places_xy):
            raise ValueError(f"{slide}: the screen proposes no cell, so there are no patches")
        size, mpp = (reader.slide.width, reader.slide.height), reader.slide.mpp
        batches = [cut_patches(reader, xy[None], predictor.card.mpp, size_px) for xy in places_xy]
    own_count = len(range(share, count, shares))
    predictor(batches[0], mpp, size)  # The first call loads libraries.

    def work() -> tuple[int, float]:
        for i in range(own_count):
            predictor(batches[i % len(batches)], mpp, size)
        return own_count, own_count * size_px**2 / 1e6

    return Work(work)


def plain_loop(slide: str, share: int, shares: int, count: int) -> Work:
    """Run the network on DeepZoom tiles one by one, with all cores for each."""
    import torch
    from openslide import OpenSlide
    from openslide.deepzoom import DeepZoomGenerator

    from ..model.predictor import Predictor
    from ..records import PatchBatch
    from ..slides.reader import open_slide

    with open_slide(slide, "bench") as reader:
        mpp, size = reader.slide.mpp, (reader.slide.width, reader.slide.height)
    predictor = Predictor.load()
    torch.set_num_threads(shares)
    patch_px, scale = predictor.card.patch_px, predictor.card.mpp / mpp
    zoom = DeepZoomGenerator(OpenSlide(slide), round(patch_px * scale), 0)
    columns, rows = zoom.level_tiles[-1]
    sample = np.linspace(0, columns * rows - 1, min(count, columns * rows)).astype(int)

    def work() -> tuple[int, float]:
        for place in sample.tolist():
            column, row = place % columns, place // columns
            tile = (
                zoom.get_tile(zoom.level_count - 1, (column, row))
                .convert("RGB")
                .resize((patch_px, patch_px))
            )
            pixels = np.asarray(tile).transpose(2, 0, 1)[None]
            origin = np.array([[column, row]], float) * round(patch_px * scale)
            predictor(PatchBatch(np.ascontiguousarray(pixels), origin, scale), mpp, size)
        return len(sample), len(sample) * patch_px**2 / 1e6

    return Work(work, columns * rows)


def profile_network(slide: str, count: int) -> str:
    """Profile the network's operators on `count` patches and one core; return the table."""
    from torch.profiler import ProfilerActivity, profile

    work = network(slide, 0, 1, count, "torch")
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        work.run()
    table: str = profiler.key_averages().table(
        sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=48
    )
    return table


def _windows(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Cut a slide into windows (x, y, width, height)."""
    return [
        (x, y, min(_WINDOW_PX, width - x), min(_WINDOW_PX, height - y))
        for y in range(0, height, _WINDOW_PX)
        for x in range(0, width, _WINDOW_PX)
    ]


KINDS: dict[str, Callable[[str, int, int, int], Work]] = {
    "reading": reading,
    "openslide": openslide,
    "network": network,
    "plain": plain_loop,
}


def _run_share(
    kind: str,
    slide: str,
    share: int,
    shares: int,
    count: int,
    ready: Barrier,
    measured: _Measurements,
) -> None:
    """Run in one process: prepare, wait for the others, work, report."""
    work = KINDS[kind](slide, share, shares, count)
    ready.wait()
    begun = time.time()
    items, megapixels = work.run()
    of_items = items if work.of_items is None else work.of_items
    measured.put((begun, time.time(), items, megapixels, of_items))


def measure_component(kind: str, slide: str, cores: int, count: int) -> dict[str, float]:
    """Measure one kind of work in `cores` processes.

    The plain loop runs in one process with so many threads.
    """
    spawn = multiprocessing.get_context("spawn")
    processes = 1 if kind == "plain" else cores
    ready = spawn.Barrier(processes)
    queue: _Measurements = spawn.Queue()
    shares = cores if kind == "plain" else processes
    started = [
        spawn.Process(target=_run_share, args=(kind, slide, k, shares, count, ready, queue))
        for k in range(processes)
    ]
    for process in started:
        process.start()
    measured = [_next_measurement(queue, started) for _ in started]
    for process in started:
        process.join()
    begun, ended, items, megapixels, of_items = zip(*measured, strict=True)
    return {
        "seconds": round(max(ended) - min(begun), 3),
        "items": sum(items),
        "of_items": sum(of_items),
        "megapixels": round(sum(megapixels), 1),
    }


def _next_measurement(queue: _Measurements, started: list[SpawnProcess]) -> _Measurement:
    """Wait for the next measurement; raise RuntimeError if a process failed."""
    while queue.empty():
        if any(process.exitcode for process in started):
            raise RuntimeError(f"a process ended with exit code {[p.exitcode for p in started]}")
        time.sleep(0.02)
    return queue.get()


if __name__ == "__main__":
    kind, slide, cores, count = sys.argv[1:]
    if kind == "profile":
        print(profile_network(slide, int(count)))
    else:
        print(json.dumps(measure_component(kind, slide, int(cores), int(count))))
