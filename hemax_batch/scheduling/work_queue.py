"""One queue for the regions of all slides: no worker waits at a slide's end, and the graph never grows.

Slides are opened and planned in order, only as far ahead as there is room; at most `executor.capacity` tasks are in
flight over all slides. Finished regions go to the journal as they come, so this process's memory does not grow with
them. A slide whose last region is in is handed on to be merged and written while the regions of the next are at work.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace

from ..errors import GpuLostError, HemaxError, SlideError, UnreadableSlideError
from ..inference.config import InferenceConfig, RegionTask
from ..inference.plan_task import PlanTask, plan_slide
from ..inference.region_task import process_region, unreadable_region
from ..records import Region, TilePlan
from ..slides.discovery import SlideFile
from ..slides.reader import check_unchanged
from .executor_factory import ExecutorFactory
from .executors import TaskResult
from .progress import ProgressReporter
from .publish_queue import PublishQueue
from .retries import MAX_ATTEMPTS, RetryPolicy
from .slide_job import SlideJob, failure_reason, unreadable_share
from .stopping import EXIT_HUNG, StopFlag, StopNow, exit_if_hung
from .subprocess_caller import CallCancelled

_POLL_S = 0.25
_DRAIN_S = 4.0  # for tasks in hand when the run is told to stop


class WorkQueue:
    """Takes slides from first look to finished result.

    open_slide(job)     opens the slide and decides: fills in slide, fingerprint and journal, or ends it (skipped, failed)
    preload_writers()   loads what `publish` needs
    publish(job)        merges and writes a slide whose regions are all in the journal; sets cells and warnings
    executors           the executor, made when the first slide needs it
    call_with_timeout(job, seconds, function, argument)   the function's value, from a process that is ended where it
                        hangs
    on_hang()           what is to be said before this process ends itself, in which a region hangs
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
        call_with_timeout: Callable,
        on_hang: Callable[[], None],
        fail_fast: bool = False,
        cpu_after_gpu_loss: bool = True,
    ):
        self.jobs = [SlideJob(file) for file in files]
        self._config, self._core_um, self._max_unreadable = config, core_um, max_unreadable
        self._stop, self._reporter, self._fail_fast = stop, reporter, fail_fast
        self._open_slide, self._preload_writers, self._publish_queue, self._executors = (
            open_slide,
            preload_writers,
            PublishQueue(publish),
            executors,
        )
        self._call_with_timeout, self._on_hang, self._cpu_after_gpu_loss = (
            call_with_timeout,
            on_hang,
            cpu_after_gpu_loss,
        )
        self._waiting = deque(self.jobs)
        self._planned: deque[SlideJob] = deque()
        self._executor = None
        self._retries = RetryPolicy()

    def run(self) -> None:
        """Work until every slide has ended, or the stop flag is up; what is left then is `not reached`.

        Raises what concerns the whole run: OutputError (the results cannot be written), WeightsError, a lost scheduler.
        """
        try:
            with self._stop.interruptible():
                while not self._stop:
                    self._submit_ready()
                    if (
                        not self._in_flight()
                        and not self._publish_queue
                        and not self._retries.quarantined
                    ):
                        break
                    self._collect_finished(_POLL_S)
                self._drain()
        except StopNow:
            pass
        finally:
            self._close()
            self._mark_not_reached()

    def _in_flight(self) -> int:
        return self._executor.in_flight if self._executor else 0

    def _submit_ready(self) -> None:
        """Submit until there is no room: regions of the earliest planned slide first, else the next slide's plan.

        Quarantined regions and plans whose worker died, first wait until nothing else is in flight."""
        while not self._stop and (
            self._executor is None or self._executor.in_flight < self._executor.capacity
        ):
            if self._retries.quarantined:
                if not self._executor.in_flight:
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
        """Admit a slide and have it planned: the first one from here, while the workers are being started."""
        job.started_at, job.state = time.monotonic(), "working"
        try:
            self._open_slide(job)
            if job.state != "working":
                self._end_slide(job, job.state, job.reason)
                return
            self._executors.prefetch(job, alone=len(self.jobs) == 1)
            if self._executor is not None and self._executor.out_of_process:
                job.in_flight += 1
                self._submit_plan(job)
            else:
                task = PlanTask(job.slide, self._core_um)
                self._accept_plan(
                    job, self._call_with_timeout(job, self._config.timeout_s, plan_slide, task)
                )
        except CallCancelled:
            self._end_slide(job, "not reached", self._stop.reason)
        except Exception as error:
            if isinstance(error, HemaxError) and not isinstance(error, SlideError):
                raise
            self._end_slide(job, "failed", failure_reason(job, error))

    def _submit_plan(self, job: SlideJob) -> None:
        task = PlanTask(job.slide, self._core_um, self._config.timeout_s)
        self._executor.submit((job, None), plan_slide, task, urgent=True)

    def _ensure_executor(self, job: SlideJob) -> None:
        """Make the executor, the first time."""
        if self._executor is None:
            try:
                self._executor = self._executors.get(job, alone=len(self.jobs) == 1)
            except HemaxError:
                raise
            except Exception as error:  # no slide is to blame
                raise HemaxError(
                    f"no workers: {type(error).__name__}: {error}; --workers 0 goes without"
                ) from error
            self._reporter.workers_started(self._executor.description)
            if self._executor.out_of_process:
                self._publish_queue.run_in_thread(self._preload_writers)
            else:
                self._executor.watchdog = self._watchdog

    def _accept_plan(self, job: SlideJob, plan: TilePlan) -> None:
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
        """Without workers a region that hangs ends the run, so one that did so earlier is not tried again."""
        for index in () if self._executor.out_of_process else job.journal.hung():
            job.todo = deque(region for region in job.todo if region.index != index)
            job.unreadable[index] = unreadable_region(
                index, "hung in an earlier run (--retry-failed tries it again)"
            )

    def _submit_region(self, job: SlideJob) -> None:
        self._submit(job, job.todo.popleft(), self._config)

    def _submit(self, job: SlideJob, region: Region, config: InferenceConfig) -> None:
        job.in_flight += 1
        if not self._executor.out_of_process:  # ending a hung region's process is left to the watch
            config = replace(config, timeout_s=0.0)
        task = RegionTask(job.slide, job.plan.stain, region, config)
        self._executor.submit((job, region), process_region, task)

    def _retry_alone(self, job: SlideJob, region: Region | None) -> None:
        """A plan or a region whose worker died, with nothing else in flight and one patch at a time.

        Dask blames all tasks of a worker that dies; alone, the guilty one shows itself, and memory is at its least.
        """
        if job.state != "working":
            job.in_flight -= 1
        elif region is None:
            self._submit_plan(job)
        else:
            job.in_flight -= 1
            self._submit(job, region, replace(self._config, batch_size=1))

    def _collect_finished(self, timeout_s: float) -> None:
        """Deal with what has ended: plans, regions, finished slides."""
        for result in self._executor.wait(timeout_s) if self._executor else ():
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
        for job, error in self._publish_queue.finished():
            if error is None:
                self._end_slide(job, "done")
            elif isinstance(error, HemaxError) and not isinstance(error, SlideError):
                raise error
            else:
                self._end_slide(job, "failed", failure_reason(job, error))

    def _on_plan_finished(self, job: SlideJob, result: TaskResult) -> None:
        if result.error is None:
            self._accept_plan(job, result.value)
        elif isinstance(result.error, SlideError):
            self._end_slide(job, "failed", str(result.error))
        elif isinstance(result.error, HemaxError):
            raise result.error
        elif not self._retries.should_retry(job, None):
            self._end_slide(
                job,
                "failed",
                f"{failure_reason(job, result.error)} (planning it, {MAX_ATTEMPTS} times)",
            )

    def _on_region_finished(self, job: SlideJob, region: Region, finished: TaskResult) -> None:
        """Journal a region; one that failed by its worker is tried again, one that cannot be read is set aside."""
        result = finished.value
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
        """Do what was asked for when a GPU is lost; whether the region, which is not to blame, is done again."""
        if self._executor.out_of_process:
            action = self._executor.retire_gpu(lost, self._cpu_after_gpu_loss)
        elif self._cpu_after_gpu_loss:
            self._config, action = (
                replace(self._config, device="cpu"),
                "this process goes on without it, on the CPU",
            )
        else:
            raise lost
        self._reporter.warning(f"{lost}; {action or 'its worker is started anew'}")
        should_retry = self._retries.should_retry_without_gpu(job, region)
        if should_retry:
            job.todo.append(region)
            if not any(other is job for other in self._planned):
                self._planned.append(job)
        return should_retry

    def _watchdog(self, tag: tuple[SlideJob, Region | None]) -> AbstractContextManager:
        """Round a region in this very process: if it hangs that is noted for the next run, and the process ends."""

        def record_hang() -> None:
            job, region = tag
            job.journal.note_hung(region.index)
            self._stop.stop(
                f"region {region.index} of {job.slide_id} hangs for over {self._config.timeout_s:g} s and this process "
                "cannot end it but with itself (--workers 1 can); the next run goes on without it",
                EXIT_HUNG,
            )
            self._mark_not_reached()
            self._on_hang()

        return exit_if_hung(self._config.timeout_s, record_hang)

    def _start_publishing(self, job: SlideJob) -> None:
        share = unreadable_share(job)
        if share > self._max_unreadable:
            self._end_slide(job, "failed", self._unreadable_reason(job, share))
        else:
            self._publish_queue.submit(job)
            self._collect_published()

    def _unreadable_reason(self, job: SlideJob, share: float) -> str:
        """Why a slide fails of which too much could not be read; a slide that has vanished is another matter."""
        try:
            self._call_with_timeout(job, 0.0, check_unchanged, job.slide)
        except UnreadableSlideError as error:
            return str(error)
        except CallCancelled:
            return self._stop.reason
        job.failed_permanently = True
        failures = (*(r.failure for r in job.unreadable.values()), *job.damaged.values())
        return (
            f"slide {job.slide_id!r} ({job.slide.path}): {100 * share:.1f} % of the scanned area could not be read, "
            f"the limit is {100 * self._max_unreadable:g} % (--max-unreadable); the first loss: {failures[0]}"
        )

    def _end_slide(self, job: SlideJob, state: str, reason: str = "") -> None:
        job.state, job.reason = state, reason
        job.seconds = time.monotonic() - job.started_at if job.started_at else 0.0
        job.todo.clear()
        self._reporter.slide_ended(job.slide_id, state, job.cells, job.seconds, reason)
        for text in job.alarms:
            self._reporter.warning(f"{job.slide_id}: {text}")
        if state == "failed" and self._fail_fast:
            self._stop.stop(f"--fail-fast: {reason}", 0)

    def _drain(self) -> None:
        """Once more what has come back, within `_DRAIN_S`; nothing new is begun."""
        deadline = time.monotonic() + _DRAIN_S
        while (self._publish_queue or self._tasks_in_flight()) and time.monotonic() < deadline:
            self._collect_finished(_POLL_S)

    def _tasks_in_flight(self) -> int:
        return self._executor.in_flight if self._executor and self._executor.out_of_process else 0

    def _close(self) -> None:
        """End the workers, and take in the slide that is being written; why the run ends is settled by then."""
        self._executors.close()
        if self._executor is not None:
            self._executor.close()
        self._publish_queue.shut_down(self._stop)
        with suppress(HemaxError):
            self._collect_published()

    def close(self) -> None:
        """Wait for a slide that is being written even now: the results folder must be held until then."""
        self._publish_queue.close()

    def _mark_not_reached(self) -> None:
        for job in self.jobs:
            if job.state in ("waiting", "working"):
                self._end_slide(job, "not reached", self._stop.reason or "the run ended early")
