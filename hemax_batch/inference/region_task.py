"""Process one region of a slide as a task that any process can run."""

from __future__ import annotations

import numpy as np

from ..errors import ReadError, SlideError
from ..records import Cells, RegionResult
from .config import RegionTask
from .region_inference import infer_region
from .watchdog import exit_process_after, report_gpu_loss
from .worker_cache import close_cached_reader, load_predictor


def process_region(task: RegionTask) -> RegionResult:
    """Process one region.

    A read that fails is tried once more with a new handle. A second failure is the region's result.
    It concerns this region alone.

    Raises
    ------
    WeightsError
        This process cannot load the same weights.
    GpuLostError
        The GPU failed. A worker process ends itself after this error.
    """
    with exit_process_after(task.config.timeout_s), report_gpu_loss():
        config = task.config
        predictor = load_predictor(
            config.weights, config.weights_sha256, config.device, config.engine, config.precision
        )
        try:
            return infer_region(task, predictor)
        except ReadError:  # an OpenSlide handle that failed always fails
            close_cached_reader(task.slide)
        except SlideError as error:
            return unreadable_region(task.region.index, str(error))
        try:
            return infer_region(task, predictor)
        except SlideError as error:
            close_cached_reader(task.slide)
            return unreadable_region(task.region.index, str(error))


def unreadable_region(region_index: int, reason: str) -> RegionResult:
    """Return the result of a region that could not be processed."""
    return RegionResult(
        region_index, Cells.empty(), np.zeros(0, np.float32), 0, 0, 0, 0, failure=reason
    )
