"""How often slides are flagged for blasts: slides laid out from cells that were held out and evaluated.

Pictures are halved by a hash of their names, patients by that of theirs. One half gives the table of wrong
calls (`cells.false_calls`), the other half the slides, so no cell judges itself. A slide is of one source:
its cells are drawn with replacement, each class by its share of normal blood, a part replaced by blasts.
Slides of a source without enough blasts hold those of all sources.

Two tables are tried: of the other half of all sources, and of all sources but the slide's own (a
laboratory that nobody measured). Cells called blast where there is no cell are not in these rates.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...cells.differential import clopper_pearson
from ...cells.false_calls import CallErrors
from ...vocabulary import UNIDENTIFIED
from .metrics import EvaluatedCell

COLUMNS = ("source", "path", "patient", "class", "called", "confidence")
#: Normal blood of adults, as shares.
NORMAL = {
    "segmented_neutrophil": 0.57,
    "band_neutrophil": 0.02,
    "lymphocyte": 0.30,
    "monocyte": 0.07,
    "eosinophil": 0.03,
    "basophil": 0.01,
}
BLAST_SHARES = (0.0, 0.01, 0.02, 0.05, 0.20, 0.30)
MIN_CELLS = 15  # of a class in a source, to draw slides of
NEEDED = ("segmented_neutrophil", "lymphocyte", "monocyte")  # for a slide of normal blood
TABLES = ("other half", "other sources")


@dataclass(frozen=True)
class Called:
    """A found cell of one known class, and its final call ("unidentified" below the confidence asked for)."""

    source: str
    path: str
    patient: str
    true: str
    called: str


def called_cells(cells: Iterable[EvaluatedCell], min_confidence: float) -> list[list[str]]:
    """Rows of `COLUMNS`: cells of one known class that were found."""
    return [
        [
            s.source,
            Path(s.path).name,
            s.patient,
            s.allowed[0],
            s.predicted if s.confidence >= min_confidence else UNIDENTIFIED,
            f"{s.confidence:.4f}",
        ]
        for s in cells
        if s.found and len(s.allowed) == 1
    ]


def write_called_cells(cells: Iterable[EvaluatedCell], min_confidence: float, path: Path) -> None:
    """Write the table that `read_called_cells` reads."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(called_cells(cells, min_confidence))


def read_called_cells(path: Path) -> list[Called]:
    """Read a table of evaluated cells. KeyError names a column that is missing."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return [
            Called(row["source"], row["path"], row["patient"], row["class"], row["called"])
            for row in csv.DictReader(file)
        ]


def is_slide_half(cell: Called) -> bool:
    """Whether slides are laid out from this cell; the other half is what errors are counted on."""
    unit = f"{cell.source}/{cell.patient or cell.path}"
    return hashlib.sha256(f"slides {unit}".encode()).digest()[0] % 2 == 0


def slide_rates(
    cells: Sequence[Called], slides: int = 200, size: int = 200, seed: int = 0
) -> list[dict[str, Any]]:
    """Rates by source, share of blasts and table of errors, each with an exact 95 % interval over slides.

    The interval is of the slides drawn. The cells behind them are few, so sources tell more than it.

    Returns
    -------
    list of dict
        `flagged`: more blasts are called than error explains. `any_blast`: a blast is called.
        `expected`: the mean number of calls expected by error.
    """
    laid, table = (
        [c for c in cells if is_slide_half(c) is half and c.true != "platelet"]
        for half in (True, False)
    )
    rows = []
    for source in dict.fromkeys(c.source for c in laid):
        calls = _calls_by_class([c for c in laid if c.source == source])
        if any(len(calls.get(name, ())) < MIN_CELLS for name in NEEDED):
            continue
        blasts, of_all = calls.get("blast", []), _calls_by_class(laid).get("blast", [])
        own = len(blasts) >= MIN_CELLS
        for name in TABLES:
            errors = _errors(
                table if name == "other half" else [c for c in cells if c.source != source]
            )
            if errors is None:
                continue
            for share in BLAST_SHARES:
                if share and not of_all:
                    continue
                generator = np.random.default_rng([seed, round(1000 * share)])
                drawn = (
                    _draw_slide(generator, calls, blasts if own else of_all, share, size)
                    for _ in range(slides)
                )
                row = {"source": source, "table": name, "blasts": share, "own_blasts": own}
                rows.append(row | _rates([*drawn], errors))
    return rows


def _errors(cells: Iterable[Called]) -> CallErrors | None:
    return CallErrors.from_calls(((c.source, c.true, c.called) for c in cells), 0.0)


def _calls_by_class(cells: Iterable[Called]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cell in cells:
        found.setdefault(cell.true, []).append(cell.called)
    return found


def _draw_slide(
    generator: np.random.Generator,
    calls: dict[str, list[str]],
    blasts: list[str],
    share: float,
    size: int,
) -> Counter[str]:
    """The calls of one slide of `size` cells, of which `share` are blasts (rounded)."""
    names = [name for name in NORMAL if calls.get(name)]
    weights = np.array([NORMAL[name] for name in names])
    n_blasts = round(share * size)
    numbers = generator.multinomial(size - n_blasts, weights / weights.sum())
    groups = [*((calls[n], k) for n, k in zip(names, numbers, strict=True)), (blasts, n_blasts)]
    called: Counter[str] = Counter()
    for group, k in groups:
        if k:
            called.update(group[i] for i in generator.integers(len(group), size=int(k)))
    return called


def _rates(drawn: list[Counter[str]], errors: CallErrors) -> dict[str, Any]:
    found = [errors.false_calls(called, "blast") for called in drawn]
    called = [c["blast"] for c in drawn]
    flagged = [k > error.high for k, error in zip(called, found, strict=True)]
    return {
        "flagged": _share(flagged),
        "any_blast": _share([k > 0 for k in called]),
        "called": float(np.mean(called)),
        "expected": float(np.mean([error.expected for error in found])),
        "limit": float(np.mean([error.high for error in found])),
    }


def _share(values: list[bool]) -> dict[str, float]:
    low, high = clopper_pearson(sum(values), len(values))
    return {"value": float(np.mean(values)), "low": low, "high": high, "n": len(values)}
