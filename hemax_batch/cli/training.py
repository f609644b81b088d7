"""The commands that make weights: `train`, `calibrate`; and the options that they share with others."""

from __future__ import annotations

from pathlib import Path

import click

STAIN_OPTION = click.option(
    "--stain", type=click.FloatRange(0), default=1.5, show_default=True,
    help="How widely stains are varied: 0 not at all (the glass's alone), 1 as one laboratory's may vary.",
)  # fmt: skip
COARSE_OPTION = click.option(
    "--coarse",
    is_flag=True,
    help="At half the resolution: a fifth of the time, for machines without a GPU.",
)


@click.command()
@click.argument(
    "data", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the weights go (.safetensors).",
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    help="Log, state to resume from, pseudo-masks.  [default: OUT.work]",
)
@click.option(
    "--arch",
    type=click.Choice(["hemax-m", "hemax-s", "hemax-r50"]),
    help="hemax-s, the larger hemax-m, or the paper's hemax-r50.  [default: hemax-s, or that of --from-weights]",
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
    help="Go on from these weights.",
)
@click.option(
    "--teacher",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Missing masks, and types that labels leave open, are these weights'.",
)
@click.option(
    "--close",
    is_flag=True,
    help="With --from-weights: small canvases, and the stages of maturation more often.",
)
@click.option(
    "--lr",
    type=float,
    help="Peak learning rate; the backbone's is half.  [default: 5e-4, or 2e-4 with --from-weights]",
)
@click.option(
    "--batch-size", default=16, show_default=True, help="Patches a step, over all processes."
)
@click.option(
    "--synthetic",
    default=800,
    show_default=True,
    help="Synthetic fields to add in the second stage.",
)
@click.option(
    "--leave-out",
    multiple=True,
    metavar="SOURCE",
    help="Learn nothing of this source, nor of copies of its pictures; repeatable.",
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
    help="torch.compile the backbone: a minute at the start, faster then.",
)
@click.option(
    "--patience",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Stop after so many checks without a gain; 0: never.",
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
    help="A control: classes and attributes dealt out at random, no synthetic fields.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def train(
    data,
    out,
    work,
    arch,
    steps,
    start,
    teacher,
    close,
    lr,
    batch_size,
    synthetic,
    leave_out,
    drop_path,
    stain,
    as_stained,
    compiled,
    patience,
    check_every,
    shuffle_labels,
    seed,
    device,
):
    """Train HemaX on labelled images and write the weights with their model card.

    DATA: folders, each told by its content: the documented layout (images.csv, cells.csv), COCO instance JSON (with
    `mpp`), the LeukoX layout (with leukox.json), or the public sets' folders. Images of split `train` are learnt; those
    of split `val` are only measured, at the end. A killed training resumes from --work.

    --patience checks on one in sixteen images of split `train`, which are then not learnt, and keeps the averaged
    weights that did best on them. What --leave-out names is measured by `evaluate --source`, all sources in turn by
    `transfer`. From weights of another --arch what fits is taken, and the backbone begins as ImageNet's. With
    --from-weights and --steps 0 only the layer that reads cytoplasm colour is fitted anew, as at the end of every training.
    Weights of --shuffle-labels are for `evaluate` and `faithfulness` alone.

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
            "--shuffle-labels with --teacher is no control: the teacher tells types anew"
        )
    if steps == 0 and (arch or not start):
        raise click.UsageError(
            "--steps 0 only fits cytoplasm colour to trained weights: give them with --from-weights, without --arch"
        )
    given = {
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
    help="A checkpoint.  [default: the shipped one]",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The calibrated one; its card beside it.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def calibrate(data, weights, out, device):
    """Make a checkpoint's confidences mean what they say on images like yours, and measure it anew.

    Temperature, the threshold of `unidentified` and what looks unfamiliar are fitted on one half of the images of split
    `val`, by file name, and measured on the other. `train` ends with the same.

    \b
    Example:
      hemax-batch calibrate data/ --out ours.safetensors
    """
    from ..errors import DataError
    from ..learning.data.read_folder import read_folder
    from ..learning.evaluation.calibration import calibrate as fit
    from ..model.checkpoint import SHIPPED

    held_out = [e for folder in data for e in read_folder(folder) if e.split == "val"]
    if not held_out:
        raise DataError(f"{', '.join(map(str, data))}: no image of split 'val' to calibrate on")
    fit(weights or SHIPPED, out, held_out, device, echo=click.echo)
