"""Whether a whole slide is outside what the network was measured on, from the share of its unfamiliar cells.

A cell is unfamiliar where its out-of-distribution score is above 1, the limit that 99 in 100 of the cells
that the network knows keep. A slide is outside where unfamiliar cells are more than chance explains
(binomial test against the share expected) and more than `Rules.outside_percent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc

NOMINAL_SHARE = 0.01  # of known cells beyond the limit, by the limit's definition
MAX_P_VALUE = 0.001  # of the binomial test: one slide in a thousand by chance
_MEASURED = ("unfamiliar (other half than fitted on)", "known cells flagged", "all", "value")


@dataclass(frozen=True)
class OutsideVerdict:
    """The verdict on a slide, and the figures that it rests on.

    Attributes
    ----------
    outside : bool
    unfamiliar_cells, cells : int
    expected_percent : float
        What is expected of a slide like those that the network was measured on.
    limit_percent : float
        Above it, a slide may be outside (`Rules.outside_percent`).
    p_value : float
        How often chance gives so many unfamiliar cells.
    """

    outside: bool
    unfamiliar_cells: int
    cells: int
    expected_percent: float
    limit_percent: float
    p_value: float

    @property
    def percent(self) -> float:
        """Unfamiliar cells, per cent of all."""
        return 100 * self.unfamiliar_cells / self.cells if self.cells else 0.0

    @property
    def words(self) -> str:
        """The sentence on a slide that is outside; "" for others."""
        if not self.outside:
            return ""
        return (
            "this slide is outside what the network was measured on: "
            f"{self.unfamiliar_cells} of {self.cells} cells ({self.percent:.1f} %) are unlike all that it knows; "
            f"{self.expected_percent:.1f} % are expected, the limit is {self.limit_percent:g} %. "
            "The differential is not reportable"
        )


def expected_share(metrics: Mapping[str, object]) -> float:
    """The share of unfamiliar cells to expect: as the weights' card measured it, at least the nominal 0.01."""
    found: object = metrics
    for key in _MEASURED:
        found = found.get(key) if isinstance(found, Mapping) else None
    return max(NOMINAL_SHARE, found) if isinstance(found, float) else NOMINAL_SHARE


def judge_slide(
    ood_score: np.ndarray, expected: float, limit_percent: float
) -> OutsideVerdict | None:
    """Judge a slide by the scores of its cells, float [N]; None where nothing is known of them.

    Weights without a detector give every cell a score of 0. A limit of 0 per cent asks for chance alone.

    >>> scores = np.r_[np.full(5, 1.5), np.full(45, 0.5)]
    >>> judge_slide(scores, 0.01, 5.0).outside
    True
    """
    cells, beyond = len(ood_score), int((ood_score > 1).sum())
    if not (ood_score > 0).any():
        return None
    p_value = binomial_tail(beyond, cells, expected)
    outside = p_value < MAX_P_VALUE and 100 * beyond > limit_percent * cells
    return OutsideVerdict(
        bool(outside), beyond, cells, round(100 * expected, 4), float(limit_percent), p_value
    )


def binomial_tail(k: int, n: int, share: float) -> float:
    """The probability of at least k of n.

    >>> round(binomial_tail(2, 3, 0.5), 12)
    0.5
    """
    return 1.0 if k == 0 else float(betainc(k, n - k + 1, share))
