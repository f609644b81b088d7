"""The differential count as a clinical object: fixed order, the right denominators, exact limits, sufficiency, flags.

Sources: order and reporting, ICSH and CLSI H20; limits, Clopper & Pearson 1934 (Rümke's table is that, rounded
outward); flags after the international consensus rules for smear review (Barnes et al. 2005); reference ranges, ARUP (adults). Thresholds
differ between laboratories: `rules.Rules`.
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
)
from .false_calls import CallErrors, FalseCalls
from .rules import NEUTROPHILS, Rules

#: LOINC codes per 100 leukocytes in blood: those that were verified, and no others.
LOINC = {
    "basophil": "30180-4",
    "blast": "26446-5",
    "eosinophil": "26450-7",
    "monocyte": "26485-3",
    "band_neutrophil": "26508-2",
    "variant_lymphocyte": "13046-8",
    "plasma_cell": "13047-6",
}
LOINC_SMUDGE = "34992-8"  # smudge cells per 100 leukocytes in blood

#: What no network of this vocabulary sees; said in every differential.
NOT_ASSESSED = (
    "platelets and platelet clumps",
    "parasites",
    "red-cell morphology",
)
#: Rules on counts: "<class>_count", from so many cells on.
_COUNT_RULES = {
    "blast_count": "blast",
    "promyelocyte_count": "promyelocyte",
    "myelocyte_count": "myelocyte",
    "nrbc_count": "erythroblast",
    "plasma_cell_count": "plasma_cell",
}
#: The rule of a flag on cells that error alone may explain: "blast_within_error".
WITHIN_ERROR = "_within_error"
_WORDS = {c.name: c.words for c in CLASSES}


def not_assessed(unknown_classes: Sequence[str] = ()) -> tuple[str, ...]:
    """What a differential does not tell: `NOT_ASSESSED`, and the classes that the weights do not know.

    >>> not_assessed(("plasma_cell",))[-1]
    'plasma cells'
    """
    return (*NOT_ASSESSED, *(f"{_WORDS[name]}s" for name in unknown_classes))


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
    gives, where he gave them; `neutrophils` is bands and segmented together; `outside` counts what is no white cell:
    smudge cells, and what a reviewer calls so. `false_calls` is what error alone would give of each class, None where
    the weights cannot say. `not_reportable` says why nobody may report the differential; empty: it may be.
    """

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


def expected_false_calls(
    errors: CallErrors | None, class_names: Iterable[str]
) -> dict[str, FalseCalls]:
    """What error alone would give of each class beside these calls; {} where the weights cannot say."""
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
) -> Differential:
    """The differential of cells with these final classes. UsageError where a name is no class.

    Denominator: white cells only, a reviewer's other white cells among them. Nucleated red
    cells are given per 100 of them; with the analyser's count `wbc` (10⁹/l) and at least
    `rules.nrbc_correction_per_100`, corrected = wbc × 100 / (100 + NRBC). Smudge cells, unidentified cells, and
    what a reviewer calls platelet or artefact, are outside and are stated.

    `false_calls` (`expected_false_calls`) is what the counts of abnormal cells are compared with. None: a person made
    the calls. {}: not known. Each sentence of `not_reportable` becomes a flag.
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
        *(Flag("outside", words) for words in not_reportable),
        *_flags_on_numbers(n, target_cells, unidentified, rules),
        *_flags_on_counts(found, rules, false_calls),
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
    found: Mapping[str, int], rules: Rules, false_calls: Mapping[str, FalseCalls] | None
) -> list[Flag]:
    """Cells that normal blood of adults does not hold. A flag says whether error alone explains them."""
    flags = []
    for rule, name in _COUNT_RULES.items():
        if not 0 < getattr(rules, rule) <= found[name]:
            continue
        seen = f"{_cells(found[name], _WORDS[name])} seen"
        if false_calls is None:
            flags.append(Flag(rule, seen))
        elif name not in false_calls:
            flags.append(Flag(rule, f"{seen}; the number expected by error is not known"))
        else:
            flags.append(_flag_against_error(rule, name, seen, found[name], false_calls[name]))
    return flags


def _flag_against_error(rule: str, name: str, seen: str, count: int, error: FalseCalls) -> Flag:
    figures = f"{error.expected:.1f} expected by error, 95 % {error.low} to {error.high}"
    if count > error.high:
        return Flag(rule, f"{seen}, more than error explains ({figures})")
    words = f"{seen}, within the error expected: look at the cells ({figures})"
    return Flag(f"{name}{WITHIN_ERROR}", words)


def _flags_on_shares(shares: dict[str, Share], rules: Rules) -> list[Flag]:
    """Cells of which normal blood of adults holds few."""
    flags = []
    for rule, name, what in (
        ("metamyelocyte_percent", "metamyelocyte", "metamyelocytes"),
        ("variant_lymphocyte_percent", "variant_lymphocyte", "variant lymphocytes"),
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
