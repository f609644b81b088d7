"""The figures of every slide of a results folder, by night and scanner. No cell is read.

Read are `result.json` of each slide, `differential.csv` over all slides, and the last line of each
review's trail. A slide that the table over all slides lacks, because a run still goes on, is read
from its own.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ..bounded_files import MAX_BYTES, MAX_LIST_BYTES, open_regular, parse_json
from ..cells.measure import MIN_RBC
from ..errors import UsageError
from ..outputs.tables import plain_text
from .measures import MEASURES
from .statistics.estimate import Floats
from .tables import Problems, day, read_rows, shown

TABLE = "differential.csv"
ONE_SCANNER = "all scanners"
_NOT_SLIDES = (".hemax", "reviews")
_NIGHT_ENDS = timedelta(hours=12)  # a slide that is done in the morning belongs to the night before


@dataclass(frozen=True)
class SlideTimes:
    """How a slide's night and scanner are known.

    table    from a table of slides: slide -> (night, scanner); either may be None
    pattern  from the slide's path: named groups `date` and `scanner`
    Without either, the night is that in which `result.json` was written.
    """

    table: Mapping[str, tuple[date | None, str | None]] = field(default_factory=dict)
    pattern: re.Pattern[str] | None = None

    def of(self, slide: str, path: str, written_s: float) -> tuple[date, str]:
        """The night and the scanner of a slide."""
        night, scanner = self.table.get(slide, (None, None))
        match = self.pattern.search(path) if self.pattern else None
        groups = match.groupdict() if match else {}
        night = (
            night
            or day(groups.get("date") or "")
            or (datetime.fromtimestamp(written_s) - _NIGHT_ENDS).date()
        )
        return night, scanner or groups.get("scanner") or ONE_SCANNER


def read_slide_table(path: Path | None) -> dict[str, tuple[date | None, str | None]]:
    """A table with the column `slide`, and `date` (ISO 8601), `scanner` or both. UsageError lists
    what is wrong, by row.
    """
    if path is None:
        return {}
    problems, found = Problems(path), dict[str, tuple[date | None, str | None]]()
    rows_of: dict[str, int] = {}
    for row in read_rows(path, ("slide",), ("date", "scanner")):
        slide, told = row.text["slide"], row.text.get("date", "")
        if not slide:
            problems.add(row.number, "no slide")
        elif (earlier := rows_of.setdefault(slide, row.number)) != row.number:
            problems.add(row.number, f"{shown(slide)} is in row {earlier} already")
        elif told and day(told) is None:
            problems.add(row.number, f"date {shown(told)}: expected ISO 8601, such as 2026-03-14")
        else:
            found[slide] = (day(told), row.text.get("scanner") or None)
    problems.refuse()
    return found


def read_pattern(text: str | None) -> re.Pattern[str] | None:
    """A pattern of slide paths. UsageError where it is none, or names neither a date nor a
    scanner.
    """
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"--path-pattern {text!r}: no regular expression ({error})") from error
    if not {"date", "scanner"} & set(pattern.groupindex):
        raise UsageError(
            f"--path-pattern {text!r}: names no group; "
            "expected (?P<date>...), (?P<scanner>...) or both"
        )
    return pattern


@dataclass(frozen=True)
class Nights:
    """All slides of a folder, as parallel arrays in the order of their ids.

    nights      the night of each, as an ordinal day
    values      each measure's value; NaN where the slide has none
    versions    weights and version that each slide was made with
    unreadable  folders whose `result.json` cannot be read
    """

    slides: tuple[str, ...]
    nights: np.ndarray[tuple[int], np.dtype[np.int64]]
    scanners: tuple[str, ...]
    values: dict[str, Floats]
    audited_mm2: Floats
    versions: tuple[str, ...]
    unreadable: tuple[str, ...]


def read_nights(root: Path, times: SlideTimes) -> Nights:
    """The figures of every slide. UsageError where the folder holds none."""
    if not root.is_dir():
        raise UsageError(f"{root}: is no folder; name the one that `run --out` was given")
    rows, reviews = _table(root / TABLE), dict(_reviews(root / "reviews"))
    slides: list[tuple[str, int, str, dict[str, float], float, str]] = []
    unreadable = []
    for name in _folders(root):
        path = os.path.join(root, name, "result.json")
        try:
            with open_regular(Path(path)) as file:
                record, written_s = (
                    parse_json(file.read(MAX_BYTES)),
                    os.fstat(file.fileno()).st_mtime,
                )
            night, scanner = times.of(name, str(record["path"]), written_s)
            row = rows.get(name) or _table(root / name / TABLE).get(name, {})
            values = _values(record, row, reviews.get(name))
            audited = _number((record.get("screen_audit") or {}).get("audited_mm2"))
            slides.append((name, night.toordinal(), scanner, values, audited, _version(record)))
        except (FileNotFoundError, NotADirectoryError):
            continue  # another folder than a slide's
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            unreadable.append(name)
    if not slides:
        raise UsageError(
            f"{root}: no results of hemax-batch can be read; "
            "name the folder that `run --out` was given"
        )
    return _as_arrays(slides, unreadable)


def _as_arrays(
    slides: list[tuple[str, int, str, dict[str, float], float, str]], unreadable: Iterable[str]
) -> Nights:
    ids, nights, scanners, values, audited, versions = zip(*slides, strict=True)
    columns = {
        m.name: np.array([v.get(m.name, math.nan) for v in values], np.float64) for m in MEASURES
    }
    return Nights(
        tuple(ids),
        np.array(nights, np.int64),
        tuple(scanners),
        columns,
        np.array(audited, np.float64),
        tuple(versions),
        tuple(unreadable),
    )


def _folders(root: Path) -> list[str]:
    """The folders that may be a slide's, by name."""
    with os.scandir(root) as entries:
        return sorted(
            entry.name for entry in entries if entry.name not in _NOT_SLIDES and entry.is_dir()
        )


