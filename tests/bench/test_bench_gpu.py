"""What a GPU makes of the network, measured here without one: that it counts rightly and leans on nothing more."""

import json
import subprocess
import sys

import numpy as np
import pytest

from hemax_batch.bench import gpu
from hemax_batch.bench.gpu_agreement import compare_cells
from hemax_batch.bench.gpu_utilisation import GpuUtilisation
from hemax_batch.records import Cells
from hemax_batch.vocabulary import N_ATTRIBUTE_STATES, N_CLASSES


def cells(boxes, classes):
    n, f, i = len(boxes), np.float32, np.int32
    return Cells(
        np.array(boxes, f).reshape(-1, 4),
        np.ones(n, f),
        np.eye(N_CLASSES, dtype=f)[classes],
        np.ones((n, N_ATTRIBUTE_STATES), f),
        np.zeros((n, 2), i),
        np.ones((n, 2), i),
        (b"",) * n,
        np.zeros(n, f),
        np.zeros(n, i),
        (b"",) * n,
    )


@pytest.mark.slow
def test_it_needs_no_reader_and_no_scheduler_and_says_that_there_is_no_gpu(tmp_path):
    absent = "openslide dask distributed zarr imagecodecs tifffile numcodecs shapely psutil click rich google_crc32c"
    code = f"import sys\nfor name in {absent.split()}: sys.modules[name] = None\n"
    code += "from pathlib import Path; from hemax_batch.bench import gpu\n"
    code += "gpu.paint_patches = lambda n: gpu.np.stack([gpu._paint_patch(k) for k in range(n)])\n"  # a spawned child needs a file
    code += "told = gpu.measure(Path(sys.argv[1]), effort=gpu.MeasuringPlan(1, 2, (1, 2), 0.05, float('inf'))); print(gpu.as_tables(told))"
    out = tmp_path / "gpu.json"
    said = subprocess.run(
        [sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True
    ).stdout
    told = json.loads(out.read_text("utf-8"))
    assert {(f["batch"], f["of"]) for f in told["figures"]} == {
        (b, k) for b in (1, 2) for k in ("network", "answers", "cells")
    }
    assert all(f["patches_s"] > 0 for f in told["figures"]) and len(told["kernels"]["top"]) == 15
    row = told["agreement"]
    if told["machine"]["gpu"].startswith("none"):
        assert "none: a few patches on the CPU" in said
        assert (
            row["largest_box_off_px"] == 0
            and row["cells"] == row["cells_of_cpu"] == row["same_class"] >= 1
        )


def test_patches_beyond_the_painted_ones_are_mirrored():
    painted = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    batch = gpu.batch_of(painted, 5).pixels
    np.testing.assert_array_equal(batch[3], painted[1][..., ::-1])
    np.testing.assert_array_equal(batch[4], painted[0])


def test_cells_of_two_machines_are_compared_place_by_place():
    one = [cells([(0, 0, 10, 10), (50, 50, 60, 60)], [1, 2]), cells([], [])]
    other = [cells([(51, 50, 61, 60), (0, 0, 10, 12)], [2, 3]), cells([(0, 0, 5, 5)], [0])]
    told = compare_cells(one, other)
    assert told == {
        "cells_of_cpu": 2,
        "cells": 3,
        "same_place": 2,
        "same_class": 1,
        "median_box_off_px": 1.5,
        "largest_box_off_px": 2.0,
        "largest_probability_off": 1.0,
    }
    assert compare_cells(one, one)["largest_box_off_px"] == 0
    assert compare_cells([cells([], [])], [cells([], [])])["cells"] == 0


def test_a_batch_that_memory_does_not_hold_is_told_as_such(monkeypatch):
    import torch

    def too_much(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(gpu, "_figure", too_much)
    monkeypatch.setattr(gpu, "_calls", lambda *_: {"network": None})
    told = list(
        gpu.figures(
            type("P", (), {})(), np.zeros((1, 3, 8, 8), np.uint8), gpu.MeasuringPlan(), float("inf")
        )
    )
    assert [f.batch for f in told] == list(gpu.MeasuringPlan().batch_sizes) and {
        f.patches_s for f in told
    } == {None}


def test_no_figure_begins_after_its_time(monkeypatch):
    monkeypatch.setattr(gpu, "_calls", lambda *_: {"network": None})
    assert not list(
        gpu.figures(type("P", (), {})(), np.zeros((1, 3, 8, 8), np.uint8), gpu.MeasuringPlan(), 0.0)
    )


@pytest.mark.parametrize("answers, percent", [([None], None), ([40.0, 60.0, None], 50.0)])
def test_utilisation_is_the_mean_of_what_the_driver_says(monkeypatch, answers, percent):
    from hemax_batch.bench import gpu_utilisation

    left = iter(answers)
    monkeypatch.setattr(gpu_utilisation, "_torch_utilisation", lambda: next(left, None))
    monkeypatch.setattr(gpu_utilisation, "nvidia_smi_utilisation", lambda: None)
    with GpuUtilisation() as busy:
        busy._thread.join()
    assert busy.percent == percent
