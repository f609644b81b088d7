"""Whether a slide is abnormal, by its distribution and by its morphology, and how well two counters
agree on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .counts import NRBC, QUANTITY, Count
from .rules import FLAGS, LaboratoryRules
from .statistics import Estimate, proportion

WORDS = {
    "distribution": "abnormal distribution: a class outside its range",
    "morphology": "abnormal morphology: any of those below",
    "abnormal": "abnormal by either",
    "blast": "blasts",
    "immature_granulocytes": "immature granulocytes",
    NRBC: "nucleated red cells",
    "variant_lymphocyte": "variant lymphocytes",
}
_RANGE_OF = {"lymphocyte": "lymphocytes"}  # ranges are of lymphocytes with their variant forms


def flags_of(
    count: Count, rules: LaboratoryRules, reference: Count | None = None
) -> dict[str, bool | None]:
    """Each of `FLAGS` of one count; None where the count cannot tell it.

    A class that the reference cannot tell, such as bands that nobody split, moves no flag.
    """
    reference = reference or count
    found: dict[str, bool | None] = {}
    for name, least in rules.abnormal.items():
        quantity = QUANTITY[name]
        told = count.tells(quantity) and reference.tells(quantity)
        found[name] = 100 * count.share(quantity) >= least if told else None
    found["distribution"] = any(
        not low <= 100 * count.share(quantity) <= high
        for name, (low, high) in rules.ranges.items()
        if count.tells(quantity := QUANTITY[_RANGE_OF.get(name, name)])
        and reference.tells(quantity)
    )
    found["morphology"] = any(bool(found[name]) for name in rules.abnormal)
    found["abnormal"] = bool(found["distribution"] or found["morphology"])
    return found


@dataclass(frozen=True)
class FlagAgreement:
    """How often a method flags what a reference flags, by slide, with exact intervals.

    `assessed` is False where the method cannot tell the flag; its figures are then absent.
    """

    flag: str
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    assessed: bool = True

    @property
    def sensitivity(self) -> Estimate:
        """Of the slides that the reference flags, those that the method flags."""
        return proportion(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> Estimate:
        """Of the slides that the reference does not flag, those that the method does not flag."""
        return proportion(self.true_negative, self.true_negative + self.false_positive)

    @property
    def efficiency(self) -> Estimate:
        """Of all slides, those on which both agree."""
        return proportion(self.true_positive + self.true_negative, self.slides)

    @property
    def slides(self) -> int:
        """The slides that both could tell."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative


def flag_agreements(
    reference: Sequence[Count], method: Sequence[Count], rules: LaboratoryRules
) -> list[FlagAgreement]:
    """The agreement on each flag of paired counts."""
    pairs = [
        (flags_of(a, rules), flags_of(b, rules, a)) for a, b in zip(reference, method, strict=True)
    ]
    found = []
    for flag in FLAGS:
        told = [
            (a[flag], b[flag])
            for a, b in pairs
            if a.get(flag) is not None and b.get(flag) is not None
        ]
        both, method_only, reference_only, neither = (
            sum(pair == wanted for pair in told)
            for wanted in ((True, True), (False, True), (True, False), (False, False))
        )
        assessed = bool(told) or not pairs
        found.append(FlagAgreement(flag, both, method_only, reference_only, neither, assessed))
    return found