def _table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a `differential.csv` by slide; none where it is not there."""
    wanted = ("white_cells", "unidentified", "nrbc_per_100_white")
    found: dict[str, dict[str, str]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            places = {name: i for i, name in enumerate(next(lines, []))}
            kept = [(n, i) for n, i in places.items() if n in wanted or n.endswith("_percent")]
            for cells in lines:
                found[plain_text(cells[places["slide"]])] = {name: cells[i] for name, i in kept}
    except OSError:
        return found
    except (ValueError, KeyError, IndexError, csv.Error) as error:
        raise UsageError(
            f"{path}: cannot be read ({error!r}); `hemax-batch run` writes it again"
        ) from error
    return found


def _reviews(folder: Path) -> Iterator[tuple[str, float]]:
    """Per cent of the cells decided in each slide's last review that got another class."""
    if not folder.is_dir():
        return
    for name in sorted(os.listdir(folder)):
        try:
            with open_regular(folder / name / "trail.jsonl") as file:
                last = parse_json(file.read(MAX_LIST_BYTES).rstrip().rsplit(b"\n", 1)[-1])
            yield name, 100 * last["reclassified"] / last["decided"]
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            continue  # no review, or a trail without a decision


def _values(
    record: dict[str, Any], row: Mapping[str, str], corrected: float | None
) -> dict[str, float]:
    """The measures of one slide; what is not known is NaN."""
    smear, audit = record.get("smear") or {}, record.get("screen_audit") or {}
    red, green, blue = (_number(smear.get(f"red_cell_od_{c}")) for c in ("red", "green", "blue"))
    glass = [_number(smear.get(f"background_{c}")) for c in ("red", "green", "blue")]
    white, unidentified = _number(row.get("white_cells")), _number(row.get("unidentified"))
    cells, regions = _number(record.get("cells")), _number(record.get("regions"))
    return {
        "red_cell_diameter": _red_cells(record),
        "stain_strength": _number(smear.get("stain_contrast")),
        "nuclear_contrast": _number(smear.get("nuclear_contrast")),
        "red_over_green": _share(red, green),
        "blue_over_green": _share(blue, green),
        "background": sum(glass) / 3,
        "background_tint": glass[2] - glass[0],
        "focus": _number(smear.get("focus")),
        "out_of_focus": 100 * _share(_number(smear.get("regions_out_of_focus")), regions),
        "unfamiliar": 100 * _share(_number(smear.get("unfamiliar_cells")), cells),
        "unidentified": 100 * _share(unidentified, white + unidentified),
        "missed": _share(_number(audit.get("found")), _number(audit.get("audited_mm2"))),
        "corrected": math.nan if corrected is None else corrected,
        "nrbc": _number(row.get("nrbc_per_100_white")),
        **{
            m.name: _number(row.get(f"{m.name.removeprefix('share_')}_percent"))
            for m in MEASURES
            if m.name.startswith("share_")
        },
    }


def _red_cells(record: Mapping[str, Any]) -> float:
    """The diameter of the slide's red cells, where enough were measured to tell it."""
    return _number(record.get("rbc_diameter_um")) if record["rbc_measured"] >= MIN_RBC else math.nan


def _version(record: Mapping[str, Any]) -> str:
    weights = str(record.get("weights_sha256", ""))[:12]
    return f"weights {weights}, hemax-batch {record.get('version', '?')}"


def _number(value: object) -> float:
    """A figure; NaN where there is none."""
    if value is None or value == "" or isinstance(value, bool):
        return math.nan
    return float(value) if isinstance(value, int | float | str) else math.nan


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
