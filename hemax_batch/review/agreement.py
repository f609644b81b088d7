"""Compare two reviewers of one slide: agreement, differences beyond chance, and the merged result.

Kappa follows Cohen 1960. The limits of one count follow Clopper & Pearson 1934 (Rümke's table without rounding).
By Rümke's table, two counts agree if each lies within the other's limits (`within`). This rule is strict:
14-18 of 100 independent counts of the same blood break it (100 or 200 cells each, true shares of 5-60 %).
The limits of the difference follow Newcombe 1998 (Stat Med 17:873-890), method 10, with exact limits instead of
Wilson's. 3-4 of 100 such counts lie outside (`beyond_chance`). Both assume independent counts. For two reviewers of
the same cells the limits are too wide rather than too narrow. A difference outside them is one of judgement.

The reference count of CLSI H20 is the mean of two examiners' per cents, of 200 cells each: `mean`.
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
    """One class in two differentials, in per cent. `low` and `high` are the 95 % limits of second - first.

    `within` means that each per cent lies within the other count's limits.
    `beyond_chance` means that 0 lies outside the limits of the difference.
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
        """Return the mean of the two per cents."""
        return (self.first + self.second) / 2

    @property
    def beyond_chance(self) -> bool:
        """Say whether the difference is larger than chance explains."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Agreement:
    """Two reviews of the same results. `disputed` holds the cells that both reviewed and classified differently."""

    first: SlideReview
    second: SlideReview
    seen_by_both: tuple[int, ...]  # cell ids, as are
    disputed: tuple[int, ...]
    kappa: float  # of the cells that both looked at; NaN where it says nothing
    differences: tuple[Difference, ...]
    merged_count: Differential


def compare_reviews(first: SlideReview, second: SlideReview) -> Agreement:
    """Compare and merge two reviews.

    A cell that both reviewed keeps their class if they agree; otherwise it becomes unidentified, for a third reviewer.
    A cell that one reviewed takes that class. Other cells stay as they are.
    """
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
    """Return the agreement beyond chance of two lists of classes. NaN means that chance alone agrees fully.

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
    """Return the 95 % limits of k2/n2 - k1/n1, as fractions; (-1, 1) if a total is 0.

    With l, u the exact limits of each: d - sqrt((p2 - l2)² + (u1 - p1)²) to d + sqrt((u2 - p2)² + (p1 - l1)²).
    """
    if not n1 or not n2:
        return -1.0, 1.0
    p1, p2 = k1 / n1, k2 / n2
    (low1, high1), (low2, high2) = clopper_pearson(k1, n1), clopper_pearson(k2, n2)
    d = p2 - p1
    return d - math.hypot(p2 - low2, high1 - p1), d + math.hypot(high2 - p2, p1 - low1)


def differences(first: Differential, second: Differential) -> list[Difference]:
    """Return total neutrophils, then every class that one of them counted, in clinical order."""
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
