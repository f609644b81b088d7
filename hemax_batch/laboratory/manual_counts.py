"""The manual differentials of a verification: a row for each slide and examiner."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError
from .counts import MANUAL_CLASSES, NEUTROPHILS, NRBC, Count
from .tables import Problems, Row, read_rows, shown, whole_number

KEYS = ("slide", "examiner", "cells")
OUTSIDE = (NRBC, "smudge")  # counted beside the white cells
COLUMNS = (*KEYS, *MANUAL_CLASSES, *OUTSIDE)
_NRBC_NAMES = ("erythroblast",)  # read as `nrbc`
MAX_EXAMINERS = 2  # of one slide


def template(slides: Iterable[str] = ()) -> str:
    """The table to fill in: its header, and two empty rows for each slide, one for each examiner.

    Examples
    --------
    >>> print(template(["S1"]).splitlines()[1][:12])
    S1,first,,,,
    """
    rows = [
        f"{_quoted(slide)},{who}" + "," * (len(COLUMNS) - 2)
        for slide in slides
        for who in ("first", "second")
    ]
    return "\n".join([",".join(COLUMNS), *rows]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',;"') else text


def read_manual_counts(path: Path) -> list[Count]:
    """All counts of a file, in its order. UsageError lists what is wrong, by row.

    A row whose counts are all empty is left out, so that a template may be filled in part. The
    white classes of a row sum to its `cells`. A slide has one or two examiners. Neutrophils are
    split in bands and segmented, or given together in a column `neutrophils`.
    """
    rows = read_rows(path, KEYS, (*MANUAL_CLASSES, NEUTROPHILS, *OUTSIDE, *_NRBC_NAMES))
    problems = Problems(path)
    counts: list[Count] = []
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        if not any(text for name, text in row.text.items() if name not in ("slide", "examiner")):
            continue
        count = _count(row, problems)
        if count is None:
            continue
        if (earlier := seen.setdefault((count.slide, count.counter), row.number)) != row.number:
            problems.add(
                row.number,
                f"{shown(count.slide)} by {shown(count.counter)} is in row {earlier} already",
            )
            continue
        if sum(slide == count.slide for slide, _ in seen) > MAX_EXAMINERS:
            problems.add(
                row.number, f"{shown(count.slide)} has a third examiner; a slide has one or two"
            )
            continue
        counts.append(count)
    problems.refuse()
    if not counts:
        raise UsageError(
            f"{path}: holds no count; `hemax-batch verify --template` prints the table to fill in"
        )
    return counts


def _count(row: Row, problems: Problems) -> Count | None:
    """One row as a count; None, and a problem noted, where it is none."""
    before = len(problems.found)
    for key in ("slide", "examiner"):
        if not row.text[key]:
            problems.add(row.number, f"no {key}")
    numbers: dict[str, int] = {}
    for name in row.text:
        if name in ("slide", "examiner"):
            continue
        number = whole_number(row.text[name])
        if number is None:
            problems.add(
                row.number,
                f"{name} {shown(row.text[name])}: expected a whole number of cells from 0 on",
            )
        else:
            numbers[name] = number
    if len(problems.found) > before:
        return None
    return _summed(row, numbers, problems)


def _summed(row: Row, numbers: dict[str, int], problems: Problems) -> Count | None:
    """The count of a row whose entries are numbers, where they fit together."""
    cells = numbers["cells"]
    classes = {name: k for name, k in numbers.items() if name in (*MANUAL_CLASSES, NEUTROPHILS)}
    total = sum(classes.values())
    split = numbers.get("band_neutrophil", 0) + numbers.get("segmented_neutrophil", 0)
    if numbers.get(NEUTROPHILS) and split:
        problems.add(
            row.number,
            f"neutrophils {numbers[NEUTROPHILS]} and bands or segmented {split}: "
            "give one or the other",
        )
    elif not cells:
        problems.add(row.number, "cells 0: a count needs cells")
    elif total != cells:
        remedy = "; give counts, not per cents" if total == 100 else ""
        problems.add(row.number, f"the classes sum to {total}, but cells is {cells}{remedy}")
    else:
        return Count(row.text["slide"], row.text["examiner"], cells, classes, _nrbc(row, numbers))
    return None


def _nrbc(row: Row, numbers: dict[str, int]) -> int | None:
    """The nucleated red cells; None where the table has no column for them, or this row leaves it
    empty.
    """
    given = [numbers[name] for name in (NRBC, *_NRBC_NAMES) if row.text.get(name)]
    return given[0] if given else None
