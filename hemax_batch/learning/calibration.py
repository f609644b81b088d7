"""Confidences that mean what they say: a temperature (Guo et al. 2017) and the threshold below which a cell is left
unidentified, both fitted on one half of the held-out images and measured on the other.

Which half an image is in follows from its file's name, so that it is the same for ever.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from ..vocabulary import CLASS_NAMES, tells_type
from .figures import Seen, fits

WANTED_ACCURACY = 0.95  # of the cells that keep their class, …
LEAST_KEPT = 0.90  # … but at most one cell in ten is left unidentified for it
_RANGE = (0.3, 3.0)


def fit_temperature(seen: list[Seen]) -> float:
    """The temperature of least negative log-likelihood of the labels that found cells have; 1 without any."""
    cells = [s for s in seen if s.found and tells_type(s.allowed) and fits(s.path)]
    if not cells:
        return 1.0
    log_p = np.log(np.maximum([s.class_probs for s in cells], 1e-12))
    allowed = np.array([[name in s.allowed for name in CLASS_NAMES] for s in cells])

    def loss(log_t: float) -> float:
        scaled = log_p / np.exp(log_t)
        likelihood = np.logaddexp.reduce(
            np.where(allowed, scaled, -1e9), axis=1
        ) - np.logaddexp.reduce(scaled, axis=1)
        return float(-likelihood.mean())

    found = minimize_scalar(loss, bounds=np.log(_RANGE), method="bounded")
    return round(float(np.exp(found.x)), 3)


def at_temperature(seen: list[Seen], temperature: float) -> list[Seen]:
    """What would have been seen with this temperature in the checkpoint, instead of 1; classes do not change."""
    out = []
    for s in seen:
        if s.found:
            p = np.asarray(s.class_probs, float) ** (1 / temperature)
            p /= p.sum()
            s = replace(s, confidence=float(p.max()), class_probs=tuple(p.tolist()))
        out.append(s)
    return out


def choose_threshold(seen: list[Seen]) -> float:
    """The least confidence, in steps of 0.01, above which WANTED_ACCURACY is reached while LEAST_KEPT stays."""
    pairs = [
        (s.confidence, s.predicted in s.allowed)
        for s in seen
        if s.found and tells_type(s.allowed) and fits(s.path)
    ]
    if not pairs:
        return 0.5
    sure, right = np.array(pairs, float).T
    chosen = 0.0
    for threshold in np.arange(0.05, 0.96, 0.01):
        kept = sure >= threshold
        if kept.mean() < LEAST_KEPT:
            break
        chosen = round(float(threshold), 2)
        if right[kept].mean() >= WANTED_ACCURACY:
            break
    return chosen
