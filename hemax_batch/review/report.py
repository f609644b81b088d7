"""Write `report.html`: a slide's differential, a map of its cells, and a gallery for review by keyboard.

The page is one file with styles, script and pictures. It makes no network request; a Content-Security-Policy
enforces this. The same results give the same bytes. The page's scripts are in `templates/`.

Steps: read the slide's results, order the cells for the reviewer, fill the template piece by piece.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..cells.own_classes import own_classes
from ..errors import HemaxError, OutputError, ResultsError
from ..vocabulary import ATTRIBUTES, CLAIM, CLASS_NAMES, UNIDENTIFIED
from .class_legend import class_list, colour_rules
from .html_pages import environment, inline, script_json, write_page
from .load_results import LoadedCell, LoadedSlide, load_record, load_slide
from .outlines import svg_path
from .overview_map import draw_overview
from .report_rows import class_rows, percent, slide_facts
from .review_state import review_states
from .similarity import similarity_vectors

REPORT_NAME = "report.html"
MAX_CELLS = 20_000  # some 100 MB of page; the bound limits memory
_BLOCK_CELLS = (
    60  # pictures and outlines that the page parses at a time, when they come near the screen
)
_SCRIPTS = (
    "data.js", "history.js", "review.js", "csv.js", "references.js", "order.js", "grid.js", "selection.js", "pointer.js",
    "panel.js", "zoom.js", "differential.js", "signoff.js", "print.js", "keys.js", "actions.js", "desk.js",
)  # fmt: skip


def write_report(folder: Path) -> Path:
    """Write `report.html` into a slide's results folder. Return its path.

    Unreadable results raise ResultsError. A report that cannot be written raises OutputError.
    """
    slide = load_slide(folder)
    pieces = environment().get_template("report.html.j2").generate(**_context(slide))
    return write_page(folder / REPORT_NAME, pieces)


def write_report_or_say_why(folder: Path) -> Path:
    """Write the report in a run. A failure gives a page that says what went wrong and what to do.

    A report must not cost a slide its results. Only a disk that is full or forbidden raises OutputError.
    A slide of more than MAX_CELLS cells also gets such a page.
    """
    try:
        if (cells := load_record(folder).cells) > MAX_CELLS:
            raise ResultsError(
                f"{cells} cells are more than the {MAX_CELLS} that a page is made of unasked"
            )
        return write_report(folder)
    except OutputError:
        raise
    except Exception as error:  # a page must not cost a slide its results; the page shows the error
        page = environment().get_template("failed.html.j2")
        why = str(error) if isinstance(error, HemaxError) else f"{type(error).__name__}: {error}"
        return write_page(
            folder / REPORT_NAME, page.generate(slide=folder.name, why=why, claim=CLAIM)
        )


def gallery_order(cells: tuple[LoadedCell, ...]) -> list[LoadedCell]:
    """Order cells for review: unidentified first, then classes in clinical order, the least certain first."""
    order = [UNIDENTIFIED, *CLASS_NAMES]
    return sorted(
        cells, key=lambda cell: (order.index(cell.class_name), cell.confidence, cell.cell_id)
    )


def _context(slide: LoadedSlide) -> dict[str, Any]:
    """Return the variables of the template."""
    own = own_classes(slide.differential["rules"].get("own_classes", {}))
    classes = class_list(own)
    style, style_hash = inline(
        ("page.css", "report.css", "desk.css", "print.css"), colour_rules(own)
    )
    script, script_hash = inline(_SCRIPTS)
    ordered = gallery_order(slide.cells)
    drawn = draw_overview(slide)
    return {
        "claim": CLAIM,
        "slide": slide.record.slide_id,
        "record": slide.record,
        "differential": slide.differential,
        "rows": class_rows(slide.differential),
        "facts": slide_facts(slide),
        "percent": percent,
        "classes": classes,
        "teaching": any(cell.teaches is not None for cell in ordered),
        "reviews": review_states(slide.folder),
        "overview": drawn,
        "style": style,
        "style_hash": style_hash,
        "script": script,
        "script_hash": script_hash,
        "to_review": sum(c.review for c in slide.cells),
        "data": script_json(_data(slide, classes, ordered, drawn.units_per_px)),
        "blocks": _blocks(slide, ordered),
    }


def _data(
    slide: LoadedSlide,
    classes: list[dict[str, Any]],
    ordered: list[LoadedCell],
    units_per_px: float,
) -> dict[str, Any]:
    """Return the data of the page's script, without pictures and outlines."""
    return {
        "slide": slide.record.slide_id,
        "sha": slide.sha256,
        "classes": classes,
        "attributes": [{"name": a.name, "words": a.words} for a in ATTRIBUTES],
        "block": _BLOCK_CELLS,
        "vectors": similarity_vectors(ordered),
        "cells": [_cell(cell, slide, units_per_px) for cell in ordered],
    }


def _cell(cell: LoadedCell, slide: LoadedSlide, units_per_px: float) -> dict[str, Any]:
    x, y = cell.centre
    return {
        "id": cell.cell_id,
        "class": cell.class_name,
        "p": cell.confidence,
        "out": cell.left_out,
        "at": [round(v * slide.record.mpp, 1) for v in cell.centre],  # µm
        "x": round(x * units_per_px, 2),
        "y": round(y * units_per_px, 2),
        "states": cell.states,
        "um": cell.diameter_um,
        "rbc": cell.diameter_vs_rbc,
        "nc": cell.nc_ratio,
        "nucleus": cell.nucleus_fraction,
        "why": cell.reasons,
        "say": cell.explanation,
        **({} if cell.teaches is None else {"teach": cell.teaches}),
    }


def _blocks(slide: LoadedSlide, ordered: list[LoadedCell]) -> Iterator[Markup]:
    """Yield pictures and outlines in blocks, in the order of the gallery. No page is ever whole in memory."""
    for start in range(0, len(ordered), _BLOCK_CELLS):
        yield script_json(
            [_picture_and_outlines(slide, cell) for cell in ordered[start : start + _BLOCK_CELLS]]
        )


def _picture_and_outlines(slide: LoadedSlide, cell: LoadedCell) -> list[str]:
    """Return [JPEG in base64, outline of the cell, outline of the nucleus]; "" if there is none."""
    jpeg = base64.b64encode(slide.pictures.get(cell.cell_id, b"")).decode()
    outlines = slide.outlines.get(cell.cell_id)
    if outlines is None:
        return [jpeg, "", ""]
    centre, mpp = cell.centre, slide.record.mpp
    return [jpeg, svg_path(outlines.cell, centre, mpp), svg_path(outlines.nucleus, centre, mpp)]
