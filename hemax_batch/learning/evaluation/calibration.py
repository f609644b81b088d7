"""Calibration: a temperature (Guo et al. 2017) and the threshold of unidentified cells.

Both are fitted on one half of the held-out images and measured on the other. The file's name
decides the half, so it never changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from ...model import checkpoint
from ...model.predictor import Predictor
from ...vocabulary import CLASS_NAMES, tells_type
from ..data.examples import Example
from .evaluate import build_report, predict_examples
from .metrics import EvaluatedCell, is_fitting_half
from .model_card import write_card
from .ood_evaluation import fit_ood_detector, measure_ood

#: Wanted accuracy of the identified cells.
TARGET_ACCURACY = 0.95
#: Least share of identified cells; it takes precedence over the accuracy.
MIN_COVERAGE = 0.90
_RANGE = (0.3, 3.0)


def fit_temperature(cells: list[EvaluatedCell]) -> float:
    """Fit the temperature of least negative log-likelihood on found, labelled cells.

    It is 1 without any.
    """
    found_cells = [
        s for s in cells if s.found and tells_type(s.allowed) and is_fitting_half(s.path)
    ]
    if not found_cells:
        return 1.0
    log_p = np.log(np.maximum([s.class_probs for s in found_cells], 1e-12))
    allowed = np.array([[name in s.allowed for name in CLASS_NAMES] for s in found_cells])

    def loss(log_t: float) -> float:
        scaled = log_p / np.exp(log_t)
        likelihood = np.logaddexp.reduce(
            np.where(allowed, scaled, -1e9), axis=1
        ) - np.logaddexp.reduce(scaled, axis=1)
        return float(-likelihood.mean())

    optimum = minimize_scalar(loss, bounds=np.log(_RANGE), method="bounded")
    return round(float(np.exp(optimum.x)), 3)


def apply_temperature(cells: list[EvaluatedCell], temperature: float) -> list[EvaluatedCell]:
    """Apply a temperature to predictions made with temperature 1; classes do not change."""
    out = []
    for s in cells:
        if s.found:
            p = np.asarray(s.class_probs, float) ** (1 / temperature)
            p /= p.sum()
            s = replace(s, confidence=float(p.max()), class_probs=tuple(p.tolist()))
        out.append(s)
    return out


def choose_threshold(cells: list[EvaluatedCell]) -> float:
    """Return the least confidence, in steps of 0.01, that reaches TARGET_ACCURACY.

    MIN_COVERAGE limits it.
    """
    pairs = [
        (s.confidence, s.predicted in s.allowed)
        for s in cells
        if s.found and tells_type(s.allowed) and is_fitting_half(s.path)
    ]
    if not pairs:
        return 0.5
    sure, right = np.array(pairs, float).T
    chosen = 0.0
    for threshold in np.arange(0.05, 0.96, 0.01):
        kept = sure >= threshold
        if kept.mean() < MIN_COVERAGE:
            break
        chosen = round(float(threshold), 2)
        if right[kept].mean() >= TARGET_ACCURACY:
            break
    return chosen


def calibrate(
    weights: Path,
    out: Path,
    held_out: list[Example],
    device: str,
    echo: Callable[[str], None] = print,
) -> None:
    """Calibrate weights on held-out images, measure them, and write weights and card to `out`.

    Temperature, threshold and the out-of-distribution detector are fitted on one half. Without
    held-out images the weights keep their settings.
    """
    model, card = checkpoint.load(weights)
    settings: dict[str, Any] = {
        "temperature": card.temperature,
        "min_confidence": card.min_confidence,
        "metrics": card.metrics,
    }
    settings["ood_detector"] = checkpoint.load_ood_detector(weights)
    if held_out:
        predictor = Predictor.load(weights, device, platelets=True)
        predictor.card, predictor.ood_detector = replace(predictor.card, temperature=1.0), None
        cells, fields = predict_examples(predictor, held_out, echo)
        settings["temperature"] = fit_temperature(cells)
        cells = apply_temperature(cells, settings["temperature"])
        settings["min_confidence"] = choose_threshold(cells)
        settings["metrics"] = build_report(cells, fields, settings["min_confidence"])
        predictor.card = replace(
            card, temperature=settings["temperature"], min_confidence=settings["min_confidence"]
        )
        predictor.ood_detector = settings["ood_detector"] = fit_ood_detector(predictor, held_out)
        settings["metrics"]["unfamiliar (other half than fitted on)"] = measure_ood(
            predictor, held_out
        )
        echo(
            f"temperature {settings['temperature']}, unidentified below {settings['min_confidence']}"
        )
    card_written = checkpoint.save(
        model, out, mpp=card.mpp, patch_px=card.patch_px, trained=card.trained, **settings
    )
    write_card(card_written, out.with_suffix(".md"))
    echo(f"weights: {out}, card: {out.with_suffix('.md')}")
