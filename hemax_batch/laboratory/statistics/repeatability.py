"""How far repeated scans of a slide differ, beside what counting statistics alone give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .counting import counting_sd
from .estimate import NO_ESTIMATE, Estimate, sd_estimate


@dataclass(frozen=True)
class Repeatability:
    """The standard deviation within slides, as fractions, and the one that counting alone gives.

    `ratio` is the first over the second; 1 says that the scans differ as independent counts do.
    """

    slides: int
    scans: int
    sd: Estimate
    counting_sd: float
    ratio: Estimate


def repeatability(
    counts: Sequence[Sequence[int]], totals: Sequence[Sequence[int]]
) -> Repeatability:
    """The pooled standard deviation of repeated scans.

    Formula: s² = Σ(slides) Σ(scans) (p - mean p)² / Σ(slides) (scans - 1). Counting alone gives the
    mean v of p (1 - p) / n over the same degrees of freedom, with p the slide's pooled share. The
    interval is that of `sd_estimate` with (Σ f v)² / Σ f v² degrees of freedom, f = scans - 1:
    slides without the class tell nothing of it. Source: CLSI EP05 and EP15 (repeatability as the
    within-run component); Satterthwaite, Biometrics Bull 1946;2:110-114.

    Parameters
    ----------
    counts : for each slide the count of a class in each scan.
    totals : for each slide the cells counted in each scan.

    Examples
    --------
    >>> r = repeatability([[40, 60]], [[100, 100]])
    >>> round(r.sd.value, 4), round(r.counting_sd, 4)
    (0.1414, 0.05)
    """
    squares = expected = expected_squares = 0.0
    degrees = scans = slides = 0
    for k, n in zip(counts, totals, strict=True):
        shares = np.array([a / b for a, b in zip(k, n, strict=True) if b])
        if len(shares) < 2:
            continue
        used = np.array([b for b in n if b], np.float64)
        pooled = sum(k) / float(used.sum())
        slides, scans, degrees = slides + 1, scans + len(shares), degrees + len(shares) - 1
        squares += float(np.sum((shares - shares.mean()) ** 2))
        variance = float(np.mean(counting_sd(pooled, used) ** 2))
        expected += (len(shares) - 1) * variance
        expected_squares += (len(shares) - 1) * variance**2
    if not degrees:
        return Repeatability(slides, scans, NO_ESTIMATE, math.nan, NO_ESTIMATE)
    effective = expected**2 / expected_squares if expected_squares > 0 else 0.0
    sd, counted = (
        sd_estimate(math.sqrt(squares / degrees), effective),
        math.sqrt(expected / degrees),
    )
    ratio = sd.scaled(1 / counted) if counted > 0 else NO_ESTIMATE
    return Repeatability(slides, scans, sd, counted, ratio)
