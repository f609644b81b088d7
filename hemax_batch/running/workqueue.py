"""One queue for the regions of all slides: no worker waits at a slide's end, and the graph never grows.

Slides are opened and planned in order, only as far ahead as there is room; at most `executor.capacity` tasks are in
flight over all slides. Finished regions go to the journal as they come, so this process's memory does not grow with
them. A slide whose last region is in is handed on to be merged and written while the regions of the next are at work.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from ..errors import HemaxError, SlideError, UnreadableSlideError
from ..records import Region, RegionResult, Slide, TilePlan
from ..results.journal import RegionJournal
from ..slides.discovery import SlideFile
from ..slides.reader import reopen
from .planning import PlanJob, plan_slide
from .progress import Reporter
from .regions import Look, RegionJob, process_region, unreadable
from .scheduler import Finished
from .stopping import StopFlag, StopNow

_TRIES = 2  # of a region that fails unexpectedly
_POLL_S = 0.25
_DRAIN_S = 4.0  # for tasks in hand when the run is told to stop


@dataclass
class SlideWork:
    """One slide on its way. `state`: waiting, working, done, skipped, failed or not reached."""

    file: SlideFile
    slide: Slide | None = None
    fingerprint: str = ""
    journal: RegionJournal | None = None
    plan: TilePlan | None = None
    todo: deque[Region] = field(default_factory=deque)
    in_flight: int = 0
    lost: dict[int, RegionResult] = field(default_factory=dict)  # regions that could not be read
    state: str = "waiting"
    reason: str = ""
    failed_for_good: bool = False  # trying again would not help, unless slide, weights or settings change
    cells: int = 0
    warnings: tuple[str, ...] = ()
    begun: float = 0.0
    seconds: float = 0.0

    @property
    def slide_id(self) -> str:
        return self.file.slide_id

    def is_looked_at(self) -> bool:
        """Whether every region is back."""
        return self.state == "working" and self.plan is not None and not self.todo and not self.in_flight


class WorkQueue:
    """Takes slides from first look to finished result.

    admit(work)     opens the slide and decides: fills in slide, fingerprint and journal, or ends it (skipped, failed)
    finish(work)    merges and writes a slide whose regions are all in the journal; sets cells and warnings
    connect(work)   the executor, made when the first slide needs it
    """

    def __init__(
        self, files: list[SlideFile], look: Look, core_um: float, max_unreadable: float, stop: StopFlag,
        reporter: Reporter, admit: Callable[[SlideWork], None], finish: Callable[[SlideWork], None], connect: Callable,
        fail_fast: bool = False,
    ):  # fmt: skip
        self.works = [SlideWork(file) for file in files]
        self._look, self._core_um, self._max_unreadable = look, core_um, max_unreadable
        self._stop, self._reporter, self._fail_fast = stop, reporter, fail_fast
        self._admit, self._finish, self._connect = admit, finish, connect
        self._waiting = deque(self.works)
        self._planned: deque[SlideWork] = deque()
        self._executor = None
        self._finisher: ThreadPoolExecutor | None = None
        self._finishing: dict[Future, SlideWork] = {}
        self._tries: dict[tuple[str, int], int] = {}
        self._suspects: deque[tuple[SlideWork, Region]] = deque()

    def run(self) -> None:
        """Work until every slide has ended, or the stop flag is up; what is left then is `not reached`.

        Raises what concerns the whole run: OutputError (the results cannot be written), WeightsError, a lost scheduler.
        """
        try:
            while not self._stop:
                self._fill()
                if not self._in_flight() and not self._finishing and not self._suspects:
                    break
                self._take(_POLL_S)
            self._drain()
        except StopNow:
            pass
        finally:
            self._stop.acknowledge()
            self._close()
            self._leave_the_rest()

    def _in_flight(self) -> int:
        return self._executor.in_flight if self._executor else 0

    def _fill(self) -> None:
        """Submit until there is no room: regions of the earliest planned slide first, else the next slide's plan.

        Suspects, regions whose worker died, first wait until nothing else is in flight."""
        while not self._stop and (self._executor is None or self._executor.in_flight < self._executor.capacity):
            if self._suspects:
                if not self._executor.in_flight:
                    self._try_alone(*self._suspects.popleft())
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
        """Admit a slide and have it planned; alone in its run it is planned here, to see whether workers would pay."""
        work.begun, work.state = time.monotonic(), "working"
        try:
            self._admit(work)
            if work.state != "working":
                self._end(work, work.state, work.reason)
                return
            job = PlanJob(work.slide, self._core_um)
            if len(self.works) == 1:
                self._accept_plan(work, plan_slide(job))
                return
        except SlideError as error:
            self._end(work, "failed", str(error))
            return
        self._ready(work)
        work.in_flight += 1
        self._executor.submit((work, None), plan_slide, job, urgent=True)

    def _ready(self, work: SlideWork) -> None:
        """Make the executor, the first time."""
        if self._executor is None:
            self._executor = self._connect(work)
            if not self._executor.workers:  # ending a hung region's process would end the run
                self._look = replace(self._look, timeout_s=0.0)
            self._reporter.workers_started(self._executor.description)
            if self._executor.workers:
                self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")

    def _accept_plan(self, work: SlideWork, plan: TilePlan) -> None:
        done = work.journal.finished()
        work.plan = plan
        work.todo = deque(region for region in plan.regions if region.index not in done)
        finished = len(plan.regions) - len(work.todo)
        self._reporter.slide_planned(work.slide_id, len(plan.regions), finished, plan.scanned_mm2)
        self._ready(work)
        if work.todo:
            self._planned.append(work)
        else:
            self._start_finishing(work)

    def _submit_region(self, work: SlideWork) -> None:
        self._submit(work, work.todo.popleft(), self._look)

    def _submit(self, work: SlideWork, region: Region, look: Look) -> None:
        work.in_flight += 1
        job = RegionJob(work.slide, work.plan.stain, region, look)
        self._executor.submit((work, region), process_region, job)

    def _try_alone(self, work: SlideWork, region: Region) -> None:
        """A region whose worker died, with nothing else in flight and one patch at a time.

        Dask blames all tasks of a worker that dies; alone, the guilty one shows itself, and memory is at its least.
        """
        work.in_flight -= 1
        if work.state == "working":
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
        for future in [f for f in self._finishing if f.done()]:
            self._finished(self._finishing.pop(future), future)

    def _planned_or_failed(self, work: SlideWork, ended: Finished) -> None:
        if ended.error is None:
            self._accept_plan(work, ended.value)
        elif isinstance(ended.error, HemaxError) and not isinstance(ended.error, SlideError):
            raise ended.error
        else:
            self._end(work, "failed", _why(work, ended.error))

    def _region_back(self, work: SlideWork, region: Region, ended: Finished) -> None:
        """Journal a region; one that failed by its worker is tried again, one that cannot be read is set aside."""
        if isinstance(ended.error, HemaxError):
            raise ended.error
        result = ended.value
        if ended.error is not None:
            key = (work.slide_id, region.index)
            self._tries[key] = self._tries.get(key, 0) + 1
            if self._tries[key] < _TRIES:
                work.in_flight += 1  # still owed
                self._suspects.append((work, region))
                return
            result = unreadable(region.index, f"after {_TRIES} tries: {_why(work, ended.error)}")
        if result.failure:
            work.lost[region.index] = result
        else:
            work.journal.save(result)
        self._reporter.region_done(work.slide_id, result)
        if work.is_looked_at():
            self._start_finishing(work)

    def _start_finishing(self, work: SlideWork) -> None:
        share = unreadable_share(work)
        if share > self._max_unreadable:
            self._end(work, "failed", self._too_much_lost(work, share))
        elif self._finisher is None:
            future: Future = Future()
            try:
                future.set_result(self._finish(work))
            except Exception as error:
                future.set_exception(error)
            self._finished(work, future)
        else:
            self._finishing[self._finisher.submit(self._finish, work)] = work

    def _too_much_lost(self, work: SlideWork, share: float) -> str:
        """Why a slide fails of which too much could not be read; a slide that has vanished is another matter."""
        try:
            reopen(work.slide).close()
        except UnreadableSlideError as error:
            return str(error)
        work.failed_for_good = True
        first = next(iter(work.lost.values())).failure
        return (
            f"slide {work.slide_id!r} ({work.slide.path}): {100 * share:.1f} % of the scanned area could not be read, "
            f"the limit is {100 * self._max_unreadable:g} % (--max-unreadable); the first loss: {first}"
        )

    def _finished(self, work: SlideWork, future: Future) -> None:
        error = future.exception()
        if error is None:
            self._end(work, "done")
        elif isinstance(error, HemaxError) and not isinstance(error, SlideError):
            raise error
        else:
            self._end(work, "failed", _why(work, error))

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
        return self._executor.in_flight if self._executor and self._executor.workers else 0

    def _close(self) -> None:
        if self._executor is not None:
            self._executor.close()
        if self._finisher is not None:
            self._finisher.shutdown(wait=False, cancel_futures=True)

    def _leave_the_rest(self) -> None:
        for work in self.works:
            if work.state in ("waiting", "working"):
                self._end(work, "not reached", self._stop.reason or "the run ended early")


def unreadable_share(work: SlideWork) -> float:
    """Share of the scanned area whose regions could not be read, 0..1."""
    areas = {r.index: (r.core[2] - r.core[0]) * (r.core[3] - r.core[1]) for r in work.plan.regions}
    return sum(areas[i] for i in work.lost) / max(1, sum(areas.values()))


def _why(work: SlideWork, error: BaseException) -> str:
    """An error in words; an unexpected one with its kind and the slide's name."""
    if isinstance(error, SlideError):
        return str(error)
    return f"slide {work.slide_id!r} ({work.file.path}): {type(error).__name__}: {error}"
