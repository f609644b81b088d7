"""Two reviewers of one slide: how far they agree, whether their counts differ by more than chance, and the merged
result.

Kappa: Cohen 1960. Limits of one count: Clopper & Pearson 1934, which is Rümke's table before it was rounded. That
table is usually read so: two counts agree where each lies within the other's limits (`within`). Exact binomial sums
show how strict that is: of independent counts of the same blood 14-18 in 100 do not (100 or 200 cells each, true
shares of 5-60 %). Hence the limits of the difference itself: Newcombe 1998 (Stat Med 17:873-890), method 10, "square
and add", with the exact limits in the place of Wilson's; 3-4 in 100 of those counts lie outside (`beyond_chance`).
Both take the counts as independent. Of two reviewers of the same cells they are too wide rather than too narrow, and a
difference outside them is one of judgement.

CLSI H20's reference count is the mean of two examiners' per cents of 200 cells each: `mean`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ..cells.differential import Differential, clopper_pearson
from ..cells.rules import NEUTROPHILS
from ..vocabulary import UNIDENTIFIED
from .apply_corrections import SlideReview


@dataclass(frozen=True)
class Difference:
    """One class in two differentials, in per cent; `low` and `high` are the 95 % limits of second - first.

    `within`: each per cent lies within the other count's limits; `beyond_chance`: 0 lies outside the difference's.
    """

    class_name: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    within: bool

    @property
    def mean(self) -> float:
        """Of the two per cents."""
        return (self.first + self.second) / 2

    @property
    def beyond_chance(self) -> bool:
        """Whether two independent counts of the same blood would hardly differ so."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Agreement:
    """Two reviews of the same results. `disputed`: cells that both looked at and call differently."""

    first: SlideReview
    second: SlideReview
    seen_by_both: tuple[int, ...]  # cell ids, as are
    disputed: tuple[int, ...]
    kappa: float  # of the cells that both looked at; NaN where it says nothing
    differences: tuple[Difference, ...]
    merged_count: Differential


def compare_reviews(first: SlideReview, second: SlideReview) -> Agreement:
    """Compare and merge. Where both looked and agree, their class; where they differ, unidentified, for a third look;
    where one looked, that one's; else as it was."""
    both = sorted(first.decided & second.decided)
    disputed = tuple(i for i in both if first.after[i] != second.after[i])
    one_looked = {i: review.after[i] for review in (second, first) for i in review.decided}
    merged = first.before | one_looked | dict.fromkeys(disputed, UNIDENTIFIED)
    return Agreement(
        first,
        second,
        tuple(both),
        disputed,
        cohen_kappa([first.after[i] for i in both], [second.after[i] for i in both]),
        tuple(differences(first.count_after, second.count_after)),
        first.published.count(merged),
    )


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
    """95 % limits of k2/n2 - k1/n1, as fractions; (-1, 1) where either total is 0.

    With l, u the exact limits of each: d - sqrt((p2 - l2)² + (u1 - p1)²) to d + sqrt((u2 - p2)² + (p1 - l1)²).
    """
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
    return (
        d.neutrophils.count
        if name == NEUTROPHILS
        else d.shares[name].count
        if name in d.shares
        else 0
    )
