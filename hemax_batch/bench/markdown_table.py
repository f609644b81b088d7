"""Figures as a Markdown table, and their growth with the slide's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def fit_growth(megapixels: list[float], values: list[float]) -> dict[str, float]:
    """Fit a straight line to (megapixels, values).

    Returns
    -------
    dict
        Intercept, slope per 100 megapixels, and the largest deviation in per cent.

    Examples
    --------
    >>> fit_growth([100, 400, 1600], [3.0, 6.0, 18.0])
    {'at_0': 2.0, 'per_100_megapixels': 1.0, 'largest_deviation_percent': 0.0}
    """
    x, y = np.array(megapixels, float) / 100, np.array(values, float)
    slope, start = np.polyfit(x, y, 1)
    off = np.abs(y - (start + slope * x)) / np.maximum(y, 1e-9)
    return {
        "at_0": round(float(start), 3),
        "per_100_megapixels": round(float(slope), 3),
        "largest_deviation_percent": round(float(100 * off.max()), 1),
    }


def markdown_table(title: str, rows: Sequence[Mapping[str, object]]) -> str:
    """Format rows with the same keys as a Markdown table under a title."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [title, "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_shown(row.get(c)) for c in columns) + " |" for row in rows]
    return "\n".join([*lines, ""])


def _shown(value: object) -> str:
    """Format one value."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
