"""`hemax-batch train`: from folders of labelled images to weights with their figures and card."""

from __future__ import annotations

import csv
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..model import checkpoint
from ..model.predictor import Predictor
from .calibration import at_temperature, choose_threshold, fit_temperature
from .card import write_card
from .curves import draw_curves
from .dataset import Example, read_folder
from .early_stopping import EarlyStopping, hold_back
from .evaluate import look, report_of
from .pseudo import pseudo_candidates, with_pseudo_masks
from .recipe import Recipe
from .shuffled import shuffle_labels
from .sources import leave_out, refuse_start, without_copies
from .train import train
from .unfamiliar import fit_known, measure_unfamiliar


@dataclass(frozen=True)
class Lessons:
    """What of the data is learnt, and until when.

    leave_out        sources of which nothing is learnt
    patience         checks without a gain before training stops; 0: it goes on to the last step
    check_every      steps from check to check
    shuffle_labels   a control whose classes and attributes mean nothing
    """

    leave_out: tuple[str, ...] = ()
    patience: int = 0
    check_every: int = 100
    shuffle_labels: bool = False

    def of(self, examples: list[Example], seed: int) -> tuple[list[Example], EarlyStopping | None]:
        """What of the examples of split `train` is learnt, and what ends it early."""
        learnt = shuffle_labels(examples, seed) if self.shuffle_labels else examples
        if not self.patience:
            return learnt, None
        learnt, checked = hold_back(learnt)
        return learnt, EarlyStopping(checked, self.patience, self.check_every)

    def options(self) -> str:
        """As written on the command line."""
        given = "".join(f" --leave-out {source}" for source in self.leave_out)
        if self.patience:
            given += f" --patience {self.patience} --check-every {self.check_every}"
        return given + (" --shuffle-labels" if self.shuffle_labels else "")


def train_command(
    data,
    out: Path,
    work: Path,
    recipe: Recipe,
    device: str,
    say=print,
    start: Path | None = None,
    lessons: Lessons = Lessons(),
    teacher: Path | None = None,  # noqa: B008  frozen
) -> None:
    """Train, then measure on the split `val` and save again with the figures and the model card; as `learn`."""
    held_out = learn(data, out, work, recipe, device, say, start, lessons, teacher)
    if held_out is not None:
        calibrate(out, out, held_out, device, say)


def learn(
    data,
    out: Path,
    work: Path,
    recipe: Recipe,
    device: str,
    say=print,
    start: Path | None = None,
    lessons: Lessons = Lessons(),
    teacher: Path | None = None,  # noqa: B008  frozen
) -> list[Example] | None:
    """Read, train and save, nothing measured yet. Returns the examples of split `val`; None where another process saves.

    `data` folders as `dataset.read_folder`; `out` a .safetensors, its card beside it as .md; `work` as `train.train`. Copies of
    pictures of split `val` are not learnt.
    DataError where a source to leave out is unknown, or `start` was taught it.
    """
    if device == "cpu" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        torch.set_num_threads(1)
    out.parent.mkdir(parents=True, exist_ok=True)  # an hour before it is needed
    examples = [e for folder in data for e in read_folder(folder)]
    examples, left_out = leave_out(examples, lessons.leave_out)
    for known in (path for path in (start, teacher) if path):
        refuse_start(checkpoint.read_card(known), lessons.leave_out)
    if teacher:
        recipe = replace(recipe, teacher=checkpoint.read_card(teacher).sha256)
    held_out = [e for e in examples if e.split == "val"]
    first = int(os.environ.get("RANK", 0)) == 0
    taught = without_copies(
        [e for e in examples if e.split == "train"], held_out, say if first else lambda _: None
    )
    learnt, early = lessons.of(taught, recipe.seed)
    if lessons.shuffle_labels:
        recipe = replace(recipe, synthetic=0)  # those tell the truth
    started = time.monotonic()
    model = train(learnt, recipe, work, device, say, start, early, teacher)
    if not first:
        return None
    trained = {
        "command": _command(data, out, recipe, start, lessons, device)
        + (f" --teacher {teacher.name}" if teacher else ""),
        "before": checkpoint.read_card(start).trained if start else None,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "batch": recipe.batch,
        "minutes": _minutes(work, time.monotonic() - started),
        "pseudo_masks": _pseudo_shares(learnt, work / "pseudo"),
        "hardware": f"{torch.cuda.get_device_name() if device == 'cuda' else str(os.cpu_count()) + ' CPU cores'}",
        "images": dict(Counter(e.source for e in learnt), synthetic=recipe.synthetic),
        "recipe": asdict(recipe),
        "left_out": left_out,
        "labels_shuffled": lessons.shuffle_labels,
        "early_stopping": early.told() if early else None,
    }
    if recipe.steps == 0 and start:  # all but a colour's layer was learnt from these
        trained |= {
            name: trained["before"][name]
            for name in ("images", "pseudo_masks")
            if name in trained["before"]
        }
    checkpoint.save(
        model,
        out,
        mpp=recipe.mpp,
        patch_px=recipe.large_canvas_px,
        temperature=1.0,
        min_confidence=0.5,
        trained=trained,
        metrics={},
    )
    if draw_curves(work / "log.csv", work / "curves.svg"):
        say(f"curves: {work / 'curves.svg'}")
    return held_out


