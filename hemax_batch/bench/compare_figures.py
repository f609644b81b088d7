"""Figures of two benches of one machine, side by side."""

from __future__ import annotations

from collections.abc import Iterator


def compare_figures(before: dict[str, object], after: dict[str, object]) -> list[dict[str, object]]:
    """Return a row for each number that both benches hold, with its ratio after / before.

    Rows of a table are paired by their slide, not by their order.

    >>> compare_figures({"start-up": {"help_s": 0.4}}, {"start-up": {"help_s": 0.2}, "new": {}})
    [{'figure': 'start-up / help_s', 'before': 0.4, 'after': 0.2, 'after/before': 0.5}]
    """
    old = dict(_numbers(before, ""))
    return [
        {
            "figure": name,
            "before": old[name],
            "after": value,
            "after/before": round(value / old[name], 3) if old[name] else None,
        }
        for name, value in _numbers(after, "")
        if name in old
    ]


def _numbers(value: object, name: str) -> Iterator[tuple[str, float]]:
    """Yield every number in nested figures with a name that tells its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name} / {key}" if name else key)
    elif isinstance(value, list):
        for k, row in enumerate(value):
            label = row.get("slide", k) if isinstance(row, dict) else k
            yield from _numbers(row, f"{name} / {label}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
