"""Write the CSV tables: one row per cell, region or slide. The bytes are deterministic.

Numbers have fixed decimals. Lines end with LF. The text is UTF-8, with one line per row.
A spreadsheet runs text as a formula if it begins with = + - @, also after spaces, tabs or quotes.
Such text gets a leading apostrophe, and so does text that begins with an apostrophe.
Line breaks inside text are shown as ␊ and ␍. `plain_text` undoes both.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from ..bounded_files import bounded_lines, open_regular
from ..cells.cell_selection import CellSelection
from ..cells.classify import CellCalls
from ..cells.differential import Differential, Share
from ..cells.false_calls import FalseCalls
from ..cells.measure import CellMeasures
from ..cells.rules import NEUTROPHILS
from ..records import MergedCells, RegionReport
from ..vocabulary import ATTRIBUTES, CLASS_NAMES, WHITE_NAMES, ZONES, attribute_slices

ROWS = 4096  # rows of a block: as fast as arrays, in bounded memory
_FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # the last four: their full-width forms
_SKIPPED = " \t\r\n\v\f\xa0\ufeff\"'`"  # what some spreadsheets drop before they look for a formula
_ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f])")  # a byte that is not UTF-8
_UNSAFE_START = ("\t", "\r", "\n", "'")
_SHOWN = str.maketrans({"\n": "␊", "\r": "␍"})
_HIDDEN = str.maketrans({"␊": "\n", "␍": "\r"})

#: `confidence` is that of the likeliest class, also if `class` is unidentified. `size_vs_rbc` is the network's category.
#: `diameter_vs_rbc` is the measured diameter divided by the slide's median red cell. `left_out` says why a cell does
#: not count where it lies. `in_differential` is true for white cells that count.
CELL_COLUMNS = (
    "slide", "cell_id", "class", "confidence", "x0", "y0", "x1", "y1",
    *(f"p_{name}" for name in CLASS_NAMES),
    *(column for a in ATTRIBUTES for column in (a.name, f"{a.name}_confidence")),
    "diameter_um", "diameter_vs_rbc", "nucleus_area_um2", "cell_area_um2", "nc_ratio", "nucleus_fraction",
    "zone", "in_differential", "left_out", "review", "review_reasons", "explanation", "sample_id",
)  # fmt: skip

#: `<class>_expected_false` is the number of calls of a class that error alone would give; see cells.false_calls.
_FALSE_COLUMNS = ("expected_false", "expected_false_low95", "expected_false_high95")
DIFFERENTIAL_COLUMNS = (
    "slide", "sample_id", "white_cells", "target_cells", "sufficient", "reportable", "not_reportable",
    *(
        f"{name}_{what}"
        for name in (NEUTROPHILS, *WHITE_NAMES)
        for what in ("count", "percent", "low95", "high95", *_FALSE_COLUMNS)
    ),
    "nrbc", "nrbc_per_100_white", "corrected_wbc", *(f"nrbc_{what}" for what in _FALSE_COLUMNS),
    "smudge", "smudge_per_100_white", "unidentified", "review", "flags", "warnings", "path", "claim",
)  # fmt: skip

#: One row per region: its place (level-0 pixels), its area by use and zone, its density, focus and stain.
REGION_COLUMNS = (
    "slide", "region_index", "x0", "y0", "x1", "y1", "state", "zone", "used", "reason", "quality",
    "area_mm2", "used_mm2", "left_out_mm2", *(f"{zone}_mm2" for zone in ZONES),
    "focus", "stain_contrast", "nuclear_contrast", "cover", "overlap", "rbc_per_mm2",
    "cells", "white_cells", "white_cells_used",
)  # fmt: skip


def row_blocks(n: int, size: int = ROWS) -> Iterator[slice]:
    """Yield the rows of n cells, in order, in blocks.

    >>> list(row_blocks(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def safe_text(text: str) -> str:
    """Return text that no spreadsheet runs as a formula: one line, valid UTF-8. File names may be invalid.

    >>> safe_text("=1+1"), safe_text("a-b")
    ("'=1+1", 'a-b')
    """
    guard = text.startswith(_UNSAFE_START) or text.lstrip(_SKIPPED).startswith(_FORMULA)
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if "\n" in shown or "\r" in shown:
        shown = shown.translate(_SHOWN)
    return f"'{shown}" if guard else shown


def plain_text(text: str) -> str:
    """Undo `safe_text`."""
    return text.removeprefix("'").translate(_HIDDEN)


def path_from_text(text: str) -> str:
    r"""A path as it was before `safe_text`: its bytes that are not UTF-8 are there again (see `os.fsencode`).

    >>> os.fsencode(path_from_text(safe_text(os.fsdecode(b"/in/sm\xe9ar.tif"))))
    b'/in/sm\xe9ar.tif'
    """
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), plain_text(text))


def _format_number(value: float | None, decimals: int) -> str:
    """Format with fixed decimals. No value gives an empty text. "-0.00" never appears."""
    if value is None or not math.isfinite(value):
        return ""
    shown = f"{value:.{decimals}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown


def _format_bool(value: bool) -> str:
    return "true" if value else "false"


def cell_rows(
    slide_id: str,
    merged: MergedCells,
    measures: CellMeasures,
    calls: CellCalls,
    selection: CellSelection | None = None,
    sample_id: str = "",
) -> Iterator[tuple[str, ...]]:
    """Yield one row of text per cell, in the order of `CELL_COLUMNS`. Without `selection` every cell counts."""
    slide, sample = safe_text(slide_id), safe_text(sample_id)
    for rows in row_blocks(len(calls)):
        yield from zip(
            *_cell_columns(slide, merged, measures, calls, selection, rows, sample), strict=True
        )


