"""The table of a comparison: figures of each model, and HemaX less each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluation.metrics import bootstrap_interval
from ..training.recipe import Recipe

HEMAX, UNEXPLAINED = "hemax-s", "hemax-s without explanations"
#: The interval of the difference must lie above this for "explaining costs nothing" (half a percentage point).
COSTS_NOTHING = -0.005


@dataclass(frozen=True)
class ModelResult:
    """One line of the table. `right` bool [seeds, cells]."""

    name: str
    right: np.ndarray
    truth: np.ndarray  # class names [cells]

    def accuracy(self) -> dict[str, float]:
        """Mean over seeds and cells."""
        return bootstrap_interval(self.right.mean(0))

    def balanced(self) -> float:
        """Mean recall of the classes, over all seeds."""
        return float(
            np.mean([self.right[:, self.truth == name].mean() for name in np.unique(self.truth)])
        )

    def seed_range(self) -> float:
        """Largest less smallest accuracy of a seed."""
        return float(np.ptp(self.right.mean(1)))


def comparison_table(rows: list[ModelResult], recipe: Recipe, seeds: int) -> dict:
    """The figures of each row, and HemaX, where it is among them, less each other, with intervals."""
    ours = next((row for row in rows if row.name == HEMAX), None)
    out = {
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
