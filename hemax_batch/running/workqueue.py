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
from ..records import Region, TilePlan
from ..slides.discovery import SlideFile
from ..slides.reader import check_unchanged
from .aside import GivenUp
from .chances import TRIES, Chances
from .executors import Finished
from .finishing import Finishing
from .planning import PlanJob, plan_slide
from .progress import Reporter
from .regions import Look, RegionJob, process_region, unreadable
from .slide_work import SlideWork, unreadable_share, why
from .stopping import EXIT_HUNG, StopFlag, StopNow, ended_if_hung
from .workers import Workers

_POLL_S = 0.25
_DRAIN_S = 4.0  # for tasks in hand when the run is told to stop


class WorkQueue:
    """Takes slides from first look to finished result.

    admit(work)     opens the slide and decides: fills in slide, fingerprint and journal, or ends it (skipped, failed)
    prepare()       loads what `finish` needs
    finish(work)    merges and writes a slide whose regions are all in the journal; sets cells and warnings
    workers         the executor, made when the first slide needs it
    apart(work, seconds, function, argument)   the function's value, from a process that is ended where it hangs
    hung()          what is to be said before this process ends itself, in which a region hangs
    """

    def __init__(
        self,
        files: list[SlideFile],
        look: Look,
        core_um: float,
        max_unreadable: float,
        stop: StopFlag,
        reporter: Reporter,
        admit: Callable[[SlideWork], None],
        prepare: Callable[[], None],
        finish: Callable[[SlideWork], None],
        workers: Workers,
        apart: Callable,
        hung: Callable[[], None],
        fail_fast: bool = False,
        cpu_for_gpu: bool = True,
    ):
        self.works = [SlideWork(file) for file in files]
        self._look, self._core_um, self._max_unreadable = look, core_um, max_unreadable
        self._stop, self._reporter, self._fail_fast = stop, reporter, fail_fast
        self._admit, self._prepare, self._finishing, self._workers = (
            admit,
            prepare,
            Finishing(finish),
            workers,
        )
        self._apart, self._hung, self._cpu_for_gpu = apart, hung, cpu_for_gpu
        self._waiting = deque(self.works)
        self._planned: deque[SlideWork] = deque()
        self._executor = None
        self._chances = Chances()

    def run(self) -> None:
        """Work until every slide has ended, or the stop flag is up; what is left then is `not reached`.

        Raises what concerns the whole run: OutputError (the results cannot be written), WeightsError, a lost scheduler.
        """
        try:
            with self._stop.interrupting():
                while not self._stop:
                    self._fill()
                    if not self._in_flight() and not self._finishing and not self._chances.suspects:
                        break
                    self._take(_POLL_S)
                self._drain()
        except StopNow:
            pass
        finally:
            self._close()
            self._leave_the_rest()

    def _in_flight(self) -> int:
        return self._executor.in_flight if self._executor else 0

    def _fill(self) -> None:
        """Submit until there is no room: regions of the earliest planned slide first, else the next slide's plan.

        Suspects, regions and plans whose worker died, first wait until nothing else is in flight."""
        while not self._stop and (
            self._executor is None or self._executor.in_flight < self._executor.capacity
        ):
            if self._chances.suspects:
                if not self._executor.in_flight:
                    self._try_alone(*self._chances.suspects.popleft())
                return
            while self._planned and not self._planned[0].todo:
                self._planned.popleft()
            if self._planned:
                self._submit_region(self._planned[0])
            elif self._waiting:
                self._begin(self._waiting.popleft())
            else:
                return

    def _begin(self, work: SlideWork) -> None:
        """Admit a slide and have it planned: the first one from here, while the workers are being started."""
        work.begun, work.state = time.monotonic(), "working"
        try:
            self._admit(work)
            if work.state != "working":
                self._end(work, work.state, work.reason)
                return
            self._workers.expect(work, alone=len(self.works) == 1)
            if self._executor is not None and self._executor.separate:
                work.in_flight += 1
                self._submit_plan(work)
            else:
                job = PlanJob(work.slide, self._core_um)
                self._accept_plan(work, self._apart(work, self._look.timeout_s, plan_slide, job))
        except GivenUp:
            self._end(work, "not reached", self._stop.reason)
        except Exception as error:
            if isinstance(error, HemaxError) and not isinstance(error, SlideError):
                raise
            self._end(work, "failed", why(work, error))

    def _submit_plan(self, work: SlideWork) -> None:
        job = PlanJob(work.slide, self._core_um, self._look.timeout_s)
        self._executor.submit((work, None), plan_slide, job, urgent=True)

    def _ready(self, work: SlideWork) -> None:
        """Make the executor, the first time."""
        if self._executor is None:
            try:
                self._executor = self._workers.get(work, alone=len(self.works) == 1)
            except HemaxError:
                raise
            except Exception as error:  # no slide is to blame
                raise HemaxError(
                    f"no workers: {type(error).__name__}: {error}; --workers 0 goes without"
                ) from error
            self._reporter.workers_started(self._executor.description)
            if self._executor.separate:
                self._finishing.go_beside(self._prepare)
            else:
                self._executor.watch = self._watch

    def _accept_plan(self, work: SlideWork, plan: TilePlan) -> None:
        done = work.journal.finished()
        work.plan = plan
        work.todo = deque(region for region in plan.regions if region.index not in done)
        finished = len(plan.regions) - len(work.todo)
        self._reporter.slide_planned(work.slide_id, len(plan.regions), finished, plan.scanned_mm2)
        self._ready(work)
        self._set_aside_hung(work)
        if work.todo:
            self._planned.append(work)
        else:
            self._start_finishing(work)

    def _set_aside_hung(self, work: SlideWork) -> None:
        """Without workers a region that hangs ends the run, so one that did so earlier is not tried again."""
        for index in () if self._executor.separate else work.journal.hung():
            work.todo = deque(region for region in work.todo if region.index != index)
            work.lost[index] = unreadable(
                index, "hung in an earlier run (--retry-failed tries it again)"
            )

    def _submit_region(self, work: SlideWork) -> None:
        self._submit(work, work.todo.popleft(), self._look)

    def _submit(self, work: SlideWork, region: Region, look: Look) -> None:
        work.in_flight += 1
        if not self._executor.separate:  # ending a hung region's process is left to the watch
            look = replace(look, timeout_s=0.0)
        job = RegionJob(work.slide, work.plan.stain, region, look)
        self._executor.submit((work, region), process_region, job)

    def _try_alone(self, work: SlideWork, region: Region | None) -> None:
        """A plan or a region whose worker died, with nothing else in flight and one patch at a time.

        Dask blames all tasks of a worker that dies; alone, the guilty one shows itself, and memory is at its least.
        """
        if work.state != "working":
            work.in_flight -= 1
        elif region is None:
            self._submit_plan(work)
        else:
            work.in_flight -= 1
            self._submit(work, region, replace(self._look, batch_size=1))

    def _take(self, timeout_s: float) -> None:
        """Deal with what has ended: plans, regions, finished slides."""
        for ended in self._executor.wait(timeout_s) if self._executor else ():
            work, region = ended.tag
            work.in_flight -= 1
            if work.state != "working":
                continue
            if region is None:
                self._planned_or_failed(work, ended)
            else:
                self._region_back(work, region, ended)
        self._take_written()

    def _take_written(self) -> None:
        for work, error in self._finishing.ended():
            if error is None:
                self._end(work, "done")
            elif isinstance(error, HemaxError) and not isinstance(error, SlideError):
                raise error
            else:
                self._end(work, "failed", why(work, error))

    def _planned_or_failed(self, work: SlideWork, ended: Finished) -> None:
        if ended.error is None:
            self._accept_plan(work, ended.value)
        elif isinstance(ended.error, SlideError):
            self._end(work, "failed", str(ended.error))
        elif isinstance(ended.error, HemaxError):
            raise ended.error
        elif not self._chances.again(work, None):
            self._end(work, "failed", f"{why(work, ended.error)} (planning it, {TRIES} times)")

    def _region_back(self, work: SlideWork, region: Region, ended: Finished) -> None:
        """Journal a region; one that failed by its worker is tried again, one that cannot be read is set aside."""
        result = ended.value
        if isinstance(ended.error, GpuLostError):
            if self._without_gpu(work, region, ended.error):
                return
        elif isinstance(ended.error, HemaxError):
            raise ended.error
        if ended.error is not None:
            if self._chances.again(work, region):
                return
            result = unreadable(region.index, f"after {TRIES} tries: {why(work, ended.error)}")
        if result.failure:
            work.lost[region.index] = result
        else:
            work.journal.save(result)
        self._reporter.region_done(work.slide_id, result)
        if work.is_looked_at():
            self._start_finishing(work)

    def _without_gpu(self, work: SlideWork, region: Region, lost: GpuLostError) -> bool:
        """Do what was asked for when a GPU is lost; whether the region, which is not to blame, is done again."""
        if self._executor.separate:
            done = self._executor.retire_gpu(lost, self._cpu_for_gpu)
        elif self._cpu_for_gpu:
            self._look, done = (
                replace(self._look, device="cpu"),
                "this process goes on without it, on the CPU",
            )
        else:
            raise lost
        self._reporter.warning(f"{lost}; {done or 'its worker is started anew'}")
        again = self._chances.again_without_gpu(work, region)
        if again:
            work.todo.append(region)
            if not any(other is work for other in self._planned):
                self._planned.append(work)
        return again

    def _watch(self, tag: tuple[SlideWork, Region | None]) -> AbstractContextManager:
        """Round a region in this very process: if it hangs that is noted for the next run, and the process ends."""

        def note() -> None:
            work, region = tag
            work.journal.note_hung(region.index)
            self._stop.stop(
                f"region {region.index} of {work.slide_id} hangs for over {self._look.timeout_s:g} s and this process "
                "cannot end it but with itself (--workers 1 can); the next run goes on without it",
                EXIT_HUNG,
            )
            self._leave_the_rest()
            self._hung()

        return ended_if_hung(self._look.timeout_s, note)

    def _start_finishing(self, work: SlideWork) -> None:
        share = unreadable_share(work)
        if share > self._max_unreadable:
            self._end(work, "failed", self._too_much_lost(work, share))
        else:
            self._finishing.submit(work)
            self._take_written()

    def _too_much_lost(self, work: SlideWork, share: float) -> str:
        """Why a slide fails of which too much could not be read; a slide that has vanished is another matter."""
        try:
            self._apart(work, 0.0, check_unchanged, work.slide)
        except UnreadableSlideError as error:
            return str(error)
        except GivenUp:
            return self._stop.reason
        work.failed_for_good = True
        first = next(iter(work.lost.values())).failure
        return (
            f"slide {work.slide_id!r} ({work.slide.path}): {100 * share:.1f} % of the scanned area could not be read, "
            f"the limit is {100 * self._max_unreadable:g} % (--max-unreadable); the first loss: {first}"
        )

    def _end(self, work: SlideWork, state: str, reason: str = "") -> None:
        work.state, work.reason = state, reason
        work.seconds = time.monotonic() - work.begun if work.begun else 0.0
        work.todo.clear()
        self._reporter.slide_ended(work.slide_id, state, work.cells, work.seconds, reason)
        if state == "failed" and self._fail_fast:
            self._stop.stop(f"--fail-fast: {reason}", 0)

    def _drain(self) -> None:
        """Once more what has come back, within `_DRAIN_S`; nothing new is begun."""
        deadline = time.monotonic() + _DRAIN_S
        while (self._finishing or self._still_out()) and time.monotonic() < deadline:
            self._take(_POLL_S)

    def _still_out(self) -> int:
        return self._executor.in_flight if self._executor and self._executor.separate else 0

    def _close(self) -> None:
        """End the workers, and take in the slide that is being written; why the run ends is settled by then."""
        self._workers.close()
        if self._executor is not None:
            self._executor.close()
        self._finishing.wind_up(self._stop)
        with suppress(HemaxError):
            self._take_written()

    def close(self) -> None:
        """Wait for a slide that is being written even now: the results folder must be held until then."""
        self._finishing.close()

    def _leave_the_rest(self) -> None:
        for work in self.works:
            if work.state in ("waiting", "working"):
                self._end(work, "not reached", self._stop.reason or "the run ended early")