def _cell_columns(
    slide: str,
    merged: MergedCells,
    measures: CellMeasures,
    calls: CellCalls,
    selection: CellSelection | None,
    rows: slice,
    sample: str = "",
) -> Iterator[Sequence[str]]:
    """Yield the columns of some cells, in the order of `CELL_COLUMNS`."""
    cells, names, n = merged.cells, calls.names[rows], rows.stop - rows.start
    yield [slide] * n
    yield list(map(str, merged.ids[rows].tolist()))
    yield names
    yield format_column(calls.confidences[rows, 0], 4)
    yield from (format_column(column, 1) for column in cells.boxes_xyxy[rows].T)
    yield from (format_column(column, 4) for column in cells.class_probs[rows].T)
    for a, part in zip(ATTRIBUTES, attribute_slices().values(), strict=True):
        probs = cells.attribute_probs[rows, part]
        yield [a.states[k] for k in probs.argmax(1).tolist()]
        yield format_column(probs.max(1), 4)
    for column, decimals in (
        (measures.diameter_um, 2),
        (measures.diameter_vs_rbc, 3),
        (measures.nucleus_area_um2, 2),
        (measures.cell_area_um2, 2),
        (measures.nc_ratio, 4),
        (measures.nucleus_fraction, 4),
    ):
        yield format_column(column[rows], decimals)
    zones, left_out = (
        (selection.zones[rows], selection.left_out[rows]) if selection else ([""] * n, [""] * n)
    )
    explanations, reasons = calls.explain(rows)
    yield zones
    yield [
        _format_bool(name in WHITE_NAMES and not reason)
        for name, reason in zip(names, left_out, strict=True)
    ]
    yield left_out
    yield list(map(_format_bool, calls.review[rows].tolist()))
    yield [safe_text("; ".join(reason)) if reason else "" for reason in reasons]
    yield list(map(safe_text, explanations))
    yield [sample] * n


def format_column(values: np.ndarray, decimals: int) -> list[str]:
    """Format a column, float [n], as `_format_number` formats each value. Ordinary values are formatted together.

    >>> format_column(np.array([1.0, np.nan, -0.004]), 2)
    ['1.00', '', '0.00']
    """
    shown = (f"%.{decimals}f\n" * len(values) % tuple(values.tolist())).split("\n")[:-1]
    for k in np.flatnonzero(np.signbit(values) | ~np.isfinite(values)).tolist():
        shown[k] = _format_number(float(values[k]), decimals)
    return shown


def region_rows(slide_id: str, regions: Iterable[RegionReport]) -> Iterator[list[str]]:
    """Yield one row of text per region, in the order of `REGION_COLUMNS`."""
    for r in regions:
        row = [
            safe_text(slide_id),
            str(r.index),
            *(str(int(v)) for v in r.core),
            r.state,
            r.zone,
            _format_bool(r.used),
        ]
        row += [safe_text(r.reason), r.quality]
        row += [
            _format_number(v, 6) for v in (r.area_mm2, r.used_mm2, r.left_out_mm2, *r.zones_mm2)
        ]
        row += [
            _format_number(v, 4)
            for v in (r.focus, r.stain_contrast, r.nuclear_contrast, r.cover, r.overlap)
        ]
        yield [
            *row,
            _format_number(r.rbc_per_mm2, 0),
            str(r.cells),
            str(r.white_cells),
            str(r.white_cells_used),
        ]


def differential_row(
    slide_id: str,
    path: str,
    d: Differential,
    to_review: int,
    warnings: tuple[str, ...],
    sample_id: str = "",
) -> list[str]:
    """Return a slide's row, in the order of `DIFFERENTIAL_COLUMNS`. `to_review` counts the cells to review."""
    row = [
        safe_text(slide_id),
        safe_text(sample_id),
        str(d.n_white),
        str(d.target_cells),
        _format_bool(d.sufficient),
    ]
    row += [_format_bool(d.reportable), safe_text("; ".join(d.not_reportable))]
    errors = d.false_calls or {}
    for name in (NEUTROPHILS, *WHITE_NAMES):
        row += [*_share_columns(d.share(name)), *_false_columns(errors.get(name))]
    row += [
        str(d.nrbc),
        _format_number(d.nrbc_per_100, 2),
        _format_number(d.corrected_wbc, 2),
        *_false_columns(errors.get("erythroblast")),
        str(d.smudge),
        _format_number(d.smudge_per_100, 2),
        str(d.unidentified),
        str(to_review),
    ]
    flags = "; ".join(flag.words for flag in d.flags)
    return [
        *row,
        safe_text(flags),
        safe_text("; ".join(warnings)),
        safe_text(path),
        safe_text(d.claim),
    ]


def _share_columns(s: Share) -> list[str]:
    return [
        str(s.count),
        _format_number(s.percent, 2),
        _format_number(s.low, 2),
        _format_number(s.high, 2),
    ]


def _false_columns(error: FalseCalls | None) -> list[str]:
    if error is None:
        return ["", "", ""]
    return [_format_number(error.expected, 3), str(error.low), str(error.high)]


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table row by row, in bounded memory. The caller renames the file into place."""
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as f:
        _write(f, columns, rows)


def encode_table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> bytes:
    """Return a small table as bytes."""
    text = io.StringIO(newline="")
    _write(text, columns, rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _write(file: TextIO, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table of ours, text as it was before `safe_text`; a byte-order mark (of an editor) is ignored."""
    with io.TextIOWrapper(open_regular(path), newline="", encoding="utf-8-sig") as f:
        for row in csv.DictReader(bounded_lines(f)):
            yield {k: plain_text(v) for k, v in row.items() if k is not None and v is not None}
