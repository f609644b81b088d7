"""Lines through two methods that both have errors, and their correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .estimate import LEVEL, NO_ESTIMATE, Estimate, Floats

_FEWEST = 3


@dataclass(frozen=True)
class Line:
    """y = intercept + slope x, each with its interval. Both are absent where the data do not
    determine a line.
    """

    slope: Estimate
    intercept: Estimate

    @property
    def exists(self) -> bool:
        """Whether the data determine a line."""
        return self.slope.exists and self.intercept.exists


NO_LINE = Line(NO_ESTIMATE, NO_ESTIMATE)


def passing_bablok(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> Line:
    """Passing-Bablok regression: the shifted median of the slopes of all pairs of points.

    Formula: S are the slopes of all pairs but those of equal points and those of exactly -1; K of
    them lie below -1; the slope is the median of S, shifted by K places; its limits lie C / 2
    places from the middle, where C = z √(n (n - 1) (2 n + 5) / 18); the intercept is the median of
    y - slope x, and of its limits likewise. A pair with equal x counts as a slope of +∞, so that
    the line of x on y is the same line. Source: Passing and Bablok, J Clin Chem Clin Biochem
    1983;21:709-720.

    Parameters
    ----------
    x, y : float [n], the results of two methods on the same slides.
    level : of the confidence intervals.

    Returns
    -------
    Line
        Slope and intercept. They are absent where all x are equal or n is below three.

    Examples
    --------
    >>> round(passing_bablok([1, 2, 3, 4], [1, 3, 3, 5]).slope.value, 4)
    1.1667
    """
    x, y = _paired(x, y)
    if len(x) < _FEWEST or np.ptp(x) == 0:
        return NO_LINE
    slopes = _pair_slopes(x, y)
    count, shift = len(slopes), int(np.sum(slopes < -1))
    middle = [(count - 1) // 2 + shift, count // 2 + shift]
    slope = float(np.mean(slopes[middle])) if count and middle[1] < count else math.nan
    if not math.isfinite(slope):
        return NO_LINE
    n = len(x)
    reach = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = round((count - reach) / 2)
    low, high = (_ranked(slopes, rank + shift) for rank in (first, count - first + 1))
    intercepts = [
        float(np.median(y - b * x)) if math.isfinite(b) else math.nan for b in (slope, high, low)
    ]
    return Line(Estimate(slope, low, high), Estimate(*intercepts))


def _pair_slopes(x: Floats, y: Floats) -> Floats:
    """The sorted slopes of all pairs of points that have one."""
    i, j = np.triu_indices(len(x), 1)
    dx, dy = x[j] - x[i], y[j] - y[i]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(dx == 0, np.inf, dy / dx)
    return np.sort(slopes[((dx != 0) | (dy != 0)) & (slopes != -1)])


def _ranked(slopes: Floats, rank: int) -> float:
    """The slope of a rank that counts from 1; NaN where there is none, or it is vertical."""
    value = float(slopes[rank - 1]) if 1 <= rank <= len(slopes) else math.nan
    return value if math.isfinite(value) else math.nan


def deming(x: ArrayLike, y: ArrayLike, variance_ratio: float = 1.0, level: float = LEVEL) -> Line:
    """Deming regression; orthogonal regression where the variance ratio is 1.

    Formula: b = (syy - δ sxx + √((syy - δ sxx)² + 4 δ sxy²)) / (2 sxy) with δ = `variance_ratio`,
    the variance of the errors of y over that of x; a = mean(y) - b mean(x). The limits are a
    jackknife's: pseudo-values n θ - (n - 1) θ(i), their standard error, and t with n - 2 degrees of
    freedom about the estimate. Source: Deming 1943; Linnet, Clin Chem 1993;39:424-432; CLSI EP09.

    Parameters
    ----------
    x, y : float [n], the results of two methods on the same slides.
    variance_ratio : variance of the errors of y over that of x.
    level : of the confidence intervals.

    Returns
    -------
    Line
        Slope and intercept. They are absent where x and y do not vary together.

    Examples
    --------
    >>> round(deming([1, 2, 3], [1, 3, 2]).slope.value, 6)
    1.0
    """
    x, y = _paired(x, y)
    n = len(x)
    if n < _FEWEST:
        return NO_LINE
    slope, intercept = _deming(x, y, variance_ratio)
    if not math.isfinite(slope):
        return NO_LINE
    left_out = np.array(
        [_deming(np.delete(x, i), np.delete(y, i), variance_ratio) for i in range(n)]
    )
    pseudo = n * np.array([slope, intercept]) - (n - 1) * left_out
    half = (
        float(stats.t.ppf((1 + level) / 2, n - 2)) * np.std(pseudo, axis=0, ddof=1) / math.sqrt(n)
    )
    pairs = zip((slope, intercept), half.tolist(), strict=True)
    return Line(*(Estimate(value, value - h, value + h) for value, h in pairs))


def _deming(x: Floats, y: Floats, ratio: float) -> tuple[float, float]:
    """Slope and intercept; NaN where x and y do not vary together."""
    dx, dy = x - x.mean(), y - y.mean()
    sxx, syy, sxy = float(dx @ dx), float(dy @ dy), float(dx @ dy)
    if abs(sxy) <= 1e-12 * max(sxx, syy, 1e-300):
        return math.nan, math.nan
    excess = syy - ratio * sxx
    slope = (excess + math.sqrt(excess**2 + 4 * ratio * sxy**2)) / (2 * sxy)
    return slope, float(y.mean()) - slope * float(x.mean())


def pearson(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> Estimate:
    """Pearson's correlation with Fisher's interval, both by `scipy.stats.pearsonr`.

    Formula: tanh(atanh(r) ± z / √(n - 3)). Source: Fisher, Metron 1921;1:3-32.
    """
    x, y = _paired(x, y)
    if len(x) < _FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return NO_ESTIMATE
    result = stats.pearsonr(x, y)
    interval = result.confidence_interval(level)
    return Estimate(float(result.statistic), float(interval.low), float(interval.high))


def spearman(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> Estimate:
    """Spearman's rank correlation by `scipy.stats.spearmanr`, with the interval of Bonett and
    Wright.

    Formula: tanh(atanh(r) ± z √((1 + r² / 2) / (n - 3))). Source: Bonett and Wright, Psychometrika
    2000;65:23-28.
    """
    x, y = _paired(x, y)
    if len(x) < _FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return NO_ESTIMATE
    r = float(stats.spearmanr(x, y).statistic)
    if len(x) < 4 or abs(r) >= 1:
        return Estimate(r)
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt((1 + r**2 / 2) / (len(x) - 3))
    return Estimate(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))


def _paired(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(
            f"x has shape {x.shape} and y {y.shape}; both must be one row of equal length"
        )
    return x, y
