"""Rules for flags and reference ranges: defaults with their sources, and a laboratory's own file.

    # rules.toml: only what differs from the defaults
    left_shift_band_percent = 10
    ranges_of = "our laboratory 2026"
    [ranges]
    lymphocyte = [18, 45]
    [age_groups."1-6 years"]     # chosen with --age-group; other ranges are as in [ranges]
    lymphocyte = [30, 65]

All percentages are of white cells. `examples/rules.toml` lists every entry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..bounded_files import read_toml
from ..errors import UsageError
from ..vocabulary import WHITE_NAMES
from .own_classes import OwnClass, own_classes

#: Name of band and segmented neutrophils together.
NEUTROPHILS = "neutrophils"

_CONSENSUS = "after the international consensus rules for smear review"

#: Source of each default.
SOURCES = {
    "blast_count": _CONSENSUS,
    "promyelocyte_count": _CONSENSUS,
    "myelocyte_count": _CONSENSUS,
    "metamyelocyte_percent": _CONSENSUS,
    "nrbc_count": _CONSENSUS,
    "plasma_cell_count": _CONSENSUS,
    "variant_lymphocyte_percent": _CONSENSUS,
    "left_shift_band_percent": "the upper end of ARUP's adult range for bands",
    "nrbc_correction_per_100": "usual laboratory practice: corrected count = count x 100 / (100 + NRBC)",
    "unidentified_percent": "this tool's own: above it the per cents rest on too small a part of the cells",
    "outside_percent": "this tool's own: five times the share of known cells that are beyond the limit",
    "ranges": "ARUP Laboratories, adults",
}


def _arup_adults() -> dict[str, tuple[float, float]]:
    """Return ARUP's adult reference ranges in per cent of white cells."""
    return {
        NEUTROPHILS: (45.0, 79.0),
        "band_neutrophil": (0.0, 5.0),
        "lymphocyte": (16.0, 47.0),
        "monocyte": (0.0, 9.0),
        "eosinophil": (0.0, 6.0),
        "basophil": (0.0, 2.0),
    }


@dataclass(frozen=True)
class Rules:
    """Thresholds of flags, and reference ranges.

    A count raises a flag from that many cells on; 0 turns the flag off. A percentage, of white
    cells, raises a flag above its value.

    Attributes
    ----------
    nrbc_correction_per_100 : float
        Nucleated red cells per 100 white cells from which the white count is corrected.
    unidentified_percent : float
        Unidentified cells in per cent of white and unidentified cells together.
    outside_percent : float
        Cells unlike those that the network knows, in per cent of all; a slide may be outside above.
    ranges : dict
        Reference ranges (low, high) in per cent of white cells, by class.
    ranges_of : str
        Source of the ranges, as flags and reports quote it.
    classes : tuple of OwnClass
        The laboratory's own classes for the review.
    """

    blast_count: float = 1
    promyelocyte_count: float = 1
    myelocyte_count: float = 1
    metamyelocyte_percent: float = 2.0
    nrbc_count: float = 1
    plasma_cell_count: float = 1
    variant_lymphocyte_percent: float = 5.0
    left_shift_band_percent: float = 5.0
    nrbc_correction_per_100: float = 5.0
    unidentified_percent: float = 10.0
    outside_percent: float = 5.0
    ranges: dict[str, tuple[float, float]] = field(default_factory=_arup_adults)
    ranges_of: str = "adults, ARUP"
    classes: tuple[OwnClass, ...] = ()

    @classmethod
    def from_toml(cls, path: Path, age_group: str | None = None) -> Rules:
        """Read rules from a TOML file; entries that it lacks keep their defaults.

        The file holds the names of the fields, a table [ranges] of name = [low, high], and tables
        [age_groups."NAME"] likewise. Ranges without `ranges_of` are quoted by the file's name.

        Parameters
        ----------
        path
            The TOML file.
        age_group
            Name of the age group whose ranges apply; None for none.

        Raises
        ------
        UsageError
            The file is malformed or has no such age group. The message names the file and the
            entry.
        """
        try:
            given = read_toml(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read as TOML ({error})") from error
        known = {*(f.name for f in fields(cls)), "age_groups"}
        if unknown := set(given) - known:
            raise UsageError(
                f"{path}: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}"
            )
        ranges, ranges_of = (
            _checked_ranges(path, given.pop("ranges", {})),
            given.pop("ranges_of", None),
        )
        groups = _checked_groups(path, given.pop("age_groups", {}))
        try:
            classes = own_classes(given.pop("classes", {}))
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from error
        if ranges_of is not None and not isinstance(ranges_of, str):
            raise UsageError(f"{path}: ranges_of = {ranges_of!r}: expected text")
        for name, value in given.items():
            if not _is_number(value) or value < 0:
                raise UsageError(f"{path}: {name} = {value!r}: expected a number of at least 0")
        quoted = ranges_of or (path.name if ranges or age_group else cls.ranges_of)
        if age_group is not None:
            if age_group not in groups:
                raise UsageError(
                    f"{path}: no age group {age_group!r}; there are {', '.join(map(repr, groups)) or 'none'}"
                )
            ranges, quoted = ranges | groups[age_group], f"{quoted}, {age_group}"
        return cls(**given, ranges=_arup_adults() | ranges, ranges_of=quoted, classes=classes)


def _checked_ranges(path: Path, ranges: object) -> dict[str, tuple[float, float]]:
    """Check a table of ranges and convert it to floats."""
    if not isinstance(ranges, dict):
        raise UsageError(
            f"{path}: ranges = {ranges!r}: expected a table [ranges] of name = [low, high]"
        )
    for name, value in ranges.items():
        if name != NEUTROPHILS and name not in WHITE_NAMES:
            known = ", ".join((NEUTROPHILS, *WHITE_NAMES))
            raise UsageError(f"{path}: [ranges] {name}: not a white cell; known: {known}")
        if not (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))):
            raise UsageError(
                f"{path}: [ranges] {name} = {value!r}: expected [low, high] in per cent"
            )
        if not 0 <= value[0] <= value[1] <= 100:
            raise UsageError(
                f"{path}: [ranges] {name} = {value}: expected 0 <= low <= high <= 100 per cent"
            )
    return {name: (float(low), float(high)) for name, (low, high) in ranges.items()}


def _checked_groups(path: Path, groups: object) -> dict[str, dict[str, tuple[float, float]]]:
    """Check the tables of age groups."""
    if not isinstance(groups, dict):
        raise UsageError(
            f'{path}: age_groups = {groups!r}: expected tables [age_groups."NAME"] of name = [low, high]'
        )
    return {group: _checked_ranges(path, ranges) for group, ranges in groups.items()}


def _is_number(value: object) -> bool:
    """Return whether a TOML value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
