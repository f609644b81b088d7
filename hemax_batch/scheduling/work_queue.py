"""Process the regions of all slides through one queue.

No worker waits at a slide's end, and the task graph stays small. Slides are opened and planned in
order, only as far ahead as there is room. At most `executor.capacity` tasks are in flight over all
slides. Finished regions go to the journal at once, so this process's memory does not grow. A slide
is merged and written while the regions of the next slides are processed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Protocol, TypeVar

from ..errors import GpuLostError, HemaxError, SlideError, UnreadableSlideError
from ..inference.config import InferenceConfig, RegionTask
from ..inference.plan_task import PlanTask, plan_slide
from ..inference.region_task import process_region, unreadable_region
from ..records import Region, RegionResult, TilePlan
from ..slides.discovery import SlideFile
from ..slides.reader import check_unchanged
from .executor_factory import ExecutorFactory
from .executors import DaskExecutor, Executor, TaskResult
from .progress import ProgressReporter
from .publish_queue import PublishQueue
from .retries import MAX_ATTEMPTS, RetryPolicy
from .slide_job import SlideJob, failure_reason, unreadable_share
from .stopping import EXIT_HUNG, StopFlag, StopNow, exit_if_hung
from .subprocess_caller import CallCancelled

_POLL_S = 0.25
_DRAIN_S = 4.0  # time for tasks in flight when the run stops
Argument = TypeVar("Argument")
Value = TypeVar("Value")


class CallWithTimeout(Protocol):
    """Calls a function in a process that is ended if the call hangs."""

    def __call__(
        self,
        job: SlideJob,
        timeout_s: float,
        function: Callable[[Argument], Value],
        argument: Argument,
        /,
    ) -> Value:
        """Return `function(argument)`. Raise SlideError if the call hangs."""


class WorkQueue:
    """Takes slides from opening to published results.

    Parameters
    ----------
    open_slide
        Opens a slide and decides what to do with it. It sets slide, fingerprint and journal, or
        ends the slide (skipped, failed).
    preload_writers
        Loads what `publish` needs.
    publish
        Merges and writes a slide whose regions are all in the journal. It sets cells and warnings.
    executors
        Makes the executor when the first slide needs it.
    call_with_timeout
        Calls a function for a slide in a process that is ended if the call hangs.
    on_hang
        Called before this process ends itself because a region hangs in it.
    """

    def __init__(
        self,
        files: list[SlideFile],
        config: InferenceConfig,
        core_um: float,
        max_unreadable: float,
        stop: StopFlag,
        reporter: ProgressReporter,
        open_slide: Callable[[SlideJob], None],
        preload_writers: Callable[[], None],
        publish: Callable[[SlideJob], None],
        executors: ExecutorFactory,
        call_with_timeout: CallWithTimeout,
        on_hang: Callable[[], None],
        fail_fast: bool = False,
        cpu_after_gpu_loss: bool = True,
    ) -> None:
        self.jobs = [SlideJob(file) for file in files]
        self._config, self._core_um, self._max_unreadable = config, core_um, max_unreadable
        self._stop, self._reporter, self._fail_fast = stop, reporter, fail_fast
        self._open_slide, self._preload_writers = open_slide, preload_writers
        self._publish_queue, self._executors = PublishQueue(publish), executors
        self._call_with_timeout, self._on_hang = call_with_timeout, on_hang
        self._cpu_after_gpu_loss = cpu_after_gpu_loss
        self._waiting = deque(self.jobs)
        self._planned: deque[SlideJob] = deque()
        self._executor: Executor | None = None
        self._retries = RetryPolicy()

    def run(self) -> None:
        """Process slides until all have ended or the run stops. The others are then `not reached`.

        It raises errors of the whole run: OutputError (the results cannot be written),
        WeightsError, a lost scheduler.
        """
        try:
            with self._stop.interruptible():
                while not self._stop:
                    self._submit_ready()
                    if self._is_idle():
                        break
                    self._collect_finished(_POLL_S)
                self._drain()
        except StopNow:
            pass
        finally:
            self._close()
            self._mark_not_reached()

    def _is_idle(self) -> bool:
        """Return whether nothing is in flight, quarantined or being published."""
        in_flight = self._executor.in_flight if self._executor else 0
        return not in_flight and not self._publish_queue and not self._retries.quarantined

    def _has_room(self) -> bool:
        """Return whether another task may be submitted."""
        return self._executor is None or self._executor.in_flight < self._executor.capacity

    def _submit_ready(self) -> None:
        """Submit tasks until there is no room.

        Regions of the earliest planned slide come first, then the next slide's plan. Quarantined
        tasks wait until nothing else is in flight.
        """
        while not self._stop and self._has_room():
            if self._retries.quarantined:
                if self._executor is None or not self._executor.in_flight:
                    self._retry_alone(*self._retries.quarantined.popleft())
                return
            while self._planned and not self._planned[0].todo:
                self._planned.popleft()
            if self._planned:
                self._submit_region(self._planned[0])
            elif self._waiting:
                self._start_slide(self._waiting.popleft())
            else:
                return

    def _start_slide(self, job: SlideJob) -> None:
        """Open a slide and plan it. The first slide is planned while the workers start."""
        job.started_at, job.state = time.monotonic(), "working"
        try:
            self._open_slide(job)
            if job.state != "working":
                self._end_slide(job, job.state, job.reason)
                return
            self._executors.prefetch(job, alone=len(self.jobs) == 1)
            if self._executor is not None and self._executor.out_of_process:
                job.in_flight += 1
                self._submit_plan(job, self._executor)
            else:
                task = PlanTask(job.slide, self._core_um)
                plan = self._call_with_timeout(job, self._config.timeout_s, plan_slide, task)
                self._accept_plan(job, plan)
        except CallCancelled:
            self._end_slide(job, "not reached", self._stop.reason)
        except Exception as error:
            if isinstance(error, HemaxError) and not isinstance(error, SlideError):
                raise
            self._end_slide(job, "failed", failure_reason(job, error))

    def _submit_plan(self, job: SlideJob, executor: Executor) -> None:
        """Send the planning of a slide to the workers."""
        task = PlanTask(job.slide, self._core_um, self._config.timeout_s)
        executor.submit((job, None), plan_slide, task, urgent=True)

    def _ensure_executor(self, job: SlideJob) -> Executor:
        """Return the executor. Make it the first time."""
        if self._executor is not None:
            return self._executor
        try:
            executor = self._executors.get(job, alone=len(self.jobs) == 1)
        except HemaxError:
            raise
        except Exception as error:  # the cause is no slide
            raise HemaxError(
                f"no workers: {type(error).__name__}: {error}; --workers 0 runs without workers"
            ) from error
        self._executor = executor
        self._reporter.workers_started(executor.description)
        if executor.warning:
            self._reporter.warning(executor.warning)
        if executor.out_of_process:
            self._publish_queue.run_in_thread(self._preload_writers)
        elif not isinstance(executor, DaskExecutor):
            executor.watchdog = self._watchdog
        return executor

    def _accept_plan(self, job: SlideJob, plan: TilePlan) -> None:
        """Queue the regions of a planned slide that no earlier run finished."""
        done = job.journal.finished()
        job.plan = plan
        job.damaged = {area.rect: area.reason for area in job.journal.damaged()}
        job.todo = deque(region for region in plan.regions if region.index not in done)
        finished = len(plan.regions) - len(job.todo)
        self._reporter.slide_planned(job.slide_id, len(plan.regions), finished, plan.scanned_mm2)
        for text in plan.warnings:
            self._reporter.warning(f"{job.slide_id}: {text}")
        self._ensure_executor(job)
        self._skip_hung_regions(job)
        if job.todo:
            self._planned.append(job)
        else:
            self._start_publishing(job)

    def _skip_hung_regions(self, job: SlideJob) -> None:
        """Without workers, skip the regions that hung in an earlier run, because a hang ends the run."""
        hung = () if self._ensure_executor(job).out_of_process else job.journal.hung()
        for index in hung:
            job.todo = deque(region for region in job.todo if region.index != index)
            job.unreadable[index] = unreadable_region(
                index, "hung in an earlier run (--retry-failed tries it again)"
            )

    def _submit_region(self, job: SlideJob) -> None:
        """Submit the next region of a slide."""
        self._submit(job, job.todo.popleft(), self._config)

    def _submit(self, job: SlideJob, region: Region, config: InferenceConfig) -> None:
        """Submit a region."""
        executor = self._ensure_executor(job)
        job.in_flight += 1
        if not executor.out_of_process:  # the watchdog ends this process if the region hangs
            config = replace(config, timeout_s=0.0)
        task = RegionTask(job.slide, job.plan.stain, region, config)
        executor.submit((job, region), process_region, task)

    def _retry_alone(self, job: SlideJob, region: Region | None) -> None:
        """Retry a plan or a region whose worker died, with one patch at a time.

        Nothing else is in flight. dask blames all tasks of a worker that dies. A task that runs
        alone shows whether it is the cause, and it has the most memory.
        """
        if job.state != "working":
            job.in_flight -= 1
        elif region is None:
            self._submit_plan(job, self._ensure_executor(job))
        else:
            job.in_flight -= 1
            self._submit(job, region, replace(self._config, batch_size=1))

    def _collect_finished(self, timeout_s: float) -> None:
        """Handle what has ended: plans, regions, published slides."""
        results = self._executor.wait(timeout_s) if self._executor else []
        for result in results:
            job, region = result.tag
            job.in_flight -= 1
            if job.state != "working":
                continue
            if region is None:
                self._on_plan_finished(job, result)
            else:
                self._on_region_finished(job, region, result)
        self._collect_published()

    def _collect_published(self) -> None:
        """End the slides that were published, or could not be."""
        for job, error in self._publish_queue.finished():
            if error is None:
                self._end_slide(job, "done")
            elif isinstance(error, HemaxError) and not isinstance(error, SlideError):
                raise error
            else:
                self._end_slide(job, "failed", failure_reason(job, error))

    def _on_plan_finished(self, job: SlideJob, result: TaskResult) -> None:
        """Accept a plan. Retry or end the slide if planning failed."""
        if result.error is None:
            self._accept_plan(job, result.value)
        elif isinstance(result.error, SlideError):
            self._end_slide(job, "failed", str(result.error))
        elif isinstance(result.error, HemaxError):
            raise result.error
        elif not self._retries.should_retry(job, None):
            reason = f"{failure_reason(job, result.error)} (planning it, {MAX_ATTEMPTS} times)"
            self._end_slide(job, "failed", reason)

    def _on_region_finished(self, job: SlideJob, region: Region, finished: TaskResult) -> None:
        """Save a region in the journal, retry it, or record that it cannot be read."""
        result: RegionResult = finished.value
        if isinstance(finished.error, GpuLostError):
            if self._on_gpu_lost(job, region, finished.error):
                return
        elif isinstance(finished.error, HemaxError):
            raise finished.error
        if finished.error is not None:
            if self._retries.should_retry(job, region):
                return
            result = unreadable_region(
                region.index, f"after {MAX_ATTEMPTS} tries: {failure_reason(job, finished.error)}"
            )
        if result.failure:
            job.unreadable[region.index] = result
        else:
            job.journal.save(result)
            job.damaged.update((area.rect, area.reason) for area in result.damaged)
        self._reporter.region_done(job.slide_id, result)
        if job.all_regions_finished():
            self._start_publishing(job)

    def _on_gpu_lost(self, job: SlideJob, region: Region, lost: GpuLostError) -> bool:
        """Handle a lost GPU. Return whether the region, which is not the cause, is retried."""
        executor = self._ensure_executor(job)
        if isinstance(executor, DaskExecutor):
            action = executor.retire_gpu(lost, self._cpu_after_gpu_loss)
        elif self._cpu_after_gpu_loss:
            self._config = replace(self._config, device="cpu")
            action = "this process continues without it, on the CPU"
        else:
            raise lost
        self._reporter.warning(f"{lost}; {action or 'its worker is restarted'}")
        should_retry = self._retries.should_retry_without_gpu(job, region)
        if should_retry:
            job.todo.append(region)
            if not any(other is job for other in self._planned):
                self._planned.append(job)
        return should_retry

    def _watchdog(self, tag: tuple[SlideJob, Region]) -> AbstractContextManager[None]:
        """Watch a region in this process. If it hangs, record that and end the process."""
        job, region = tag

        def record_hang() -> None:
            job.journal.note_hung(region.index)
            self._stop.stop(
                f"region {region.index} of {job.slide_id} hangs for over "
                f"{self._config.timeout_s:g} s, and only the end of this process ends it "
                "(--workers 1 ends a worker instead); the next run skips the region",
                EXIT_HUNG,
            )
            self._mark_not_reached()
            self._on_hang()

        return exit_if_hung(self._config.timeout_s, record_hang)

    def _start_publishing(self, job: SlideJob) -> None:
        """Publish a slide whose regions have all ended, unless too much could not be read."""
        share = unreadable_share(job)
        if share > self._max_unreadable:
            self._end_slide(job, "failed", self._unreadable_reason(job, share))
        else:
            self._publish_queue.submit(job)
            self._collect_published()

    def _unreadable_reason(self, job: SlideJob, share: float) -> str:
        """Return why a slide fails with too many unreadable places. It may also have vanished."""
        try:
            self._call_with_timeout(job, 0.0, check_unchanged, job.slide)
        except UnreadableSlideError as error:
            return str(error)
        except CallCancelled:
            return self._stop.reason
        job.failed_permanently = True
        failures = (*(r.failure for r in job.unreadable.values()), *job.damaged.values())
        return (
            f"slide {job.slide_id!r} ({job.slide.path}): {100 * share:.1f} % of the scanned area "
            f"could not be read, the limit is {100 * self._max_unreadable:g} % (--max-unreadable); "
            f"the first failure: {failures[0]}"
        )

    def _end_slide(self, job: SlideJob, state: str, reason: str = "") -> None:
        """Set a slide's final state and report it."""
        job.state, job.reason = state, reason
        job.seconds = time.monotonic() - job.started_at if job.started_at else 0.0
        job.todo.clear()
        self._reporter.slide_ended(
            job.slide_id, state, job.cells, job.seconds, reason, str(job.file.path)
        )
        for text in job.alarms:
            self._reporter.warning(f"{job.slide_id}: {text}")
        if state == "failed" and self._fail_fast:
            self._stop.stop(f"--fail-fast: {reason}", 0)

    def _drain(self) -> None:
        """Handle what ends within `_DRAIN_S`. Nothing new is started."""
        deadline = time.monotonic() + _DRAIN_S
        while (self._publish_queue or self._tasks_in_flight()) and time.monotonic() < deadline:
            self._collect_finished(_POLL_S)

    def _tasks_in_flight(self) -> int:
        """Return the number of tasks that workers may still finish."""
        return self._executor.in_flight if self._executor and self._executor.out_of_process else 0

    def _close(self) -> None:
        """End the workers and handle the slide that is being published."""
        self._executors.close()
        if self._executor is not None:
            self._executor.close()
        self._publish_queue.shut_down(self._stop)
        with suppress(HemaxError):
            self._collect_published()

    def close(self) -> None:
        """Wait for a slide that is being published. The results folder must be held until then."""
        self._publish_queue.close()

    def _mark_not_reached(self) -> None:
        """End all slides that have not ended as not reached."""
        for job in self.jobs:
            if job.state in ("waiting", "working"):
                self._end_slide(job, "not reached", self._stop.reason or "the run ended early")
