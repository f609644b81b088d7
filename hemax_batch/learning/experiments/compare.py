"""The paper's comparison: HemaX with and without its explanation heads, the paper's configuration, and classifiers, all
trained on the same examples for as many steps of as many patches, with several seeds.

Measured on cells whose class is known to the last, each seen centred; one that HemaX does not find counts as wrong.
Intervals: 95 %, bootstrap over cells (of the mean over seeds), paired for the differences from HemaX; they hold for
these seeds and say nothing of the spread between seeds, which stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

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

DETECTORS = {
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
    echo: Callable = print,
    only: Collection[str] = (),
    masks: Path | None = None,
) -> dict:
    """Train and measure everything, or the models `only`; what is done is kept in `work` and not trained again.

    With `masks`, weights, pictures without a mask get one from them beforehand, all models' the same, and none spends
    steps on a first stage.
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
    name: str, train_examples, held_out, recipe: Recipe, work: Path, device: str
) -> np.ndarray:
    """The class that a model trained by `recipe` gives each held-out cell; "" where it found none."""
    work.mkdir(parents=True, exist_ok=True)
    cached = work / "said.txt"
    if cached.exists():
        return np.array(cached.read_text("utf-8").split("\n")[:-1])
    if name in CLASSIFIERS:
        model = train_classifier(name, train_examples, recipe, device)
        predicted = [
            CLASS_NAMES[k] for k in classify(model, held_out, recipe.mpp, recipe.canvas_px, device)
        ]
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
        predictor = Predictor.load(
            weights, device, platelets=True, test_time_augmentation=False
        )  # as the classifiers have none
        predicted = [s.predicted for s in predict_examples(predictor, held_out)[0]]
    partial = cached.with_suffix(".partial")
    partial.write_text("".join(f"{s}\n" for s in predicted), "utf-8")
    partial.replace(cached)
    return np.array(predicted)
