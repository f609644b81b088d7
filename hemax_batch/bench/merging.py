"""Merging and writing by themselves: a journal of generated cells, published as in a run.

`python -m hemax_batch.bench.merging FOLDER CELLS WIDTH HEIGHT [PROCESSES]` makes the journal in a
process of its own. It publishes the journal in this process with the help of PROCESSES others, and
prints time and peak memory as JSON.
"""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..cells.contours import trace_outlines
from ..mask_packing import pack_mask
from ..model.checkpoint import WeightsCard
from ..outputs.outlines import outline_text
from ..publishing.publish import publish_slide
from ..records import PICTURE_UM, Cells, Region, RegionResult, Slide, StainProfile, TilePlan
from ..results.folder import ResultsFolder
from ..results.journal import RegionJournal
from ..scheduling.slide_job import SlideJob
from ..settings import RunSettings
from ..slides.discovery import SlideFile
from ..vocabulary import ATTRIBUTES, N_CLASSES

#: 50 x 25 mm in regions of about 400 µm.
SLIDE_PX, MPP, CORE_PX = (200_000, 100_000), 0.25, 1536
_CARD = WeightsCard("", "0" * 64, "", 0.12, 320, 1, 1.0, 0.5, {}, {})
#: Number of different masks and pictures.
_VARIANTS = 24
_PICTURE_PX = round(PICTURE_UM / 0.12)


def synthetic_job(root: Path, size_px: tuple[int, int] = SLIDE_PX) -> SlideJob:
    """Make the job of a slide that does not exist; its journal lies in the results folder `root`.

    `size_px` is the slide's width and height. All regions count as processed.
    """
    width, height = size_px
    slide = Slide(
        str(root / "made-up.tif"),
        "made-up",
        "0" * 64,
        width,
        height,
        MPP,
        (size_px,),
        (1.0,),
        "none",
        "tiff",
    )
    cores = [
        (x, y, min(x + CORE_PX, width), min(y + CORE_PX, height))
        for y in range(0, height, CORE_PX)
        for x in range(0, width, CORE_PX)
    ]
    regions = tuple(Region(i, core, core) for i, core in enumerate(cores))
    plan = TilePlan(
        slide,
        StainProfile((240, 240, 240), (0.1, 0.3, 0.2), 0.3),
        regions,
        width * height * 6.25e-8,
        0.0,
    )
    journal = RegionJournal.for_slide(ResultsFolder(root).state, slide.slide_id, "f" * 64)
    job = SlideJob(
        SlideFile(Path(slide.path), slide.slide_id), fingerprint="f" * 64, state="working"
    )
    job.slide, job.journal, job.plan = slide, journal, plan
    return job


def fill_journal(root: Path, n_cells: int, size_px: tuple[int, int] = SLIDE_PX) -> None:
    """Spread `n_cells` evenly over the regions and save them in the journal."""
    ResultsFolder(root).prepare()
    job, random = synthetic_job(root, size_px), np.random.default_rng(0)
    assert job.plan is not None and job.journal is not None
    templates = [_CellTemplate.of(_mask(random), _picture(random)) for _ in range(_VARIANTS)]
    edges = np.linspace(0, n_cells, len(job.plan.regions) + 1).astype(int)
    for region, start, stop in zip(job.plan.regions, edges, edges[1:], strict=False):
        job.journal.save(_region(region, int(stop - start), templates, random))


def publish(
    root: Path, size_px: tuple[int, int] = SLIDE_PX, processes: int = 0
) -> dict[str, float]:
    """Publish what `fill_journal` left; return seconds, CPU seconds and peak memory (MB)."""
    job = synthetic_job(root, size_px)
    before_mb, begun, cpu_begun = _peak_mb(), time.perf_counter(), _cpu_s()
    record = publish_slide(ResultsFolder(root), job, RunSettings(), _CARD, processes)
    wall_s, cpu_s = time.perf_counter() - begun, _cpu_s() - cpu_begun
    return {
        "cells": record.cells,
        "seconds": round(wall_s, 2),
        "cpu_seconds": round(cpu_s, 2),
        "cpu_ms_a_cell": round(1000 * cpu_s / max(record.cells, 1), 3),
        "base_mb": round(before_mb),
        "over_base_mb": round(_peak_mb() - before_mb),
    }


