"""Stopping once nothing more is learnt, seen on examples of split `train` that are kept out of the lessons.

Never on split `val`: what is reported of it must not have chosen the weights. The learning rate goes down as it would
to the last step, so a training that stops early was still learning fast; that is the price.
"""

from __future__ import annotations

import copy
import hashlib
import math
from pathlib import Path

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

_HOLDOUT_ONE_IN = 16  # pictures to check on, where the patient is not known
_HOLDOUT_PATIENT_ONE_IN = 8  # patients to check on


def holdout_split(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Those to learn from, and about one in sixteen to check on. Which, follows from the file's name, for ever.

    DataError where there would be none to check on, or none to learn from.
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
    """Tell whether a picture is kept for checks. A patient is learnt from or checked on, never both."""
    name = example.patient or Path(example.path).name
    one_in = _HOLDOUT_PATIENT_ONE_IN if example.patient else _HOLDOUT_ONE_IN
    # byte 1: byte 0 decides the halves of the held-out pictures (`metrics.is_fitting_half`)
    return hashlib.sha256(name.encode()).digest()[1] % one_in == 0 and (
        bool(example.cells) or bool(example.patient)
    )


class EarlyStopping:
    """Checks the averaged weights every so many steps, and keeps the best.

    examples   to check on, none of them learnt from
    patience   checks in a row without a gain after which it is `over`
    """

    def __init__(self, examples: list[Example], patience: int, every: int):
        self.examples, self.patience, self.every = examples, patience, every
        self.last, self.best, self.best_step, self.without_gain = math.nan, -1.0, 0, 0
        self.weights: dict[str, torch.Tensor] = {}

    def __str__(self) -> str:
        return (
            f"patience={self.patience}, check_every={self.every}, checked_on={len(self.examples)}"
        )

    @property
    def should_stop(self) -> bool:
        """Whether to stop."""
        return self.without_gain >= self.patience

    def check(self, step: int, score: float, weights: dict[str, torch.Tensor]) -> None:
        """Note the score of the weights after so many steps; the best are copied."""
        self.last = score
        if score > self.best:
            self.best, self.best_step, self.without_gain = score, step, 0
            self.weights = {k: v.detach().clone() for k, v in weights.items()}
        elif self.best > 0:  # a network that finds nothing yet is not past its best
            self.without_gain += 1

    def summary(self) -> dict:
        """For the card: how it was checked, and which weights were kept."""
        return {
            "patience": self.patience,
            "check_every": self.every,
            "checked_on": len(self.examples),
            "best_step": self.best_step,
            "best": self.best,
            "stopped": self.should_stop,
        }

    def state(self) -> dict:
        """What a resumed training needs."""
        names = ("last", "best", "best_step", "without_gain", "weights")
        return {name: getattr(self, name) for name in names}

    def resume(self, state: dict) -> None:
        """Take up `state()`."""
        for name, value in state.items():
            setattr(self, name, value)


def score_weights(
    network: HemaX,
    average: dict[str, torch.Tensor],
    examples: list[Example],
    mpp: float,
    patch_px: int,
) -> float:
    """Of the network with these weights: `score` of the examples, each cell in the middle of a patch."""
    measured = copy.deepcopy(
        network
    )  # not built anew: that would draw from the training's random numbers
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
    """Return the mean over sources of the share of right classes, each weighted by its box IoU.

    A cell without a box has the weight 1. A cell whose label leaves its type open does not count,
    unless all do.
    """
    typed = [c for c in cells if tells_type(c.allowed)] or cells
    by_source: dict[str, list[float]] = {}
    for c in typed:
        overlap = c.iou if c.iou == c.iou else 1.0
        by_source.setdefault(c.source, []).append(float(c.predicted in c.allowed) * overlap)
    return float(np.mean([np.mean(values) for values in by_source.values()]))
