"""Report a run's progress: bars on a terminal, lines in a log, JSON events for programs.

`ProgressReporter` receives events and shows them. It makes no decisions.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ..records import RegionResult

_LINE_EVERY_S = 30.0  # interval of progress lines, for a log of moderate size


@dataclass
class _Counts:
    """Totals over all slides of the run."""

    regions: int = 0
    planned: int = 0
    cells: int = 0
    failed_slides: int = 0
    ended_slides: int = 0


class ProgressReporter:
    """Shows a run's progress on stderr. Use it as a context manager.

    It shows bars on a terminal and lines elsewhere. With `quiet` it shows failures alone. With
    `log_json` it appends every event to that file, one JSON object a line. The file is opened for
    each event, so log rotation may move it at any time.
    """

    def __init__(self, quiet: bool = False, log_json: Path | None = None) -> None:
        self._quiet = quiet
        self._log_json = log_json
        self._counts = _Counts()
        self._started = time.monotonic()
        self._last_line = 0.0
        self._slides = 0
        self.warnings: list[str] = []  # for the run record
        self._bars = _Bars() if not quiet and sys.stderr and sys.stderr.isatty() else None

    def __enter__(self) -> ProgressReporter:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def run_started(self, slides: int, out: str) -> None:
        """Report that the run found `slides` slides."""
        self._slides = slides
        self._log_event("run_started", slides=slides, out=out)
        self._print_line(f"{slides} slide{'s' * (slides != 1)} to {out}")

    def workers_started(self, description: str) -> None:
        """Report where tasks run."""
        self._log_event("workers_started", workers=description)
        self._print_line(f"working on {description}")

    def slide_planned(self, slide_id: str, regions: int, finished: int, mm2: float) -> None:
        """Report a slide's plan. `finished` of its regions were done by an earlier run."""
        self._counts.planned += regions - finished
        self._log_event(
            "slide_planned",
            slide=slide_id,
            regions=regions,
            finished=finished,
            scanned_mm2=round(mm2, 3),
        )
        self._print_line(
            f"{slide_id}: {regions} regions, {mm2:.1f} mm²"
            + (f", {finished} done before" if finished else "")
        )
        if self._bars:
            self._bars.slide(slide_id, regions, finished)

    def region_done(self, slide_id: str, result: RegionResult) -> None:
        """Report that one region has ended."""
        self._counts.regions += 1
        self._counts.cells += len(result.cells)
        self._log_event(
            "region_done",
            slide=slide_id,
            region=result.region_index,
            cells=len(result.cells),
            patches=result.patches,
            seconds_read=round(result.seconds_read, 3),
            seconds_network=round(result.seconds_network, 3),
            failure=result.failure,
        )
        if result.failure:
            self._print_line(
                f"{slide_id}: region {result.region_index} lost: {result.failure}", failure=True
            )
        if self._bars:
            self._bars.advance(slide_id, self._rate())
        elif time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._print_line(self._rate())

    def slide_ended(
        self, slide_id: str, state: str, cells: int, seconds: float, reason: str, path: str = ""
    ) -> None:
        """Report that a slide has ended as done, skipped, failed or not reached."""
        self._counts.ended_slides += 1
        self._counts.failed_slides += state == "failed"
        self._log_event(
            "slide_ended",
            slide=slide_id,
            state=state,
            cells=cells,
            seconds=round(seconds, 2),
            reason=reason,
            path=path,
        )
        text = f"{slide_id}: {state}" + (
            f", {cells} cells in {seconds:.1f} s" if state == "done" else ""
        )
        self._print_line(text + (f": {reason}" if reason else ""), failure=state == "failed")
        if self._bars:
            self._bars.end(slide_id)

    def warning(self, text: str) -> None:
        """Something worth reading that stops nothing."""
        self.warnings.append(text)
        self._log_event("warning", text=text)
        self._print_line(f"warning: {text}", failure=True)

    def run_ended(self, summary: str, exit_code: int) -> None:
        """Report the end of the run. The command line prints the summary itself."""
        self._log_event("run_ended", summary=summary, exit_code=exit_code)

    def _rate(self) -> str:
        """Return the overall progress in words: cells, regions a minute, time left."""
        counts, elapsed = self._counts, time.monotonic() - self._started
        per_s = counts.regions / max(elapsed, 1e-9)
        left = (counts.planned - counts.regions) / per_s if per_s else 0
        return (
            f"slide {min(counts.ended_slides + 1, self._slides)} of {self._slides}, "
            f"{counts.cells} cells, {60 * per_s:.0f} regions/min, "
            f"{_format_duration(left)} left for what is planned, {counts.failed_slides} failed"
        )

    def _print_line(self, text: str, failure: bool = False) -> None:
        """Print a line, above the bars if there are any."""
        if self._quiet and not failure:
            return
        if self._bars:
            if failure:
                self._bars.print(_printable(text))
            return
        _print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {_printable(text)}")

    def _log_event(self, name: str, **values: Any) -> None:
        """Append an event to the log file."""
        if self._log_json is None:
            return
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": name, **values}, ensure_ascii=False)
        try:
            # a lone surrogate of a file name becomes its own JSON escape
            _append(self._log_json, (line + "\n").encode("utf-8", "backslashreplace"))
        except OSError as error:
            lost, self._log_json = self._log_json, None
            self.warning(f"--log-json {lost}: {error.strerror}; no more events are written")


def _append(path: Path, content: bytes) -> None:
    """Add to a file. OSError where that fails; a pipe that nobody reads fails at once."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
    with open(os.open(path, flags, 0o666), "wb", 0) as file:
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _print(text: str) -> None:
    """A line on stderr; one that cannot be written is lost."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _printable(text: str) -> str:
    """Text on one line without control characters, which a file's name may hold.

    >>> _printable("a\\nb\\x1b[31m")
    'a\\\\nb\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _Bars:
    """One bar per slide in progress and one line for the run, drawn by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._overall = self._progress.add_task("starting", total=None)

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def slide(self, slide_id: str, total: int, finished: int) -> None:
        self._tasks[slide_id] = self._progress.add_task(
            slide_id[:40], total=total, completed=finished
        )

    def advance(self, slide_id: str, overall: str) -> None:
        self._progress.advance(self._tasks[slide_id])
        self._progress.update(self._overall, description=overall)

    def end(self, slide_id: str) -> None:
        if slide_id in self._tasks:
            self._progress.remove_task(self._tasks.pop(slide_id))

    def print(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


def _format_duration(seconds: float) -> str:
    """Format a duration.
    >>> _format_duration(59), _format_duration(3700)
    ('0:59', '1:01:40')
    """
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