def calibrate(weights: Path, out: Path, held_out: list[Example], device: str, say=print) -> None:
    """Fit temperature, threshold and what is familiar on one half of `held_out`, measure everything, and write weights
    and card to `out`.

    Without held-out images the weights keep what they have.
    """
    model, card = checkpoint.load(weights)
    kept = {
        "temperature": card.temperature,
        "min_confidence": card.min_confidence,
        "metrics": card.metrics,
    }
    kept["known"] = checkpoint.load_known(weights)
    if held_out:
        predictor = Predictor.load(weights, device, platelets=True)
        predictor.card, predictor.known = replace(predictor.card, temperature=1.0), None
        seen, fields = look(predictor, held_out, say)
        kept["temperature"] = fit_temperature(seen)
        seen = at_temperature(seen, kept["temperature"])
        kept["min_confidence"] = choose_threshold(seen)
        kept["metrics"] = report_of(seen, fields, kept["min_confidence"])
        predictor.card = replace(
            card, temperature=kept["temperature"], min_confidence=kept["min_confidence"]
        )
        predictor.known = kept["known"] = fit_known(predictor, held_out)
        kept["metrics"]["unfamiliar (other half than fitted on)"] = measure_unfamiliar(
            predictor, held_out
        )
        say(f"temperature {kept['temperature']}, unidentified below {kept['min_confidence']}")
    made = checkpoint.save(
        model, out, mpp=card.mpp, patch_px=card.patch_px, trained=card.trained, **kept
    )
    write_card(made, out.with_suffix(".md"))
    say(f"weights: {out}, card: {out.with_suffix('.md')}")


def _command(
    data, out: Path, recipe: Recipe, start: Path | None, lessons: Lessons, device: str
) -> str:
    """The training as it would be typed."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    launcher = (
        "hemax-batch" if processes == 1 else f"torchrun --nproc-per-node {processes} -m hemax_batch"
    )
    said = (
        f"{launcher} train {' '.join(str(d) for d in data)} --out {out.name} --arch {recipe.arch} "
        f"--steps {recipe.steps} --lr {recipe.lr:g} --seed {recipe.seed}"
    )
    said += (f" --from-weights {start.name}" if start else "") + (
        " --close" if recipe.hard > 1 else ""
    )
    for option, value, usual in (
        ("--batch-size", recipe.batch, Recipe.batch),
        ("--synthetic", recipe.synthetic, Recipe.synthetic),
        ("--drop-path", recipe.drop_path, Recipe.drop_path),
        ("--stain", recipe.stain, None),
        ("--as-stained", recipe.as_stained, Recipe.as_stained),
        ("--device", device, "cpu"),
    ):
        said += f" {option} {value}" if value != usual else ""
    return said + (" --compile" if recipe.compiled else "") + lessons.options()


def _pseudo_shares(learnt: list[Example], folder: Path) -> dict[str, str]:
    """By source, how many pictures without a mask got one that passed the check: "kept/asked"."""
    asked = pseudo_candidates(learnt)
    labelled = with_pseudo_masks(learnt, folder)
    kept = Counter(learnt[i].source for i in asked if labelled[i].mask_path)
    return {s: f"{kept[s]}/{n}" for s, n in Counter(learnt[i].source for i in asked).items()}


def _minutes(work: Path, fallback_s: float) -> int:
    """Training time in the log, over all resumptions."""
    path, total, last = work / "log.csv", 0.0, 0.0
    if not path.exists():
        return round(fallback_s / 60)
    with open(path, newline="") as f:
        for row in csv.DictReader(f):
            seconds = float(row["seconds"])
            total += seconds - last if seconds >= last else seconds
            last = seconds
    return round(total / 60)
