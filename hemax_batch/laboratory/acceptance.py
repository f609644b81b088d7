"""The acceptance table: each limit that the laboratory set, what was measured, and whether it
holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .comparison import Comparison
from .counts import QUANTITY
from .flags import WORDS, FlagAgreement
from .rules import LaboratoryRules, Limit
from .statistics import Estimate, Repeatability
from .statistics.estimate import NO_ESTIMATE

CRITERION_WORDS = {
    "slides": "slides compared",
    "within_limits": "share of slides within the binomial limits",
    "within_difference": "share of slides whose difference counting explains",
    "bias": "bias, percentage points",
    "slope": "Passing-Bablok slope",
    "intercept": "Passing-Bablok intercept, percentage points",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
    "sensitivity": "sensitivity by slide",
    "specificity": "specificity by slide",
    "efficiency": "efficiency by slide",
    "repeatability": "SD of repeated scans, percentage points",
}


@dataclass(frozen=True)
class Verdict:
    """One line of the acceptance table.

    passed   whether the measured value keeps the limit; None where nothing was measured
    certain  whether the whole 95 % interval keeps it; None without an interval
    """

    limit: Limit
    subject: str
    measured: Estimate
    passed: bool | None
    certain: bool | None

    @property
    def criterion(self) -> str:
        """The criterion in words."""
        return CRITERION_WORDS[self.limit.criterion]


def judge(
    rules: LaboratoryRules,
    slides: int,
    comparisons: Sequence[Comparison],
    flags: Sequence[FlagAgreement],
    repeats: dict[str, Repeatability],
) -> list[Verdict]:
    """A verdict on each limit of the rules, in their order; none where the laboratory set none."""
    verdicts = []
    if rules.least_slides:
        limit = Limit("slides", "", rules.least_slides, math.inf)
        verdicts.append(Verdict(limit, "all", Estimate(slides), slides >= rules.least_slides, None))
    by_quantity = {c.quantity.name: c for c in comparisons}
    by_flag = {f.flag: f for f in flags}
    for limit in rules.acceptance:
        if limit.criterion in ("sensitivity", "specificity", "efficiency"):
            words, measured = WORDS[limit.subject], _of_flag(limit, by_flag.get(limit.subject))
        elif limit.criterion == "repeatability":
            found = repeats.get(limit.subject)
            words, measured = (
                QUANTITY[limit.subject].words,
                found.sd.scaled(100) if found else NO_ESTIMATE,
            )
        else:
            words, measured = (
                QUANTITY[limit.subject].words,
                _of_quantity(limit, by_quantity.get(limit.subject)),
            )
        verdicts.append(_verdict(limit, words, measured))
    return verdicts


def _of_flag(limit: Limit, found: FlagAgreement | None) -> Estimate:
    if found is None:
        return NO_ESTIMATE
    return {"sensitivity": found.sensitivity, "specificity": found.specificity}.get(
        limit.criterion, found.efficiency
    )


def _of_quantity(limit: Limit, found: Comparison | None) -> Estimate:
    if found is None:
        return NO_ESTIMATE
    return {
        "within_limits": found.within,
        "within_difference": found.within_difference,
        "bias": found.difference.bias,
        "slope": found.passing_bablok.slope,
        "intercept": found.passing_bablok.intercept,
        "pearson": found.pearson,
        "spearman": found.spearman,
    }[limit.criterion]


def _verdict(limit: Limit, words: str, measured: Estimate) -> Verdict:
    if not measured.exists:
        return Verdict(limit, words, measured, None, None)
    passed = limit.low <= measured.value <= limit.high
    if not (math.isfinite(measured.low) and math.isfinite(measured.high)):
        return Verdict(limit, words, measured, passed, None)
    return Verdict(
        limit, words, measured, passed, limit.low <= measured.low and measured.high <= limit.high
    )
