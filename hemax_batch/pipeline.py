"""The run, told in calls: slides in; a differential, masks and an explanation of every cell out.

find slides -> hold the results folder -> for each slide: current already? -> plan -> its regions, those of all
slides through one queue -> merge, measure, explain, count, write aside and rename (publish) -> run tables, run.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from .errors import HemaxError, OutputError, SlideError, UnreadableSlideError, UsageError
from .model.checkpoint import WeightsCard, read_card, refuse_shuffled
from .model.openvino_network import check_engine
from .results.folder import ResultsFolder
from .results.journal import Failure, RegionJournal, forget_failure, note_failure, read_failure
from .results.leftovers import clear_leftovers
from .results.lock import OutputLock
from .running.aside import Aside, GivenUp, NoAnswer
from .running.planning import PlanJob, plan_slide
from .running.progress import Reporter
from .running.regions import Look
from .running.resources import cpu_limit
from .running.run_record import RunSummary, summarise, write_run_record
from .running.slide_work import SlideWork
from .running.stopping import StopFlag
from .running.workers import Workers
from .running.workqueue import WorkQueue
from .settings import RunOptions, RunSettings
from .slides.companions import unchanged_for_s
from .slides.discovery import SlideFile, check_there, find_slides
from .slides.reader import record_slide

_FIND_TIMEOUT_S = (
    3600.0  # for all inputs: a share with a million files takes its time, one that is gone for ever
)
_SILENT_TIMEOUT_S = 10.0


def run(inputs: Sequence[str], out: Path, settings: RunSettings, options: RunOptions) -> RunSummary:
    """Do all slides that `inputs` name, into `out`; returns how it ended. A slide's failure never stops the others.

    Raises UsageError, WeightsError, OutputError, LockedError or StoppedError where the run cannot begin.
    """
    results, card = ResultsFolder(out), refuse_shuffled(read_card(options.weights))
    check_engine(settings.engine)
    with (
        Aside() as aside,
        StopFlag(options.max_minutes) as stop,
        OutputLock(_prepared(results, inputs, aside), options.wait_lock_s, stop.check),
        Reporter(options.quiet, options.log_json) as reporter,
    ):
        aside.give_up = lambda: bool(stop.reason)
        job = Run(results, settings, options, card, aside)
        results.tidy()
        clear_leftovers(results)
        files = job.find(inputs)
        aside.give_up = lambda: bool(stop)  # --max-minutes too: the slides are known now
        results.remember_ids({str(f.path): f.slide_id for f in files})
        reporter.run_started(len(files), str(results.root))

        def conclude() -> RunSummary:
            summary = job.conclude(queue.works, stop)
            reporter.run_ended(summary.text, summary.exit_code)
            return summary

        queue = WorkQueue(
            files,
            job.look(),
            settings.core_um,
            settings.max_unreadable,
            stop,
            reporter,
            admit=job.admit,
            prepare=job.prepare,
            finish=job.finish,
            workers=job.workers,
            apart=job.apart,
            hung=lambda: reporter.warning(conclude().text),
            fail_fast=options.fail_fast,
            cpu_for_gpu=options.on_gpu_loss == "cpu",
        )
        with closing(queue):
            try:
                queue.run()
            except HemaxError as error:
                stop.stop(str(error), error.exit_code)
            except Exception as error:
                stop.stop(f"unexpected {type(error).__name__}: {error}", HemaxError.exit_code)
                conclude()
                raise
            return conclude()


def _prepared(results: ResultsFolder, inputs: Sequence[str], aside: Aside) -> Path:
    """The folder of the results' state, made where it is missing, but not for inputs that do not exist: it may lie in one."""
    _searched(aside, inputs, check_there, inputs)
    results.prepare()
    return results.state


def _searched(aside: Aside, inputs: Sequence[str], function: Callable, *arguments: object):
    """`function(*arguments)`, which looks for slides, apart. UsageError where it hangs."""
    try:
        return aside.call(function, *arguments, timeout_s=_FIND_TIMEOUT_S)
    except NoAnswer as error:
        raise UsageError(
            f"{', '.join(map(str, inputs))}: searching for slides {error}; is the share mounted?"
        ) from None


def dry_run(
    inputs: Sequence[str],
    out: Path,
    settings: RunSettings,
    options: RunOptions,
    say: Callable[[str], None],
) -> RunSummary:
    """Say what `run` would do with each slide, opening and planning it but writing nothing."""
    card = refuse_shuffled(read_card(options.weights))
    check_engine(settings.engine)
    with Aside() as aside:
        return _dry_run(inputs, Run(ResultsFolder(out), settings, options, card, aside), say)


def _dry_run(inputs: Sequence[str], job: Run, say: Callable[[str], None]) -> RunSummary:
    works = [SlideWork(file) for file in job.find(inputs)]
    for work in works:
        work.state = "working"
        try:
            job.decide(work)
            if work.state == "working":
                plan = job.apart(
                    work,
                    job.options.region_timeout_s,
                    plan_slide,
                    PlanJob(work.slide, job.settings.core_um),
                )
                finished = len(work.journal.finished(remove_damaged=False))
                work.reason = f"{len(plan.regions)} regions, {plan.scanned_mm2:.1f} mm², {finished} finished before"
        except SlideError as error:
            work.state, work.reason = "failed", str(error)
        would = "would be done" if work.state == "working" else work.state
        say(f"{work.slide_id}: {would}" + (f" ({work.reason})" if work.reason else ""))
    summary = summarise(works, "", 0, 0.0, str(job.results.root))
    to_do = sum(work.state == "working" for work in works)
    return RunSummary(
        summary.exit_code, f"{len(works)} slides, {to_do} to do; --dry-run: nothing was written"
    )


