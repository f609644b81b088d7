"""The differential count: classes in clinical order, exact limits, sufficiency and flags.

Sources: order and reporting, ICSH and CLSI H20; limits, Clopper & Pearson 1934 (Rümke's table
holds the same limits, rounded outward); flags, the international consensus rules for smear review;
reference ranges, ARUP (adults). Thresholds differ between laboratories: see `rules.Rules`.
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
    CellClass,
)
from .own_classes import OwnClass
from .rules import NEUTROPHILS, Rules

#: Verified LOINC codes of shares per 100 leukocytes in blood.
LOINC = {
    "basophil": "30180-4",
    "blast": "26446-5",
    "eosinophil": "26450-7",
    "monocyte": "26485-3",
    "band_neutrophil": "26508-2",
}

#: Findings that the network is not trained for; every differential lists them.
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
    """A count k of n as a percentage with exact 95 % limits; NaN if n is 0."""

    count: int
    percent: float
    low: float
    high: float


@dataclass(frozen=True)
class Flag:
    """A rule that a slide breaks, and the sentence that says so."""

    rule: str
    words: str


@dataclass(frozen=True)
class Differential:
    """One slide's differential count.

    Attributes
    ----------
    shares : dict
        White classes in clinical order, then white classes that only a reviewer gives.
    neutrophils : Share
        Band and segmented neutrophils together.
    n_white : int
        White cells, the denominator.
    target_cells : int
        White cells asked for.
    nrbc : int
        Nucleated red cells.
    nrbc_per_100 : float
        Nucleated red cells per 100 white cells; NaN without white cells.
    wbc : float, optional
        The analyser's white count in 10⁹/l.
    corrected_wbc : float, optional
        White count without nucleated red cells, in 10⁹/l.
    unidentified : int
        Unidentified cells.
    outside : dict
        Counts of classes that are no white cells.
    flags : tuple of Flag
    rules : Rules
    """

    shares: dict[str, Share]
    neutrophils: Share
    n_white: int
    target_cells: int
    nrbc: int
    nrbc_per_100: float
    wbc: float | None
    corrected_wbc: float | None
    unidentified: int
    outside: dict[str, int]
    flags: tuple[Flag, ...]
    rules: Rules
    claim: str = CLAIM

    @property
    def sufficient(self) -> bool:
        """Whether at least the target number of white cells was counted."""
        return self.n_white >= self.target_cells

    def share(self, name: str) -> Share:
        """Return the share of a white class, or of "neutrophils"."""
        return self.neutrophils if name == NEUTROPHILS else self.shares[name]


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Compute exact two-sided limits of a proportion k/n, as fractions; (0, 1) for n = 0.

    >>> [round(100 * v, 1) for v in clopper_pearson(9, 100)]
    [4.2, 16.4]

    Raises
    ------
    ValueError
        k is not in 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n}: a count must lie between 0 and its total")
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def compute_share(k: int, n: int) -> Share:
    """Compute k of n as a share."""
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
    """Count cells by their final classes.

    The denominator is the number of white cells. It includes a reviewer's variant lymphocytes,
    plasma cells and other white cells. Unidentified cells, platelets, smudge cells and artefacts
    are outside the denominator and are reported separately.

    Parameters
    ----------
    class_names
        Final class of each cell.
    target_cells
        White cells asked for.
    wbc
        The analyser's white count in 10⁹/l. It is corrected as wbc × 100 / (100 + NRBC) if there
        are at least `rules.nrbc_correction_per_100` nucleated red cells (NRBC) per 100 white cells.
    rules
        Thresholds and ranges; the defaults if None.

    Raises
    ------
    UsageError
        A name is not a class.
    """
    rules = rules or Rules()
    counts = Counter(class_names)
    given: tuple[CellClass | OwnClass, ...] = (
        *REVIEW_CLASSES,
        *rules.classes,
    )  # Classes that only a reviewer gives.
    known = (*CLASS_NAMES, UNIDENTIFIED, *(c.name for c in given))
    if unknown := sorted(set(counts) - set(known)):
        raise UsageError(f"{', '.join(map(repr, unknown))}: no class; known: {', '.join(known)}")
    white = (*WHITE_NAMES, *(c.name for c in given if c.white and counts[c.name]))
    n = sum(counts[name] for name in white)
    nrbc, unidentified = counts["erythroblast"], counts[UNIDENTIFIED]
    per_100 = 100 * nrbc / n if n else math.nan
    corrected = (
        wbc * 100 / (100 + per_100)
        if wbc is not None and per_100 >= rules.nrbc_correction_per_100
        else None
    )
    shares = {name: compute_share(counts[name], n) for name in white}
    every: tuple[CellClass | OwnClass, ...] = (*CLASSES, *given)
    others = [c.name for c in every if not c.white and c.name != "erythroblast"]
    outside = {name: counts[name] for name in others if counts[name]}
    neutrophils = compute_share(sum(counts[name] for name in NEUTROPHIL_NAMES), n)
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
    """Flag too few white cells and too many unidentified cells."""
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
    """Flag cells that normal adult blood does not hold, or holds rarely."""
    counts = {name: shares[name].count for name in ("blast", "promyelocyte", "myelocyte")}
    words = {c.name: c.words for c in CLASSES}
    count_rules = [(f"{name}_count", k, words[name]) for name, k in counts.items()]
    count_rules.append(("nrbc_count", nrbc, words["erythroblast"]))
    flags = [
        Flag(rule, f"{_cells(k, name)} seen")
        for rule, k, name in count_rules
        if 0 < getattr(rules, rule) <= k
    ]
    for rule, name, subject in (
        ("metamyelocyte_percent", "metamyelocyte", "metamyelocytes"),
        ("left_shift_band_percent", "band_neutrophil", "left shift: band neutrophils"),
    ):
        percent, limit = shares[name].percent, getattr(rules, rule)
        if percent > limit:  # False for NaN, which stands for no white cells.
            flags.append(Flag(rule, f"{subject} {percent:.1f} % (over {limit:g} %)"))
    return flags


def _flags_on_correction(
    per_100: float, wbc: float | None, corrected: float | None, rules: Rules
) -> list[Flag]:
    """Flag nucleated red cells that falsify the analyser's white count."""
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
    """Flag shares outside the reference ranges."""
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
    """Return a count with its noun: "1 blast", "2 blasts"."""
    return f"{k} {words}{'' if k == 1 else 's'}"
