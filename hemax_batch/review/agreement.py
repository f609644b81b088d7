"""Two reviewers of one slide: how far they agree, whether their counts differ by more than chance, and the merged
result.

Kappa: Cohen 1960. Limits of one count: Clopper & Pearson 1934, which is Rümke's table (Am J Clin Pathol 1985)
before it was rounded. Limits of the difference of two counts: Newcombe 1998 (Stat Med 17:873-890), method 10, "square
and add", with the exact limits in the place of Wilson's. They take the two counts as independent; of two reviewers of
the same cells they are therefore too wide rather than too narrow, and a difference outside them is one of judgement.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ..cells.differential import Differential, clopper_pearson
from ..cells.rules import NEUTROPHILS


@dataclass(frozen=True)
class Difference:
    """One class in two differentials, in per cent; `within`: each per cent lies within the other count's limits."""

    class_name: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    within: bool


def cohen_kappa(first: list[str], second: list[str]) -> float:
    """Agreement beyond chance of two lists of classes of the same cells; NaN where chance alone agrees fully.

    >>> round(cohen_kappa(["a", "a", "b", "b"], ["a", "a", "b", "a"]), 2)
    0.5
    """
    n = len(first)
    if n != len(second):
        raise ValueError(f"{n} and {len(second)} cells")
    if not n:
        return math.nan
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    ours, theirs = Counter(first), Counter(second)
    by_chance = sum(ours[name] * theirs[name] for name in ours) / n**2
    return math.nan if by_chance >= 1 else (agreed - by_chance) / (1 - by_chance)


def difference_limits(k1: int, n1: int, k2: int, n2: int) -> tuple[float, float]:
    """95 % limits of k2/n2 - k1/n1, as fractions; (-1, 1) where either total is 0."""
    if not n1 or not n2:
        return -1.0, 1.0
    p1, p2 = k1 / n1, k2 / n2
    (low1, high1), (low2, high2) = clopper_pearson(k1, n1), clopper_pearson(k2, n2)
    d = p2 - p1
    return d - math.hypot(p2 - low2, high1 - p1), d + math.hypot(high2 - p2, p1 - low1)


def differences(first: Differential, second: Differential) -> list[Difference]:
    """Total neutrophils, then every class that either counted, in clinical order."""
    names = [NEUTROPHILS, *dict.fromkeys((*first.shares, *second.shares))]
    return [_difference(name, first, second) for name in names]


def _difference(name: str, first: Differential, second: Differential) -> Difference:
    (k1, n1), (k2, n2) = ((_count(d, name), d.n_white) for d in (first, second))
    low, high = difference_limits(k1, n1, k2, n2)
    p1, p2 = (k / n if n else math.nan for k, n in ((k1, n1), (k2, n2)))
    within = all(
        lo <= p <= hi
        for p, (lo, hi) in ((p2, clopper_pearson(k1, n1)), (p1, clopper_pearson(k2, n2)))
        if not math.isnan(p)
    )
    return Difference(name, 100 * p1, 100 * p2, 100 * (p2 - p1), 100 * low, 100 * high, within)


def _count(d: Differential, name: str) -> int:
    return d.neutrophils.count if name == NEUTROPHILS else d.shares[name].count if name in d.shares else 0
