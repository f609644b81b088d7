"""The differential count: classes in clinical order, exact limits, sufficiency and flags.

Sources: order and reporting, ICSH and CLSI H20; limits, Clopper & Pearson 1934 (Rümke's table
holds the same limits, rounded outward); flags, the international consensus rules for smear review;
reference ranges, ARUP (adults). Thresholds differ between laboratories: see `rules.Rules`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from .false_calls import CallErrors, FalseCalls
from .own_classes import OwnClass
from .rules import NEUTROPHILS, Rules

#: Verified LOINC codes of shares per 100 leukocytes in blood.
LOINC = {
    "basophil": "30180-4",
    "blast": "26446-5",
    "eosinophil": "26450-7",
    "monocyte": "26485-3",
    "band_neutrophil": "26508-2",
    "variant_lymphocyte": "13046-8",
    "plasma_cell": "13047-6",
}
#: LOINC code of smudge cells per 100 leukocytes in blood.
LOINC_SMUDGE = "34992-8"

#: Findings that no network of this vocabulary is trained for; every differential lists them.
NOT_ASSESSED = (
    "platelets and platelet clumps",
    "parasites",
    "red-cell morphology",
)
#: Rules on counts, with their classes.
_COUNT_RULES = {
    "blast_count": "blast",
    "promyelocyte_count": "promyelocyte",
    "myelocyte_count": "myelocyte",
    "nrbc_count": "erythroblast",
    "plasma_cell_count": "plasma_cell",
}
#: End of the rule of a flag on cells that error alone may explain, such as "blast_within_error".
WITHIN_ERROR = "_within_error"
_WORDS = {c.name: c.words for c in CLASSES}


def not_assessed(unknown_classes: Sequence[str] = ()) -> tuple[str, ...]:
    """Return `NOT_ASSESSED` and the classes that the weights do not know.

    >>> not_assessed(("plasma_cell",))[-1]
    'plasma cells'
    """
    return (*NOT_ASSESSED, *(f"{_WORDS[name]}s" for name in unknown_classes))


@dataclass(frozen=True)
class Share:
    """A count k of n as a percentage with exact 95 % limits; NaN if n is 0."""

    count: int
    percent: float
    low: float
    high: float


SCALE_FLAG = "red_cell_size"  # the red cells contradict the slide's µm/px


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
    false_calls : dict, optional
        Calls of each class that error alone would give; None where they are not known.
    not_reportable : tuple of str
        Reasons not to report the differential; empty if there are none.
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
    false_calls: Mapping[str, FalseCalls] | None = None
    not_reportable: tuple[str, ...] = ()
    claim: str = CLAIM

    @property
    def reportable(self) -> bool:
        """Whether nothing speaks against the whole differential."""
        return not self.not_reportable

    @property
    def smudge(self) -> int:
        """Smudge cells, which are outside the denominator."""
        return self.outside.get("smudge", 0)

    @property
    def smudge_per_100(self) -> float:
        """Smudge cells per 100 white cells; NaN without white cells."""
        return 100 * self.smudge / self.n_white if self.n_white else math.nan

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


def expected_false_calls(
    errors: CallErrors | None, class_names: Iterable[str]
) -> dict[str, FalseCalls]:
    """Compute the calls of each class that error alone would give beside these calls.

    Without the weights' table of errors the result is empty.
    """
    if errors is None:
        return {}
    called = Counter(class_names)
    single = {name: (name,) for name in (*WHITE_NAMES, "erythroblast")}
    wanted = {NEUTROPHILS: NEUTROPHIL_NAMES, **single}
    return {name: errors.false_calls(called, *classes) for name, classes in wanted.items()}


def count_differential(
    class_names: Iterable[str],
    target_cells: int = 200,
    wbc: float | None = None,
    rules: Rules | None = None,
    false_calls: Mapping[str, FalseCalls] | None = None,
    not_reportable: tuple[str, ...] = (),
    slide_flags: tuple[Flag, ...] = (),
) -> Differential:
    """Count cells by their final classes.

    The denominator is the number of white cells. It includes a reviewer's other
    white cells. Unidentified cells, platelets, smudge cells and artefacts are outside the
    denominator and are reported separately.

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
    false_calls
        What error alone would give of each class, for the flags on abnormal cells. None if a
        person made the calls; empty if it is not known.
    not_reportable
        Reasons not to report the differential. Each becomes a flag.
    slide_flags
        Flags on the slide itself, which no count changes.

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
        *slide_flags,
        *(Flag("outside", words) for words in not_reportable),
        *_flags_on_numbers(n, target_cells, unidentified, rules),
        *_flags_on_counts(counts, rules, false_calls),
        *_flags_on_shares(shares, rules),
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
        false_calls or None,
        not_reportable,
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


def _flags_on_counts(
    counts: Mapping[str, int], rules: Rules, false_calls: Mapping[str, FalseCalls] | None
) -> list[Flag]:
    """Flag cells that normal adult blood does not hold, and say whether error alone explains them."""
    flags = []
    for rule, name in _COUNT_RULES.items():
        if not 0 < getattr(rules, rule) <= counts[name]:
            continue
        seen = f"{_cells(counts[name], _WORDS[name])} seen"
        if false_calls is None:
            flags.append(Flag(rule, seen))
        elif name not in false_calls:
            flags.append(Flag(rule, f"{seen}; the number expected by error is not known"))
        else:
            flags.append(_flag_against_error(rule, name, seen, counts[name], false_calls[name]))
    return flags


def _flag_against_error(rule: str, name: str, seen: str, count: int, error: FalseCalls) -> Flag:
    """Flag a count under its rule if it is above the upper limit of error, else as within error."""
    figures = f"{error.expected:.1f} expected by error, 95 % {error.low} to {error.high}"
    if count > error.high:
        return Flag(rule, f"{seen}, more than error explains ({figures})")
    words = f"{seen}, within the error expected: look at the cells ({figures})"
    return Flag(f"{name}{WITHIN_ERROR}", words)


def _flags_on_shares(shares: dict[str, Share], rules: Rules) -> list[Flag]:
    """Flag cells that normal adult blood holds rarely."""
    flags = []
    for rule, name, subject in (
        ("metamyelocyte_percent", "metamyelocyte", "metamyelocytes"),
        ("variant_lymphocyte_percent", "variant_lymphocyte", "variant lymphocytes"),
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