@dataclass
class Run:
    """What the steps of one run share, and the steps that concern one slide."""

    results: ResultsFolder
    settings: RunSettings
    options: RunOptions
    card: WeightsCard
    aside: Aside
    silent: set[Path] = field(default_factory=set)  # folders in which opening a slide hung
    begun: float = field(default_factory=time.time)
    workers: Workers = field(init=False)

    def __post_init__(self):
        self.workers = Workers(self.options, self.settings.core_um, self.settings.engine)

    def look(self) -> Look:
        """How every region is looked at."""
        weights = os.path.abspath(self.options.weights) if self.options.weights else None
        return Look(
            weights,
            self.card.sha256,
            self.settings.exhaustive,
            self.settings.audit,
            self.options.batch_size,
            device="cpu" if self.options.gpus == 0 else "auto",
            timeout_s=self.options.region_timeout_s,
            engine=self.settings.engine,
        )

    def find(self, inputs: Sequence[str]) -> list[SlideFile]:
        """The slides that `inputs` name; [] where the run is told to stop meanwhile."""
        try:
            return _searched(self.aside, inputs, find_slides, inputs, self.results.known_ids())
        except GivenUp:
            return []

    def apart(self, work: SlideWork, timeout_s: float, function: Callable, *arguments: object):
        """`function(*arguments)`, which reads a slide, in a process that is ended where it hangs; 0: after the time
        that opening may take. A slide beside one that hung is given far less: its share may be gone.

        Raises UnreadableSlideError where it hangs or ends that process, GivenUp where the run is told to stop.
        """
        timeout_s = timeout_s or self.options.open_timeout_s
        if work.file.path.parent in self.silent:
            timeout_s = min(timeout_s, _SILENT_TIMEOUT_S)
        try:
            value = self.aside.call(function, *arguments, timeout_s=timeout_s)
        except NoAnswer as error:
            self.silent.add(work.file.path.parent)
            raise UnreadableSlideError(
                f"slide {work.slide_id!r} ({work.file.path}): reading it {error}; is its share still mounted, "
                "is the file sound?"
            ) from None
        self.silent.discard(work.file.path.parent)
        return value

    def admit(self, work: SlideWork) -> None:
        """Open a slide and decide what becomes of it; then clear away what other circumstances left."""
        self.decide(work)
        if work.journal is not None:
            work.journal.sweep()
        if work.state == "skipped" or (work.state == "working" and self.options.overwrite):
            work.journal.clear()  # of a skipped one: a run killed between publishing and this left it
        if work.state == "skipped":
            forget_failure(self.results.state, work.slide_id)
        if work.state == "working" and self.options.retry_failed:
            work.journal.forget_hung()

    def decide(self, work: SlideWork) -> None:
        """Leave `work` as working, or end it: current already, or failed before and unchanged. Changes no file.

        Raises SlideError where the slide cannot be opened, or its results folder is not ours.
        """
        path, settle_s = work.file.path, self.options.settle_s
        if settle_s and (quiet_s := self.apart(work, 0.0, unchanged_for_s, path)) < settle_s:
            work.state = "not reached"
            work.reason = (
                f"changed {quiet_s:.0f} s ago, --settle {settle_s:g}: the next run takes it"
            )
            return
        work.slide = self.apart(work, 0.0, record_slide, path, work.slide_id, self.settings.mpp)
        work.fingerprint = self.settings.result_fingerprint(
            work.slide.fingerprint, self.card.sha256
        )
        work.journal = RegionJournal.of(self.results.state, work.slide_id, work.fingerprint)
        self.results.check_ours(work.slide_id)
        if self.options.overwrite:
            return
        record = self.results.record(work.slide_id)
        if record is not None and record.fingerprint == work.fingerprint:
            if not (self.options.retry_failed and record.unreadable_regions):
                work.state, work.cells, work.warnings = "skipped", record.cells, record.warnings
            return
        before = read_failure(self.results.state, work.slide_id)
        if (
            before is not None
            and before.fingerprint == work.fingerprint
            and not self.options.retry_failed
        ):
            work.state, work.reason = (
                "failed",
                f"failed before and unchanged (--retry-failed tries again): {before.reason}",
            )

    def prepare(self) -> None:
        """Load what publishing needs, while the workers work."""
        from .running import publish  # noqa: F401 - loads zarr

    def finish(self, work: SlideWork) -> None:
        """All regions are in the journal (or lost): publish the slide, then drop its journal."""
        from .running.publish import publish_slide

        min_confidence = self.settings.min_confidence
        if min_confidence is None:
            min_confidence = self.card.min_confidence
        processes = cpu_limit() if self.options.workers is None else self.options.workers
        record = publish_slide(
            self.results, work, self.settings, min_confidence, self.card.sha256, processes
        )
        work.cells, work.warnings = record.cells, record.warnings
        work.journal.clear()
        forget_failure(self.results.state, work.slide_id)

    def conclude(self, works: list[SlideWork], stop: StopFlag) -> RunSummary:
        """Note what failed for good; write the tables over all slides, `run.json` and `index.html`; the summary."""
        from .review.index import write_index
        from .running.publish import write_run_tables

        def summary() -> RunSummary:
            return summarise(
                works, stop.reason, stop.exit_code, time.time() - self.begun, str(self.results.root)
            )

        try:
            for work in works:
                if work.failed_for_good:
                    note_failure(
                        self.results.state, work.slide_id, Failure(work.fingerprint, work.reason)
                    )
            write_run_tables(self.results)
            write_run_record(
                self.results,
                works,
                self.settings,
                self.options,
                self.card.sha256,
                self.begun,
                summary(),
                self.workers.description,
            )
            write_index(self.results)  # last: it has the slides that failed from run.json
        except OutputError as error:
            stop.stop(str(error), error.exit_code)
        return summary()
