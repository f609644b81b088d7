"""Another laboratory: each source in turn is left out of a training and then measured whole, as one that the network has
never seen would be. Several may be left out of one training together: fewer trainings, and harder for each of them.

Columns of the table, a row per source (value, low, high: 95 % interval, bootstrap over cells; n: cells):

images, cells      all there are of the source, of both splits
recall             white cells with a box that were found, IoU >= 0.5
found              white cells of which only the place is known that were found, within 5 µm
accuracy           cells of known type whose class the label allows; one not found is wrong
accuracy_taught    the same, of types that another source teaches
never_taught       the other types, which nobody could know without this source
majority           what always answering the best single class would score, of all cells of known type
left_out           all that this network had not seen
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from ..model.predictor import Predictor
from ..outputs.tables import safe_text
from ..vocabulary import CLASS_NAMES, WHITE_NAMES, tells_type
from .command import Lessons, learn
from .dataset import Example, read_folder
from .evaluate import look
from .figures import Seen, interval
from .recipe import Recipe, digest
from .sources import check_sources, leave_out

FIGURES = ("recall", "found", "accuracy", "accuracy_taught")
COLUMNS = (
    "source",
    "images",
    "cells",
    *(f"{f}{part}" for f in FIGURES for part in ("", "_low", "_high", "_n")),
    "majority",
    "never_taught",
    "left_out",
)


def transfer(
    data: Collection[Path],
    recipe: Recipe,
    work: Path,
    device: str,
    only: Collection[tuple[str, ...]] = (),
    say: Callable = print,
) -> dict[str, dict]:
    """The row of each source, trained without it (or of each of the groups `only`, trained without the whole group), then
    measured on all of it.

    Everything trained is kept in `work`, and a group that is done is not trained again. DataError as
    `sources.leave_out`.
    """
    examples = [e for folder in data for e in read_folder(folder)]
    check_sources(examples, [source for group in only for source in group])
    rows = {}
    for group in only or [
        (source,) for source in dict.fromkeys(e.source for e in examples if e.cells)
    ]:
        folder = work / f"without-{digest(group, recipe, examples)}"
        kept = folder / "rows.json"
        if not kept.exists():
            folder.mkdir(parents=True, exist_ok=True)
            told = _rows(data, examples, group, recipe, folder, device, say)
            aside = kept.with_suffix(".partial")
            aside.write_text(json.dumps(told, indent=1), "utf-8")
            aside.replace(kept)
        for source, row in json.loads(kept.read_text("utf-8")).items():
            rows[source] = row
            say(_told(source, row))
    return rows


def _rows(
    data,
    examples: list[Example],
    group: tuple[str, ...],
    recipe: Recipe,
    folder: Path,
    device: str,
    say,
) -> dict:
    weights = folder / "weights.safetensors"
    learn(data, weights, folder / "work", recipe, device, say, lessons=Lessons(leave_out=group))
    taught, predictor = (
        _types(leave_out(examples, group)[0]),
        Predictor.load(weights, device, platelets=True),
    )
    rows = {}
    for source in group:
        mine = [e for e in examples if e.source == source]
        seen, _ = look(predictor, mine, say)
        rows[source] = {"images": len(mine)} | row_of(seen, taught) | {"left_out": list(group)}
    return rows


def _types(examples: list[Example]) -> set[str]:
    """Types that images of split `train` teach."""
    return {
        c.allowed[0] for e in examples if e.split == "train" for c in e.cells if len(c.allowed) == 1
    }


def row_of(seen: list[Seen], taught: set[str]) -> dict:
    """The figures of a source's cells; what there is no cell for is absent. `taught`: types that others teach."""
    white = [s for s in seen if set(s.allowed) <= set(WHITE_NAMES)]
    typed = [s for s in seen if tells_type(s.allowed)]
    row: dict = {"cells": len(seen)}
    parts = {
        "recall": [s.iou >= 0.5 for s in white if s.iou == s.iou],
        "found": [s.found for s in white if s.iou != s.iou],
        "accuracy": [s.predicted in s.allowed for s in typed],
        "accuracy_taught": [s.predicted in s.allowed for s in typed if set(s.allowed) & taught],
    }
    row |= {name: interval(np.array(right, float)) for name, right in parts.items() if right}
    if typed:
        row["majority"] = max(sum(name in s.allowed for s in typed) for name in CLASS_NAMES) / len(
            typed
        )
    row["never_taught"] = sorted({s.allowed[0] for s in typed if not set(s.allowed) & taught})
    return row


def table_rows(rows: dict[str, dict]) -> list[list[str]]:
    """The rows as text, in the order of COLUMNS; empty where there is no figure."""
    out = []
    for source, row in rows.items():
        cells = [safe_text(source), str(row["images"]), str(row["cells"])]
        for name in FIGURES:
            f = row.get(name)
            cells += (
                [f"{f['value']:.4f}", f"{f['low']:.4f}", f"{f['high']:.4f}", str(f["n"])]
                if f
                else [""] * 4
            )
        out.append(
            [
                *cells,
                f"{row['majority']:.4f}" if "majority" in row else "",
                " ".join(row["never_taught"]),
                safe_text(" ".join(row["left_out"])),
            ]
        )
    return out


def _told(source: str, row: dict) -> str:
    parts = [
        f"{name} {f['value']:.4f} ({f['low']:.4f} to {f['high']:.4f}, n {f['n']})"
        for name in FIGURES
        if (f := row.get(name))
    ]
    return f"without {source}: {'; '.join(parts) or 'no labelled cell'}" + (
        f"; majority {row['majority']:.4f}" if "majority" in row else ""
    )
