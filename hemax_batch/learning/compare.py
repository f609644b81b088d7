"""The paper's comparison: HemaX with and without its explanation heads, the paper's configuration, and classifiers, all
trained on the same examples for as many steps of as many patches, with several seeds.

Measured on cells whose class is known to the last, each seen centred; one that HemaX does not find counts as wrong.
Intervals: 95 %, bootstrap over cells (of the mean over seeds), paired for the differences from HemaX; they hold for
these seeds and say nothing of the spread between seeds, which stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..model import checkpoint
from ..model.predictor import Predictor
from ..vocabulary import CLASS_NAMES
from .classifiers import CLASSIFIERS, classify, train_classifier
from .dataset import Example
from .evaluate import look
from .figures import interval
from .pseudo import pseudo_candidates, with_pseudo_masks, write_pseudo_masks
from .recipe import Recipe, digest
from .train import train

HEMAX, UNEXPLAINED = "hemax-s", "hemax-s without explanations"
DETECTORS = {
    HEMAX: {},
    UNEXPLAINED: {"attributes": False},
    "hemax-m": {"arch": "hemax-m"},
    "hemax-r50": {"arch": "hemax-r50"},
}
MODELS = (*DETECTORS, *CLASSIFIERS)
#: The interval of the difference must lie above this for "explaining costs nothing" (half a percentage point).
COSTS_NOTHING = -0.005


@dataclass(frozen=True)
class Row:
    """One line of the table. `right` bool [seeds, cells]."""

    name: str
    right: np.ndarray
    truth: np.ndarray  # class names [cells]

    def accuracy(self) -> dict[str, float]:
        """Mean over seeds and cells."""
        return interval(self.right.mean(0))

    def balanced(self) -> float:
        """Mean recall of the classes, over all seeds."""
        return float(
            np.mean([self.right[:, self.truth == name].mean() for name in np.unique(self.truth)])
        )

    def spread(self) -> float:
        """Largest less smallest accuracy of a seed."""
        return float(np.ptp(self.right.mean(1)))


def compare(
    examples: list[Example],
    recipe: Recipe,
    seeds: int,
    work: Path,
    device: str,
    say: Callable = print,
    only: Collection[str] = (),
    masks: Path | None = None,
) -> dict:
    """Train and measure everything, or the models `only`; what is done is kept in `work` and not trained again.

    With `masks`, weights, pictures without a mask get one from them beforehand, all models' the same, and none spends
    steps on a first stage.
    """
    learnt = [e for e in examples if e.split == "train"]
    held_out = [
        e
        for e in examples
        if e.split == "val" and e.cells and all(len(c.allowed) == 1 for c in e.cells)
    ]
    if not learnt or not held_out:
        raise DataError(
            f"{len(learnt)} images to learn from and {len(held_out)} of known class to measure on: both are needed"
        )
    if masks:
        learnt, recipe = (
            _with_masks(masks, learnt, recipe, work, device),
            replace(recipe, first_stage=0.0),
        )
    truth = np.array([c.allowed[0] for e in held_out for c in e.cells])
    rows = []
    for name in only or MODELS:
        right = []
        for seed in range(seeds):
            given = replace(recipe, seed=seed, **DETECTORS.get(name, {}))
            folder = work / f"{name.replace(' ', '-')}-{digest(given, (learnt, held_out))}"
            said = _said(name, learnt, held_out, given, folder, device)
            right.append(said == truth)
            say(f"{name}, seed {seed}: accuracy {right[-1].mean():.4f}")
        rows.append(Row(name, np.array(right), truth))
    return table(rows, recipe, seeds)


def _with_masks(
    weights: Path, learnt: list[Example], recipe: Recipe, work: Path, device: str
) -> list[Example]:
    folder = work / f"masks-{digest(recipe, (learnt,))}"
    if not (folder / "done").exists():
        network = checkpoint.load(weights)[0].to(device)
        write_pseudo_masks(
            network, learnt, pseudo_candidates(learnt), folder, recipe.mpp, recipe.large_canvas_px
        )
        (folder / "done").touch()
    return with_pseudo_masks(learnt, folder)


def _said(name: str, learnt, held_out, recipe: Recipe, work: Path, device: str) -> np.ndarray:
    """The class that a model trained by `recipe` gives each held-out cell; "" where it found none."""
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "said.txt"
    if kept.exists():
        return np.array(kept.read_text("utf-8").split("\n")[:-1])
    if name in CLASSIFIERS:
        model = train_classifier(name, learnt, recipe, device)
        said = [
            CLASS_NAMES[k] for k in classify(model, held_out, recipe.mpp, recipe.canvas_px, device)
        ]
    else:
        model = train(learnt, recipe, work, device, say=lambda *_: None)
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
            weights, device, platelets=True, second_look=False
        )  # as the classifiers have none
        said = [s.predicted for s in look(predictor, held_out)[0]]
    aside = kept.with_suffix(".partial")
    aside.write_text("".join(f"{s}\n" for s in said), "utf-8")
    aside.replace(kept)
    return np.array(said)


def table(rows: list[Row], recipe: Recipe, seeds: int) -> dict:
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
            "spread over seeds": row.spread(),
        }
        if ours and row is not ours:
            less = out["models"][row.name]["hemax-s less this"] = interval(
                ours.right.mean(0) - row.right.mean(0)
            )
            if row.name == UNEXPLAINED:
                out["explaining costs nothing"] = bool(less["low"] > COSTS_NOTHING)
    return out