@dataclass(frozen=True)
class _CellTemplate:
    """A cell that thousands share.

    It holds the packed mask, the picture, and the rings of cell and nucleus at the origin.
    """

    hw: tuple[int, int]
    mask: bytes
    picture: bytes
    rings: tuple[list[np.ndarray], list[np.ndarray]]

    @classmethod
    def of(cls, mask: np.ndarray, picture: bytes) -> _CellTemplate:
        """Make a template from a mask and a picture."""
        traced = trace_outlines([mask > 0, mask == 2], np.zeros((2, 2), int))
        cell, nucleus = ([np.array(ring) for ring in rings] for rings in traced)
        height, width = mask.shape
        return cls((height, width), pack_mask(mask), picture, (cell, nucleus))

    def outline_at(self, x: int, y: int) -> bytes:
        """Return the outline text of the cell at (x, y), as `outputs.outlines` would trace it."""
        return outline_text(*([(ring + (x, y)).tolist() for ring in rings] for rings in self.rings))


def _region(
    region: Region, n: int, templates: list[_CellTemplate], random: np.random.Generator
) -> RegionResult:
    """Make a region with `n` cells on a jittered lattice, where no cell duplicates another."""
    x0, y0, x1, y1 = region.core
    across = max(1, math.ceil(math.sqrt(n)))
    places = np.stack([np.arange(n) % across, np.arange(n) // across], 1) + random.uniform(
        0.2, 0.4, (n, 2)
    )
    xy = (np.array([x0, y0]) + places / across * (x1 - x0 - 64, y1 - y0 - 64)).astype(np.int32)
    index = random.integers(0, len(templates), n)
    drawn = [templates[k] for k in index.tolist()]
    hw = np.array([d.hw for d in drawn], np.int32).reshape(n, 2)
    cells = Cells(
        np.concatenate([xy, xy + hw[:, ::-1]], 1).astype(np.float32),
        random.uniform(0.6, 1, n).astype(np.float32),
        random.dirichlet(np.full(N_CLASSES, 0.05), n).astype(np.float32).reshape(n, N_CLASSES),
        np.concatenate(
            [random.dirichlet(np.full(len(a.states), 0.2), n) for a in ATTRIBUTES], 1
        ).astype(np.float32),
        xy,
        hw,
        tuple(d.mask for d in drawn),
        random.uniform(0, 4, n).astype(np.float32),
        np.full(n, region.index, np.int32),
        tuple(d.picture for d in drawn),
        outlines=tuple(d.outline_at(x, y) for d, (x, y) in zip(drawn, xy.tolist(), strict=True)),
    )
    return RegionResult(
        region.index, cells, random.normal(7.3, 0.4, 3).astype(np.float32), n, n, 0, 0
    )


def _mask(random: np.random.Generator) -> np.ndarray:
    """Draw a lumpy cell of 9 to 15 µm with its nucleus."""
    side = int(random.uniform(9, 15) / MPP)
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    lumps = 1 + 0.06 * np.sin(random.integers(3, 7) * np.arctan2(y, x) + random.uniform(0, 6))
    cell: np.ndarray = np.hypot(x, y) < 0.45 * lumps
    mask = cell.astype(np.uint8)
    mask += mask & (np.hypot(x - random.uniform(-0.1, 0.1), y) < 0.3 * lumps)
    return mask


def _picture(random: np.random.Generator) -> bytes:
    """Make a JPEG of the size of a real cell picture (4 to 8 kB)."""
    coarse = random.uniform(90, 240, (_PICTURE_PX // 8, _PICTURE_PX // 8, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((_PICTURE_PX, _PICTURE_PX), Image.Resampling.BICUBIC)
    noisy = np.clip(
        np.asarray(image) + random.normal(0, 4, (_PICTURE_PX, _PICTURE_PX, 1)), 0, 255
    ).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _peak_mb() -> float:
    """Return this process's peak memory; `process_monitor` sees those that it starts."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu_s() -> float:
    """Return the CPU seconds of this process and its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(folder: str, cells: str, width: str, height: str, processes: str = "0") -> None:
    """Fill a journal and publish it; arguments as in the module's docstring."""
    root, size_px = Path(folder), (int(width), int(height))
    filling = multiprocessing.get_context("spawn").Process(
        target=fill_journal, args=(root, int(cells), size_px)
    )
    filling.start()
    filling.join()
    print(
        json.dumps(
            {"width": size_px[0], "height": size_px[1]} | publish(root, size_px, int(processes))
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
