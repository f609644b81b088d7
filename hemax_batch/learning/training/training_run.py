"""`hemax-batch train`: from folders of labelled images to weights with their figures and card."""

from __future__ import annotations

import csv
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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
    """What of the data is learnt, and until when.

    exclude_sources        sources of which nothing is learnt
    patience         checks without a gain before training stops; 0: it goes on to the last step
    check_every      steps from check to check
    shuffle_labels   a control whose classes and attributes mean nothing
    """

    leave_out: tuple[str, ...] = ()
    patience: int = 0
    check_every: int = 100
    shuffle_labels: bool = False

    def select(
        self, examples: list[Example], seed: int
    ) -> tuple[list[Example], EarlyStopping | None]:
        """What of the examples of split `train` is learnt, and what ends it early."""
        train_examples = shuffle_labels(examples, seed) if self.shuffle_labels else examples
        if not self.patience:
            return train_examples, None
        train_examples, checked = holdout_split(train_examples)
        return train_examples, EarlyStopping(checked, self.patience, self.check_every)

    def as_options(self) -> str:
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
    echo=print,
    start: Path | None = None,
    training_set: TrainingSet = TrainingSet(),
    teacher: Path | None = None,  # noqa: B008  frozen
) -> None:
    """Train, then measure on the split `val` and save again with the figures and the model card; as `train_and_save`."""
    held_out = train_and_save(data, out, work, recipe, device, echo, start, training_set, teacher)
    if held_out is not None:
        calibrate(out, out, held_out, device, echo)


def train_and_save(
    data,
    out: Path,
    work: Path,
    recipe: Recipe,
    device: str,
    echo=print,
    start: Path | None = None,
    training_set: TrainingSet = TrainingSet(),
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
    examples, left_out = exclude_sources(examples, training_set.leave_out)
    for ood_detector in (path for path in (start, teacher) if path):
        reject_start_weights(checkpoint.read_card(ood_detector), training_set.leave_out)
    if teacher:
        recipe = replace(recipe, teacher=checkpoint.read_card(teacher).sha256)
    held_out = [e for e in examples if e.split == "val"]
    first = int(os.environ.get("RANK", 0)) == 0
    train_split = remove_copies(
        [e for e in examples if e.split == "train"], held_out, echo if first else lambda _: None
    )
    train_examples, early = training_set.select(train_split, recipe.seed)
    if training_set.shuffle_labels:
        recipe = replace(recipe, synthetic=0)  # those tell the truth
    started = time.monotonic()
    model = train(train_examples, recipe, work, device, echo, start, early, teacher)
    if not first:
        return None
    trained = {
        "command": _command_line(data, out, recipe, start, training_set, device)
        + (f" --teacher {teacher.name}" if teacher else ""),
        "before": checkpoint.read_card(start).trained if start else None,
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
        echo(f"curves: {work / 'curves.svg'}")
    return held_out


def _command_line(
    data, out: Path, recipe: Recipe, start: Path | None, training_set: TrainingSet, device: str
) -> str:
    """The training as it would be typed."""
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
    """By source, how many pictures without a mask got one that passed the check: "kept/asked"."""
    candidates = pseudo_candidates(train_examples)
    labelled = apply_pseudo_labels(train_examples, folder)
    settings = Counter(train_examples[i].source for i in candidates if labelled[i].mask_path)
    return {
        s: f"{settings[s]}/{n}"
        for s, n in Counter(train_examples[i].source for i in candidates).items()
    }


def _training_minutes(work: Path, fallback_s: float) -> int:
    """Training time in the log, over all resumptions."""
    path, total, last_s = work / "log.csv", 0.0, 0.0
    if not path.exists():
        return round(fallback_s / 60)
    with open(path, newline="") as f:
        for row in csv.DictReader(f):
            seconds = float(row["seconds"])
            total += seconds - last_s if seconds >= last_s else seconds
            last_s = seconds
    return round(total / 60)
