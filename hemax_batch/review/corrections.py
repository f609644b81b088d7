"""Read a reviewer's decisions, as `report.html` exports them. The file is refused unless every row is valid.

    slide,result_sha256,cell_id,class_before,class_after,action,reviewer,time[,comment]

`result_sha256` (`load_results.result_sha256`) says of which results they are; `action` is `reclassify` or `approve`; text
cells carry the guard of `outputs.tables`. A byte-order mark, CRLF and blank lines, as editors leave them, are ignored.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ..errors import UsageError
from ..outputs.tables import plain_text, safe_text
from ..text_decoding import column_separator, decode_text
from ..vocabulary import CLASS_NAMES, REVIEW_NAMES, UNIDENTIFIED
from .notes import ACTIONS as NOTE_ACTIONS

COLUMNS = (
    "slide",
    "result_sha256",
    "cell_id",
    "class_before",
    "class_after",
    "action",
    "reviewer",
    "time",
)
ACTIONS = ("reclassify", "approve")
GIVEN_CLASSES = (*CLASS_NAMES, UNIDENTIFIED, *REVIEW_NAMES)  # what a reviewer may call a cell
MAX_BYTES = 64 * 2**20  # some 400,000 decisions
_MOST_PROBLEMS = 12


@dataclass(frozen=True)
class Correction:
    """One decision on one cell. `row` is its line in the file; messages name it."""

    slide_id: str
    result_sha256: str
    cell_id: int
    class_before: str
    class_after: str
    action: str
    reviewer: str
    time: str
    row: int


def read_corrections(path: Path, own_classes: bool = False) -> list[Correction]:
    """Return all decisions of a file, in its order, exact repetitions once. UsageError lists the wrong rows.

    `own_classes`: accept any class name; the caller knows which classes the laboratory defined.
    """
    reader = csv.DictReader(io.StringIO(corrections_text(path), newline=""), strict=True)
    problems: list[str] = []
    found: dict[tuple[str, int], Correction] = {}
    try:
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(
                f"{path}: no column {', '.join(missing)}; expected {','.join(COLUMNS)}, as report.html exports it"
            )
        for raw in reader:
            if plain_text(raw.get("action") or "") in NOTE_ACTIONS and None not in raw:
                continue  # read by notes.read_notes
            correction, wrong = _checked(
                {k: plain_text(v or "") for k, v in raw.items() if k}, reader.line_num, own_classes
            )
            if None in raw:
                correction, wrong = None, [f"row {reader.line_num}: more entries than columns"]
            problems += wrong
            if correction is not None:
                key = correction.slide_id, correction.cell_id
                problems += _contradiction(found.setdefault(key, correction), correction)
    except csv.Error as error:
        raise UsageError(f"{path}: row {reader.line_num}: not a CSV table ({error})") from error
    raise_problems(path, problems)
    if not found:
        raise UsageError(
            f"{path}: holds no decision; review some cells in report.html and export again"
        )
    return list(found.values())


def _contradiction(earlier: Correction, later: Correction) -> list[str]:
    """Say what is wrong with a second decision on a cell. A repetition of the first is not wrong."""
    if replace(later, time=earlier.time, row=earlier.row) == earlier:
        return []
    cell = f"row {later.row}: cell {later.cell_id} of {_shown(later.slide_id)}"
    if later.class_after != earlier.class_after:
        return [
            f"{cell} is {later.class_after} here and {earlier.class_after} in row {earlier.row}"
        ]
    return [f"{cell} is there twice, and not as in row {earlier.row}"]


def raise_problems(path: Path, problems: list[str]) -> None:
    """Raise UsageError with the file and up to a dozen problems, if there are any."""
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        tail = [f"and {more} more"] if more > 0 else []
        raise UsageError(
            "\n  ".join(
                [f"{path}: refused, nothing was changed:", *problems[:_MOST_PROBLEMS], *tail]
            )
        )


def correction_rows(corrections: list[Correction], reviewer: str) -> list[list[str]]:
    """Return the rows of such a file, in the order of `COLUMNS`, signed by `reviewer`."""
    return [
        [
            safe_text(c.slide_id),
            c.result_sha256,
            str(c.cell_id),
            c.class_before,
            c.class_after,
            c.action,
            safe_text(reviewer),
            c.time,
        ]
        for c in corrections
    ]


def corrections_text(path: Path) -> str:
    """The text of a file of corrections, its columns separated by commas.

    The file may be as Excel saves it: semicolons or tabs, Windows-1252 or UTF-16. UsageError where it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UsageError(
                f"{path}: over {MAX_BYTES} bytes; no review is that large: name what report.html exported"
            )
        return _with_commas(decode_text(raw))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: is no text (byte {error.start}); save it as CSV UTF-8"
        ) from error
    except csv.Error as error:
        raise UsageError(f"{path}: not a CSV table ({error})") from error


def _with_commas(text: str) -> str:
    """Return a table with commas between its columns. Its lines keep their numbers."""
    separator = column_separator(text)
    if separator == ",":
        return text
    written = io.StringIO(newline="")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()


def _checked(
    raw: dict[str, str], row: int, own_classes: bool
) -> tuple[Correction | None, list[str]]:
    """Return one row as a decision, or what is wrong with it."""
    wrong = []
    if not raw["cell_id"].isascii() or not raw["cell_id"].isdigit() or len(raw["cell_id"]) > 12:
        wrong.append(f"row {row}: cell_id {_shown(raw['cell_id'])} is no cell's number")
    if raw["action"] not in ACTIONS:
        wrong.append(f"row {row}: action {_shown(raw['action'])}; expected {' or '.join(ACTIONS)}")
    if raw["class_after"] not in GIVEN_CLASSES and not own_classes:
        wrong.append(
            f"row {row}: unknown class {_shown(raw['class_after'])}; known: {', '.join(GIVEN_CLASSES)}"
        )
    elif raw["action"] == "approve" and raw["class_after"] != raw["class_before"]:
        wrong.append(
            f"row {row}: approved, but {_shown(raw['class_before'])} became {raw['class_after']!r}"
        )
    if not _is_time(raw["time"]):
        wrong.append(
            f"row {row}: time {_shown(raw['time'])}; expected ISO 8601 with its offset, such as 2026-11-23T21:30:00+01:00"
        )
    if wrong:
        return None, wrong
    return Correction(
        raw["slide"],
        raw["result_sha256"],
        int(raw["cell_id"]),
        raw["class_before"],
        raw["class_after"],
        raw["action"],
        raw["reviewer"].strip(),
        raw["time"],
        row,
    ), []


def _is_time(text: str) -> bool:
    """Say whether the text is a time with an offset, which is the same everywhere."""
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _shown(text: str) -> str:
    """Quote foreign text for a message, up to 40 characters."""
    return repr(text[:40])
