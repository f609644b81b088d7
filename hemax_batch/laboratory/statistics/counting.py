"""What counting statistics alone do to two counts of the same blood."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .estimate import Floats, clopper_pearson

_ROUNDING = 1e-12  # two equal shares may differ by the last bit


def within_limits(k1: ArrayLike, n1: ArrayLike, k2: ArrayLike, n2: ArrayLike) -> NDArray[np.bool_]:
    """Whether two counts agree: each share lies within the exact 95 % limits of the other count.

    Source: Rümke, in: Koepke (ed.), Differential leukocyte counting, CAP 1977, and CLSI H20. The
    limits are those of `clopper_pearson`. Counts without cells do not agree.

    Examples
    --------
    >>> bool(within_limits(9, 100, 15, 100)), bool(within_limits(9, 100, 18, 100))
    (True, False)
    """
    k1, n1, k2, n2 = (np.asarray(v, np.float64) for v in (k1, n1, k2, n2))
    low1, high1 = clopper_pearson(k1, n1)
    low2, high2 = clopper_pearson(k2, n2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p1, p2 = k1 / n1, k2 / n2
        second = (low1 - _ROUNDING <= p2) & (p2 <= high1 + _ROUNDING)
        first = (low2 - _ROUNDING <= p1) & (p1 <= high2 + _ROUNDING)
    return np.asarray(first & second & (n1 > 0) & (n2 > 0))


def within_difference_limits(
    k1: ArrayLike, n1: ArrayLike, k2: ArrayLike, n2: ArrayLike
) -> NDArray[np.bool_]:
    """Whether the 95 % limits of the difference of two counts hold 0.

    Formula: with l, u the exact limits of each share, d = p2 - p1 lies within
    -√((u2 - p2)² + (p1 - l1)²) and √((p2 - l2)² + (u1 - p1)²). Of two counts of the same blood at
    least 95 in 100 do, however many cells each has; `within_limits` asks for more, and for the more
    the more the numbers of cells differ.
    Source: Newcombe, Stat Med 1998;17:873-890, method 10, with exact limits.

    Examples
    --------
    >>> bool(within_difference_limits(9, 100, 18, 100)), bool(within_difference_limits(9, 100, 24, 100))
    (True, False)
    """
    k1, n1, k2, n2 = (np.asarray(v, np.float64) for v in (k1, n1, k2, n2))
    low1, high1 = clopper_pearson(k1, n1)
    low2, high2 = clopper_pearson(k2, n2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p1, p2 = k1 / n1, k2 / n2
        above = p2 - p1 <= np.hypot(p2 - low2, high1 - p1) + _ROUNDING
        below = p1 - p2 <= np.hypot(high2 - p2, p1 - low1) + _ROUNDING
    return np.asarray(above & below & (n1 > 0) & (n2 > 0))


def chance_within_limits(p: float, n1: int, n2: int) -> float:
    """How often two independent counts of the same blood agree as `within_limits` says.

    Formula: the sum of Binomial(k1; n1, p) Binomial(k2; n2, p) over all pairs that agree. For a
    given k1 the agreeing k2 are a range, so that the inner sum is a difference of two cumulative
    probabilities.

    Parameters
    ----------
    p : the true share, as a fraction.
    n1, n2 : cells counted.

    Examples
    --------
    >>> round(chance_within_limits(0.3, 100, 100), 2)
    0.85
    """
    first, last = _agreeing(n1, n2)
    weights = stats.binom.pmf(np.arange(n1 + 1), n1, p)
    inner = stats.binom.cdf(last, n2, p) - stats.binom.cdf(first - 1, n2, p)
    return float(np.sum(weights * np.where(last >= first, inner, 0.0)))


@lru_cache(maxsize=64)
def _agreeing(n1: int, n2: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each k1 in 0..n1 the first and the last k2 that agree with it; the last lies below the
    first where none does.
    """
    k1, k2 = np.arange(n1 + 1), np.arange(n2 + 1)
    low1, high1 = clopper_pearson(k1, n1)
    low2, high2 = clopper_pearson(k2, n2)
    p1 = k1 / n1
    first = np.maximum(
        np.ceil(n2 * (low1 - _ROUNDING)), np.searchsorted(high2, p1 - _ROUNDING, "left")
    )
    last = np.minimum(
        np.floor(n2 * (high1 + _ROUNDING)), np.searchsorted(low2, p1 + _ROUNDING, "right") - 1
    )
    return first.astype(np.int64), last.astype(np.int64)


def counting_sd(p: ArrayLike, n1: ArrayLike, n2: ArrayLike | None = None) -> Floats:
    """The standard deviation that counting alone gives a share, or the difference of two
    independent shares.

    Formula: √(p (1 - p) / n1), or √(p (1 - p) (1 / n1 + 1 / n2)) of a difference. Source: the
    binomial variance.

    Examples
    --------
    >>> round(float(counting_sd(0.5, 100)), 3), round(float(counting_sd(0.5, 100, 100)), 4)
    (0.05, 0.0707)
    """
    p, n1 = np.asarray(p, np.float64), np.asarray(n1, np.float64)
    shares = 1 / n1 + (0.0 if n2 is None else 1 / np.asarray(n2, np.float64))
    return np.asarray(np.sqrt(p * (1 - p) * shares))
