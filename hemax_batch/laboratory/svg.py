"""A small plot in SVG: two linear axes, and what is drawn between them. Colours are the page's CSS
classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from markupsafe import Markup

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 10.0, 34.0


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from low to high, about so many.

    Examples
    --------
    >>> ticks(0, 10), ticks(-0.3, 0.4)
    ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [-0.2, 0.0, 0.2, 0.4])
    """
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 12) + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]


class Plot:
    """A plot of a fixed size in user units; the page scales it. Call `markup` last."""

    def __init__(
        self,
        width: float,
        height: float,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        left: float = _LEFT,
    ):
        self.width, self.height = width, height
        self.x_range, self.y_range = _widened(x_range), _widened(y_range)
        self.left, self.right, self.top, self.bottom = left, width - _RIGHT, _TOP, height - _BOTTOM
        self._parts: list[str] = []

    def x(self, value: float) -> float:
        """Where a value lies from left to right; values outside the range lie on its edge."""
        low, high = self.x_range
        return self.left + (min(max(value, low), high) - low) / (high - low) * (
            self.right - self.left
        )

    def y(self, value: float) -> float:
        """Where a value lies from top to bottom; values outside the range lie on its edge."""
        low, high = self.y_range
        return self.bottom - (min(max(value, low), high) - low) / (high - low) * (
            self.bottom - self.top
        )

    def line(self, points: Iterable[tuple[float, float]], css: str) -> None:
        """A line through points; one that is not finite breaks it."""
        pieces: list[list[str]] = [[]]
        for px, py in points:
            if math.isfinite(px) and math.isfinite(py):
                pieces[-1].append(f"{self.x(px):.1f},{self.y(py):.1f}")
            elif pieces[-1]:
                pieces.append([])
        for piece in pieces:
            if len(piece) > 1:
                self._parts.append(f'<polyline class="{css}" points="{" ".join(piece)}"/>')

    def straight(self, slope: float, intercept: float, css: str) -> None:
        """The part of y = intercept + slope x that lies within both ranges."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        if slope:
            at = sorted(((y0 - intercept) / slope, (y1 - intercept) / slope))
            x0, x1 = max(x0, at[0]), min(x1, at[1])
        if x0 < x1:
            self.line([(x0, intercept + slope * x0), (x1, intercept + slope * x1)], css)

    def level(self, value: float, css: str) -> None:
        """A horizontal line over the whole width."""
        self.line([(self.x_range[0], value), (self.x_range[1], value)], css)

    def upright(self, value: float, css: str) -> None:
        """A vertical line over the whole height."""
        self.line([(value, self.y_range[0]), (value, self.y_range[1])], css)

    def area(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], css: str
    ) -> None:
        """What lies between two curves."""
        there = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
        points = " ".join(f"{self.x(px):.1f},{self.y(py):.1f}" for px, py in there)
        self._parts.append(f'<polygon class="{css}" points="{points}"/>')

    def band(self, low: float, high: float, css: str) -> None:
        """A horizontal band over the whole width."""
        if math.isfinite(low) and math.isfinite(high):
            self.area(self.x_range, (low, low), (high, high), css)

    def dot(self, px: float, py: float, css: str, title: str = "", radius: float = 2.6) -> None:
        """A point; the title shows where the pointer rests on it."""
        told = f"<title>{escape(title)}</title>" if title else ""
        self._parts.append(
            f'<circle class="{css}" cx="{self.x(px):.1f}" cy="{self.y(py):.1f}" r="{radius:g}">'
            f"{told}</circle>"
        )

    def text(
        self, left: float, top: float, words: str, css: str = "", anchor: str = "start"
    ) -> None:
        """Words at a place in user units."""
        self._parts.append(
            f'<text class="{css}" x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def x_axis(
        self, label: str, values: Sequence[float] | None = None, words: Sequence[str] | None = None
    ) -> None:
        """The lower axis with its ticks and its label."""
        values = ticks(*self.x_range) if values is None else values
        for value, word in zip(values, words or [f"{v:g}" for v in values], strict=True):
            at = self.x(value)
            self._raw_line(at, self.bottom, at, self.bottom + 3.5, "axis")
            self.text(at, self.bottom + 14, word, "tick", "middle")
        self._raw_line(self.left, self.bottom, self.right, self.bottom, "axis")
        self.text((self.left + self.right) / 2, self.height - 4, label, "label", "middle")

    def y_axis(self, label: str, values: Sequence[float] | None = None) -> None:
        """The left axis with its ticks, faint lines across, and its label."""
        for value in ticks(*self.y_range) if values is None else values:
            at = self.y(value)
            self._raw_line(self.left, at, self.right, at, "across")
            self.text(self.left - 5, at + 3.2, f"{value:g}", "tick", "end")
        self._raw_line(self.left, self.top, self.left, self.bottom, "axis")
        middle = (self.top + self.bottom) / 2
        self._parts.append(
            f'<text class="label" transform="translate(11 {middle:.1f}) rotate(-90)" '
            f'text-anchor="middle">{escape(label)}</text>'
        )

    def _raw_line(self, x0: float, y0: float, x1: float, y1: float, css: str) -> None:
        self._parts.append(
            f'<line class="{css}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'
        )

    def markup(self, said: str) -> Markup:
        """The plot; `said` is what a screen reader says of it."""
        size = f'viewBox="0 0 {self.width:g} {self.height:g}"'
        return Markup(
            f'<svg {size} role="img" aria-label="{escape(said)}">{"".join(self._parts)}</svg>'
        )


def _widened(limits: tuple[float, float]) -> tuple[float, float]:
    """A range of some width, whatever the values are."""
    low, high = limits
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    return (low - 0.5, high + 0.5) if low == high else (low, high)
