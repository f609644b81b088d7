"""The differential count as a clinical object: fixed order, the right denominators, exact limits, sufficiency, flags.

Sources: order and reporting, ICSH and CLSI H20; limits, Clopper & Pearson 1934 (Rümke's table is that, rounded
outward); flags after the international consensus rules for smear review; reference ranges, ARUP (adults). Thresholds
differ between laboratories: `rules.Rules`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.special import betaincinv

from ..errors import UsageError
from ..vocabulary import (
    CLAIM,
    CLASS_NAMES,
    CLASSES,
    NEUTROPHIL_NAMES,
    REVIEW_CLASSES,
    UNIDENTIFIED,
    WHITE_NAMES,
)
from .rules import NEUTROPHILS, Rules

#: LOINC codes per 100 leukocytes in blood: those that were verified, and no others.
LOINC = {
    "basophil": "30180-4",
    "blast": "26446-5",
    "eosinophil": "26450-7",
    "monocyte": "26485-3",
    "band_neutrophil": "26508-2",
}

#: What the network was not taught to see; said in every differential.
NOT_ASSESSED = (
    "platelets and platelet clumps",
    "smudge cells",
    "variant lymphocytes",
    "plasma cells",
    "parasites",
    "red-cell morphology",
)


@dataclass(frozen=True)
class Share:
    """k of n as a percentage with its exact 95 % limits; all three NaN where n is 0."""

    count: int
    percent: float
    low: float
    high: float


@dataclass(frozen=True)
class Flag:
    """Why a slide needs a person's eye: the rule that says so, and the sentence."""

    rule: str
    words: str


@dataclass(frozen=True)
class Differential:
    """One slide's count. `shares` holds the white classes in clinical order, and after them those that only a reviewer
    gives, where he gave them; `neutrophils` is bands and segmented together; `outside` counts a reviewer's classes that
    are no white cells."""

    shares: dict[str, Share]
    neutrophils: Share
    n_white: int
    target_cells: int
    nrbc: int
    nrbc_per_100: float  # NaN without white cells
    wbc: float | None  # the analyser's count, 10⁹/l
    corrected_wbc: float | None
    unidentified: int
    outside: dict[str, int]
    flags: tuple[Flag, ...]
    rules: Rules
    claim: str = CLAIM

    @property
    def sufficient(self) -> bool:
        """Whether as many white cells were counted as were asked for."""
        return self.n_white >= self.target_cells

    def share(self, name: str) -> Share:
        """Of a white class, or of "neutrophils"."""
        return self.neutrophils if name == NEUTROPHILS else self.shares[name]


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided limits of a proportion, as fractions; (0, 1) for n = 0. ValueError unless 0 <= k <= n.

    >>> [round(100 * v, 1) for v in clopper_pearson(9, 100)]
    [4.2, 16.4]
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n}: a count must lie between 0 and its total")
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def compute_share(k: int, n: int) -> Share:
    """k of n."""
    if n == 0:
        return Share(0, math.nan, math.nan, math.nan)
    low, high = clopper_pearson(k, n)
    return Share(k, 100 * k / n, 100 * low, 100 * high)


