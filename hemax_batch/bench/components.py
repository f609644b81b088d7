"""The pieces of a run by themselves, each in `cores` fresh processes: reading, the network, and what one would do
without this tool.

`python -m hemax_batch.bench.components KIND SLIDE CORES COUNT` prints a JSON object: `seconds` of the work alone (from when
every process is ready until the last has done its share), `items` and `megapixels`.

    reading    every tile of the finest level, by the path that a run reads by
    openslide  the same windows by OpenSlide's read_region
    network    COUNT patches cut at the screen's proposals, from memory
    plain      COUNT of the tiles of OpenSlide's DeepZoomGenerator, evenly spread, each shrunk to a patch, through the
               same network one by one on CORES threads; `of_items` is how many tiles there are

KIND `profile` prints torch.profiler's table of COUNT patches instead.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time

import numpy as np

_MOST_PATCHES = 128  # different ones; they are gone through again and again
_WINDOW_PX = 2048


def reading(slide: str, share: int, shares: int, _count: int):
    """Decode this share's windows, whole tiles of the file where it is tiled."""
    from ..slides.reader import open_slide

    reader = open_slide(slide, "bench", mpp=0.25)
    windows = _windows(reader.slide.width, reader.slide.height)[share::shares]

    def work() -> tuple[int, float]:
        for x, y, w, h in windows:
            reader.read(0, x, y, w, h)
        return len(windows), sum(w * h for *_, w, h in windows) / 1e6

    return work


def openslide(slide: str, share: int, shares: int, _count: int):
    """The same by OpenSlide."""
    from openslide import OpenSlide

    opened = OpenSlide(slide)
    windows = _windows(*opened.dimensions)[share::shares]

    def work() -> tuple[int, float]:
        for x, y, w, h in windows:
            np.asarray(opened.read_region((x, y), 0, (w, h)).convert("RGB"))
        return len(windows), sum(w * h for *_, w, h in windows) / 1e6

    return work


def network(slide: str, share: int, shares: int, count: int):
    """This share of `count_differential` patches through the network."""
    import torch

    from ..model.predictor import Predictor
    from ..slides.patches import cut_patches
    from ..slides.reader import open_slide
    from ..slides.screening import propose_candidates
    from ..slides.stain import measure_stain

    predictor = Predictor.load(None, "cuda" if torch.cuda.is_available() else "cpu")
    with open_slide(slide, "bench") as reader:
        window = (0, 0, min(reader.slide.width, 16_384), min(reader.slide.height, 16_384))
        places_xy = propose_candidates(reader, window, measure_stain(reader))[:_MOST_PATCHES]
        if not len(places_xy):
            raise ValueError(
                f"{slide}: the screen proposes nothing, so that there are no patches to measure with"
            )
        size, mpp = (reader.slide.width, reader.slide.height), reader.slide.mpp
        batches = [
            cut_patches(reader, xy[None], predictor.card.mpp, predictor.card.patch_px)
            for xy in places_xy
        ]
    mine = len(range(share, count, shares))
    predictor(batches[0], mpp, size)  # what is loaded at the first call is loaded

    def work() -> tuple[int, float]:
        for i in range(mine):
            predictor(batches[i % len(batches)], mpp, size)
        return mine, mine * predictor.card.patch_px**2 / 1e6

    return work


def plain_loop(slide: str, share: int, shares: int, count: int):
    """The loop that one would write: DeepZoom's tiles one by one through the network, all cores for each."""
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

    work.of_items = columns * rows
    return work


def profile_network(slide: str, count: int) -> str:
    """torch.profiler's table of `count_differential` patches on one core: which operators the network's time goes to."""
    from torch.profiler import ProfilerActivity, profile

    work = network(slide, 0, 1, count)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        work()
    return profiler.key_averages().table(
        sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=48
    )


def _windows(width: int, height: int) -> list[tuple[int, int, int, int]]:
    return [
        (x, y, min(_WINDOW_PX, width - x), min(_WINDOW_PX, height - y))
        for y in range(0, height, _WINDOW_PX)
        for x in range(0, width, _WINDOW_PX)
    ]


KINDS = {made.__name__: made for made in (reading, openslide, network, plain_loop)}


def _share(kind: str, slide: str, share: int, shares: int, count: int, ready, answers) -> None:
    """One process: prepare, wait for the others, work, tell."""
    work = KINDS[kind](slide, share, shares, count)
    ready.wait()
    begun = time.time()
    items, megapixels = work()
    answers.put((begun, time.time(), items, megapixels, getattr(work, "of_items", items)))


def measure_component(kind: str, slide: str, cores: int, count: int) -> dict[str, float]:
    """Do a kind of work in `cores` processes (the plain loop: one process with so many threads)."""
    spawn = multiprocessing.get_context("spawn")
    processes = 1 if kind == "plain" else cores
    ready, answers = spawn.Barrier(processes), spawn.Queue()
    shares = cores if kind == "plain" else processes
    started = [
        spawn.Process(target=_share, args=(kind, slide, k, shares, count, ready, answers))
        for k in range(processes)
    ]
    for process in started:
        process.start()
    measured = [_next_answer(answers, started) for _ in started]
    for process in started:
        process.join()
    begun, ended, items, megapixels, of_items = zip(*measured, strict=True)
    return {
        "seconds": round(max(ended) - min(begun), 3),
        "items": sum(items),
        "of_items": sum(of_items),
        "megapixels": round(sum(megapixels), 1),
    }


def _next_answer(answers, started):
    """The next answer; an exception where a process has ended without one."""
    while answers.empty():
        if any(process.exitcode for process in started):
            raise RuntimeError(f"a process ended with exit code {[p.exitcode for p in started]}")
        time.sleep(0.02)
    return answers.get()


if __name__ == "__main__":
    kind, slide, cores, count = sys.argv[1:]
    if kind == "profile":
        print(profile_network(slide, int(count)))
    else:
        print(json.dumps(measure_component(kind, slide, int(cores), int(count))))
