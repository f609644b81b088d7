"""Agreement of two methods, of two people on cells, and of a method with people."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .estimate import LEVEL, NO_ESTIMATE, Estimate, Floats, mean_estimate

_RESAMPLES = 2000


@dataclass(frozen=True)
class BlandAltman:
    """Bias and 95 % limits of agreement of n differences, each with its interval; `sd` is that of
    the differences.
    """

    n: int
    bias: Estimate
    sd: float
    lower: Estimate
    upper: Estimate


def bland_altman(differences: ArrayLike, level: float = LEVEL) -> BlandAltman:
    """Bias and limits of agreement of paired differences.

    Formula: bias = mean d; limits = bias ± 1.96 s; the limits' standard error is
    s √(1 / n + 1.96² / (2 (n - 1))); all intervals are by t with n - 1 degrees of freedom.
    Source: Bland and Altman, Lancet 1986;i:307-310, and Stat Methods Med Res 1999;8:135-160.

    Parameters
    ----------
    differences : float [n], method - reference on each slide.
    level : of the confidence intervals; the limits of agreement are always those of 95 %.

    Returns
    -------
    BlandAltman
        The limits are absent where n is below two.

    Examples
    --------
    >>> round(bland_altman([-1.0, 0.0, 1.0]).upper.value, 2)
    1.96
    """
    d = np.asarray(differences, np.float64)
    n = len(d)
    if n < 2:
        return BlandAltman(n, mean_estimate(d), math.nan, NO_ESTIMATE, NO_ESTIMATE)
    bias, sd, z = mean_estimate(d, level), float(np.std(d, ddof=1)), float(stats.norm.ppf(0.975))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd * math.sqrt(1 / n + z**2 / (2 * (n - 1)))
    limits = (bias.value - z * sd, bias.value + z * sd)
    return BlandAltman(
        n, bias, sd, *(Estimate(limit, limit - half, limit + half) for limit in limits)
    )


def cohen_kappa(table: ArrayLike, level: float = LEVEL) -> Estimate:
    """Agreement beyond chance of a square table of counts, of first by second judgement.

    Formula: κ = (po - pe) / (1 - pe), with po the share on the diagonal and pe = Σ p(i.) p(.i). Its
    variance is (Σ p(ii) (1 - (p(i.) + p(.i)) (1 - κ))² + (1 - κ)² Σ(i≠j) p(ij) (p(.i) + p(j.))² -
    (κ - pe (1 - κ))²) / (n (1 - pe)²). Source: Cohen, Educ Psychol Meas 1960;20:37-46; Fleiss,
    Cohen and Everitt, Psychol Bull 1969;72:323-327. There is none where chance alone agrees fully.

    Parameters
    ----------
    table : counts [k, k]; both sides have the classes in the same order.
    level : of the confidence interval.

    Returns
    -------
    Estimate
        Kappa, at most 1.

    Examples
    --------
    >>> round(cohen_kappa([[20, 5], [10, 15]]).value, 2)
    0.4
    """
    counts = np.asarray(table, np.float64)
    n = float(counts.sum())
    if n == 0:
        return NO_ESTIMATE
    p = counts / n
    rows, columns, diagonal = p.sum(1), p.sum(0), np.diag(p)
    observed, expected = float(diagonal.sum()), float(rows @ columns)
    if expected >= 1:
        return NO_ESTIMATE
    kappa = (observed - expected) / (1 - expected)
    on = float(np.sum(diagonal * (1 - (rows + columns) * (1 - kappa)) ** 2))
    weights = (columns[:, None] + rows[None, :]) ** 2
    off = (1 - kappa) ** 2 * float(np.sum(p * weights) - np.sum(diagonal * np.diag(weights)))
    variance = (on + off - (kappa - expected * (1 - kappa)) ** 2) / (n * (1 - expected) ** 2)
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(max(variance, 0.0))
    return Estimate(kappa, kappa - half, min(kappa + half, 1.0))


def root_mean_square(differences: ArrayLike) -> float:
    """√(mean d²); NaN of no difference.

    Examples
    --------
    >>> root_mean_square([3.0, 4.0, 0.0, 0.0])
    2.5
    """
    d = np.asarray(differences, np.float64)
    return float(np.sqrt(np.mean(d**2))) if len(d) else math.nan


def interchangeability(
    method: ArrayLike, first: ArrayLike, second: ArrayLike, seed: int = 0
) -> Estimate:
    """Whether a method is further from two examiners than they are from each other.

    Formula: γ = mean over slides of ((m - e1)² + (m - e2)²) / 2 - (e1 - e2)². It is 0 where the
    method could take the place of an examiner, above 0 where the method is further, and below 0
    where it is closer. The interval is the percentile bootstrap's over slides
    (`scipy.stats.bootstrap`, 2,000 resamples). Source: Obuchowski, Subhas and Schoenhagen, Acad
    Radiol 2014;21:1483-1489.

    Parameters
    ----------
    method, first, second : float [n], results on the same slides.
    seed : of the bootstrap. The same data give the same interval.

    Returns
    -------
    Estimate
        γ in squared units of the results.

    Examples
    --------
    >>> interchangeability([1.0, 2.0], [0.0, 1.0], [2.0, 3.0]).value
    -3.0
    """
    m, e1, e2 = (np.asarray(v, np.float64) for v in (method, first, second))
    excess: Floats = ((m - e1) ** 2 + (m - e2) ** 2) / 2 - (e1 - e2) ** 2
    if not len(excess):
        return NO_ESTIMATE
    if len(excess) < 2 or np.ptp(excess) == 0:
        return Estimate(float(excess.mean()))
    drawn = stats.bootstrap(
        (excess,),
        np.mean,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(excess.mean()), float(drawn.low), float(drawn.high))
