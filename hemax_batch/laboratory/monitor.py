"""`hemax-batch monitor`: drift of scanner, stain and network from night to night, as one page, JSON
and a table.

    DIR/monitor.html   for a person, offline
    DIR/monitor.json   the state of each chart, limits, and what was read
    DIR/nights.csv     a row for each chart and night

Everything is computed before anything is written. Each file is written aside and renamed;
monitor.json is last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from .. import __version__
from ..errors import UsageError
from ..outputs.tables import encode_table, safe_text
from ..results.atomic_files import write_file
from ..vocabulary import CLAIM
from .charts import (
    ADVISED_BASELINE_NIGHTS,
    NO_LIMITS,
    OUT,
    WARNED,
    Chart,
    make_charts,
    rejection_rate,
    told_day,
)
from .control_figure import control_figure
from .json_record import as_json, figure
from .measures import MEASURES
from .nights import Nights, SlideTimes, read_nights
from .pages import render
from .rules import LaboratoryRules
from .statistics.control import WORDS

PAGE, RECORD, TABLE = "monitor.html", "monitor.json", "nights.csv"
NIGHT_COLUMNS = (
    "measure",
    "scanner",
    "control",
    "night",
    "slides",
    "value",
    "unit",
    "centre",
    "sd",
    "z",
    "rules_broken",
    "claim",
)
NOT_PROVEN = (
    "A chart in control says that a figure is as it was in the baseline. "
    "It does not say that the differentials are right, nor that they were right in the baseline. "
    "That is what a verification is for."
)


@dataclass(frozen=True)
class MonitorOptions:
    """What `monitor` is asked: where it reads and writes, the baseline (first and last night), and
    the control slides.
    """

    results: Path
    out: Path
    baseline: tuple[date, date]
    rules: LaboratoryRules
    times: SlideTimes
    controls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Watch:
    """All that `monitor` computes."""

    options: MonitorOptions
    nights: Nights
    charts: tuple[Chart, ...]
    changes: tuple[tuple[date, str], ...]

    @property
    def alarms(self) -> list[Chart]:
        """The charts that are out of control and set the exit code."""
        return [chart for chart in self.charts if chart.state == OUT and chart.alarms]

    @property
    def last(self) -> date:
        """The last night that has a slide."""
        return date.fromordinal(int(self.nights.nights.max()))

    @property
    def short_baseline(self) -> bool:
        """Whether a chart has fewer baseline nights than advised."""
        first, final = self.options.baseline
        return any(
            sum(first <= n <= final for n in c.nights) < ADVISED_BASELINE_NIGHTS
            for c in self.charts
        )


def monitor(options: MonitorOptions) -> Watch:
    """Read, chart, write. UsageError before anything is written; OutputError where it cannot be."""
    nights = read_nights(options.results, options.times)
    _check_baseline(options.baseline, nights)
    charts = make_charts(nights, options.baseline, options.rules.monitor, options.controls)
    watch = Watch(options, nights, tuple(charts), tuple(_changes(nights)))
    page = render_page(watch)
    write_file(options.out / TABLE, encode_table(NIGHT_COLUMNS, night_rows(charts)))
    write_file(options.out / PAGE, page)
    write_file(options.out / RECORD, as_json(record_of(watch)))
    return watch


def _check_baseline(baseline: tuple[date, date], nights: Nights) -> None:
    """UsageError where no slide lies in the baseline; it says which nights there are."""
    first, last = baseline
    if first > last:
        raise UsageError(f"--baseline {first} {last}: the first night lies after the last")
    if not any(first.toordinal() <= night <= last.toordinal() for night in nights.nights.tolist()):
        oldest, newest = (date.fromordinal(int(f(nights.nights))) for f in (min, max))
        raise UsageError(
            f"--baseline {first} {last}: no slide is of these nights; "
            f"there are {oldest} to {newest}"
        )


def _changes(nights: Nights) -> Iterator[tuple[date, str]]:
    """The nights on which weights or version are others than on the night before, with what they
    are then.
    """
    by_night: dict[int, set[str]] = {}
    for night, version in zip(nights.nights.tolist(), nights.versions, strict=True):
        by_night.setdefault(night, set()).add(version)
    before: set[str] = set()
    for night in sorted(by_night):
        if before and (new := by_night[night] - before):
            yield date.fromordinal(night), "; ".join(sorted(new))
        before = by_night[night]


def render_page(watch: Watch) -> bytes:
    """`monitor.html`."""
    options, subjects = watch.options, sorted({(c.scanner, c.control) for c in watch.charts})
    grid = {(c.measure.name, c.scanner, c.control): c for c in watch.charts}
    rate = rejection_rate(options.rules.monitor.rules)
    alarming = sum(c.alarms and c.limits is not None for c in watch.charts)
    return render(
        "monitor.html.j2",
        watch=watch,
        subjects=subjects,
        grid=grid,
        changes=watch.changes,
        told_day=told_day,
        measures=[m for m in MEASURES if any(c.measure is m for c in watch.charts)],
        missing=[m.words for m in MEASURES if not any(c.measure is m for c in watch.charts)],
        figure_of=lambda c: control_figure(c, options.baseline, watch.changes),
        by_chance=1 - (1 - rate) ** alarming,
        rate=rate,
        alarming=alarming,
        rule_words=WORDS,
        OUT=OUT,
        WARNED=WARNED,
        NO_LIMITS=NO_LIMITS,
        not_proven=NOT_PROVEN,
        version=__version__,
    )


def record_of(watch: Watch) -> dict[str, object]:
    """`monitor.json`."""
    options = watch.options
    first, last = options.baseline
    return {
        "claim": CLAIM,
        "does_not_prove": NOT_PROVEN,
        "version": __version__,
        "slides": len(watch.nights.slides),
        "unreadable": list(watch.nights.unreadable),
        "last_night": str(watch.last),
        "baseline": [str(first), str(last)],
        "rules": {
            "file": options.rules.source,
            "sha256": options.rules.sha256,
            "westgard": list(options.rules.monitor.rules),
            "alarm": list(options.rules.monitor.alarm),
            "recent_days": options.rules.monitor.recent_days,
        },
        "out_of_control": [chart.words for chart in watch.alarms],
        "version_changes": [
            {"night": str(night), "made_with": made} for night, made in watch.changes
        ],
        "charts": [_chart_record(chart) for chart in watch.charts],
    }


def _chart_record(c: Chart) -> dict[str, object]:
    return {
        "measure": c.measure.name,
        "words": c.measure.words,
        "unit": c.measure.unit,
        "scanner": c.scanner,
        "control": c.control,
        "state": c.state,
        "since": str(c.since) if c.since else None,
        "alarms": c.alarms,
        "note": c.note,
        "nights": len(c.nights),
        "slides": sum(c.slides),
        "centre": figure(c.limits.centre) if c.limits else None,
        "between_sd": figure(c.limits.between_sd) if c.limits else None,
        "last": {
            "night": str(c.nights[-1]),
            "value": figure(c.values[-1]),
            "z": figure(c.z[-1]),
            "rules_broken": list(c.broken[-1]),
        },
    }


def night_rows(charts: Sequence[Chart]) -> Iterator[list[str]]:
    """The rows of `nights.csv`."""
    for c in charts:
        spread = c.limits.sd(c.sampling_sd) if c.limits else [math.nan] * len(c.nights)
        centre = c.limits.centre if c.limits else math.nan
        for i, night in enumerate(c.nights):
            numbers = [
                f"{v:.4f}" if math.isfinite(v) else ""
                for v in (c.values[i], centre, spread[i], c.z[i])
            ]
            yield [
                c.measure.name,
                safe_text(c.scanner),
                safe_text(c.control),
                str(night),
                str(c.slides[i]),
                numbers[0],
                c.measure.unit,
                *numbers[1:],
                " ".join(c.broken[i]),
                CLAIM,
            ]
