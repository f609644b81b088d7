"""Control charts: slides gathered by night and scanner, limits from the baseline, rules, and the
state of each chart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatch

import numpy as np

from .measures import MEASURES, Measure
from .night_means import RATE, Days, Mask, gather_nights
from .nights import Nights
from .rules import MonitorRules
from .statistics import ControlLimits, control_limits, rejected, westgard
from .statistics.control import WARNING
from .statistics.estimate import Floats

LEAST_BASELINE_NIGHTS = 10
ADVISED_BASELINE_NIGHTS = 20
_IDLE_DAYS = 14  # a scanner without a slide for so long is out of use and raises no alarm
_MOST_ALIKE = 1 / 3  # of the baseline's nights; rare cells give more, and no normal law
_WINDOW = {"1_3s": 1, "2_2s": 2, "R_4s": 2, "4_1s": 4, "10_x": 10}  # nights that a rule speaks of

IN_CONTROL, WARNED, OUT = "in control", "warning", "out of control"
NO_LIMITS, IDLE = "no limits", "idle"


@dataclass(frozen=True)
class Chart:
    """One measure of one scanner, or of its control slide, night by night.

    nights   the nights that have a point; `slides` slides each
    values   mean of the night's slides; `sampling_sd` is its standard error, 0 of a control slide
    z        standard deviations from the centre; NaN without limits
    broken   the rules that each night breaks
    state    of the last night; `since` says from which night on it is out of control
    note     why there are no limits; ""
    """

    measure: Measure
    scanner: str
    control: str
    nights: tuple[date, ...]
    slides: tuple[int, ...]
    values: Floats
    sampling_sd: Floats
    limits: ControlLimits | None
    z: Floats
    broken: tuple[tuple[str, ...], ...]
    state: str
    since: date | None
    alarms: bool
    note: str

    @property
    def subject(self) -> str:
        """The scanner, and the control slide where it is one's chart."""
        return f"{self.scanner}, control {self.control}" if self.control else self.scanner

    @property
    def words(self) -> str:
        """The state in one sentence, as cron reports it."""
        if self.state != OUT or self.since is None:
            return f"{self.state}: {self.measure.words} on {self.subject}"
        return f"{OUT}: {self.measure.words} on {self.subject} since {told_day(self.since)}"


def told_day(night: date) -> str:
    """A day in words.

    Examples
    --------
    >>> told_day(date(2026, 3, 14))
    '14 March 2026'
    """
    return f"{night.day} {night:%B %Y}"


def make_charts(
    nights: Nights, baseline: tuple[date, date], rules: MonitorRules, controls: Sequence[str] = ()
) -> list[Chart]:
    """A chart of each measure that has values, for each scanner and each control slide.

    Slides whose id matches a pattern of `controls` are charted by themselves and are left out of
    their scanner's charts.
    """
    scanners = np.array(nights.scanners)
    control = np.array([next((p for p in controls if fnmatch(s, p)), "") for s in nights.slides])
    last = int(nights.nights.max())
    charts = []
    for scanner in sorted(set(nights.scanners)):
        for pattern in ("", *controls):
            wanted = (scanners == scanner) & (control == pattern)
            for measure in MEASURES if wanted.any() else ():
                if (
                    pattern and measure.name == RATE
                ):  # a scan of one slide audits too little to tell a rate
                    continue
                chart = _chart(nights, measure, scanner, pattern, wanted, baseline, rules, last)
                charts += [chart] if chart else []
    return charts


def _chart(
    nights: Nights,
    measure: Measure,
    scanner: str,
    pattern: str,
    wanted: Mask,
    baseline: tuple[date, date],
    rules: MonitorRules,
    last: int,
) -> Chart | None:
    """One chart; None where no slide has a value.

    Steps: pick the slides with a value; gather them by night; take limits from the baseline; apply
    the rules.
    """
    wanted = wanted & np.isfinite(nights.values[measure.name])
    if not wanted.any():
        return None
    within = (nights.nights >= baseline[0].toordinal()) & (nights.nights <= baseline[1].toordinal())
    found = gather_nights(nights, measure.name, wanted, within, bool(pattern))
    found = found.of(found.slides >= (1 if pattern else rules.least_slides))
    if not len(found.days):
        return None
    at = (found.days >= baseline[0].toordinal()) & (found.days <= baseline[1].toordinal())
    limits, note = _limits(found.means[at], found.errors[at])
    z = limits.z(found.means, found.errors) if limits else np.full(len(found.days), math.nan)
    broken = tuple(westgard(z, (WARNING, *rules.rules)))
    state, since = _state(found.days, broken, limits is not None, rules.recent_days, last)
    return Chart(
        measure,
        scanner,
        pattern,
        tuple(date.fromordinal(int(d)) for d in found.days),
        tuple(int(n) for n in found.slides),
        found.means,
        found.errors,
        limits,
        z,
        broken,
        state,
        since,
        measure.name in rules.alarm,
        note,
    )


def _limits(values: Floats, errors: Floats) -> tuple[ControlLimits | None, str]:
    """The limits of the baseline's nights, or why there are none."""
    if len(values) < LEAST_BASELINE_NIGHTS:
        return None, f"the baseline has {len(values)} nights, {LEAST_BASELINE_NIGHTS} are needed"
    if np.unique(values, return_counts=True)[1].max() > _MOST_ALIKE * len(values):
        return None, "too many nights of the baseline have the same value"
    return control_limits(values, errors), ""


def _state(
    days: Days,
    broken: Sequence[tuple[str, ...]],
    has_limits: bool,
    recent_days: int,
    last: int,
) -> tuple[str, date | None]:
    """The state of a chart on its last nights, and since when it is out of control."""
    if int(days[-1]) < last - _IDLE_DAYS:
        return IDLE, None
    if not has_limits:
        return NO_LIMITS, None
    recent = [i for i in range(len(days)) if days[i] >= days[-1] - recent_days]
    rejections = [i for i in recent if rejected(broken[i])]
    if not rejections:
        return (WARNED if any(broken[i] for i in recent) else IN_CONTROL), None
    return OUT, date.fromordinal(int(days[_onset(broken, rejections[-1])]))


def _onset(broken: Sequence[tuple[str, ...]], at: int) -> int:
    """The first night of the series of rejections that ends at a night.

    A rule speaks of the nights that it counts; of several the one that counts fewest. Series that
    touch or overlap are one.
    """
    start = at
    while at >= start - 1 and at >= 0:
        windows = [_WINDOW[rule] for rule in broken[at] if rule != WARNING]
        if windows:
            start = min(start, at - min(windows) + 1)
        at -= 1
    return max(start, 0)


def rejection_rate(rules: Sequence[str], points: int = 100_000, seed: int = 0) -> float:
    """How often the rules reject a night of a chart that is in control, by simulation of
    independent normal nights.

    Examples
    --------
    >>> 0.002 < rejection_rate(["1_3s"]) < 0.0035
    True
    """
    z = np.random.default_rng(seed).normal(size=points)
    return sum(rejected(found) for found in westgard(z, tuple(rules))) / points
