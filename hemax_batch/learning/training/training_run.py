"""The command `hemax-batch train`: from folders of labelled images to weights with metrics and card."""

from __future__ import annotations

import csv
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...model import checkpoint
from ..data.examples import Example
from ..data.read_folder import read_folder
from ..data.shuffled_labels import shuffle_labels
from ..data.sources import exclude_sources, reject_start_weights, remove_copies
from ..evaluation.calibration import calibrate
from .early_stopping import EarlyStopping, holdout_split
from .learning_curves import draw_curves
from .pseudo_labels import apply_pseudo_labels, pseudo_candidates
from .recipe import Recipe
from .trainer import train


@dataclass(frozen=True)
class TrainingSet:
    """Choice of the examples that are trained on, and of early stopping.

    Attributes
    ----------
    leave_out : tuple of str
        Sources that are left out.
    patience : int
        Checks without an improvement before training stops; 0 runs all steps.
    check_every : int
        Steps between checks.
    shuffle_labels : bool
        Whether to train a control with meaningless classes and attributes.
    """

    leave_out: tuple[str, ...] = ()
    patience: int = 0
    check_every: int = 100
    shuffle_labels: bool = False

    def select(
        self, examples: list[Example], seed: int
    ) -> tuple[list[Example], EarlyStopping | None]:
        """Select training examples from split `train`, and make the early stopping."""
        train_examples = shuffle_labels(examples, seed) if self.shuffle_labels else examples
        if not self.patience:
            return train_examples, None
        train_examples, checked = holdout_split(train_examples)
        return train_examples, EarlyStopping(checked, self.patience, self.check_every)

    def as_options(self) -> str:
        """Format as command-line options."""
        given = "".join(f" --leave-out {source}" for source in self.leave_out)
        if self.patience:
            given += f" --patience {self.patience} --check-every {self.check_every}"
        return given + (" --shuffle-labels" if self.shuffle_labels else "")


def train_command(
    data: Sequence[Path],
    out: Path,
    work: Path,
    recipe: Recipe,
    device: str,
    echo: Callable[[str], None] = print,
    start: Path | None = None,
    training_set: TrainingSet = TrainingSet(),
    teacher: Path | None = None,  # noqa: B008  frozen
) -> None:
    """Train, measure on split `val`, and save again with metrics and card; see `train_and_save`."""
    held_out = train_and_save(data, out, work, recipe, device, echo, start, training_set, teacher)
    if held_out is not None:
        calibrate(out, out, held_out, device, echo)


def train_and_save(
    data: Sequence[Path],
    out: Path,
    work: Path,
    recipe: Recipe,
    device: str,
    echo: Callable[[str], None] = print,
    start: Path | None = None,
    training_set: TrainingSet = TrainingSet(),
    teacher: Path | None = None,  # noqa: B008  frozen
) -> list[Example] | None:
    """Read the data, train and save, without measuring.

    Copies of images of split `val` are left out of training.

    Parameters
    ----------
    data
        Folders, as for `read_folder`.
    out
        A .safetensors file; its card is written beside it as .md.
    work
        Working folder, as for `trainer.train`.

    Returns
    -------
    list of Example or None
        Examples of split `val`; None in processes that do not save.

    Raises
    ------
    DataError
        A source to leave out is unknown, or `start` was trained on it.
    """
    if device == "cpu" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        torch.set_num_threads(1)
    # An error here is better than one after an hour of training.
    out.parent.mkdir(parents=True, exist_ok=True)
    examples = [e for folder in data for e in read_folder(folder)]
    examples, left_out = exclude_sources(examples, training_set.leave_out)
    for weights in (path for path in (start, teacher) if path):
        reject_start_weights(checkpoint.read_card(weights), training_set.leave_out)
    if teacher:
        recipe = replace(recipe, teacher=checkpoint.read_card(teacher).sha256)
    held_out = [e for e in examples if e.split == "val"]
    first = int(os.environ.get("RANK", 0)) == 0
    train_split = remove_copies(
        [e for e in examples if e.split == "train"], held_out, echo if first else lambda _: None
    )
    train_examples, early = training_set.select(train_split, recipe.seed)
    if training_set.shuffle_labels:
        recipe = replace(recipe, synthetic=0)  # Their labels would be correct.
    started = time.monotonic()
    model = train(train_examples, recipe, work, device, echo, start, early, teacher)
    if not first:
        return None
    before = checkpoint.read_card(start).trained if start else None
    trained: dict[str, Any] = {
        "command": _command_line(data, out, recipe, start, training_set, device)
        + (f" --teacher {teacher.name}" if teacher else ""),
        "before": before,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "batch": recipe.batch,
        "minutes": _training_minutes(work, time.monotonic() - started),
        "pseudo_masks": _pseudo_shares(train_examples, work / "pseudo"),
        "hardware": f"{torch.cuda.get_device_name() if device == 'cuda' else str(os.cpu_count()) + ' CPU cores'}",
        "images": dict(Counter(e.source for e in train_examples), synthetic=recipe.synthetic),
        "recipe": asdict(recipe),
        "left_out": left_out,
        "labels_shuffled": training_set.shuffle_labels,
        "early_stopping": early.summary() if early else None,
    }
    # Without steps only the colour head was trained; all else comes from the earlier training.
    if recipe.steps == 0 and before:
        trained |= {name: before[name] for name in ("images", "pseudo_masks") if name in before}
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
        echo(f"curves: {work / 'curves.svg'}")
    return held_out


def _command_line(
    data: Sequence[Path],
    out: Path,
    recipe: Recipe,
    start: Path | None,
    training_set: TrainingSet,
    device: str,
) -> str:
    """Format the training as a command line."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    launcher = (
        "hemax-batch" if processes == 1 else f"torchrun --nproc-per-node {processes} -m hemax_batch"
    )
    command = (
        f"{launcher} train {' '.join(str(d) for d in data)} --out {out.name} --arch {recipe.arch} "
        f"--steps {recipe.steps} --lr {recipe.lr:g} --seed {recipe.seed}"
    )
    command += (f" --from-weights {start.name}" if start else "") + (
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
        command += f" {option} {value}" if value != usual else ""
    return command + (" --compile" if recipe.compiled else "") + training_set.as_options()


def _pseudo_shares(train_examples: list[Example], folder: Path) -> dict[str, str]:
    """Return, by source, the images that got a pseudo-mask and those without a mask: "kept/all"."""
    candidates = pseudo_candidates(train_examples)
    labelled = apply_pseudo_labels(train_examples, folder)
    accepted = Counter(train_examples[i].source for i in candidates if labelled[i].mask_path)
    return {
        s: f"{accepted[s]}/{n}"
        for s, n in Counter(train_examples[i].source for i in candidates).items()
    }


def _training_minutes(work: Path, fallback_s: float) -> int:
    """Sum the training time in the log over all resumptions."""
    path, total, last_s = work / "log.csv", 0.0, 0.0
    if not path.exists():
        return round(fallback_s / 60)
    with open(path, newline="") as f:
        for row in csv.DictReader(f):
            seconds = float(row["seconds"])
            total += seconds - last_s if seconds >= last_s else seconds
            last_s = seconds
    return round(total / 60)
