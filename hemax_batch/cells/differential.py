"""The differential count as a clinical object: fixed order, the right denominators, exact limits, sufficiency, flags.

Sources: order and reporting, ICSH and CLSI H20; limits, Clopper & Pearson 1934 (Rümke's table is that, rounded
outward); flags after the international consensus rules for smear review; reference ranges, ARUP (adults). Thresholds
differ between laboratories: `Rules`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..errors import UsageError
from ..vocabulary import CLAIM, UNIDENTIFIED, WHITE_NAMES

NEUTROPHILS = ("band_neutrophil", "segmented_neutrophil")

#: LOINC codes per 100 leukocytes in blood, those that were verified.
LOINC = {
    "basophil": "30180-4",
    "blast": "26446-5",
    "eosinophil": "26450-7",
    "monocyte": "26485-3",
    "band_neutrophil": "26508-2",
}

NOT_ASSESSED = (
    "platelets and platelet clumps",
    "smudge cells",
    "variant lymphocytes",
    "plasma cells",
    "parasites",
    "red-cell morphology",
)


@dataclass(frozen=True)
class Rules:
    """When a differential is flagged. Per cents of white cells; `ranges` are reference ranges (low, high) in per
    cent, ARUP adults.

    `neutrophils` in `ranges` means bands and segmented together.
    """

    metamyelocyte_percent: float = 2.0  # more than this
    left_shift_band_percent: float = 5.0  # more than this
    nrbc_correction_per_100: float = 5.0  # from here on the white count is to be corrected
    ranges: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {
            "neutrophils": (45, 79), "band_neutrophil": (0, 5), "lymphocyte": (16, 47),
            "monocyte": (0, 9), "eosinophil": (0, 6), "basophil": (0, 2),
        }
    )  # fmt: skip

    @classmethod
    def from_toml(cls, path: Path) -> Rules:
        """Defaults changed by a TOML file: the fields' names, and a table [ranges] of name = [low, high]. UsageError
        if malformed."""
        try:
            given = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read as TOML ({error})") from error
        known = {f.name for f in fields(cls)}
        if unknown := set(given) - known:
            raise UsageError(f"{path}: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
        ranges = dict(cls().ranges)
        for name, value in given.pop("ranges", {}).items():
            if name != "neutrophils" and name not in WHITE_NAMES:
                raise UsageError(
                    f"{path}: [ranges] {name}: not a white cell; known: neutrophils, {', '.join(WHITE_NAMES)}"
                )
            if not (isinstance(value, list) and len(value) == 2 and 0 <= value[0] <= value[1] <= 100):
                raise UsageError(f"{path}: [ranges] {name} = {value}: expected [low, high] in per cent")
            ranges[name] = (float(value[0]), float(value[1]))
        if bad := [k for k, v in given.items() if not isinstance(v, int | float)]:
            raise UsageError(f"{path}: {', '.join(bad)}: expected a number")
        return cls(**given, ranges=ranges)


@dataclass(frozen=True)
class Share:
    """k of n as a percentage with its exact 95 % limits; all three NaN where n is 0."""

    count: int
    percent: float
    low: float
    high: float


@dataclass(frozen=True)
class Differential:
    """One slide's count. `shares` holds the white classes in clinical order; `neutrophils` is bands and segmented
    together."""

    shares: dict[str, Share]
    neutrophils: Share
    n_white: int
    target_cells: int
    nrbc: int
    nrbc_per_100: float
    corrected_wbc: float | None
    unidentified: int
    flags: tuple[str, ...]
    claim: str = CLAIM

    @property
    def sufficient(self) -> bool:
        """Whether as many white cells were counted as were asked for."""
        return self.n_white >= self.target_cells


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided limits of a proportion, as fractions; (0, 1) for n = 0.

    >>> [round(100 * v, 1) for v in clopper_pearson(9, 100)]
    [4.2, 16.4]
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def _share(k: int, n: int) -> Share:
    if n == 0:
        return Share(0, float("nan"), float("nan"), float("nan"))
    low, high = clopper_pearson(k, n)
    return Share(k, 100 * k / n, 100 * low, 100 * high)


def count(
    class_names: Iterable[str], target_cells: int = 200, wbc: float | None = None, rules: Rules | None = None
) -> Differential:
    """The differential of cells with these final classes.

    Denominator: white cells only. Nucleated red cells are given per 100 of them; with the analyser's count `wbc`
    (10⁹/l) and at least `rules.nrbc_correction_per_100`, corrected = wbc × 100 / (100 + NRBC). Unidentified cells are
    outside and are stated.
    """
    rules = rules or Rules()
    found = Counter(class_names)
    n = sum(found[name] for name in WHITE_NAMES)
    shares = {name: _share(found[name], n) for name in WHITE_NAMES}
    nrbc = found["erythroblast"]
    per_100 = 100 * nrbc / n if n else float("nan")
    corrected = wbc * 100 / (100 + per_100) if wbc is not None and per_100 >= rules.nrbc_correction_per_100 else None
    neutrophils = _share(sum(found[name] for name in NEUTROPHILS), n)
    flags = _flags(shares, neutrophils, n, target_cells, nrbc, found[UNIDENTIFIED], rules)
    return Differential(shares, neutrophils, n, target_cells, nrbc, per_100, corrected, found[UNIDENTIFIED], flags)


def _flags(
    shares: dict[str, Share], neutrophils: Share, n: int, target: int, nrbc: int, unidentified: int, rules: Rules
) -> tuple[str, ...]:
    flags = []
    if n < target:
        flags.append(f"insufficient: {n} white cells counted, {target} asked for")
    flags += [
        f"{shares[k].count} {k}{'s' if shares[k].count > 1 else ''} seen"
        for k in ("blast", "promyelocyte", "myelocyte")
        if shares[k].count
    ]
    if n and shares["metamyelocyte"].percent > rules.metamyelocyte_percent:
        flags.append(f"metamyelocytes {shares['metamyelocyte'].percent:.1f} % (over {rules.metamyelocyte_percent:g} %)")
    if n and shares["band_neutrophil"].percent > rules.left_shift_band_percent:
        flags.append(
            f"left shift: bands {shares['band_neutrophil'].percent:.1f} % (over {rules.left_shift_band_percent:g} %)"
        )
    if nrbc:
        flags.append(f"{nrbc} nucleated red cell{'s' if nrbc > 1 else ''} seen")
    for name, (low, high) in rules.ranges.items():
        share = neutrophils if name == "neutrophils" else shares[name]
        if n and not low <= share.percent <= high:
            flags.append(f"{name.replace('_', ' ')} {share.percent:.1f} % (reference {low:g}-{high:g} %)")
    if n + unidentified and unidentified > 0.1 * (n + unidentified):
        flags.append(f"{unidentified} of {n + unidentified} cells unidentified")
    return tuple(flags)
