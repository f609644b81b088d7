"""How many calls of a class error alone would give on a slide: the question "how many, if the slide held none?".

The network's calls of held-out cells of known class are counted by source (`CallErrors`; the weights'
card holds them). Cells that were not found, or are unidentified, are no calls. For one class:

1. Assume that the slide holds none of it. The calls of other classes then come from cells of other
   classes. Their true numbers follow from the calls by maximum likelihood (an EM algorithm), for each
   source's error rates.
2. A cell of true class t is called the class with probability p, known from k of m held-out cells: a
   Beta distribution. Beside n cells of t that were called something else stand negative-binomially many
   calls by error: a Poisson number whose mean is Gamma(n) times p / (1 - p).
3. The sum over the true classes is drawn `DRAWS` times. Each draw takes the rates of one source, all
   sources equally often, because nobody knows which of them the slide resembles. The mean of the draws is
   the number expected. Their 2.5 and 97.5 % quantiles are its interval, which holds the spread between
   the sources.

The number does not count what is no cell at all (dirt, red cells) and holds for slides that look like
one of the sources.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..vocabulary import CLASS_NAMES

DRAWS = 4000
PRIOR_CELLS = 30  # what all sources together weigh beside one source's own cells of a class
MAX_ODDS = 9.0  # false calls beside one true cell: nine in ten called the class wrongly
_EM_STEPS = 200

#: Platelets do not reach a slide's table, so they take no part.
NAMES: tuple[str, ...] = tuple(name for name in CLASS_NAMES if name != "platelet")


@dataclass(frozen=True)
class FalseCalls:
    """The number of calls of a class expected by error on one slide, with its 95 % interval."""

    expected: float
    low: int
    high: int


@dataclass(frozen=True)
class CallErrors:
    """What held-out cells were called.

    Attributes
    ----------
    sources : tuple of str
    counts : ndarray of int64 [S, K, K]
        Cells by source, true class and called class, both in the order of `NAMES`.
    min_confidence : float
        Cells below it are unidentified, and are not in `counts`.
    """

    sources: tuple[str, ...]
    counts: np.ndarray
    min_confidence: float

    @classmethod
    def from_calls(
        cls, calls: Iterable[tuple[str, str, str]], min_confidence: float
    ) -> CallErrors | None:
        """From (source, true class, called class) of each cell; None without any."""
        known = [c for c in calls if c[1] in NAMES and c[2] in NAMES]
        if not known:
            return None
        sources = tuple(dict.fromkeys(source for source, _, _ in known))
        counts = np.zeros((len(sources), len(NAMES), len(NAMES)), np.int64)
        for source, true, called in known:
            counts[sources.index(source), NAMES.index(true), NAMES.index(called)] += 1
        return cls(sources, counts, min_confidence)

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> CallErrors | None:
        """Read what `record` wrote; None where there is nothing, or nothing of this vocabulary."""
        if not record or not record.get("calls"):
            return None
        calls = record["calls"]
        counts = np.zeros((len(calls), len(NAMES), len(NAMES)), np.int64)
        for s, of_source in enumerate(calls.values()):
            for true, row in of_source.items():
                for called, number in row.items():
                    if true in NAMES and called in NAMES:
                        counts[s, NAMES.index(true), NAMES.index(called)] = int(number)
        return cls(tuple(calls), counts, float(record["min_confidence"])) if counts.any() else None

    def record(self) -> dict[str, Any]:
        """The counts as JSON holds them; zeros are left out."""
        calls = {
            source: {
                NAMES[t]: {NAMES[c]: int(row[c]) for c in np.flatnonzero(row)}
                for t, row in enumerate(matrix)
                if row.any()
            }
            for source, matrix in zip(self.sources, self.counts, strict=True)
        }
        return {"min_confidence": self.min_confidence, "calls": calls}

    @cached_property
    def weights(self) -> np.ndarray:
        """float64 [S, K, K], the Dirichlet parameters of each row; all 0 where a class was never met.

        A source's row is its own counts, and beside them the row of all sources together, which weighs
        as much as `PRIOR_CELLS` cells. That row holds half a cell more of each call (Jeffreys' prior).
        """
        together = self.counts.sum(0)
        pooled = (together + 0.5) * together.any(1)[:, None]
        shares = pooled / np.maximum(pooled.sum(1, keepdims=True), 1)
        rows: np.ndarray = self.counts + PRIOR_CELLS * shares
        return rows

    def false_calls(self, called: Mapping[str, int], *target: str) -> FalseCalls:
        """The calls of `target` by error on a slide with these calls by class.

        Several names of `target` count as one class, as band and segmented neutrophils do.
        """
        is_target = np.isin(NAMES, target)
        other = np.array([called.get(name, 0) for name in NAMES], float) * ~is_target
        weights = self.weights
        candidates = ~is_target & weights[0].any(1)
        numbers = np.stack([true_numbers(rows, other, is_target, candidates) for rows in weights])
        per_source = -(-DRAWS // len(weights))
        generator = np.random.default_rng(zlib.crc32(",".join(target).encode()))
        odds = _draw_odds(generator, weights, is_target, candidates, per_source)
        means = generator.gamma(numbers[:, None, :], size=odds.shape) * odds
        drawn = generator.poisson(means).sum(2).ravel()
        low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
        return FalseCalls(float(drawn.mean()), int(low), int(high))


def true_numbers(
    weights: np.ndarray, called: np.ndarray, is_target: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """Estimate how many cells of each true class lie behind the calls, by maximum likelihood.

    Parameters
    ----------
    weights : ndarray of float64 [K, K]
        Rows of error rates, not yet normalised: true class, called class.
    called : ndarray of float64 [K]
        Calls of each class; those of the target are not looked at.
    is_target, candidates : ndarray of bool [K]
        The classes asked about, and the true classes that the calls may come from.

    Returns
    -------
    ndarray of float64 [K], which sums to the calls of other classes

    Examples
    --------
    Classes a, b and the target c. One in ten cells of a is called b; b is always called b. Behind 81
    calls of a stand 90 cells of a, and 9 of the 19 calls of b are theirs:

    >>> w = np.array([[9.0, 1, 0], [0, 10, 0], [0, 0, 10]])
    >>> flags = np.array([False, False, True])
    >>> true_numbers(w, np.array([81.0, 19, 5]), flags, ~flags).round(3).tolist()
    [90.0, 10.0, 0.0]
    """
    rates = weights * ~is_target
    rates = rates / np.maximum(rates.sum(1, keepdims=True), 1e-300) * candidates[:, None]
    calls = called * ~is_target
    total = calls.sum()
    share = candidates / max(candidates.sum(), 1)
    if not total or not candidates.any():
        return np.zeros(len(called))
    for _ in range(_EM_STEPS):
        joint = share[:, None] * rates
        share = (joint / np.maximum(joint.sum(0), 1e-300)) @ (calls / total)
    numbers: np.ndarray = share * total
    return numbers


def _draw_odds(
    generator: np.random.Generator,
    weights: np.ndarray,
    is_target: np.ndarray,
    candidates: np.ndarray,
    draws: int,
) -> np.ndarray:
    """float64 [S, draws, K]: calls of the target beside one cell of each true class called otherwise."""
    hits, misses = weights[..., is_target].sum(2), weights[..., ~is_target].sum(2)
    shape = (len(weights), draws, len(is_target))
    rates = generator.beta(
        np.maximum(hits, 1e-9)[:, None, :], np.maximum(misses, 1e-9)[:, None, :], shape
    )
    odds: np.ndarray = np.minimum(rates / np.maximum(1 - rates, 1e-9), MAX_ODDS) * candidates
    return odds
