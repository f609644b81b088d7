"""The commands that make weights: `train` and `calibrate`. Other commands share two of their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .requirements import (
    WITHOUT_AVERAGE_PRECISION,
    imagenet_modules,
    is_installed,
    require_modules,
)

STAIN_OPTION = click.option(
    "--stain", type=click.FloatRange(0), default=1.5, show_default=True,
    help="Stain variation: 0 varies only the glass, 1 varies as one laboratory does.",
)  # fmt: skip
COARSE_OPTION = click.option(
    "--coarse",
    is_flag=True,
    help="Use half the resolution. It takes a fifth of the time, for machines without a GPU.",
)


@click.command()
@click.argument(
    "data", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write (.safetensors).",
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the log, the state and the pseudo-masks.  [default: OUT.work]",
)
@click.option(
    "--arch",
    type=click.Choice(["hemax-m", "hemax-s", "hemax-r50"]),
    help="The architecture.  [default: hemax-s, or that of --from-weights]",
)
@click.option(
    "--steps",
    type=click.IntRange(0),
    help="Optimiser steps.  [default: 1900, or 420 with --from-weights]",
)
@click.option(
    "--from-weights",
    "start",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Continue from these weights.",
)
@click.option(
    "--teacher",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take missing masks, and types that labels leave open, from these weights.",
)
@click.option(
    "--close",
    is_flag=True,
    help="With --from-weights: use small canvases, and sample immature stages more often.",
)
@click.option(
    "--lr",
    type=float,
    help="Peak learning rate. The backbone has half of it.  [default: 5e-4, or 2e-4 with --from-weights]",
)
@click.option(
    "--batch-size", default=16, show_default=True, help="Patches per step, over all processes."
)
@click.option(
    "--synthetic",
    default=800,
    show_default=True,
    help="Synthetic fields that the second stage adds.",
)
@click.option(
    "--leave-out",
    multiple=True,
    metavar="SOURCE",
    help="Learn nothing from this source or from copies of its pictures. Repeatable.",
)
@click.option(
    "--drop-path",
    type=click.FloatRange(0, 0.9),
    default=0.0,
    show_default=True,
    help="Stochastic depth of the backbone.",
)
@STAIN_OPTION
@click.option(
    "--as-stained",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of patches that keep their own stain and light.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the backbone with torch.compile. The start takes a minute longer.",
)
@click.option(
    "--patience",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Stop after this many checks without improvement. 0 never stops.",
)
@click.option(
    "--check-every",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    metavar="STEPS",
    help="With --patience: steps between checks.",
)
@click.option(
    "--shuffle-labels",
    is_flag=True,
    help="Train a control: classes and attributes are shuffled, without synthetic fields.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def train(  # noqa: PLR0913 - one parameter per option
    data: tuple[Path, ...],
    out: Path,
    work: Path | None,
    arch: str | None,
    steps: int | None,
    start: Path | None,
    teacher: Path | None,
    close: bool,
    lr: float | None,
    batch_size: int,
    synthetic: int,
    leave_out: tuple[str, ...],
    drop_path: float,
    stain: float,
    as_stained: float,
    compiled: bool,
    patience: int,
    check_every: int,
    shuffle_labels: bool,
    seed: int,
    device: str,
) -> None:
    """Train HemaX on labelled images and write the weights with their model card.

    DATA is one or more folders. A folder holds images.csv and cells.csv, COCO instance JSON (with `mpp`),
    the LeukoX layout (with leukox.json), or the public sets. Split `train` is learnt. Split `val` is measured at the end.
    A killed training resumes from --work.

    --patience keeps one in sixteen images of split `train` for checks. It keeps the averaged weights that did best.
    A source of --leave-out is measured with `evaluate --source`. `transfer` leaves out each source in turn.
    From weights of another --arch, the tensors that fit are taken. The backbone then starts from ImageNet weights.
    --from-weights with --steps 0 fits only the layer for cytoplasm colour. Every training ends with this fit.
    Weights of --shuffle-labels serve `evaluate` and `faithfulness` only.

    \b
    Example:
      hemax-batch train data/ --out hemax-s.safetensors
      hemax-batch train data/ --out elsewhere.safetensors --leave-out BCCD --patience 5
      torchrun --nproc-per-node 2 -m hemax_batch train data/ --out hemax-s.safetensors
    """
    from ..learning.training.recipe import Recipe
    from ..learning.training.training_run import TrainingSet, train_command

    if shuffle_labels and teacher:
        raise click.UsageError(
            "--shuffle-labels cannot be combined with --teacher: the teacher restores the true types"
        )
    if steps == 0 and (arch or not start):
        raise click.UsageError(
            "--steps 0 only fits cytoplasm colour to trained weights. Give --from-weights, without --arch"
        )
    modules = ["sklearn", "pycocotools"]  # calibration and evaluation at the end
    require_modules(
        "train", modules + ([] if start and not arch else imagenet_modules([arch or Recipe.arch]))
    )
    given: dict[str, Any] = {
        "batch": batch_size,
        "synthetic": synthetic,
        "seed": seed,
        "drop_path": drop_path,
        "stain": stain,
        "as_stained": as_stained,
        "compiled": compiled,
    }
    if lr:
        given |= {"lr": lr, "backbone_lr": lr / 2}
    if arch:
        given["arch"] = arch
    if start:
        recipe = Recipe.fine_tuning(start, close, steps=420 if steps is None else steps, **given)
    else:
        recipe = Recipe(steps=Recipe.steps if steps is None else steps, **given)
    training_set = TrainingSet(leave_out, patience, check_every, shuffle_labels)
    train_command(
        data,
        out,
        work or out.with_name(out.name + ".work"),
        recipe,
        device,
        click.echo,
        start,
        training_set,
        teacher,
    )


@click.command()
@click.argument(
    "data", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Weights to calibrate.  [default: the weights that ship]",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The calibrated weights. Their card is written beside them.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def calibrate(data: tuple[Path, ...], weights: Path | None, out: Path, device: str) -> None:
    """Fit the confidences of weights to your images, and measure the weights again.

    It fits the temperature, the threshold of `unidentified` and the out-of-distribution score.
    It fits on one half of the images of split `val`, by file name. It measures on the other half.
    `train` ends with the same step.

    \b
    Example:
      hemax-batch calibrate data/ --out ours.safetensors
    """
    from ..errors import DataError
    from ..learning.data.read_folder import read_folder
    from ..learning.evaluation.calibration import calibrate as fit
    from ..model.checkpoint import SHIPPED

    require_modules("calibrate", ["sklearn"])
    if not is_installed("pycocotools"):
        click.echo(WITHOUT_AVERAGE_PRECISION, err=True)
    held_out = [e for folder in data for e in read_folder(folder) if e.split == "val"]
    if not held_out:
        raise DataError(
            f"{', '.join(map(str, data))}: holds no image of split 'val'. Calibration needs one"
        )
    fit(weights or SHIPPED, out, held_out, device, echo=click.echo)