def count_differential(
    class_names: Iterable[str],
    target_cells: int = 200,
    wbc: float | None = None,
    rules: Rules | None = None,
) -> Differential:
    """The differential of cells with these final classes. UsageError where a name is no class.

    Denominator: white cells only, a reviewer's variant lymphocytes, plasma cells and others among them. Nucleated red
    cells are given per 100 of them; with the analyser's count `wbc` (10⁹/l) and at least
    `rules.nrbc_correction_per_100`, corrected = wbc × 100 / (100 + NRBC). Unidentified cells, and
    what a reviewer calls platelet, smudge cell or artefact, are outside and are stated.
    """
    rules = rules or Rules()
    found = Counter(class_names)
    given = (*REVIEW_CLASSES, *rules.classes)  # what only a reviewer gives
    known = (*CLASS_NAMES, UNIDENTIFIED, *(c.name for c in given))
    if unknown := sorted(set(found) - set(known)):
        raise UsageError(f"{', '.join(map(repr, unknown))}: no class; known: {', '.join(known)}")
    white = (*WHITE_NAMES, *(c.name for c in given if c.white and found[c.name]))
    n = sum(found[name] for name in white)
    nrbc, unidentified = found["erythroblast"], found[UNIDENTIFIED]
    per_100 = 100 * nrbc / n if n else math.nan
    corrected = (
        wbc * 100 / (100 + per_100)
        if wbc is not None and per_100 >= rules.nrbc_correction_per_100
        else None
    )
    shares = {name: compute_share(found[name], n) for name in white}
    others = [c.name for c in (*CLASSES, *given) if not c.white and c.name != "erythroblast"]
    outside = {name: found[name] for name in others if found[name]}
    neutrophils = compute_share(sum(found[name] for name in NEUTROPHIL_NAMES), n)
    flags = (
        *_flags_on_numbers(n, target_cells, unidentified, rules),
        *_flags_on_cells(shares, nrbc, rules),
        *_flags_on_correction(per_100, wbc, corrected, rules),
        *_flags_on_ranges(shares, neutrophils, rules),
    )
    return Differential(
        shares,
        neutrophils,
        n,
        target_cells,
        nrbc,
        per_100,
        wbc,
        corrected,
        unidentified,
        outside,
        flags,
        rules,
    )


def _flags_on_numbers(n: int, target: int, unidentified: int, rules: Rules) -> list[Flag]:
    flags = []
    if n < target:
        flags.append(
            Flag(
                "sufficiency",
                f"insufficient: {_cells(n, 'white cell')} counted, {target} asked for",
            )
        )
    if unidentified and 100 * unidentified > rules.unidentified_percent * (n + unidentified):
        flags.append(
            Flag(
                "unidentified_percent",
                f"{unidentified} of {_cells(n + unidentified, 'cell')} unidentified",
            )
        )
    return flags


def _flags_on_cells(shares: dict[str, Share], nrbc: int, rules: Rules) -> list[Flag]:
    """Cells that normal blood of adults does not hold, or hardly."""
    seen = {name: shares[name].count for name in ("blast", "promyelocyte", "myelocyte")}
    words = {c.name: c.words for c in CLASSES}
    wanted = [(f"{name}_count", k, words[name]) for name, k in seen.items()]
    wanted.append(("nrbc_count", nrbc, words["erythroblast"]))
    flags = [
        Flag(rule, f"{_cells(k, name)} seen")
        for rule, k, name in wanted
        if 0 < getattr(rules, rule) <= k
    ]
    for rule, name, what in (
        ("metamyelocyte_percent", "metamyelocyte", "metamyelocytes"),
        ("left_shift_band_percent", "band_neutrophil", "left shift: band neutrophils"),
    ):
        percent, limit = shares[name].percent, getattr(rules, rule)
        if percent > limit:  # NaN, without white cells, is not
            flags.append(Flag(rule, f"{what} {percent:.1f} % (over {limit:g} %)"))
    return flags


def _flags_on_correction(
    per_100: float, wbc: float | None, corrected: float | None, rules: Rules
) -> list[Flag]:
    if not per_100 >= rules.nrbc_correction_per_100:
        return []
    text = f"{per_100:.1f} nucleated red cells per 100 white cells"
    if corrected is None:
        return [
            Flag(
                "nrbc_correction_per_100",
                f"{text}: correct the analyser's white count (--wbc gives it)",
            )
        ]
    return [
        Flag(
            "nrbc_correction_per_100",
            f"{text}: white count corrected from {wbc:.2f} to {corrected:.2f}",
        )
    ]


def _flags_on_ranges(shares: dict[str, Share], neutrophils: Share, rules: Rules) -> list[Flag]:
    flags = []
    for name in (n for n in (NEUTROPHILS, *WHITE_NAMES) if n in rules.ranges):
        low, high = rules.ranges[name]
        percent = neutrophils.percent if name == NEUTROPHILS else shares[name].percent
        if percent < low or percent > high:
            side = "below" if percent < low else "above"
            words = f"{name.replace('_', ' ')} {percent:.1f} % ({side} {low:g}-{high:g} %, {rules.ranges_of})"
            flags.append(Flag(f"range_{name}", words))
    return flags


def _cells(k: int, words: str) -> str:
    """ "1 blast", "2 blasts"."""
    return f"{k} {words}{'' if k == 1 else 's'}"
