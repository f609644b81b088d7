"""The class from the explanation alone: a path from what is said of a cell to what it is called.

A multinomial logistic regression on the attributes' probabilities, nucleus/cell and size. If it reaches what the
network reaches, the explanation holds what the decision needs; what is lost when one attribute is blanked is what that
attribute is worth, for comparison with how much clinicians rely on it.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from ...vocabulary import CLASS_NAMES, attribute_slices
from .metrics import bootstrap_interval
from .probe_cells import ProbeCell

MIN_CELLS = 5  # of a class, to speak of what it loses
MIN_PAIRS = 10  # of class and attribute, to rank them
#: How much clinicians rely on an attribute for a class (0-2; arXiv 2407.06600).
CLINICIANS = {
    "basophil": {"granularity": 2, "nucleus_shape": 1, "cytoplasm_colour": 0, "size_vs_rbc": 0, "nucleus_fraction": 0},
    "eosinophil": {"granularity": 2, "nucleus_shape": 1, "cytoplasm_colour": 0, "size_vs_rbc": 0, "nucleus_fraction": 0},
    "segmented_neutrophil": {"granularity": 2, "nucleus_shape": 2, "cytoplasm_colour": 0, "size_vs_rbc": 0,
                             "nucleus_fraction": 0},
    **{name: {"nucleus_shape": 2, "cytoplasm_colour": 2, "size_vs_rbc": 1, "nucleus_fraction": 1, "granularity": 1}
       for name in ("lymphocyte", "monocyte")},
}  # fmt: skip


def concept_path(train_cells: list[ProbeCell], held_out: list[ProbeCell], seed: int = 0) -> dict:
    """Accuracy of the class from the explanation, agreement with the direct class, and what each attribute is worth.

    Fitted to the true classes of `learnt`, each known to the last, measured on `held_out`. An attribute is blanked by its
    mean over `learnt`. The control is the same path, fitted to shuffled labels.
    """
    classes = np.array([c.allowed[0] for c in train_cells])
    scale, predict = _fitted(_concepts(train_cells), classes)
    x = scale(_concepts(held_out))
    predicted = predict(x)
    direct = [CLASS_NAMES[int(c.prediction.class_probs.argmax())] for c in held_out]
    _, by_chance = _fitted(_concepts(train_cells), np.random.default_rng(seed).permutation(classes))
    right = _is_right(predicted, held_out)
    drops = {}
    for name, columns in _columns().items():
        blank = x.copy()
        blank[:, columns] = 0.0
        drops[name] = right - _is_right(predict(blank), held_out)
    return {
        "cells": len(held_out),
        "accuracy": bootstrap_interval(right),
        "accuracy, labels shuffled (control)": bootstrap_interval(
            _is_right(by_chance(x), held_out)
        ),
        "direct accuracy": bootstrap_interval(_is_right(direct, held_out)),
        "agrees with the direct class": bootstrap_interval(
            (predicted == np.array(direct)).astype(float)
        ),
        "lost when blanked": {name: bootstrap_interval(lost) for name, lost in drops.items()},
        "lost by class": _by_class(drops, held_out),
        "rank correlation with clinicians": _against_clinicians(_by_class(drops, held_out)),
    }


def _fitted(concepts: np.ndarray, classes: np.ndarray):
    """(what scales concepts, what predicts classes from scaled ones)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(concepts)
    return scaler.transform, LogisticRegression(max_iter=2000).fit(
        scaler.transform(concepts), classes
    ).predict


def _is_right(predicted, cells: list[ProbeCell]) -> np.ndarray:
    return np.array([s in c.allowed for s, c in zip(predicted, cells, strict=True)], float)


def _by_class(drops: dict[str, np.ndarray], cells: list[ProbeCell]) -> dict[str, dict[str, float]]:
    """Mean accuracy lost by class and attribute, of the classes that clinicians were asked about."""
    rows = {name: [i for i, c in enumerate(cells) if c.allowed == (name,)] for name in CLINICIANS}
    return {
        name: {attribute: float(drops[attribute][mine].mean()) for attribute in CLINICIANS[name]}
        for name, mine in rows.items()
        if len(mine) >= MIN_CELLS
    }


def _against_clinicians(lost: dict[str, dict[str, float]]) -> dict:
    """Spearman's rank correlation, over class and attribute, of the loss with what clinicians say they rely on."""
    pairs = np.array(
        [(CLINICIANS[name][a], value) for name, row in lost.items() for a, value in row.items()]
    )
    if len(pairs) < MIN_PAIRS or np.ptp(pairs[:, 1]) == 0:
        return {}
    found = stats.spearmanr(*pairs.T)
    return {"rho": float(found.statistic), "p": float(found.pvalue), "pairs": len(pairs)}


def _concepts(cells: list[ProbeCell]) -> np.ndarray:
    """[N, A + 2]: attribute probabilities, nucleus/cell, diameter in µm."""
    return np.array(
        [
            [*c.prediction.attribute_probs, c.prediction.nucleus_fraction, c.prediction.diameter_um]
            for c in cells
        ]
    )


def _columns() -> dict[str, list[int]]:
    """Attribute to its columns of `_concepts`; the measured diameter goes with size."""
    parts = {name: list(range(*part.indices(10_000))) for name, part in attribute_slices().items()}
    n = sum(map(len, parts.values()))
    parts["size_vs_rbc"] = [*parts["size_vs_rbc"], n + 1]
    return {**parts, "nucleus_fraction": [n]}
