"""Another laboratory: each source in turn is left out of a training and then measured whole, as one that the network has
never seen would be.

Columns of the table, a row per source (value, low, high: 95 % interval, bootstrap over cells; n: cells):

images, cells      all there are of the source, of both splits
recall             white cells with a box that were found, IoU >= 0.5
found              white cells of which only the place is known that were found, within 5 µm
accuracy           cells of known type whose class the label allows; one not found is wrong
accuracy_taught    the same, of types that another source teaches
never_taught       the other types, which nobody could know without this source
majority           what always answering the best single class would score, of all cells of known type
"""

from __future__ import annotations

import hashlib
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
from .sources import check_sources, leave_out
from .train import Recipe

FIGURES = ("recall", "found", "accuracy", "accuracy_taught")
COLUMNS = ("source", "images", "cells", *(f"{f}{part}" for f in FIGURES for part in ("", "_low", "_high", "_n")),
           "majority", "never_taught")  # fmt: skip


def transfer(data: Collection[Path], recipe: Recipe, work: Path, device: str, only: Collection[str] = (),
             say: Callable = print) -> dict[str, dict]:  # fmt: skip
    """The row of each source (of `only`, where given): trained without it, then measured on all of it.

    Everything trained is kept in `work`, and a source that is done is not trained again. DataError as
    `sources.leave_out`.
    """
    examples = [e for folder in data for e in read_folder(folder)]
    check_sources(examples, only)
    rows = {}
    for source in only or dict.fromkeys(e.source for e in examples if e.cells):
        folder = work / f"without-{_digest(source, recipe, examples)}"
        kept = folder / "row.json"
        if not kept.exists():
            folder.mkdir(parents=True, exist_ok=True)
            row = _row(data, examples, source, recipe, folder, device, say)
            aside = kept.with_suffix(".partial")
            aside.write_text(json.dumps(row, indent=1), "utf-8")
            aside.replace(kept)
        rows[source] = json.loads(kept.read_text("utf-8"))
        say(_told(source, rows[source]))
    return rows


def _digest(*what) -> str:
    """Of a source, a recipe and the examples: another of any is another training."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]


def _row(data, examples: list[Example], source: str, recipe: Recipe, folder: Path, device: str, say) -> dict:
    weights = folder / "weights.safetensors"
    learn(data, weights, folder / "work", recipe, device, say, lessons=Lessons(leave_out=(source,)))
    mine = [e for e in examples if e.source == source]
    seen, _ = look(Predictor.load(weights, device, platelets=True), mine, say)
    return {"images": len(mine)} | row_of(seen, _types(leave_out(examples, (source,))[0]))


def _types(examples: list[Example]) -> set[str]:
    """Types that images of split `train` teach."""
    return {c.allowed[0] for e in examples if e.split == "train" for c in e.cells if len(c.allowed) == 1}


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
        row["majority"] = max(sum(name in s.allowed for s in typed) for name in CLASS_NAMES) / len(typed)
    row["never_taught"] = sorted({s.allowed[0] for s in typed if not set(s.allowed) & taught})
    return row


def table_rows(rows: dict[str, dict]) -> list[list[str]]:
    """The rows as text, in the order of COLUMNS; empty where there is no figure."""
    out = []
    for source, row in rows.items():
        cells = [safe_text(source), str(row["images"]), str(row["cells"])]
        for name in FIGURES:
            f = row.get(name)
            cells += [f"{f['value']:.4f}", f"{f['low']:.4f}", f"{f['high']:.4f}", str(f["n"])] if f else [""] * 4
        out.append([*cells, f"{row['majority']:.4f}" if "majority" in row else "", " ".join(row["never_taught"])])
    return out


def _told(source: str, row: dict) -> str:
    parts = [f"{name} {f['value']:.4f} ({f['low']:.4f} to {f['high']:.4f}, n {f['n']})" for name in FIGURES if (f := row.get(name))]
    return f"without {source}: {'; '.join(parts) or 'no labelled cell'}" + (f"; majority {row['majority']:.4f}" if "majority" in row else "")
