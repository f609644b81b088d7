"""An estimate with its interval, and the intervals of a proportion, a mean and a standard
deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with the limits of its confidence interval. NaN says that the figure does not exist.

    Examples
    --------
    >>> Estimate(1.0, 0.9, 1.2).contains(1.1)
    True
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def exists(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    def contains(self, value: float) -> bool:
        """Whether the interval holds a value."""
        return self.low <= value <= self.high

    def scaled(self, factor: float) -> Estimate:
        """The same estimate in another unit. The factor is above 0."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


NO_ESTIMATE = Estimate(math.nan)


def clopper_pearson(k: ArrayLike, n: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Exact two-sided limits of proportions k / n, as fractions. They are (0, 1) where n is 0.

    Formula: the quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k) at (1 - level) / 2 and 1 -
    (1 - level) / 2. Source: Clopper and Pearson, Biometrika 1934;26:404-413. Rümke's table holds
    these limits, rounded outward.

    Examples
    --------
    >>> low, high = clopper_pearson(9, 100)
    >>> round(100 * float(low), 1), round(100 * float(high), 1)
    (4.2, 16.4)
    """
    k, n = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    if np.any(k < 0) or np.any(k > n):
        raise ValueError("a count must lie between 0 and its total")
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(k > 0, stats.beta.ppf(tail, np.maximum(k, 1), n - k + 1), 0.0)
        high = np.where(k < n, stats.beta.ppf(1 - tail, k + 1, np.maximum(n - k, 1)), 1.0)
    return low, high


def proportion(k: int, n: int, level: float = LEVEL) -> Estimate:
    """The proportion k / n with its exact interval, as fractions. There is no estimate where n is
    0.

    Source: `clopper_pearson`, as `scipy.stats.binomtest` computes it.

    Examples
    --------
    >>> proportion(9, 100).value
    0.09
    """
    if n == 0:
        return NO_ESTIMATE
    interval = stats.binomtest(k, n).proportion_ci(level, method="exact")
    return Estimate(k / n, float(interval.low), float(interval.high))


def mean_estimate(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """The mean of n values with its interval.

    Formula: mean ± t(n - 1) s / √n. Source: Student, Biometrika 1908;6:1-25.
    There is no interval of fewer than two values.
    """
    x = np.asarray(values, np.float64)
    if not len(x):
        return NO_ESTIMATE
    if len(x) < 2:
        return Estimate(float(x[0]))
    half = (
        float(stats.t.ppf((1 + level) / 2, len(x) - 1))
        * float(np.std(x, ddof=1))
        / math.sqrt(len(x))
    )
    mean = float(np.mean(x))
    return Estimate(mean, mean - half, mean + half)


def sd_estimate(sd: float, degrees: float, level: float = LEVEL) -> Estimate:
    """A standard deviation of so many degrees of freedom with its interval.

    Formula: s √(df / χ²) at the upper and the lower quantile of χ² with df degrees of freedom.
    There is no interval below one. Source: NIST/SEMATECH e-Handbook of Statistical Methods, section
    7.2.3.1.

    Examples
    --------
    >>> e = sd_estimate(1.0, 10)
    >>> round(e.low, 3), round(e.high, 3)
    (0.699, 1.755)
    """
    if not math.isfinite(sd):
        return NO_ESTIMATE
    if degrees < 1:
        return Estimate(sd)
    tail = (1 - level) / 2
    low = sd * math.sqrt(degrees / float(stats.chi2.ppf(1 - tail, degrees)))
    high = sd * math.sqrt(degrees / float(stats.chi2.ppf(tail, degrees)))
    return Estimate(sd, low, high)
