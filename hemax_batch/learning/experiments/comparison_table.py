"""Table of a comparison: metrics of each model, and differences from HemaX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.metrics import bootstrap_interval
from ..training.recipe import Recipe

HEMAX, UNEXPLAINED = "hemax-s", "hemax-s without explanations"
#: "Explaining costs nothing" if the difference's interval lies above this (half a percentage point).
COSTS_NOTHING = -0.005


@dataclass(frozen=True)
class ModelResult:
    """One row of the table; `right` is bool [seeds, cells], `truth` the class names [cells]."""

    name: str
    right: np.ndarray
    truth: np.ndarray

    def accuracy(self) -> dict[str, float]:
        """Return the mean over seeds and cells."""
        return bootstrap_interval(self.right.mean(0))

    def balanced(self) -> float:
        """Return the mean recall of the classes over all seeds."""
        return float(
            np.mean([self.right[:, self.truth == name].mean() for name in np.unique(self.truth)])
        )

    def seed_range(self) -> float:
        """Return the range of the seeds' accuracies."""
        return float(np.ptp(self.right.mean(1)))


def comparison_table(rows: list[ModelResult], recipe: Recipe, seeds: int) -> dict[str, Any]:
    """Compute each row's metrics, and HemaX minus each other model, with intervals."""
    ours = next((row for row in rows if row.name == HEMAX), None)
    out: dict[str, Any] = {
        "budget": {
            "steps": recipe.steps,
            "patches a step": recipe.batch,
            "seeds": seeds,
            "imagenet": recipe.pretrained,
            "um_per_px": recipe.mpp,
        },
        "models": {},
    }
    out["always the commonest"] = float(
        np.unique(rows[0].truth, return_counts=True)[1].max() / len(rows[0].truth)
    )
    for row in rows:
        out["models"][row.name] = {
            "accuracy": row.accuracy(),
            "balanced accuracy": row.balanced(),
            "spread over seeds": row.seed_range(),
        }
        if ours and row is not ours:
            difference = out["models"][row.name]["hemax-s less this"] = bootstrap_interval(
                ours.right.mean(0) - row.right.mean(0)
            )
            if row.name == UNEXPLAINED:
                out["explaining costs nothing"] = bool(difference["low"] > COSTS_NOTHING)
    return out
