"""A run in calls: slides in; a differential, masks and an explanation of every cell out.

Steps: find slides; lock the results folder; for each slide decide whether its results are current and
plan it; process the regions of all slides in one queue; merge, measure, explain and count the cells of
each slide; publish its results; write the tables over all slides and run.json.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from .errors import (
    HemaxError,
    LockedError,
    OutputError,
    SlideError,
    UnreadableSlideError,
    UsageError,
)
from .inference.config import InferenceConfig
from .inference.plan_task import PlanTask, plan_slide
from .model.checkpoint import WeightsCard, read_card, reject_shuffled_labels
from .model.engines.selection import check_engine
from .publishing.run_record import RunSummary, summarise_run, write_run_record
from .results.cleanup import remove_stale_files
from .results.folder import ResultsFolder
from .results.journal import (
    RegionJournal,
    SlideFailure,
    clear_failure,
    read_failure,
    record_failure,
)
from .results.lock import OutputLock
from .scheduling.executor_factory import ExecutorFactory
from .scheduling.progress import ProgressReporter
from .scheduling.resources import cpu_limit
from .scheduling.slide_job import SlideJob
from .scheduling.stopping import StopFlag
from .scheduling.subprocess_caller import CallCancelled, CallTimedOut, SubprocessCaller
from .scheduling.work_queue import WorkQueue
from .settings import RunOptions, RunSettings
from .slides.discovery import SlideFile, check_inputs_exist, find_slides
from .slides.formats.companion_files import FileTimes, file_times
from .slides.reader import record_slide

# For all inputs. A share with a million files needs long, and a lost share never answers.
_FIND_TIMEOUT_S = 3600.0
_UNRESPONSIVE_TIMEOUT_S = 10.0
_SETTLE_POLL_S = 0.5
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run(
    inputs: Sequence[str],
    out: Path,
    settings: RunSettings,
    options: RunOptions,
    per_slide: Mapping[str, RunSettings] | None = None,
) -> RunSummary:
    """Process all slides that `inputs` name into the folder `out`.

    A slide's failure never stops the others.

    Raises
    ------
    UsageError, WeightsError, OutputError, LockedError, StoppedError
        The run cannot begin.
    """
    results, card = ResultsFolder(out), reject_shuffled_labels(read_card(options.weights))
    check_engine(settings.engine)
    with (
        SubprocessCaller() as subprocess_caller,
        StopFlag(options.max_minutes) as stop,
        OutputLock(
            _prepare_results_folder(results, inputs, subprocess_caller),
            options.wait_lock_s,
            stop.check,
        ) as lock,
        ProgressReporter(options.quiet, options.log_json) as reporter,
    ):
        subprocess_caller.is_cancelled = lambda: bool(stop.reason)
        context = RunContext(
            results, settings, options, card, subprocess_caller, per_slide=per_slide or {}
        )
        context.warn, context.lock = reporter.warning, lock
        results.recover_interrupted()
        remove_stale_files(results)
        files = context.find_slides(inputs)
        # From here --max-minutes stops calls too, because the slides are known.
        subprocess_caller.is_cancelled = lambda: bool(stop)
        results.save_ids({str(f.path): f.slide_id for f in files})
        reporter.run_started(len(files), str(results.root))

        def write_run_outputs() -> RunSummary:
            summary = context.write_run_outputs(queue.jobs, stop, reporter.warnings)
            reporter.run_ended(summary.text, summary.exit_code)
            return summary

        queue = WorkQueue(
            files,
            context.inference_config(),
            settings.core_um,
            settings.max_unreadable,
            stop,
            reporter,
            open_slide=context.open_slide,
            preload_writers=context.preload_writers,
            publish=context.publish,
            executors=context.executors,
            call_with_timeout=context.call_with_timeout,
            on_hang=lambda: reporter.warning(write_run_outputs().text),
            fail_fast=options.fail_fast,
            cpu_after_gpu_loss=options.on_gpu_loss == "cpu",
        )
        context.waiting_slides = lambda: [j.file.path for j in queue.jobs if j.state == "waiting"]
        with closing(queue):
            try:
                queue.run()
            except HemaxError as error:
                stop.stop(str(error), error.exit_code)
            except Exception as error:
                stop.stop(f"unexpected {type(error).__name__}: {error}", HemaxError.exit_code)
                write_run_outputs()
                raise
            return write_run_outputs()


def _prepare_results_folder(
    results: ResultsFolder, inputs: Sequence[str], subprocess_caller: SubprocessCaller
) -> Path:
    """Create the results folder and return the folder of its state.

    It is not created if an input does not exist, because it may lie in that input.
    """
    _search_with_timeout(subprocess_caller, inputs, check_inputs_exist, inputs)
    results.prepare()
    return results.state


def _search_with_timeout(
    subprocess_caller: SubprocessCaller,
    inputs: Sequence[str],
    function: Callable[[*Ts], T],
    *arguments: *Ts,
) -> T:
    """Return `function(*arguments)`, which searches for slides in another process.

    Raises UsageError if it hangs.
    """
    try:
        return subprocess_caller.call(function, *arguments, timeout_s=_FIND_TIMEOUT_S)
    except CallTimedOut as error:
        raise UsageError(
            f"{', '.join(map(str, inputs))}: searching for slides {error}; is the share mounted?"
        ) from None


def dry_run(
    inputs: Sequence[str],
    out: Path,
    settings: RunSettings,
    options: RunOptions,
    echo: Callable[[str], None],
    per_slide: Mapping[str, RunSettings] | None = None,
) -> RunSummary:
    """Report what `run` would do with each slide. Slides are opened and planned. Nothing is written."""
    card = reject_shuffled_labels(read_card(options.weights))
    check_engine(settings.engine)
    with SubprocessCaller() as subprocess_caller:
        return _dry_run(
            inputs,
            RunContext(
                ResultsFolder(out),
                settings,
                options,
                card,
                subprocess_caller,
                per_slide=per_slide or {},
            ),
            echo,
        )


def _dry_run(inputs: Sequence[str], context: RunContext, echo: Callable[[str], None]) -> RunSummary:
    """Do the work of `dry_run`."""
    jobs = [SlideJob(file) for file in context.find_slides(inputs)]
    for job in jobs:
        job.state = "working"
        try:
            context.resume_decision(job)
            if job.state == "working":
                plan = context.call_with_timeout(
                    job,
                    context.options.region_timeout_s,
                    plan_slide,
                    PlanTask(job.slide, context.settings.core_um),
                )
                finished = len(job.journal.finished(remove_damaged=False))
                job.reason = (
                    f"{len(plan.regions)} regions, {plan.scanned_mm2:.1f} mm², "
                    f"{finished} finished before"
                )
        except SlideError as error:
            job.state, job.reason = "failed", str(error)
        outcome = "would be done" if job.state == "working" else job.state
        echo(f"{job.slide_id}: {outcome}" + (f" ({job.reason})" if job.reason else ""))
    summary = summarise_run(jobs, "", 0, 0.0, str(context.results.root))
    to_do = sum(job.state == "working" for job in jobs)
    return RunSummary(
        summary.exit_code, f"{len(jobs)} slides, {to_do} to do; --dry-run: nothing was written"
    )


@dataclass
class RunContext:
    """What the steps of one run share, and the steps for one slide.

    `unresponsive_folders` are folders in which reading a slide hung.
    """

    results: ResultsFolder
    settings: RunSettings
    options: RunOptions
    card: WeightsCard
    subprocess_caller: SubprocessCaller
    unresponsive_folders: set[Path] = field(default_factory=set)
    started: float = field(default_factory=time.time)
    per_slide: Mapping[str, RunSettings] = field(default_factory=dict)  # of a manifest, by path
    lock: OutputLock | None = None
    warn: Callable[[str], None] = bool
    waiting_slides: Callable[[], list[Path]] = list  # those that the run has not yet come to
    _snapshots: dict[Path, tuple[float, tuple]] = field(default_factory=dict)
    executors: ExecutorFactory = field(init=False)

    def __post_init__(self) -> None:
        self.executors = ExecutorFactory(self.options, self.settings.core_um, self.settings.engine)

    def settings_of(self, job: SlideJob) -> RunSettings:
        """Return the settings of a slide: those of its row in the manifest, else the run's."""
        return self.per_slide.get(str(job.file.path), self.settings)

    def inference_config(self) -> InferenceConfig:
        """Return the configuration for every region."""
        weights = os.path.abspath(self.options.weights) if self.options.weights else None
        return InferenceConfig(
            weights,
            self.card.sha256,
            self.settings.exhaustive,
            self.settings.audit,
            self.options.batch_size,
            device="cpu" if self.options.gpus == 0 else "auto",
            timeout_s=self.options.region_timeout_s,
            engine=self.settings.engine,
            precision=self.settings.precision,
        )

    def find_slides(self, inputs: Sequence[str]) -> list[SlideFile]:
        """Find the slides that `inputs` name. The list is empty if the run is stopped meanwhile."""
        try:
            return _search_with_timeout(
                self.subprocess_caller, inputs, find_slides, inputs, self.results.known_ids()
            )
        except CallCancelled:
            return []

    def call_with_timeout(
        self,
        job: SlideJob,
        timeout_s: float,
        function: Callable[[*Ts], T],
        *arguments: *Ts,
    ) -> T:
        """Return `function(*arguments)`, which reads a slide in a process that is ended if it hangs.

        A timeout of 0 means the timeout for opening. It is short for a slide beside one that hung, because
        its share may be lost.

        Raises
        ------
        UnreadableSlideError
            The call hangs or ends its process.
        CallCancelled
            The run is stopped.
        """
        timeout_s = timeout_s or self.options.open_timeout_s
        if job.file.path.parent in self.unresponsive_folders:
            timeout_s = min(timeout_s, _UNRESPONSIVE_TIMEOUT_S)
        try:
            value = self.subprocess_caller.call(function, *arguments, timeout_s=timeout_s)
        except CallTimedOut as error:
            self.unresponsive_folders.add(job.file.path.parent)
            raise UnreadableSlideError(
                f"slide {job.slide_id!r} ({job.file.path}): reading it {error}; is its share still mounted, "
                "and is the file intact?"
            ) from None
        self.unresponsive_folders.discard(job.file.path.parent)
        return value

    def open_slide(self, job: SlideJob) -> None:
        """Open a slide and decide what becomes of it; then clear away what other circumstances left."""
        self.check_lock()
        self.resume_decision(job)
        if job.has_journal:
            job.journal.remove_other_fingerprints()
        if job.state == "skipped" or (job.state == "working" and self.options.overwrite):
            # A run that was killed after publishing leaves the journal of a skipped slide.
            job.journal.clear()
        if job.state == "skipped":
            clear_failure(self.results.state, job.slide_id)
        if job.state == "working" and self.options.retry_failed:
            job.journal.clear_hung()
            job.journal.clear_damaged()

    def resume_decision(self, job: SlideJob) -> None:
        """Keep a job as working, or end it: its results are current, or it failed before. Changes no file.

        Raises SlideError if the slide cannot be opened, or if its results folder is not ours.
        """
        path, settle_s = job.file.path, self.options.settle_s
        if settle_s and (age_s := self._seconds_unchanged(job)) < settle_s:
            job.state = "not reached"
            job.reason = f"changed {age_s:.0f} s ago, --settle {settle_s:g}: the next run takes it"
            return
        s = self.settings_of(job)
        job.slide = self.call_with_timeout(
            job, 0.0, record_slide, path, job.slide_id, s.mpp, s.image, s.focus_plane
        )
        job.fingerprint = s.result_fingerprint(job.slide.fingerprint, self.card.sha256)
        job.journal = RegionJournal.for_slide(self.results.state, job.slide_id, job.fingerprint)
        self.results.check_ownership(job.slide_id)
        if self.options.overwrite:
            return
        record = self.results.record(job.slide_id)
        if record is not None and record.fingerprint == job.fingerprint:
            if not (self.options.retry_failed and record.unreadable_share):
                job.state, job.cells, job.warnings = "skipped", record.cells, record.warnings
            return
        before = read_failure(self.results.state, job.slide_id)
        if (
            before is not None
            and before.fingerprint == job.fingerprint
            and not self.options.retry_failed
        ):
            job.state = "failed"
            job.reason = (
                f"failed before and unchanged (--retry-failed tries again): {before.reason}"
            )

    def _seconds_unchanged(self, job: SlideJob) -> float:
        """For how long nobody has written a slide, as far as that matters to --settle.

        A time in the future says nothing of that. Where the file server's clock is ahead too, sizes and times are
        looked at twice, --settle apart; the run's first such slide waits for all of them.
        """
        times: FileTimes = self.call_with_timeout(job, 0.0, file_times, job.file.path)
        if not times.future:
            return times.age_s
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(times.future))
        self.warn(
            f"{job.file.path}: its modification time is in the future ({date}); check the scanner's clock, "
            "or the file server's; the slide is taken once it does not change any more"
        )
        if not times.unsettled:
            return times.age_s
        if job.file.path not in self._snapshots:
            for path in (job.file.path, *self.waiting_slides()):
                self._snapshots[path] = (
                    time.monotonic(),
                    self.call_with_timeout(job, 0.0, file_times, path).snapshot,
                )
        seen_at, snapshot = self._snapshots[job.file.path]
        while (wait_s := seen_at + self.options.settle_s - time.monotonic()) > 0:
            if self.subprocess_caller.is_cancelled():
                raise CallCancelled
            time.sleep(min(wait_s, _SETTLE_POLL_S))
        again = self.call_with_timeout(job, 0.0, file_times, job.file.path).snapshot
        return time.monotonic() - seen_at if again == snapshot else 0.0

    def check_lock(self) -> None:
        """Go on only while this run alone writes the results folder. LockedError where another took it."""
        if self.lock is not None and self.lock.renew_if_lost():
            self.warn(
                f"{self.results.state}: the lock of this run was removed; no other run has taken the folder, so this one "
                "has taken it again"
            )

    def preload_writers(self) -> None:
        """Load the libraries for publishing while the workers work."""
        from .publishing import publish  # noqa: F401 - loads zarr

    def publish(self, job: SlideJob) -> None:
        """Publish a slide whose regions have all ended. Then remove its journal."""
        from .publishing.publish import publish_slide

        processes = cpu_limit() if self.options.workers is None else self.options.workers
        self.check_lock()
        record = publish_slide(self.results, job, self.settings_of(job), self.card, processes)
        job.cells, job.warnings = record.cells, record.warnings
        if record.outside and record.outside.outside:
            job.alarms = (record.outside.words,)
        job.journal.clear()
        clear_failure(self.results.state, job.slide_id)

    def write_run_outputs(
        self, jobs: list[SlideJob], stop: StopFlag, warnings: Sequence[str] = ()
    ) -> RunSummary:
        """Note what failed for good; write the tables over all slides, `run.json` and `index.html`; the summary."""
        from .publishing.run_tables import write_run_tables
        from .review.index import write_index

        def summary() -> RunSummary:
            return summarise_run(
                jobs,
                stop.reason,
                stop.exit_code,
                time.time() - self.started,
                str(self.results.root),
            )

        try:
            self.check_lock()
            for job in jobs:
                if job.failed_permanently:
                    record_failure(
                        self.results.state, job.slide_id, SlideFailure(job.fingerprint, job.reason)
                    )
            write_run_tables(self.results)
            write_run_record(
                self.results,
                jobs,
                self.settings,
                self.options,
                self.card.sha256,
                self.started,
                summary(),
                self.executors.description,
                warnings,
            )
            write_index(self.results)  # last: it has the slides that failed from run.json
        except (OutputError, LockedError) as error:
            stop.stop(str(error), error.exit_code)
        return summary()
