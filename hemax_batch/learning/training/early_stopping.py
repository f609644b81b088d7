"""Early stopping on examples of split `train` that are held out of training.

Split `val` is never used: reported results must not have chosen the weights. The learning-rate
schedule is that of all steps. A training that stops early stops at a high learning rate.
"""

from __future__ import annotations

import copy
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from ...model.checkpoint import WeightsCard
from ...model.hemax import HemaX, fold_batch_norms
from ...model.predictor import Predictor
from ...vocabulary import tells_type
from ..data.examples import Example
from ..evaluation.evaluate import predict_examples
from ..evaluation.metrics import EvaluatedCell

#: One image in so many is held out, where the patient is unknown.
_HOLDOUT_ONE_IN = 16
#: One patient in so many is held out.
_HOLDOUT_PATIENT_ONE_IN = 8


def holdout_split(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Split examples into those to train on and about one in sixteen to check on.

    The file's name (or the patient) decides, so the split never changes.

    Raises
    ------
    DataError
        One of the parts is empty.
    """
    parts: tuple[list[Example], list[Example]] = ([], [])
    for e in examples:
        held_out = _is_held_out(e)
        if e.cells or not held_out:
            parts[held_out].append(e)
    if not all(parts):
        raise DataError(
            f"{len(examples)} images to learn from: too few to keep one in {_HOLDOUT_ONE_IN} for --patience"
        )
    return parts


def _is_held_out(example: Example) -> bool:
    """Return whether an image is held out; a patient's images are in one part only."""
    name = example.patient or Path(example.path).name
    one_in = _HOLDOUT_PATIENT_ONE_IN if example.patient else _HOLDOUT_ONE_IN
    # Byte 0 decides the halves of the evaluated images (`metrics.is_fitting_half`).
    return hashlib.sha256(name.encode()).digest()[1] % one_in == 0 and (
        bool(example.cells) or bool(example.patient)
    )


class EarlyStopping:
    """Checks the averaged weights at intervals and keeps the best.

    Parameters
    ----------
    examples
        Held-out examples.
    patience
        Checks in a row without an improvement before training stops.
    every
        Steps between checks.
    """

    def __init__(self, examples: list[Example], patience: int, every: int) -> None:
        self.examples, self.patience, self.every = examples, patience, every
        self.last, self.best, self.best_step, self.without_gain = math.nan, -1.0, 0, 0
        self.weights: dict[str, torch.Tensor] = {}

    def __str__(self) -> str:
        return (
            f"patience={self.patience}, check_every={self.every}, checked_on={len(self.examples)}"
        )

    @property
    def should_stop(self) -> bool:
        """Whether training should stop."""
        return self.without_gain >= self.patience

    def check(self, step: int, score: float, weights: dict[str, torch.Tensor]) -> None:
        """Record the score of the weights after a step; the best weights are copied."""
        self.last = score
        if score > self.best:
            self.best, self.best_step, self.without_gain = score, step, 0
            self.weights = {k: v.detach().clone() for k, v in weights.items()}
        elif self.best > 0:  # A network that finds no cells yet cannot have passed its best.
            self.without_gain += 1

    def summary(self) -> dict[str, Any]:
        """Return the card's entry."""
        return {
            "patience": self.patience,
            "check_every": self.every,
            "checked_on": len(self.examples),
            "best_step": self.best_step,
            "best": self.best,
            "stopped": self.should_stop,
        }

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed training needs."""
        names = ("last", "best", "best_step", "without_gain", "weights")
        return {name: getattr(self, name) for name in names}

    def resume(self, state: dict[str, Any]) -> None:
        """Restore `state()`."""
        for name, value in state.items():
            setattr(self, name, value)


def score_weights(
    network: HemaX,
    average: dict[str, torch.Tensor],
    examples: list[Example],
    mpp: float,
    patch_px: int,
) -> float:
    """Score a network with other weights on examples, each cell in the centre of a patch."""
    # Building a new network would use up the training's random numbers.
    measured = copy.deepcopy(network)
    measured.load_state_dict(average)
    device = str(next(measured.parameters()).device)
    card = WeightsCard(
        "", "", network.cfg.arch, mpp, patch_px, network.cfg.n_queries, 1.0, 0.0, {}, {}
    )
    return score(
        predict_examples(
            Predictor(
                fold_batch_norms(measured.eval()),
                card,
                device,
                platelets=True,
                test_time_augmentation=False,
            ),
            examples,
        )[0]
    )


def score(cells: list[EvaluatedCell]) -> float:
    """Return the mean over sources of the share of correct classes, weighted by box IoU.

    A cell without a box has weight 1. Cells whose label leaves the class open count only if all do.
    """
    typed = [c for c in cells if tells_type(c.allowed)] or cells
    by_source: dict[str, list[float]] = {}
    for c in typed:
        overlap = c.iou if c.iou == c.iou else 1.0
        by_source.setdefault(c.source, []).append(float(c.predicted in c.allowed) * overlap)
    return float(np.mean([np.mean(values) for values in by_source.values()]))
