"""Write `index.html`: every slide of a results folder, by urgency, and what failed.

It reads the slides' `differential.json`. It makes no network request. The same results give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bounded_files import MAX_LIST_BYTES, read_json
from ..errors import ResultsError
from ..results.folder import ResultsFolder
from ..vocabulary import CLAIM, CLASSES
from .class_legend import class_list, colour_rules
from .html_pages import environment, inline, write_page
from .load_results import load_differential, load_record
from .report import REPORT_NAME
from .report_rows import percent
from .review_state import ReviewState, review_states
from .urgency import LEVELS, Urgency, urgency_of

INDEX_NAME = "index.html"
_SHOWN = (
    "neutrophils",
    "band_neutrophil",
    "lymphocyte",
    "monocyte",
    "eosinophil",
    "basophil",
    "blast",
)


@dataclass(frozen=True)
class SlideLine:
    """One slide's line. `href` is "" where it has no report; `reviews` are those of its present results."""

    slide_id: str
    href: str
    cells: int
    differential: dict[str, Any]
    reviews: tuple[ReviewState, ...]

    @property
    def sample_id(self) -> str:
        """The laboratory's number of the sample, "" where the run was not told."""
        return str(self.differential.get("sample_id") or "")

    @property
    def urgency(self) -> Urgency:
        """How soon a person should look at it."""
        return urgency_of(self.differential)

    @property
    def state(self) -> str:
        """The state of its review, in a few words."""
        return self.reviews[-1].words if self.reviews else "not reviewed"

    @property
    def out_of_range(self) -> bool:
        """Whether a per cent lies outside its reference range."""
        return any(flag["rule"].startswith("range_") for flag in self.differential["flags"])

    @property
    def done(self) -> bool:
        """Whether its review is complete or signed off."""
        return any(review.complete or review.signed_off for review in self.reviews)

    def share(self, name: str) -> float | None:
        """Return the per cent of a class, or of "neutrophils"."""
        percent: float | None = next(
            entry["percent"] for entry in self.differential["classes"] if entry["class"] == name
        )
        return percent

    @property
    def bar(self) -> list[tuple[str, str, float, float]]:
        """Return the classes found, in clinical order: name, words, start and width in per cent."""
        pieces, start = [], 0.0
        for entry in self.differential["classes"][1:]:
            if entry["count"]:
                pieces.append(
                    (
                        entry["class"],
                        f"{entry['words']} {entry['percent']:.1f} %",
                        round(start, 2),
                        entry["percent"],
                    )
                )
                start += entry["percent"]
        return pieces


def write_index(results: ResultsFolder) -> Path:
    """Write `index.html` over all slides of the folder. Return its path.

    A slide whose results cannot be read is listed with the reason.
    A page that cannot be written raises OutputError.
    """
    lines, broken = [], []
    for folder in results.folders():
        try:
            record, differential = load_record(folder), load_differential(folder)
        except ResultsError as error:
            broken.append((folder.name, str(error)))
            continue
        href = f"{folder.name}/{REPORT_NAME}" if (folder / REPORT_NAME).is_file() else ""
        reviews = review_states(folder)
        lines.append(SlideLine(record.slide_id, href, record.cells, differential, reviews))
    lines.sort(key=lambda line: (line.done, line.urgency.level, -line.differential["to_review"]))
    style, style_hash = inline(("page.css", "index.css"), colour_rules())
    script, script_hash = inline(("index.js",))
    pieces = (
        environment()
        .get_template("index.html.j2")
        .generate(
            claim=CLAIM,
            lines=lines,
            broken=broken,
            failed=list(_failed(results, {line.slide_id for line in lines})),
            shown=_SHOWN,
            levels=LEVELS,
            words={c.name: c.words for c in CLASSES} | {"neutrophils": "neutrophils"},
            percent=percent,
            classes=class_list(),
            style=style,
            style_hash=style_hash,
            script=script,
            script_hash=script_hash,
        )
    )
    return write_page(results.root / INDEX_NAME, pieces)


def _failed(results: ResultsFolder, published: set[str]) -> Iterator[tuple[str, str]]:
    """Slides that the last run failed, with its reasons, from `run.json`; none where there is no such record."""
    try:
        slides = read_json(results.root / "run.json", MAX_LIST_BYTES)["slides"]
        for slide in slides:
            if slide["state"] == "failed":
                earlier = (
                    " (what is below is an earlier result)" if slide["slide"] in published else ""
                )
                yield str(slide["slide"]), f"{slide['reason']}{earlier}"
    except (OSError, ValueError, KeyError, TypeError):
        return
