"""The CSV tables: a row a cell, a row a slide. Deterministic bytes: fixed decimals, LF, UTF-8.

Spreadsheets run a text cell that begins with = + - @ (or a tab or return before one) as a formula. Such text gets a
leading apostrophe (`safe_text`); `plain_text` takes it off again. Numbers are written as numbers.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..cells.differential import Differential, Share
from ..cells.explain import Reading
from ..cells.measure import Measures
from ..records import MergedCells
from ..vocabulary import ATTRIBUTES, CLASS_NAMES, WHITE_NAMES, attribute_slices

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

_CATEGORY = {"size_vs_rbc": "size_category"}  # the attribute's column, where its name is that of the measured figure
CELL_COLUMNS = (
    "slide", "cell_id", "class", "confidence", "x0", "y0", "x1", "y1",
    *(f"p_{name}" for name in CLASS_NAMES),
    *(column for a in ATTRIBUTES for column in (_CATEGORY.get(a.name, a.name), f"{_CATEGORY.get(a.name, a.name)}_p")),
    "size_vs_rbc", "diameter_um", "nucleus_area_um2", "cell_area_um2", "nc_ratio", "nucleus_fraction",
    "in_differential", "review", "review_reasons", "explanation",
)  # fmt: skip

DIFFERENTIAL_COLUMNS = (
    "slide", "white_cells", "target_cells", "sufficient",
    *(f"{name}_{what}" for name in ("neutrophils", *WHITE_NAMES) for what in ("count", "percent", "low95", "high95")),
    "nrbc", "nrbc_per_100_white", "corrected_wbc", "unidentified", "review", "flags", "warnings", "path", "claim",
)  # fmt: skip


def safe_text(text: str) -> str:
    """Text that no spreadsheet takes for a formula, on one line."""
    text = text.replace("\r", " ").replace("\n", " ") if text[:1] not in _FORMULA else text
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def plain_text(text: str) -> str:
    """The inverse of `safe_text` for what it protected."""
    return text[1:] if text.startswith("'") else text


def _number(value: float, decimals: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def cell_rows(slide_id: str, merged: MergedCells, measures: Measures, readings: list[Reading]) -> Iterator[list[str]]:
    """A row of text per cell, in the order of `CELL_COLUMNS`."""
    cells, parts = merged.cells, attribute_slices()
    for i, reading in enumerate(readings):
        row = [safe_text(slide_id), str(int(merged.ids[i])), reading.class_name, _number(reading.confidence, 4)]
        row += [_number(float(v), 1) for v in cells.boxes_xyxy[i]]
        row += [_number(float(p), 4) for p in cells.class_probs[i]]
        for a in ATTRIBUTES:
            probs = cells.attribute_probs[i, parts[a.name]]
            row += [a.states[int(probs.argmax())], _number(float(probs.max()), 4)]
        row += [_number(measures.size_vs_rbc[i], 3), _number(measures.diameter_um[i], 2)]
        row += [_number(measures.nucleus_area_um2[i], 2), _number(measures.cell_area_um2[i], 2)]
        row += [_number(measures.nc_ratio[i], 4), _number(measures.nucleus_fraction[i], 4)]
        row += [_yes(reading.class_name in WHITE_NAMES), _yes(bool(reading.reasons))]
        row += [safe_text("; ".join(reading.reasons)), safe_text(reading.explanation)]
        yield row


def _yes(value: bool) -> str:
    return "true" if value else "false"


def differential_row(slide_id: str, path: str, d: Differential, to_review: int, warnings: tuple[str, ...]) -> list[str]:
    """A slide's row, in the order of `DIFFERENTIAL_COLUMNS`."""

    def share(s: Share) -> list[str]:
        return [str(s.count), _number(s.percent, 2), _number(s.low, 2), _number(s.high, 2)]

    row = [safe_text(slide_id), str(d.n_white), str(d.target_cells), _yes(d.sufficient), *share(d.neutrophils)]
    for name in WHITE_NAMES:
        row += share(d.shares[name])
    corrected = "" if d.corrected_wbc is None else _number(d.corrected_wbc, 2)
    row += [str(d.nrbc), _number(d.nrbc_per_100, 2), corrected, str(d.unidentified), str(to_review)]
    return [*row, safe_text("; ".join(d.flags)), safe_text("; ".join(warnings)), safe_text(path), d.claim]


def write_table(path: Path, columns: Iterable[str], rows: Iterable[list[str]]) -> None:
    """Write a table row by row; a generator of any length takes no memory. The caller renames the file into place."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table of ours as dictionaries, apostrophes taken off."""
    with open(path, newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            yield {k: plain_text(v) for k, v in row.items()}
