"""Figures of sources that know their patients, with intervals over patients.

Cells of one patient resemble each other. An interval over cells would be too narrow, so whole
patients are drawn in each bootstrap draw (cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .metrics import BOOTSTRAP, EvaluatedCell

#: Classes whose labels in `apl` are trusted (see the data's README).
TRUSTED_CLASSES = (
    "blast",
    "promyelocyte",
    "band_neutrophil",
    "segmented_neutrophil",
    "monocyte",
    "lymphocyte",
    "erythroblast",
)
#: Cells that count as blasts in acute leukaemia, as labels and as calls.
_BLAST_LABELS = ({"blast"}, {"promyelocyte"}, {"blast", "monocyte"})
_BLAST_CALLS = ("blast", "promyelocyte")
MIN_CELLS = 15  # of a class, to enter a balanced figure
SUREST_SHARE = 0.6

Rows = Sequence[EvaluatedCell]


def patient_figures(cells: Rows) -> dict[str, Any]:
    """Return the figures of cells with a known patient; {} if there are none.

    Every figure has a 95 % percentile interval over patients. "right" is the share of cells with
    the right class. "balanced" is the mean recall of the classes that occur. "surest 60 %" is the
    share right among the 60 % of cells with the highest confidence.
    """
    known = [c for c in cells if c.patient]
    if not known:
        return {}
    trusted = [c for c in known if len(c.allowed) == 1 and c.allowed[0] in TRUSTED_CLASSES]
    exact = [c for c in known if len(c.allowed) == 1]
    counts = {c.allowed[0]: 0 for c in exact}
    for c in exact:
        counts[c.allowed[0]] += 1
    frequent = [c for c in exact if counts[c.allowed[0]] >= MIN_CELLS]
    out = {
        "seven trusted classes, right": _interval(trusted, right_share),
        "seven trusted classes, balanced": _interval(trusted, balanced_recall),
        "seven trusted classes, right of the surest 60 %": _interval(trusted, surest_right),
        f"classes with {MIN_CELLS} cells or more, balanced": _interval(frequent, balanced_recall),
        "blast, equivalent or promyelocyte, sensitivity": _interval(
            [c for c in known if set(c.allowed) in _BLAST_LABELS], _called_blast_share
        ),
        "blast, equivalent or promyelocyte, specificity": _interval(
            [c for c in exact if set(c.allowed) not in _BLAST_LABELS],
            lambda rows: 1 - _called_blast_share(rows),
        ),
    }
    out["recall by class"] = {
        name: _interval([c for c in frequent if c.allowed[0] == name], right_share)
        for name in sorted({c.allowed[0] for c in frequent})
    }
    return {name: value for name, value in out.items() if value}


def right_share(rows: Rows) -> float:
    """Return the share of cells whose class is right. A cell that is not found counts as wrong."""
    return float(np.mean([c.predicted in c.allowed for c in rows]))


def balanced_recall(rows: Rows) -> float:
    """Return the mean recall of the classes that occur."""
    by_class: dict[str, list[bool]] = {}
    for c in rows:
        by_class.setdefault(c.allowed[0], []).append(c.predicted in c.allowed)
    return float(np.mean([np.mean(values) for values in by_class.values()]))


def surest_right(rows: Rows) -> float:
    """Return the share right among the most confident 60 % of cells."""
    order = sorted(rows, key=lambda c: (-c.confidence, c.path))
    return right_share(order[: max(int(SUREST_SHARE * len(order)), 1)])


def _called_blast_share(rows: Rows) -> float:
    """Return the share of cells that are called blasts."""
    return float(np.mean([c.predicted in _BLAST_CALLS for c in rows]))


def _interval(rows: Rows, statistic: Callable[[Rows], float], seed: int = 0) -> dict[str, Any]:
    """Return the statistic with its 95 % interval over patients; {} without rows."""
    if not rows:
        return {}
    by_patient: dict[str, list[EvaluatedCell]] = {}
    for c in rows:
        by_patient.setdefault(c.patient, []).append(c)
    groups = list(by_patient.values())
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(BOOTSTRAP):
        drawn = rng.integers(len(groups), size=len(groups))
        draws.append(statistic([c for k in drawn for c in groups[k]]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "value": statistic(rows),
        "low": float(low),
        "high": float(high),
        "n": len(rows),
        "patients": len(groups),
    }
