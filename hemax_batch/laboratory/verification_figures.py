"""The figures of a verification: regression and difference plots, and the forest of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from .comparison import Comparison
from .statistics import counting_sd
from .statistics.estimate import Floats
from .svg import Plot, ticks

_WIDTH, _HEIGHT = 300.0, 230.0
_Z = 1.959964
_CURVE = 60  # points of a curve


def regression_figure(c: Comparison, x_words: str, y_words: str) -> Markup:
    """Per cents of both, the line of equality with what counting alone spreads round it, and both
    regressions.
    """
    top = 1.06 * max(float(np.max([c.x, c.y])), 1.0)
    plot = Plot(_WIDTH, _HEIGHT, (0.0, top), (0.0, top))
    plot.y_axis(f"{y_words}, %")
    grid = np.linspace(0, top, _CURVE)
    half = _counting_half(c, grid)
    if half is not None:
        plot.area(
            grid.tolist(),
            np.maximum(grid - half, 0).tolist(),
            np.minimum(grid + half, top).tolist(),
            "chance",
        )
    plot.straight(1, 0, "equality")
    for line, css in ((c.deming, "deming"), (c.passing_bablok, "fit")):
        if line.exists:
            plot.straight(line.slope.value, line.intercept.value, css)
    for slide, x, y in zip(c.slides, c.x.tolist(), c.y.tolist(), strict=True):
        plot.dot(x, y, "point", f"{slide}: {x_words} {x:.1f} %, {y_words} {y:.1f} %")
    plot.x_axis(f"{x_words}, %")
    return plot.markup(f"Regression plot of {c.quantity.words}: {c.n} slides")


def difference_figure(c: Comparison, x_words: str, y_words: str) -> Markup:
    """Differences over means, with bias, limits of agreement and what counting alone spreads."""
    means, d, ba = (c.x + c.y) / 2, c.y - c.x, c.difference
    edges = [*d.tolist(), 0.0, ba.lower.low, ba.upper.high, 1.0, -1.0]
    reach = 1.08 * max(abs(v) for v in edges if math.isfinite(v))
    plot = Plot(_WIDTH, _HEIGHT, (0.0, 1.06 * max(float(means.max()), 1.0)), (-reach, reach))
    plot.y_axis(f"{y_words} − {x_words}")
    grid = np.linspace(0, plot.x_range[1], _CURVE)
    half = _counting_half(c, grid)
    if half is not None:
        plot.area(grid.tolist(), (-half).tolist(), half.tolist(), "chance")
    plot.band(ba.bias.low, ba.bias.high, "interval")
    plot.level(0, "equality")
    plot.level(ba.bias.value, "fit")
    for limit in (ba.lower, ba.upper):
        if limit.exists:
            plot.level(limit.value, "limit")
    for slide, m, v in zip(c.slides, means.tolist(), d.tolist(), strict=True):
        plot.dot(m, v, "point", f"{slide}: mean {m:.1f} %, difference {v:+.1f}")
    plot.x_axis("mean of both, %")
    return plot.markup(
        f"Difference plot of {c.quantity.words}: bias {ba.bias.value:.2f} percentage points"
    )


def _counting_half(c: Comparison, per_cent: Floats) -> Floats | None:
    """Half the width of what counting alone spreads in 95 of 100 slides; None where it is no
    binomial share.
    """
    if math.isnan(c.counting_sd):
        return None
    p = np.clip(per_cent / 100, 0, 1)
    return 100 * _Z * counting_sd(p, float(np.median(c.cells_x)), float(np.median(c.cells_y)))


def forest_figure(comparisons: Sequence[Comparison]) -> Markup:
    """Bias of each quantity with its interval, over its limits of agreement and over what counting
    alone spreads.
    """
    row, left = 26.0, 208.0
    edges = [
        v
        for c in comparisons
        for v in (
            c.difference.lower.value,
            c.difference.upper.value,
            c.difference.bias.low,
            c.difference.bias.high,
            _Z * c.counting_sd,
        )
    ]
    reach = 1.05 * max([abs(v) for v in edges if math.isfinite(v)], default=1.0)
    plot = Plot(
        860.0,
        44 + row * len(comparisons) + 10,
        (-reach, reach),
        (-len(comparisons) + 0.5, 0.5),
        left=left,
    )
    for value in ticks(*plot.x_range, 8):
        plot.upright(value, "equality" if value == 0 else "across")
    for i, c in enumerate(comparisons):
        ba = c.difference
        plot.text(
            left - 8, plot.y(-i) + 4, c.quantity.words.replace(" per 100 white", ""), "row", "end"
        )
        if math.isfinite(c.counting_sd):
            half = _Z * c.counting_sd
            plot.area((-half, half), (-i - 0.32,) * 2, (-i + 0.32,) * 2, "chance")
        plot.line([(ba.lower.value, -i), (ba.upper.value, -i)], "limits")
        plot.line([(ba.bias.low, -i), (ba.bias.high, -i)], "bias")
        bias = f"{ba.bias.value:+.2f} ({ba.bias.low:.2f} to {ba.bias.high:.2f})"
        told = f"{c.quantity.words}: bias {bias}"
        plot.dot(ba.bias.value, -i, "point strong", told, 3.6)
    plot.x_axis("tool − examiners, percentage points of white cells", ticks(*plot.x_range, 8))
    return plot.markup("Bias and limits of agreement of each class")
