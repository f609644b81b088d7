"""Tables that a laboratory writes, read as foreign files: each problem is told by file and row.

UTF-8, UTF-16 with its mark and Windows-1252 are read. Commas, semicolons and tabs separate, as
spreadsheets save them.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from ..errors import UsageError
from ..text_decoding import column_separator, decode_text

MAX_BYTES = 64 * 2**20
_MOST_PROBLEMS = 12
_SHOWN_CHARS = 40


@dataclass(frozen=True)
class Row:
    """A row of a table: its line in the file, and its text by column. Spaces round the text are
    gone.
    """

    number: int
    text: dict[str, str]

    @property
    def is_blank(self) -> bool:
        """Whether no column holds anything."""
        return not any(self.text.values())


@dataclass
class Problems:
    """What is wrong with a file, collected so that all of it is told at once."""

    path: Path
    found: list[str] = field(default_factory=list)

    def add(self, row: int, words: str) -> None:
        """Note what is wrong with a row."""
        self.found.append(f"row {row}: {words}")

    def refuse(self) -> None:
        """UsageError with the file and up to a dozen of its problems, where there are any."""
        if self.found:
            more = len(self.found) - _MOST_PROBLEMS
            tail = [f"and {more} more"] if more > 0 else []
            raise UsageError(
                "\n  ".join(
                    [
                        f"{self.path}: refused, nothing was written:",
                        *self.found[:_MOST_PROBLEMS],
                        *tail,
                    ]
                )
            )


def read_rows(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """The rows of a table, blank ones left out. UsageError where it is no table, or its columns are
    not these.

    Parameters
    ----------
    path : a CSV file with a header line.
    required : columns that must be there.
    optional : columns that may be there. Any other column is refused, with the nearest name that is
    known.
    """
    text = read_text(path)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=column_separator(text), strict=True)
    rows: list[Row] = []
    problems = Problems(path)
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        _check_header(path, header, required, (*required, *optional))
        for cells in lines:
            if len(cells) > len(header) and any(text.strip() for text in cells[len(header) :]):
                problems.add(lines.line_num, f"{len(cells)} entries under {len(header)} columns")
                continue
            padded = [*cells, *[""] * (len(header) - len(cells))]
            row = Row(
                lines.line_num, {n: c.strip() for n, c in zip(header, padded, strict=False) if n}
            )
            if not row.is_blank:
                rows.append(row)
    except csv.Error as error:
        raise UsageError(f"{path}: row {lines.line_num}: not a CSV table ({error})") from error
    problems.refuse()
    return rows


def read_text(path: Path) -> str:
    """A text file's content, in whichever of the usual encodings it is. UsageError where it cannot
    be read.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: is over {MAX_BYTES // 2**20} MiB; a table of counts is smaller")
    try:
        return decode_text(raw)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no text; save it as CSV (UTF-8)") from error


def _check_header(
    path: Path, header: Sequence[str], required: Sequence[str], known: Sequence[str]
) -> None:
    named = [name for name in header if name]
    if missing := [name for name in required if name not in named]:
        raise UsageError(
            f"{path}: row 1: no column {', '.join(missing)}; expected {', '.join(required)}"
        )
    if doubled := sorted({name for name in named if named.count(name) > 1}):
        raise UsageError(f"{path}: row 1: column {', '.join(doubled)} is there twice")
    if unknown := [name for name in named if name not in known]:
        raise UsageError(f"{path}: row 1: {told_unknown('column', unknown[0], known)}")


def told_unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence on a name that is not known, with the nearest one that is.

    Examples
    --------
    >>> told_unknown("column", "monocytes", ["monocyte", "slide"])
    "unknown column 'monocytes'; do you mean 'monocyte'?"
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, 0.6)
    remedy = f"do you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return f"unknown {what} {name[:_SHOWN_CHARS]!r}; {remedy}"


def whole_number(text: str) -> int | None:
    """A count as spreadsheets write it ("12", "12.0", "12,0"); "" is 0. None where it is no whole
    number from 0 on.

    Examples
    --------
    >>> whole_number("12,0"), whole_number(""), whole_number("1.5"), whole_number("-1")
    (12, 0, None, None)
    """
    if not text:
        return 0
    head, _, tail = text.replace(",", ".").partition(".")
    if not head.isascii() or not head.isdigit() or len(head) > 9 or tail.strip("0"):
        return None
    return int(head)


def day(text: str) -> date | None:
    """A day as ISO 8601 writes it, with or without a time after it. None where it is none.

    Examples
    --------
    >>> str(day("2026-03-14T21:30:00+01:00")), day("14.3.2026")
    ('2026-03-14', None)
    """
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


def shown(text: str) -> str:
    """Foreign text in a message: quoted, and not without end."""
    return repr(text[:_SHOWN_CHARS])
