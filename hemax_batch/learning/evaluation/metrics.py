"""Metrics of a checkpoint, computed from evaluated cells.

Every metric has a bootstrap 95 % interval and the score of the most frequent answer beside it. A
cell that is not found counts as wrong. Definitions:

recall      share of cells with a box that have a prediction of IoU >= 0.5 jaccard     mean IoU of
predicted and true box over all cells with a box (0 if not found) dice        2 |P ∩ T| / (|P| +
|T|) of a cell's mask, mean over cells with an expert mask; iou = dice / (2 - dice) nmse        sum
(p - t)² / sum t², and the variance-normalised sum (p - t)² / sum (t - mean t)², of nucleus/cell and
            nucleus/cytoplasm; Bland-Altman limits: mean difference ± 1.96 standard deviations
ece         expected calibration error: |accuracy - confidence| over 15 bins of confidence, weighted
by their cells nuclear_cytoplasmic_ratio   low or high by an expert, against nucleus/cell of the
predicted mask: high above a threshold
            that is fitted on one half of the images (`is_fitting_half`) and measured on the other
review      share of the wrong classes among cells marked for review (unidentified, or with an
explanation that
            contradicts the class), and the share of cells marked
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...vocabulary import ATTRIBUTES, CLASS_NAMES, NEUTROPHIL_NAMES, tells_type

#: The five mature types as analysers count them: bands and segmented are one.
FIVE_TYPES = dict.fromkeys(NEUTROPHIL_NAMES, "neutrophil") | {
    name: name for name in ("eosinophil", "basophil", "monocyte", "lymphocyte")
}
#: Nucleus/cytoplasm is also given for cells with at least this share of cytoplasm.
MIN_RIM = 0.10
BOOTSTRAP = 1000
#: Agreement of two experts of WBCAtt (Tsutsui et al. 2023).
EXPERT_AGREEMENT = {
    "granularity": 0.999,
    "cytoplasm_colour": 0.954,
    "nucleus_shape": 0.903,
    "size_vs_rbc": 0.898,
    "nuclear_cytoplasmic_ratio": 0.976,
}
#: Measured from the masks, so it is no attribute of the vocabulary.
NC = "nuclear_cytoplasmic_ratio"


@dataclass(frozen=True)
class EvaluatedCell:
    """One labelled cell with its prediction. NaN stands for a missing truth.

    Attributes
    ----------
    found : bool
        Whether a prediction matches the cell.
    predicted : str
        Predicted class; "" if not found.
    true_fraction, fraction : float
        Nucleus/cell area of the expert mask and of the predicted mask.
    attributes : tuple of (str, str, str)
        Attribute, true state, predicted state ("" if not found).
    contradicted : bool
        Whether the explanation contradicts the class.
    nc_class : str
        "low" or "high", if an expert judged the nuclear:cytoplasmic ratio.
    patient : str
        The patient, if the data name patients.
    """

    source: str
    allowed: tuple[str, ...]
    found: bool
    predicted: str
    confidence: float
    iou: float
    nucleus_dice: float
    cell_dice: float
    true_fraction: float
    fraction: float
    attributes: tuple[tuple[str, str, str], ...]
    path: str
    contradicted: bool = False
    class_probs: tuple[float, ...] = ()
    nc_class: str = ""
    patient: str = ""


def bootstrap_interval(
    values: np.ndarray, statistic: Callable[[np.ndarray], Any] = np.mean, seed: int = 0
) -> dict[str, float]:
    """Compute a statistic of rows [N, ...] with its 95 % interval.

    The interval is a percentile bootstrap over rows.
    """
    rng = np.random.default_rng(seed)
    draws = [
        statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(BOOTSTRAP)
    ]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {
        "value": float(statistic(values)),
        "low": float(low),
        "high": float(high),
        "n": len(values),
    }


def compute_metrics(cells: list[EvaluatedCell], min_confidence: float = 0.0) -> dict[str, Any]:
    """Compute all metrics of a set of cells; metrics without data are absent.

    A confidence below `min_confidence` means unidentified.
    """
    out: dict[str, Any] = {"cells": len(cells), "found": sum(s.found for s in cells)}
    boxed = np.array([s.iou for s in cells if s.iou == s.iou and s.allowed != ("platelet",)])
    if len(boxed):
        out["recall"] = bootstrap_interval((boxed >= 0.5).astype(float))
        out["jaccard"] = bootstrap_interval(boxed)
    typed = [s for s in cells if tells_type(s.allowed)]
    if typed:
        out["classes"] = _class_metrics(typed)
        if measured := [s for s in typed if not is_fitting_half(s.path)]:
            out["confidence (other half than fitted on)"] = _confidence_metrics(
                measured, min_confidence
            )
    mature = [(t, FIVE_TYPES.get(s.predicted, "")) for s in typed if (t := _one_of_five(s.allowed))]
    if mature:
        out["five mature types"] = {
            "accuracy": bootstrap_interval(np.array([float(t == p) for t, p in mature]))
        }
    masked = [s for s in cells if s.cell_dice == s.cell_dice]
    if masked:
        out["masks"] = _mask_metrics(masked)
    out["attributes"] = {a.name: f for a in ATTRIBUTES if (f := _attribute_metrics(cells, a.name))}
    if ratio := nc_metrics(cells):
        out["attributes"][NC] = ratio
    return out


def is_fitting_half(path: str) -> bool:
    """Return whether an image is in the half that temperature and threshold are fitted on."""
    return hashlib.sha256(Path(path).name.encode()).digest()[0] % 2 == 0


def _one_of_five(allowed: tuple[str, ...]) -> str:
    """Return the one of five types that a label means; "" for none or several."""
    types = {FIVE_TYPES.get(name, "") for name in allowed}
    return types.pop() if len(types) == 1 else ""


def _class_metrics(typed: list[EvaluatedCell]) -> dict[str, Any]:
    """Compute class metrics.

    Accuracy is over labels of any breadth; the other metrics are over labels of one class.
    """
    correct = np.array([float(s.predicted in s.allowed) for s in typed])
    out: dict[str, Any] = {"accuracy": bootstrap_interval(correct)}
    exact = [s for s in typed if len(s.allowed) == 1]
    if not exact:
        return out
    names = [*CLASS_NAMES, "not found"]
    pairs = np.array(
        [(names.index(s.allowed[0]), names.index(s.predicted or "not found")) for s in exact]
    )
    present = sorted(set(pairs[:, 0]))
    out["balanced accuracy"] = bootstrap_interval(pairs, balanced_accuracy)
    out["macro F1"] = bootstrap_interval(pairs, lambda p: macro_f1(p, present))
    out["majority baseline"] = float(np.bincount(pairs[:, 0]).max() / len(pairs))
    blast = names.index("blast")
    if blast in present and len(present) > 1:
        is_blast, called_blast = pairs[:, 0] == blast, pairs[:, 1] == blast
        out["blast sensitivity"] = bootstrap_interval(called_blast[is_blast].astype(float))
        out["blast specificity"] = bootstrap_interval((~called_blast[~is_blast]).astype(float))
    out["recall by class"] = {
        names[c]: bootstrap_interval((pairs[pairs[:, 0] == c, 1] == c).astype(float))
        for c in present
    }
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (pairs[:, 0], pairs[:, 1]), 1)
    out["confusion"] = {
        names[c]: {names[p]: int(matrix[c, p]) for p in np.flatnonzero(matrix[c])} for c in present
    }
    return out


def _confidence_metrics(typed: list[EvaluatedCell], min_confidence: float) -> dict[str, Any]:
    """Compute the reliability of confidences of found cells, and the errors that review catches."""
    pairs = np.array([(s.confidence, float(s.predicted in s.allowed)) for s in typed])
    kept = pairs[pairs[:, 0] >= min_confidence]
    found = np.array([s.found for s in typed])
    asked = found & np.array([s.confidence < min_confidence or s.contradicted for s in typed])
    wrong = pairs[:, 1] == 0
    out = (
        {"ece": bootstrap_interval(pairs[found], expected_calibration_error)} if found.any() else {}
    )
    out |= {
        f"share at or above {min_confidence:g}": bootstrap_interval(
            (pairs[:, 0] >= min_confidence).astype(float)
        ),
        "asked to review": bootstrap_interval(asked.astype(float)),
    }
    if len(kept):
        out[f"accuracy at or above {min_confidence:g}"] = bootstrap_interval(kept[:, 1])
    if wrong.any():
        out["errors that review catches"] = bootstrap_interval(asked[wrong].astype(float))
    return out


def reliability_bins(pairs: np.ndarray, n: int = 15) -> list[tuple[float, float, int]]:
    """Return mean confidence, accuracy and number of rows (confidence, right) [N, 2] per bin."""
    index = np.minimum((pairs[:, 0] * n).astype(int), n - 1)
    parts = [pairs[index == k] for k in range(n)]
    return [(float(p[:, 0].mean()), float(p[:, 1].mean()), len(p)) for p in parts if len(p)]


def expected_calibration_error(pairs: np.ndarray) -> float:
    """Compute the expected calibration error of rows (confidence, right) [N, 2].

    The definition is that of Naeini et al. (2015).
    """
    return sum(abs(right - sure) * n for sure, right, n in reliability_bins(pairs)) / len(pairs)


def balanced_accuracy(pairs: np.ndarray) -> float:
    """Compute the mean recall of the states that occur in rows (true, predicted) [N, 2].

    States are integers from -1. scikit-learn takes minutes for a thousand bootstrap draws; the
    tests compare with it.
    """
    counts = _counts(pairs)
    rows = counts.sum(1)
    return float((counts.diagonal()[rows > 0] / rows[rows > 0]).mean())


def macro_f1(pairs: np.ndarray, states: list[int]) -> float:
    """Compute the mean F1 of `states`, of rows as for `balanced_accuracy`.

    An absent state has an F1 of 0.
    """
    counts = _counts(pairs, max(states))
    either = counts.sum(0) + counts.sum(1)
    return float((2 * counts.diagonal() / np.maximum(either, 1))[np.array(states) + 1].mean())


def _counts(pairs: np.ndarray, largest: int = 0) -> np.ndarray:
    """Count the confusion of states from -1 on: row true + 1, column predicted + 1."""
    n = max(int(pairs.max()), largest) + 2
    return np.bincount((pairs[:, 0] + 1) * n + pairs[:, 1] + 1, minlength=n * n).reshape(n, n)


def _mask_metrics(masked: list[EvaluatedCell]) -> dict[str, Any]:
    """Compute Dice of all cells, and N:C of the cells that are found."""
    out = {
        "nucleus dice": bootstrap_interval(np.array([s.nucleus_dice for s in masked])),
        "cell dice": bootstrap_interval(np.array([s.cell_dice for s in masked])),
        "nucleus iou": bootstrap_interval(
            np.array([s.nucleus_dice / (2 - s.nucleus_dice) for s in masked])
        ),
        "cell iou": bootstrap_interval(np.array([s.cell_dice / (2 - s.cell_dice) for s in masked])),
    }
    if not any(s.found for s in masked):
        return out
    fraction = np.array([(s.true_fraction, s.fraction) for s in masked if s.found])
    ratio = fraction / np.maximum(1 - fraction, 1e-3)
    thick, rim = fraction[:, 0] <= 1 - MIN_RIM, f"nucleus/cytoplasm nmse, rim >= {MIN_RIM:.0%}"
    of_rim = (
        {
            rim: bootstrap_interval(ratio[thick], _nmse),
            f"{rim}, variance-normalised": bootstrap_interval(ratio[thick], _nmse_variance),
        }
        if thick.any()
        else {}
    )
    return out | {
        "nucleus/cell nmse": bootstrap_interval(fraction, _nmse),
        "nucleus/cell nmse, variance-normalised": bootstrap_interval(fraction, _nmse_variance),
        **of_rim,
        "nucleus/cell mean absolute error": bootstrap_interval(
            np.abs(fraction[:, 0] - fraction[:, 1])
        ),
        "nucleus/cell mean difference": bootstrap_interval(
            fraction, lambda p: float((p[:, 1] - p[:, 0]).mean())
        ),
        "nucleus/cell Bland-Altman half-width": bootstrap_interval(
            fraction, lambda p: float(1.96 * (p[:, 1] - p[:, 0]).std())
        ),
    }


def _nmse(pairs: np.ndarray) -> float:
    """Compute the normalised mean squared error of rows (true, predicted)."""
    return float(((pairs[:, 1] - pairs[:, 0]) ** 2).sum() / (pairs[:, 0] ** 2).sum())


def _nmse_variance(pairs: np.ndarray) -> float:
    """Compute the variance-normalised mean squared error of rows (true, predicted)."""
    spread = ((pairs[:, 0] - pairs[:, 0].mean()) ** 2).sum()
    return float(((pairs[:, 1] - pairs[:, 0]) ** 2).sum() / max(spread, 1e-9))


def _attribute_metrics(cells: list[EvaluatedCell], name: str) -> dict[str, Any]:
    """Compute the metrics of one attribute; {} without labels."""
    states = next(a.states for a in ATTRIBUTES if a.name == name)
    pairs = np.array(
        [
            (states.index(t), states.index(p) if p else -1)
            for s in cells
            for a, t, p in s.attributes
            if a == name
        ]
    )
    return _state_metrics(pairs, name) if len(pairs) else {}


def _state_metrics(pairs: np.ndarray, name: str) -> dict[str, Any]:
    """Compute metrics of rows (true, predicted) [N, 2].

    -1 is the prediction of a cell that is not found.
    """
    present = sorted(set(pairs[:, 0]))
    return {
        "accuracy": bootstrap_interval((pairs[:, 0] == pairs[:, 1]).astype(float)),
        "balanced accuracy": bootstrap_interval(pairs, balanced_accuracy),
        "macro F1": bootstrap_interval(pairs, lambda p: macro_f1(p, present)),
        "majority baseline": float(np.bincount(pairs[:, 0]).max() / len(pairs)),
        "two people agree": EXPERT_AGREEMENT[name],
    }


def nc_metrics(cells: list[EvaluatedCell]) -> dict[str, Any]:
    """Compute metrics of the nuclear:cytoplasmic ratio (low or high) from the predicted masks.

    The result is {} if one of the halves has no cell. It is also given without basophils, whose
    granules hide the nucleus's border. Only these labels teach the size of their nuclei.
    """
    overall = _nc_metrics([s for s in cells if s.nc_class])
    without_basophils = _nc_metrics([s for s in cells if s.nc_class and s.allowed != ("basophil",)])
    return (
        overall | {"basophils apart": without_basophils}
        if overall and without_basophils
        else overall
    )


def _nc_metrics(judged: list[EvaluatedCell]) -> dict[str, Any]:
    """Fit the threshold on one half and measure on the other."""
    fitted = [s for s in judged if is_fitting_half(s.path) and s.found]
    measured = [s for s in judged if not is_fitting_half(s.path)]
    if not fitted or not measured:
        return {}
    threshold = best_threshold([s.fraction for s in fitted], [s.nc_class == "high" for s in fitted])
    pairs = [
        (s.nc_class == "high", int(s.fraction > threshold) if s.found else -1) for s in measured
    ]
    return {"high above nucleus/cell of": threshold, **_state_metrics(np.array(pairs, int), NC)}


def best_threshold(values: list[float], high: list[bool]) -> float:
    """Return the threshold that separates `high` values best.

    It is the middle of the gap; of several equally good thresholds, the lowest.

    >>> best_threshold([0.2, 0.4, 0.6, 0.9], [False, False, True, True])
    0.5
    """
    order = np.argsort(values, kind="stable")
    ordered, truth = np.asarray(values, float)[order], np.asarray(high)[order]
    # rights[k]: number of correct answers if the k smallest values are called low.
    rights = (
        np.concatenate([[0], np.cumsum(~truth)])
        + truth.sum()
        - np.concatenate([[0], np.cumsum(truth)])
    )
    edges = np.concatenate([[ordered[0] - 1e-6], (ordered[:-1] + ordered[1:]) / 2, [ordered[-1]]])
    possible = np.concatenate([[True], ordered[:-1] < ordered[1:], [True]])
    return float(edges[np.where(possible, rights, -1).argmax()])


def flatten_report(
    report: dict[str, Any], prefix: str = ""
) -> list[tuple[str, float, float, float, int]]:
    """Flatten a report to rows (name, value, low, high, n), for CSV and the terminal."""
    rows = []
    for key, value in report.items():
        name = f"{prefix} / {key}" if prefix else str(key)
        if isinstance(value, dict) and "low" in value:
            rows.append((name, value["value"], value["low"], value["high"], value["n"]))
        elif isinstance(value, dict) and key not in ("confusion", "calls"):
            rows += flatten_report(value, name)
        elif isinstance(value, float):
            rows.append((name, value, float("nan"), float("nan"), 0))
    return rows
