"""Control charts: the centre and spread of a baseline period, and the rules of Westgard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .estimate import Floats

WARNING = "1_2s"
#: The rules that reject, in the order in which a multirule procedure applies them.
REJECTIONS = ("1_3s", "2_2s", "R_4s", "4_1s", "10_x")
WORDS = {
    "1_2s": "one night beyond 2 SD (a warning)",
    "1_3s": "one night beyond 3 SD",
    "2_2s": "two nights in a row beyond 2 SD on the same side",
    "R_4s": "two nights in a row more than 4 SD apart, one beyond each 2 SD",
    "4_1s": "four nights in a row beyond 1 SD on the same side",
    "10_x": "ten nights in a row on the same side of the centre",
}


@dataclass(frozen=True)
class ControlLimits:
    """Centre and spread of a chart. The spread of a day is √(between² + its sampling variance)."""

    centre: float
    between_sd: float

    def z(self, values: ArrayLike, sampling_sd: ArrayLike) -> Floats:
        """How many standard deviations each day lies from the centre; NaN where nothing varies."""
        x, spread = np.asarray(values, np.float64), self.sd(sampling_sd)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(spread > 0, (x - self.centre) / spread, np.nan))

    def sd(self, sampling_sd: ArrayLike) -> Floats:
        """The spread of days with these sampling standard deviations."""
        return np.asarray(np.sqrt(self.between_sd**2 + np.asarray(sampling_sd, np.float64) ** 2))


def control_limits(values: ArrayLike, sampling_sd: ArrayLike) -> ControlLimits:
    """Centre and between-day spread of a baseline, when a day's mean has a known sampling error.

    Formula: with w = 1 / s², Q = Σ w (x - Σ w x / Σ w)², τ² = max(0, (Q - (k - 1)) / (Σ w - Σ w² /
    Σ w)); the centre is the mean weighted by 1 / (τ² + s²). So a day of few slides has wider limits
    than a day of many. Where all sampling errors are 0, these are the mean and the standard
    deviation, as Levey and Jennings take them. Source: DerSimonian and Laird, Control Clin Trials
    1986;7:177-188; Levey and Jennings, Am J Clin Pathol 1950;20:1059-1066.

    Parameters
    ----------
    values : float [k], the means of the baseline's nights.
    sampling_sd : float [k], their standard errors; 0 where a night is one measurement.

    Returns
    -------
    ControlLimits
        The centre, and the spread between nights beyond the sampling error.

    Examples
    --------
    >>> control_limits([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    ControlLimits(centre=2.0, between_sd=1.0)
    """
    x, s = np.asarray(values, np.float64), np.asarray(sampling_sd, np.float64)
    if len(x) < 2:
        return ControlLimits(float(x[0]) if len(x) else math.nan, math.nan)
    if not np.all(s > 0):
        return ControlLimits(float(x.mean()), float(np.std(x, ddof=1)))
    w = 1 / s**2
    q = float(np.sum(w * (x - np.sum(w * x) / np.sum(w)) ** 2))
    between = max(0.0, (q - (len(x) - 1)) / float(np.sum(w) - np.sum(w**2) / np.sum(w)))
    weights = 1 / (between + s**2)
    return ControlLimits(float(np.sum(weights * x) / np.sum(weights)), math.sqrt(between))


def westgard(z: ArrayLike, rules: Sequence[str] = (WARNING, *REJECTIONS)) -> list[tuple[str, ...]]:
    """The rules that each point of a chart breaks, in their usual order; a missing point (NaN)
    breaks none.

    1_2s |z| > 2; 1_3s |z| > 3; 2_2s two in a row > 2 on one side; R_4s two in a row, one > 2 and
    one < -2; 4_1s four in a row > 1 on one side; 10_x ten in a row on one side of 0. A point breaks
    a rule where it is the last of such a series. Missing points are left out before the series are
    counted. Source: Westgard, Barry, Hunt and Groth, Clin Chem 1981;27:493-501. There R_4s is of
    two controls of one run; here, where a night has one value, it is of two nights.

    Parameters
    ----------
    z : float [n], standard deviations from the centre, oldest first; NaN where there is no point.
    rules : the rules that are applied.

    Returns
    -------
    list of tuple of str
        For each point the rules that it breaks.

    Examples
    --------
    >>> westgard([0.0, 2.1, 2.5, -3.2])
    [(), ('1_2s',), ('1_2s', '2_2s'), ('1_2s', '1_3s', 'R_4s')]
    """
    z = np.asarray(z, np.float64)
    there = np.flatnonzero(np.isfinite(z))
    v = z[there]
    broken = {
        "1_2s": np.abs(v) > 2,
        "1_3s": np.abs(v) > 3,
        "2_2s": _in_a_row(v > 2, 2) | _in_a_row(v < -2, 2),
        "R_4s": _swung(v),
        "4_1s": _in_a_row(v > 1, 4) | _in_a_row(v < -1, 4),
        "10_x": _in_a_row(v > 0, 10) | _in_a_row(v < 0, 10),
    }
    found: list[tuple[str, ...]] = [()] * len(z)
    for place, i in enumerate(there.tolist()):
        found[i] = tuple(rule for rule in rules if broken[rule][place])
    return found


def rejected(broken: tuple[str, ...]) -> bool:
    """Whether a point breaks a rule that rejects; 1_2s only warns."""
    return any(rule != WARNING for rule in broken)


def _in_a_row(
    hits: np.ndarray[tuple[int], np.dtype[np.bool_]], count: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each place is the last of so many hits in a row."""
    padded = np.concatenate([np.zeros(count, np.int64), np.cumsum(hits)])
    return np.asarray(padded[count:] - padded[:-count] == count) if len(hits) else hits


def _swung(v: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each place and the one before lie beyond 2 on different sides."""
    swung = np.zeros(len(v), np.bool_)
    swung[1:] = ((v[1:] > 2) & (v[:-1] < -2)) | ((v[1:] < -2) & (v[:-1] > 2))
    return swung
