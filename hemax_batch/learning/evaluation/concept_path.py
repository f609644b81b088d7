"""Concept path: prediction of the class from the explanation alone.

A multinomial logistic regression reads the attributes' probabilities, nucleus/cell area and size.
If it is as accurate as the network, the explanation holds what the decision needs. The accuracy
lost when an attribute is blanked is that attribute's worth, which is compared with clinicians'
answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy import stats

from ...vocabulary import CLASS_NAMES, attribute_slices
from .metrics import bootstrap_interval
from .probe_cells import ProbeCell

_ArrayFunction = Callable[[np.ndarray], np.ndarray]

#: Least cells of a class in the losses by class.
MIN_CELLS = 5
#: Least pairs of class and attribute in the rank correlation.
MIN_PAIRS = 10
#: How much clinicians rely on an attribute for a class (0-2; arXiv 2407.06600).
CLINICIANS = {
    "basophil": {"granularity": 2, "nucleus_shape": 1, "cytoplasm_colour": 0, "size_vs_rbc": 0, "nucleus_fraction": 0},
    "eosinophil": {"granularity": 2, "nucleus_shape": 1, "cytoplasm_colour": 0, "size_vs_rbc": 0, "nucleus_fraction": 0},
    "segmented_neutrophil": {"granularity": 2, "nucleus_shape": 2, "cytoplasm_colour": 0, "size_vs_rbc": 0,
                             "nucleus_fraction": 0},
    **{name: {"nucleus_shape": 2, "cytoplasm_colour": 2, "size_vs_rbc": 1, "nucleus_fraction": 1, "granularity": 1}
       for name in ("lymphocyte", "monocyte")},
}  # fmt: skip


def concept_path(
    train_cells: list[ProbeCell], held_out: list[ProbeCell], seed: int = 0
) -> dict[str, Any]:
    """Measure accuracy, agreement with the direct class, and the worth of each attribute.

    The path is fitted to the true classes of `train_cells`, which must be exact, and measured on
    `held_out`. An attribute is blanked by its mean over `train_cells`. The control is the same
    path, fitted to shuffled labels.
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


def _fitted(concepts: np.ndarray, classes: np.ndarray) -> tuple[_ArrayFunction, _ArrayFunction]:
    """Fit the regression; return the scaling of concepts and the prediction of classes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(concepts)
    return scaler.transform, LogisticRegression(max_iter=2000).fit(
        scaler.transform(concepts), classes
    ).predict


def _is_right(predicted: Iterable[str], cells: list[ProbeCell]) -> np.ndarray:
    """Return whether each predicted class is allowed: float [N]."""
    return np.array([s in c.allowed for s, c in zip(predicted, cells, strict=True)], float)


def _by_class(drops: dict[str, np.ndarray], cells: list[ProbeCell]) -> dict[str, dict[str, float]]:
    """Return the mean accuracy lost by class and attribute, for the clinicians' classes."""
    rows = {name: [i for i, c in enumerate(cells) if c.allowed == (name,)] for name in CLINICIANS}
    return {
        name: {attribute: float(drops[attribute][members].mean()) for attribute in CLINICIANS[name]}
        for name, members in rows.items()
        if len(members) >= MIN_CELLS
    }


def _against_clinicians(lost: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Compute Spearman's rank correlation of the losses with the clinicians' answers."""
    pairs = np.array(
        [(CLINICIANS[name][a], value) for name, row in lost.items() for a, value in row.items()]
    )
    if len(pairs) < MIN_PAIRS or np.ptp(pairs[:, 1]) == 0:
        return {}
    test = stats.spearmanr(*pairs.T)
    return {"rho": float(test.statistic), "p": float(test.pvalue), "pairs": len(pairs)}


def _concepts(cells: list[ProbeCell]) -> np.ndarray:
    """Return [N, A + 2]: attribute probabilities, nucleus/cell area, diameter in µm."""
    return np.array(
        [
            [*c.prediction.attribute_probs, c.prediction.nucleus_fraction, c.prediction.diameter_um]
            for c in cells
        ]
    )


def _columns() -> dict[str, list[int]]:
    """Return each attribute's columns of `_concepts`; the measured diameter belongs to size."""
    parts = {name: list(range(*part.indices(10_000))) for name, part in attribute_slices().items()}
    n = sum(map(len, parts.values()))
    parts["size_vs_rbc"] = [*parts["size_vs_rbc"], n + 1]
    return {**parts, "nucleus_fraction": [n]}
