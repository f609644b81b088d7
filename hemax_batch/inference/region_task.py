"""The unit of work: one region of a slide as a task that any process can do."""

from __future__ import annotations

import numpy as np

from ..errors import ReadError, SlideError
from ..records import Cells, RegionResult
from .config import RegionTask
from .region_inference import infer_region
from .watchdog import exit_process_after, report_gpu_loss
from .worker_cache import close_cached_reader, load_predictor


def process_region(task: RegionTask) -> RegionResult:
    """Look at one region; what cannot be read is tried once more with a fresh handle, then reported as its failure.

    A failure concerns this region alone. Raises WeightsError where this process cannot load the same weights, and
    GpuLostError, after which this process ends itself if it is a worker.
    """
    with exit_process_after(task.config.timeout_s), report_gpu_loss():
        config = task.config
        predictor = load_predictor(
            config.weights, config.weights_sha256, config.device, config.engine, config.precision
        )
        try:
            return infer_region(task, predictor)
        except ReadError:  # OpenSlide's errors latch: only a new handle can succeed
            close_cached_reader(task.slide)
        except SlideError as error:
            return unreadable_region(task.region.index, str(error))
        try:
            return infer_region(task, predictor)
        except SlideError as error:
            close_cached_reader(task.slide)
            return unreadable_region(task.region.index, str(error))


def unreadable_region(region_index: int, reason: str) -> RegionResult:
    """The result of a region that could not be done."""
    return RegionResult(
        region_index, Cells.empty(), np.zeros(0, np.float32), 0, 0, 0, 0, failure=reason
    )
