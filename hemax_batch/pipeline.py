"""The run, told in calls: slides in; a differential, masks and an explanation of every cell out.

find slides -> hold the results folder -> for each slide: current already? -> plan -> its regions, those of all
slides through one queue -> merge, measure, explain, count, write aside and rename (publish) -> run tables, run.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import OutputError, SlideError
from .model.checkpoint import WeightsCard, read_card
from .results.folder import ResultsFolder
from .results.journal import Failure, RegionJournal, forget_failure, note_failure, read_failure
from .results.lock import OutputLock
from .review.index import write_index
from .running.planning import PlanJob, plan_slide
from .running.progress import Reporter
from .running.publish import publish_slide, write_run_tables
from .running.regions import Look
from .running.run_record import RunSummary, summarise, write_run_record
from .running.scheduler import SerialExecutor, connect
from .running.stopping import StopFlag
from .running.workqueue import SlideWork, WorkQueue
from .settings import RunOptions, RunSettings
from .slides.companions import unchanged_for_s
from .slides.discovery import find_slides
from .slides.reader import open_slide


def run(inputs: Sequence[str], out: Path, settings: RunSettings, options: RunOptions) -> RunSummary:
    """Do all slides that `inputs` name, into `out`; returns how it ended. A slide's failure never stops the others.

    Raises UsageError, WeightsError, OutputError or LockedError where the run cannot begin.
    """
    job = Run(ResultsFolder(out), settings, options, read_card(options.weights))
    job.results.prepare()
    with (
        OutputLock(job.results.state, options.wait_lock_s),
        StopFlag(options.max_minutes) as stop,
        Reporter(options.quiet, options.log_json) as reporter,
    ):
        job.results.tidy()
        files = find_slides(inputs, job.results.known_ids())
        job.results.remember_ids({str(f.path): f.slide_id for f in files})
        reporter.run_started(len(files), str(job.results.root))
        queue = WorkQueue(
            files, job.look(), settings.core_um, settings.max_unreadable, stop, reporter,
            admit=job.admit, finish=job.finish, connect=job.connect, fail_fast=options.fail_fast,
        )  # fmt: skip
        try:
            queue.run()
        except OutputError as error:
            stop.stop(str(error), error.exit_code)
        summary = job.conclude(queue.works, stop)
        reporter.run_ended(summary.text, summary.exit_code)
        return summary


def dry_run(
    inputs: Sequence[str], out: Path, settings: RunSettings, options: RunOptions, say: Callable[[str], None]
) -> RunSummary:
    """Say what `run` would do with each slide, opening and planning it but writing nothing."""
    job = Run(ResultsFolder(out), settings, options, read_card(options.weights))
    works = [SlideWork(file) for file in find_slides(inputs, job.results.known_ids())]
    for work in works:
        work.state = "working"
        try:
            job.decide(work)
            if work.state == "working":
                plan = plan_slide(PlanJob(work.slide, settings.core_um))
                finished = len(work.journal.finished())
                work.reason = f"{len(plan.regions)} regions, {plan.scanned_mm2:.1f} mm², {finished} finished before"
        except SlideError as error:
            work.state, work.reason = "failed", str(error)
        would = "would be done" if work.state == "working" else work.state
        say(f"{work.slide_id}: {would}" + (f" ({work.reason})" if work.reason else ""))
    summary = summarise(works, "", 0, 0.0, str(job.results.root))
    to_do = sum(work.state == "working" for work in works)
    return RunSummary(summary.exit_code, f"{len(works)} slides, {to_do} to do; --dry-run: nothing was written")


@dataclass
class Run:
    """What the steps of one run share, and the steps that concern one slide."""

    results: ResultsFolder
    settings: RunSettings
    options: RunOptions
    card: WeightsCard
    workers: str = "none were needed"
    begun: float = field(default_factory=time.time)

    def look(self) -> Look:
        """How every region is looked at."""
        weights = os.path.abspath(self.options.weights) if self.options.weights else None
        return Look(
            weights, self.card.sha256, self.settings.exhaustive, self.settings.audit, self.options.batch_size,
            timeout_s=self.options.region_timeout_s,
        )  # fmt: skip

    def admit(self, work: SlideWork) -> None:
        """Open a slide and decide what becomes of it; then clear away what other circumstances left."""
        self.decide(work)
        if work.journal is not None:
            work.journal.sweep()
        if work.state == "skipped" or (work.state == "working" and self.options.overwrite):
            work.journal.clear()  # of a skipped one: a run killed between publishing and this left it

    def decide(self, work: SlideWork) -> None:
        """Leave `work` as working, or end it: current already, or failed before and unchanged. Changes no file.

        Raises SlideError where the slide cannot be opened, or its results folder is not ours.
        """
        if self.options.settle_s and (quiet_s := unchanged_for_s(work.file.path)) < self.options.settle_s:
            work.state = "not reached"
            work.reason = f"changed {quiet_s:.0f} s ago, --settle {self.options.settle_s:g}: the next run takes it"
            return
        with open_slide(work.file.path, work.slide_id, self.settings.mpp) as reader:
            work.slide = reader.slide
        work.fingerprint = self.settings.result_fingerprint(work.slide.fingerprint, self.card.sha256)
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
        if before is not None and before.fingerprint == work.fingerprint and not self.options.retry_failed:
            work.state, work.reason = (
                "failed",
                f"failed before and unchanged (--retry-failed tries again): {before.reason}",
            )

    def connect(self, work: SlideWork):
        """Workers, once a slide needs them. One slide of one region does not pay for starting processes."""
        alone = work.plan is not None and len(work.todo) <= 1
        asked = self.options.workers is not None or self.options.scheduler or self.options.scheduler_file
        executor = SerialExecutor() if alone and not asked else connect(self.options)
        self.workers = executor.description
        return executor

    def finish(self, work: SlideWork) -> None:
        """All regions are in the journal (or lost): publish the slide, then drop its journal."""
        min_confidence = self.settings.min_confidence
        if min_confidence is None:
            min_confidence = self.card.min_confidence
        record = publish_slide(self.results, work, self.settings, min_confidence, self.card.sha256)
        work.cells, work.warnings = record.cells, record.warnings
        work.journal.clear()
        forget_failure(self.results.state, work.slide_id)

    def conclude(self, works: list[SlideWork], stop: StopFlag) -> RunSummary:
        """Note what failed for good; write the tables over all slides, `run.json` and `index.html`; the summary."""

        def summary() -> RunSummary:
            return summarise(works, stop.reason, stop.exit_code, time.time() - self.begun, str(self.results.root))

        try:
            for work in works:
                if work.failed_for_good:
                    note_failure(self.results.state, work.slide_id, Failure(work.fingerprint, work.reason))
            write_run_tables(self.results)
            write_run_record(
                self.results, works, self.settings, self.options, self.card.sha256, self.begun, summary(), self.workers
            )
            write_index(self.results)  # last: it has the slides that failed from run.json
        except OutputError as error:
            stop.stop(str(error), error.exit_code)
        return summary()
