"""The figure of a control chart: nights from left to right, bands of one, two and three standard
deviations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date

import numpy as np
from markupsafe import Markup

from .charts import Chart
from .statistics import rejected
from .svg import Plot

_WIDTH, _HEIGHT = 520.0, 190.0
_MOST_TICKS = 7
_MANY_NIGHTS = 150  # from so many on points are smaller


def control_figure(
    c: Chart, baseline: tuple[date, date], changes: Sequence[tuple[date, str]]
) -> Markup:
    """The Levey-Jennings chart of a measure; nights that break a rule name it under the pointer."""
    days = [night.toordinal() for night in c.nights]
    plot = Plot(_WIDTH, _HEIGHT, (days[0] - 1, days[-1] + 1), _y_range(c))
    start, end = (
        min(max(d.toordinal() + half, days[0] - 1), days[-1] + 1)
        for d, half in zip(baseline, (-0.5, 0.5), strict=True)
    )
    if c.limits:
        spread = c.limits.sd(c.sampling_sd)
        for times, css in ((3, "sd2"), (1, "sd1")):
            low, high = c.limits.centre - times * spread, c.limits.centre + times * spread
            plot.area(days, low.tolist(), high.tolist(), css)
        for sign in (-3, 3):
            plot.line(zip(days, (c.limits.centre + sign * spread).tolist(), strict=True), "edge")
        plot.level(c.limits.centre, "centre")
    if start < end:
        foot = plot.y_range[0] + 0.025 * (plot.y_range[1] - plot.y_range[0])
        plot.area((start, end), (plot.y_range[0],) * 2, (foot,) * 2, "baseline")
    for night, _ in changes:
        if days[0] <= night.toordinal() <= days[-1]:
            plot.upright(night.toordinal() - 0.5, "change")
    plot.y_axis(c.measure.unit)
    plot.line(zip(days, c.values.tolist(), strict=True), "series")
    for i, day in enumerate(days):
        plot.dot(day, c.values[i], *_dot(c, i))
    plot.x_axis("", *_day_ticks(c.nights))
    return plot.markup(f"Control chart of {c.measure.words}, {c.subject}: {c.state}")


def _dot(c: Chart, i: int) -> tuple[str, str, float]:
    """Colour, words and size of a night's point."""
    broken = c.broken[i]
    size = 1.0 if len(c.nights) < _MANY_NIGHTS else 0.65
    if not broken:
        return "point", "", 1.7 * size
    value = f"{c.values[i]:.{c.measure.digits}f} {c.measure.unit}"
    told = f"{c.nights[i]}: {value}, {c.slides[i]} slides, z {c.z[i]:+.1f}"
    return ("bad" if rejected(broken) else "warned"), f"{told}; {', '.join(broken)}", 3.0 * size


def _y_range(c: Chart) -> tuple[float, float]:
    """All values, and three standard deviations of the widest usual night."""
    low, high = float(np.nanmin(c.values)), float(np.nanmax(c.values))
    if c.limits:
        reach = 3.4 * float(np.nanmedian(c.limits.sd(c.sampling_sd)))
        if math.isfinite(reach):
            low, high = min(low, c.limits.centre - reach), max(high, c.limits.centre + reach)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _day_ticks(nights: Sequence[date]) -> tuple[list[float], list[str]]:
    """Firsts of months where the chart spans some, else nights; and their words."""
    first, last = nights[0].toordinal(), nights[-1].toordinal()
    months = [d for d in range(first, last + 1) if date.fromordinal(d).day == 1]
    if len(months) >= 2:
        kept = months[:: -(-len(months) // _MOST_TICKS)]
        return [float(d) for d in kept], [f"{date.fromordinal(d):%b %Y}" for d in kept]
    step = max(1, -(-(last - first) // (_MOST_TICKS - 1)))
    kept = list(range(first, last + 1, step))
    return [float(d) for d in kept], [f"{date.fromordinal(d):%d %b}" for d in kept]
