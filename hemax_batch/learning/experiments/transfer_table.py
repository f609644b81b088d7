"""Table of `transfer`: one row for each source that was left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...outputs.tables import safe_text
from ...vocabulary import CLASS_NAMES, WHITE_NAMES, tells_type
from ..evaluation.metrics import EvaluatedCell, bootstrap_interval

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


def source_metrics(cells: list[EvaluatedCell], trained_types: set[str]) -> dict[str, Any]:
    """Compute a source's metrics; metrics without cells are absent.

    `trained_types` are the classes in other sources.
    """
    white = [s for s in cells if set(s.allowed) <= set(WHITE_NAMES)]
    typed = [s for s in cells if tells_type(s.allowed)]
    row: dict[str, Any] = {"cells": len(cells)}
    parts = {
        "recall": [s.iou >= 0.5 for s in white if s.iou == s.iou],
        "found": [s.found for s in white if s.iou != s.iou],
        "accuracy": [s.predicted in s.allowed for s in typed],
        "accuracy_taught": [
            s.predicted in s.allowed for s in typed if set(s.allowed) & trained_types
        ],
    }
    row |= {
        name: bootstrap_interval(np.array(right, float)) for name, right in parts.items() if right
    }
    if typed:
        row["majority"] = max(sum(name in s.allowed for s in typed) for name in CLASS_NAMES) / len(
            typed
        )
    row["never_taught"] = sorted(
        {s.allowed[0] for s in typed if not set(s.allowed) & trained_types}
    )
    return row


def table_rows(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Format the rows as text in the order of COLUMNS; empty without a value."""
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


def summary_line(source: str, row: dict[str, Any]) -> str:
    """Format one source's metrics as a line."""
    parts = [
        f"{name} {f['value']:.4f} ({f['low']:.4f} to {f['high']:.4f}, n {f['n']})"
        for name in FIGURES
        if (f := row.get(name))
    ]
    return f"without {source}: {'; '.join(parts) or 'no labelled cell'}" + (
        f"; majority {row['majority']:.4f}" if "majority" in row else ""
    )
