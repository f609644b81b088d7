"""The limits that a laboratory sets before it looks at results: one TOML file for `verify` and
`monitor`.

`hemax-batch verify --print-rules` prints a file with every entry. An entry that is not known is
refused.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from ..bounded_files import MAX_TOML_BYTES, parse_toml, read_bounded
from ..cells.rules import Rules
from ..errors import UsageError
from .counts import NRBC, QUANTITY
from .measures import MEASURE
from .statistics.control import REJECTIONS
from .tables import told_unknown

TEMPLATE = Path(__file__).parent / "templates" / "laboratory.toml"
FLAGS = (
    "distribution",
    "morphology",
    "abnormal",
    "blast",
    "immature_granulocytes",
    NRBC,
    "variant_lymphocyte",
)
_MORPHOLOGY = FLAGS[3:]
#: criterion -> whether its limit is a least value, a most value or a range, and what it is of
CRITERIA: dict[str, tuple[str, tuple[str, ...]]] = {
    "within_limits": ("least", tuple(QUANTITY)),
    "within_difference": ("least", tuple(QUANTITY)),
    "bias": ("most", tuple(QUANTITY)),
    "slope": ("range", tuple(QUANTITY)),
    "intercept": ("range", tuple(QUANTITY)),
    "pearson": ("least", tuple(QUANTITY)),
    "spearman": ("least", tuple(QUANTITY)),
    "sensitivity": ("least", FLAGS),
    "specificity": ("least", FLAGS),
    "efficiency": ("least", FLAGS),
    "repeatability": ("most", tuple(QUANTITY)),
}
_TOP = ("set_by", "set_on", "ranges", "abnormal", "acceptance", "monitor")


@dataclass(frozen=True)
class Limit:
    """One line of the acceptance table, as the laboratory set it: low and high limit of a criterion
    on a subject.
    """

    criterion: str
    subject: str
    low: float
    high: float

    @property
    def words(self) -> str:
        """The limit as a person reads it."""
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        if self.low == -self.high:
            return f"within ±{self.high:g}"
        return f"at most {self.high:g}" if self.low == 0 else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class MonitorRules:
    """How a chart alarms.

    rules        the rules of Westgard that reject
    alarm        the measures whose charts set exit code 9; the others are shown only
    recent_days  how many days before the last night a rejection counts as present
    least_slides a day of fewer slides is no point
    """

    rules: tuple[str, ...] = REJECTIONS
    alarm: tuple[str, ...] = tuple(name for name, measure in MEASURE.items() if measure.alarms)
    recent_days: int = 0
    least_slides: int = 3


@dataclass(frozen=True)
class LaboratoryRules:
    """What the laboratory set, by whom and when. `source` and `sha256` say which file; both are ""
    for the defaults.
    """

    set_by: str = ""
    set_on: str = ""
    ranges: dict[str, tuple[float, float]] = field(default_factory=lambda: dict(Rules().ranges))
    abnormal: dict[str, float] = field(
        default_factory=lambda: {
            "blast": 1.0,
            "immature_granulocytes": 2.0,
            NRBC: 1.0,
            "variant_lymphocyte": 5.0,
        }
    )
    least_slides: int = 0
    acceptance: tuple[Limit, ...] = ()
    monitor: MonitorRules = field(default_factory=MonitorRules)
    source: str = ""
    sha256: str = ""


def read_rules(path: Path | None) -> LaboratoryRules:
    """The rules of a file; the defaults without one. UsageError names the file and the entry that
    is wrong.
    """
    if path is None:
        return LaboratoryRules()
    try:
        raw = read_bounded(path, MAX_TOML_BYTES)
        given = parse_toml(raw)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as TOML ({error})") from error
    _known(path, "", given, _TOP)
    defaults = LaboratoryRules()
    acceptance = _table(path, given, "acceptance")
    return LaboratoryRules(
        str(given.get("set_by", "")),
        _set_on(path, given.get("set_on", "")),
        defaults.ranges | _ranges(path, _table(path, given, "ranges"), tuple(QUANTITY)),
        defaults.abnormal
        | _numbers(path, "abnormal", _table(path, given, "abnormal"), _MORPHOLOGY),
        _whole(path, "acceptance", acceptance.pop("slides", 0), "slides"),
        tuple(_limits(path, acceptance)),
        _monitor(path, _table(path, given, "monitor")),
        path.name,
        hashlib.sha256(raw).hexdigest(),
    )


def _limits(path: Path, tables: dict[str, Any]) -> list[Limit]:
    """The acceptance limits, in the file's order."""
    _known(path, "acceptance", tables, tuple(CRITERIA))
    limits = []
    for criterion in tables:
        kind, subjects = CRITERIA[criterion]
        entries = _table(path, tables, criterion, "acceptance.")
        if kind == "range":
            found = _ranges(path, entries, subjects, f"acceptance.{criterion}", signed=True)
            limits += [Limit(criterion, name, low, high) for name, (low, high) in found.items()]
            continue
        numbers = _numbers(path, f"acceptance.{criterion}", entries, subjects)
        low_sign = -1.0 if criterion == "bias" else 0.0
        for name, value in numbers.items():
            low, high = (value, math.inf) if kind == "least" else (low_sign * value, value)
            limits.append(Limit(criterion, name, low, high))
    return limits


