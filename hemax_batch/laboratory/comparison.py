"""Two counters compared over slides, quantity by quantity: the tool with the examiners, or the
examiners with each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .counts import NRBC, QUANTITIES, Count, Quantity
from .statistics import (
    BlandAltman,
    Estimate,
    Line,
    bland_altman,
    chance_within_limits,
    counting_sd,
    deming,
    interchangeability,
    passing_bablok,
    pearson,
    proportion,
    root_mean_square,
    spearman,
    within_difference_limits,
    within_limits,
)
from .statistics.estimate import NO_ESTIMATE, Floats
from .statistics.regression import NO_LINE

_FEWEST_HOLDING = (
    10  # slides in which both saw the class; with fewer, slides without any decide the line
)


@dataclass(frozen=True)
class Comparison:
    """One quantity in the counts of a reference (x) and of a method (y), over slides. Per cents of
    white cells.

    x, y              the per cents of each slide
    within            share of slides within the binomial limits of both counts, as a fraction;
    absent of NRBC
    within_difference share of slides whose difference counting alone explains; absent of NRBC
    chance_within     the share that two counts of the same blood would reach
    difference        Bland-Altman of y - x
    counting_sd       the SD of y - x that counting alone gives; NaN of NRBC
    passing_bablok, deming   absent where fewer than ten slides hold the class in both counts
    pearson, spearman
    """

    quantity: Quantity
    slides: tuple[str, ...]
    x: Floats
    y: Floats
    cells_x: Floats
    cells_y: Floats
    within: Estimate
    within_difference: Estimate
    chance_within: float
    difference: BlandAltman
    counting_sd: float
    passing_bablok: Line
    deming: Line
    pearson: Estimate
    spearman: Estimate

    @property
    def n(self) -> int:
        """The slides compared."""
        return len(self.slides)

    @property
    def is_seen(self) -> bool:
        """Whether anybody saw any such cell."""
        return bool(np.any(self.x > 0) or np.any(self.y > 0))


def compare(reference: Sequence[Count], method: Sequence[Count]) -> list[Comparison]:
    """Each quantity that both can tell on a slide at least. The counts are paired by place."""
    found = []
    for quantity in QUANTITIES:
        pairs = [
            (a, b)
            for a, b in zip(reference, method, strict=True)
            if a.tells(quantity) and b.tells(quantity)
        ]
        if pairs:
            found.append(_compare(quantity, [a for a, _ in pairs], [b for _, b in pairs]))
    return found


def _compare(quantity: Quantity, reference: Sequence[Count], method: Sequence[Count]) -> Comparison:
    k1, n1 = _counted(quantity, reference)
    k2, n2 = _counted(quantity, method)
    x, y = 100 * k1 / n1, 100 * k2 / n2
    share, explained, chance, spread = NO_ESTIMATE, NO_ESTIMATE, math.nan, math.nan
    if (
        quantity.name != NRBC
    ):  # nucleated red cells are no part of the cells counted, so no binomial share
        p = (k1 + k2) / (n1 + n2)
        counts = (k1, n1, k2, n2)
        share = proportion(int(np.sum(within_limits(*counts))), len(reference))
        explained = proportion(int(np.sum(within_difference_limits(*counts))), len(reference))
        chance = float(
            np.mean(
                [
                    chance_within_limits(*v)
                    for v in zip(p, n1.astype(int), n2.astype(int), strict=True)
                ]
            )
        )
        spread = 100 * root_mean_square(counting_sd(p, n1, n2))
    holding = int(np.sum((k1 > 0) & (k2 > 0)))
    lines = (
        (passing_bablok(x, y), deming(x, y)) if holding >= _FEWEST_HOLDING else (NO_LINE, NO_LINE)
    )
    return Comparison(
        quantity,
        tuple(count.slide for count in reference),
        x,
        y,
        n1,
        n2,
        share,
        explained,
        chance,
        bland_altman(y - x),
        spread,
        *lines,
        pearson(x, y),
        spearman(x, y),
    )


def _counted(quantity: Quantity, counts: Sequence[Count]) -> tuple[Floats, Floats]:
    """The cells of a quantity, and the white cells, of each count."""
    k = np.array([count.of(quantity) for count in counts], np.float64)
    return k, np.array([count.cells for count in counts], np.float64)


@dataclass(frozen=True)
class Yardstick:
    """Whether the tool is further from the examiners than they are from each other, in one
    quantity.

    tool, examiners   root mean square of the differences, percentage points
    excess            `statistics.interchangeability`, squared percentage points
    """

    quantity: Quantity
    n: int
    tool: float
    examiners: float
    excess: Estimate

    @property
    def verdict(self) -> str:
        """What the interval of the excess says."""
        if not math.isfinite(self.excess.low):
            return "not told"
        if self.excess.low > 0:
            return "further"
        return "closer" if self.excess.high < 0 else "no difference shown"


def yardsticks(
    first: Sequence[Count], second: Sequence[Count], tool: Sequence[Count]
) -> list[Yardstick]:
    """Each quantity that all three can tell, on the slides that two examiners counted."""
    found = []
    for quantity in QUANTITIES:
        trios = [
            t
            for t in zip(first, second, tool, strict=True)
            if all(count.tells(quantity) for count in t)
        ]
        if not trios:
            continue
        e1, e2, m = (100 * np.array([trio[i].share(quantity) for trio in trios]) for i in range(3))
        far = root_mean_square(np.concatenate([m - e1, m - e2]))
        found.append(
            Yardstick(
                quantity, len(trios), far, root_mean_square(e1 - e2), interchangeability(m, e1, e2)
            )
        )
    return found
