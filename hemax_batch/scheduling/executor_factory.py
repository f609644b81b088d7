"""The executor of a run: made when a slide needs it, or in a thread while the first slide is planned, which takes as long."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from ..settings import RunOptions
from .dask_cluster import connect_executor
from .executors import DaskExecutor, SerialExecutor
from .slide_job import SlideJob

_LARGE_SLIDE_REGIONS = (
    8  # a slide of so many regions' area has more than one region that holds anything
)


class ExecutorFactory:
    """What `options` ask for. `core_um`: side of a region, µm; `engine`: what the network runs in."""

    def __init__(self, options: RunOptions, core_um: float, engine: str = "torch"):
        self._options, self._core_um, self._engine = options, core_um, engine
        self._pending: Future | None = None
        self._taken = False
        self.description = "none were needed"

    def prefetch(self, job: SlideJob, alone: bool) -> None:
        """A slide is about to be planned, `alone` in its run or not: start what will surely be needed."""
        if (
            self._pending is None
            and self._options.workers != 0
            and (not alone or self._is_large(job))
        ):
            pool = ThreadPoolExecutor(1, thread_name_prefix="connect")
            self._pending = pool.submit(connect_executor, self._options, self._engine)
            pool.shutdown(wait=False)

    def get(self, job: SlideJob, alone: bool) -> DaskExecutor | SerialExecutor:
        """The executor, once. Raises what `connect_executor` does. One slide of one region does not pay for starting processes."""
        requested = (
            self._options.workers is not None
            or self._options.scheduler
            or self._options.scheduler_file
        )
        if self._pending is not None:
            executor = self._pending.result()
        elif alone and len(job.todo) <= 1 and not requested:
            executor = SerialExecutor()
        else:
            executor = connect_executor(self._options, self._engine)
        self._taken, self.description = True, executor.description
        return executor

    def close(self) -> None:
        """End what was started and not asked for."""
        if self._pending is not None and not self._taken:
            self._pending.add_done_callback(lambda done: done.exception() or done.result().close())

    def _is_large(self, job: SlideJob) -> bool:
        slide = job.slide
        return slide.width * slide.height * slide.mpp**2 > _LARGE_SLIDE_REGIONS * self._core_um**2