def _monitor(path: Path, entries: dict[str, Any]) -> MonitorRules:
    defaults = MonitorRules()
    _known(path, "monitor", entries, ("rules", "alarm", "recent_days", "least_slides"))
    return MonitorRules(
        _names(path, "rules", entries.get("rules", defaults.rules), REJECTIONS),
        _names(path, "alarm", entries.get("alarm", defaults.alarm), tuple(MEASURE)),
        _whole(path, "monitor", entries.get("recent_days", defaults.recent_days), "recent_days"),
        _whole(path, "monitor", entries.get("least_slides", defaults.least_slides), "least_slides"),
    )


def _known(path: Path, table: str, entries: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in entries:
        if name not in known:
            where = f"[{table}] " if table else ""
            raise UsageError(f"{path}: {where}{told_unknown('entry', name, known)}")


def _table(path: Path, given: dict[str, Any], name: str, above: str = "") -> dict[str, Any]:
    found = given.get(name, {})
    if not isinstance(found, dict):
        raise UsageError(
            f"{path}: {above}{name} = {found!r}: expected a table [{above}{name}] of name = value"
        )
    return dict(found)


def _numbers(
    path: Path, table: str, entries: dict[str, Any], known: tuple[str, ...]
) -> dict[str, float]:
    _known(path, table, entries, known)
    for name, value in entries.items():
        if not _is_number(value) or value < 0:
            raise UsageError(f"{path}: [{table}] {name} = {value!r}: expected a number from 0 on")
    return {name: float(value) for name, value in entries.items()}


def _ranges(
    path: Path,
    entries: dict[str, Any],
    known: tuple[str, ...],
    table: str = "ranges",
    signed: bool = False,
) -> dict[str, tuple[float, float]]:
    known = known if signed else (*known, "lymphocyte")
    _known(path, table, entries, known)
    for name, value in entries.items():
        if not (
            isinstance(value, list)
            and len(value) == 2
            and all(map(_is_number, value))
            and value[0] <= value[1]
        ):
            raise UsageError(f"{path}: [{table}] {name} = {value!r}: expected [low, high]")
        if not signed and not 0 <= value[0] <= value[1] <= 100:
            raise UsageError(
                f"{path}: [{table}] {name} = {value!r}: expected per cents from 0 to 100"
            )
    return {name: (float(low), float(high)) for name, (low, high) in entries.items()}


def _names(path: Path, name: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise UsageError(f"{path}: [monitor] {name} = {value!r}: expected a list of names")
    for one in value:
        if one not in known:
            raise UsageError(f"{path}: [monitor] {name}: {told_unknown('name', str(one), known)}")
    return tuple(value)


def _whole(path: Path, table: str, value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"{path}: [{table}] {name} = {value!r}: expected a whole number from 0 on")
    return value


def _set_on(path: Path, value: Any) -> str:
    if isinstance(value, date) or value == "":
        return str(value)
    raise UsageError(
        f"{path}: set_on = {value!r}: expected a day without quotes, such as 2026-11-01"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
