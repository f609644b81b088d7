"""Comparison of HemaX with and without attribute heads, the paper's architecture, and classifiers.

All are trained on the same examples with the same number of steps and patches, with several seeds.
They are measured on centred cells with exactly one allowed class; a cell that HemaX does not find
counts as wrong. Intervals: 95 %, bootstrap over cells (of the mean over seeds), paired for
differences from HemaX. They do not include the spread between seeds, which is given beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...model import checkpoint
from ...model.predictor import Predictor
from ...vocabulary import CLASS_NAMES
from ..data.examples import Example
from ..evaluation.evaluate import predict_examples
from ..training.pseudo_labels import apply_pseudo_labels, pseudo_candidates, write_pseudo_masks
from ..training.recipe import Recipe, short_hash
from ..training.trainer import train
from .classifier_training import classify, train_classifier
from .classifiers import CLASSIFIERS
from .comparison_table import HEMAX, UNEXPLAINED, ModelResult, comparison_table

DETECTORS: dict[str, dict[str, Any]] = {
    HEMAX: {},
    UNEXPLAINED: {"attributes": False},
    "hemax-m": {"arch": "hemax-m"},
    "hemax-r50": {"arch": "hemax-r50"},
}
MODELS = (*DETECTORS, *CLASSIFIERS)


def compare(
    examples: list[Example],
    recipe: Recipe,
    seeds: int,
    work: Path,
    device: str,
    echo: Callable[[str], None] = print,
    only: Collection[str] = (),
    masks: Path | None = None,
) -> dict[str, Any]:
    """Train and measure all models, or those in `only`.

    Results are stored in `work` and not computed again. With `masks`, weights, images without a
    mask get one beforehand, the same for all models, and there is no first stage.
    """
    train_examples = [e for e in examples if e.split == "train"]
    held_out = [
        e
        for e in examples
        if e.split == "val" and e.cells and all(len(c.allowed) == 1 for c in e.cells)
    ]
    if not train_examples or not held_out:
        raise DataError(
            f"{len(train_examples)} images to learn from and {len(held_out)} of known class to measure on: both are needed"
        )
    if masks:
        train_examples, recipe = (
            _with_masks(masks, train_examples, recipe, work, device),
            replace(recipe, first_stage=0.0),
        )
    truth = np.array([c.allowed[0] for e in held_out for c in e.cells])
    rows = []
    for name in only or MODELS:
        right = []
        for seed in range(seeds):
            given = replace(recipe, seed=seed, **DETECTORS.get(name, {}))
            folder = (
                work / f"{name.replace(' ', '-')}-{short_hash(given, (train_examples, held_out))}"
            )
            predicted = _predicted_classes(name, train_examples, held_out, given, folder, device)
            right.append(predicted == truth)
            echo(f"{name}, seed {seed}: accuracy {right[-1].mean():.4f}")
        rows.append(ModelResult(name, np.array(right), truth))
    return comparison_table(rows, recipe, seeds)


def _with_masks(
    weights: Path, train_examples: list[Example], recipe: Recipe, work: Path, device: str
) -> list[Example]:
    """Add masks that the weights predict, cached in `work`."""
    folder = work / f"masks-{short_hash(recipe, (train_examples,))}"
    if not (folder / "done").exists():
        network = checkpoint.load(weights)[0].to(device)
        write_pseudo_masks(
            network,
            train_examples,
            pseudo_candidates(train_examples),
            folder,
            recipe.mpp,
            recipe.large_canvas_px,
        )
        (folder / "done").touch()
    return apply_pseudo_labels(train_examples, folder)


def _predicted_classes(
    name: str,
    train_examples: list[Example],
    held_out: list[Example],
    recipe: Recipe,
    work: Path,
    device: str,
) -> np.ndarray:
    """Return a trained model's class of each held-out cell; "" if it is not found."""
    work.mkdir(parents=True, exist_ok=True)
    cached = work / "said.txt"
    if cached.exists():
        return np.array(cached.read_text("utf-8").split("\n")[:-1])
    if name in CLASSIFIERS:
        classifier = train_classifier(name, train_examples, recipe, device)
        classes = classify(classifier, held_out, recipe.mpp, recipe.canvas_px, device)
        predicted = [CLASS_NAMES[k] for k in classes]
    else:
        model = train(train_examples, recipe, work, device, echo=lambda *_: None)
        weights = work / "weights.safetensors"
        checkpoint.save(
            model,
            weights,
            mpp=recipe.mpp,
            patch_px=recipe.large_canvas_px,
            temperature=1.0,
            min_confidence=0.0,
            trained={},
            metrics={},
        )
        # The classifiers have no test-time augmentation.
        predictor = Predictor.load(weights, device, platelets=True, test_time_augmentation=False)
        predicted = [s.predicted for s in predict_examples(predictor, held_out)[0]]
    partial = cached.with_suffix(".partial")
    partial.write_text("".join(f"{s}\n" for s in predicted), "utf-8")
    partial.replace(cached)
    return np.array(predicted)
