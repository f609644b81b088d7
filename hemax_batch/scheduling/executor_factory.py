"""Make the executor of a run when a slide needs it, or in a thread while the first is planned."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from ..settings import RunOptions
from .dask_cluster import connect_executor
from .executors import DaskExecutor, SerialExecutor
from .slide_job import SlideJob

_LARGE_SLIDE_REGIONS = 8  # a slide with the area of so many regions has several that are not blank


class ExecutorFactory:
    """Makes the executor that `options` ask for.

    `core_um` is the side of a region in µm. `engine` is the engine of the network.
    """

    def __init__(self, options: RunOptions, core_um: float, engine: str = "torch") -> None:
        self._options, self._core_um, self._engine = options, core_um, engine
        self._pending: Future[DaskExecutor | SerialExecutor] | None = None
        self._taken = False
        self.description = "none were needed"

    def prefetch(self, job: SlideJob, alone: bool) -> None:
        """Start in a thread what will surely be needed.

        Call it before a slide is planned. `alone` says that it is the only slide of the run.
        """
        if (
            self._pending is None
            and self._options.workers != 0
            and (not alone or self._is_large(job))
        ):
            pool = ThreadPoolExecutor(1, thread_name_prefix="connect")
            self._pending = pool.submit(connect_executor, self._options, self._engine)
            pool.shutdown(wait=False)

    def get(self, job: SlideJob, alone: bool) -> DaskExecutor | SerialExecutor:
        """Return the executor. Call it once.

        A single slide of one region gets this process, because starting processes takes longer.
        It raises the errors of `connect_executor`.
        """
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
        """Close an executor that was started and not used."""
        if self._pending is not None and not self._taken:
            self._pending.add_done_callback(lambda done: done.exception() or done.result().close())

    def _is_large(self, job: SlideJob) -> bool:
        """Return whether a slide surely needs more than one worker."""
        slide = job.slide
        return slide.width * slide.height * slide.mpp**2 > _LARGE_SLIDE_REGIONS * self._core_um**2
