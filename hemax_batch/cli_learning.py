"""The commands for those who train and measure: `train`, `calibrate`, `evaluate`, `faithfulness`, `compare`, `transfer`."""

from __future__ import annotations

from pathlib import Path

import click

_STAIN = click.option(
    "--stain", type=click.FloatRange(0), default=1.5, show_default=True,
    help="How widely stains are varied: 0 not at all (the glass's alone), 1 as one laboratory's may vary.",
)  # fmt: skip
_COARSE = click.option(
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
@_STAIN
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
    from .learning.command import Lessons, train_command
    from .learning.recipe import Recipe

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
    lessons = Lessons(leave_out, patience, check_every, shuffle_labels)
    train_command(
        data,
        out,
        work or out.with_name(out.name + ".work"),
        recipe,
        device,
        click.echo,
        start,
        lessons,
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
@click.option("--split", default="val", show_default=True, help="Which split to measure, or `all`.")
@click.option("--source", "sources", multiple=True, help="Measure this source only; repeatable.")
@click.option(
    "--strange",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Images of what should be flagged as unfamiliar, in a layout of DATA; without rows in cells.csv, all that is found.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write evaluation.json, .csv and .html here.",
)
@click.option(
    "--no-second-look",
    is_flag=True,
    help="As if cells of which the network is unsure were not looked at again.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def evaluate(data, weights, split, strange, sources, out, no_second_look, device):
    """Measure a checkpoint on labelled images, every figure with its 95 % interval and the majority baseline.

    Split `all` is for sources that the weights were not trained on, and refused for others.

    Weights that tell unfamiliar cells are also measured on how many they flag: of the known ones, of the same spoilt,
    and of every cell in --strange.

    \b
    Example:
      hemax-batch evaluate data/ --split val --out evaluation/
      hemax-batch evaluate data/ --weights elsewhere.safetensors --source BCCD --split all
    """
    import json

    from .learning.card import write_figures
    from .learning.dataset import read_folder
    from .learning.evaluate import evaluate as measure
    from .learning.figures import flat_rows
    from .learning.page import write_page
    from .learning.sources import to_measure
    from .learning.unfamiliar import measure_unfamiliar
    from .model.predictor import Predictor

    predictor = Predictor.load(weights, device, platelets=True, second_look=not no_second_look)
    examples = to_measure(
        [e for folder in data for e in read_folder(folder)], split, sources, predictor.card
    )
    report, seen = measure(predictor, examples, say=lambda text: click.echo(text, err=True))
    report["unfamiliar"] = measure_unfamiliar(
        predictor, examples, [e for folder in strange for e in read_folder(folder)]
    )
    for name, value, low, high, n in flat_rows(report):
        click.echo(f"{name:70} {value:.4f}" + (f"  ({low:.4f} to {high:.4f}, n {n})" if n else ""))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(report, indent=1))
        write_figures(report, out / "evaluation.csv")
        write_page(out / "evaluation.html", predictor.card, report, seen)


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
    from .errors import DataError
    from .learning.command import calibrate as fit
    from .learning.dataset import read_folder
    from .model.checkpoint import SHIPPED

    held_out = [e for folder in data for e in read_folder(folder) if e.split == "val"]
    if not held_out:
        raise DataError(f"{', '.join(map(str, data))}: no image of split 'val' to calibrate on")
    fit(weights or SHIPPED, out, held_out, device, say=click.echo)


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
    "--limit",
    default=150,
    show_default=True,
    help="Held-out cells to test on, evenly over their types.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write faithfulness.json, .csv and .html here.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def faithfulness(data, weights, limit, out, device):
    """Test on real cells whether the explanations say what the network sees.

    Pictures are changed in one attribute at a time; regions are taken away; the class is predicted from the explanation
    alone; and a network whose explanations are random must fail. Measured on split `val`; split `train` only fits
    the path from explanation to class.

    \b
    Example:
      hemax-batch faithfulness data/ --out faithfulness/
    """
    import json

    from .learning.card import write_figures
    from .learning.dataset import read_folder
    from .learning.faithfulness import faithfulness as test
    from .learning.faithfulness_page import write_page
    from .learning.figures import flat_rows
    from .model.predictor import Predictor

    examples = [e for folder in data for e in read_folder(folder)]
    learnt, held_out = ([e for e in examples if e.split == split] for split in ("train", "val"))
    predictor = Predictor.load(weights, device, second_look=False)  # what it sees at once
    report, cells = test(
        predictor, learnt, held_out, limit, say=lambda text: click.echo(text, err=True)
    )
    for name, value, low, high, n in flat_rows(report):
        click.echo(f"{name:90} {value:.3f}" + (f"  ({low:.3f} to {high:.3f}, n {n})" if n else ""))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "faithfulness.json").write_text(json.dumps(report, indent=1))
        write_figures(report, out / "faithfulness.csv")
        write_page(out / "faithfulness.html", predictor, report, cells)


@click.command()
@click.argument(
    "data", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="comparison.json, and all that is trained.",
)
@click.option("--steps", default=1900, show_default=True, help="Optimiser steps of each model.")
@click.option("--batch-size", default=16, show_default=True, help="Patches, or crops, a step.")
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(1), help="Trainings of each model."
)
@click.option(
    "--model",
    "only",
    multiple=True,
    metavar="NAME",
    help="This model only, of those in the table; repeatable.",
)
@click.option(
    "--masks",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Draw missing masks with these weights beforehand.",
)
@click.option(
    "--no-pseudo-masks",
    is_flag=True,
    help="Masks are taught where people drew them, elsewhere boxes alone.",
)
@_STAIN
@_COARSE
@click.option(
    "--from-scratch", is_flag=True, help="No ImageNet weights for those that have them either."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def compare(
    data,
    out,
    steps,
    batch_size,
    seeds,
    only,
    masks,
    no_pseudo_masks,
    stain,
    coarse,
    from_scratch,
    device,
):
    """Does explaining cost accuracy? Train HemaX with and without it, and plain classifiers, and compare.

    Each model once a seed, at one budget; each takes about as long as `train --steps`. A killed comparison goes on, and
    several with a --model each may run at once on one --out: the table is of those named, and of all without --model.

    \b
    Example:
      hemax-batch compare data/ --out comparison/ --device cuda
      hemax-batch compare data/ --out comparison/ --coarse --no-pseudo-masks --steps 500
    """
    import json
    from dataclasses import replace

    from .learning.compare import MODELS
    from .learning.compare import compare as run_all
    from .learning.dataset import read_folder
    from .learning.recipe import Recipe

    recipe = (Recipe.coarse if coarse else Recipe)(
        steps=steps, batch=batch_size, pretrained=not from_scratch, synthetic=0, stain=stain
    )
    if no_pseudo_masks:
        recipe = replace(recipe, first_stage=0.0)
    if unknown := set(only) - set(MODELS):
        raise click.UsageError(
            f"no model {', '.join(sorted(unknown))}; there are: {', '.join(MODELS)}"
        )
    examples = [e for folder in data for e in read_folder(folder)]
    report = run_all(examples, recipe, seeds, out, device, click.echo, only, masks)
    (out / "comparison.json").write_text(json.dumps(report, indent=1))
    click.echo(f"{'always the commonest':30} {report['always the commonest']:.4f}")
    for name, row in report["models"].items():
        less = row.get("hemax-s less this")
        click.echo(
            f"{name:30} {row['accuracy']['value']:.4f} ({row['accuracy']['low']:.4f} to {row['accuracy']['high']:.4f})"
            + (
                f"  difference {less['value']:+.4f} ({less['low']:+.4f} to {less['high']:+.4f})"
                if less
                else ""
            )
        )


@click.command()
@click.argument(
    "data", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="transfer.csv, transfer.json, and all that is trained.",
)
@click.option("--steps", default=1900, show_default=True, help="Optimiser steps of each training.")
@click.option("--batch-size", default=16, show_default=True, help="Patches a step.")
@click.option(
    "--synthetic",
    default=800,
    show_default=True,
    help="Synthetic fields to add in the second stage.",
)
@click.option(
    "--source",
    "only",
    multiple=True,
    metavar="SOURCE[,SOURCE]",
    help="Leave out this source, or these together, only; repeatable.  [default: each in turn]",
)
@click.option(
    "--no-pseudo-masks",
    is_flag=True,
    help="Masks are taught where people drew them, elsewhere boxes alone.",
)
@_STAIN
@_COARSE
@click.option("--from-scratch", is_flag=True, help="No ImageNet weights for the backbone.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def transfer(
    data,
    out,
    steps,
    batch_size,
    synthetic,
    only,
    no_pseudo_masks,
    stain,
    coarse,
    from_scratch,
    seed,
    device,
):
    """How well is another laboratory done? Train without each source in turn, and measure on all of it.

    As many trainings as there are sources, each about as long as `train --steps`. A killed one goes on. Sources left out
    together share a training, in which each is missing more than by itself.

    \b
    Example:
      hemax-batch transfer data/ --out transfer/ --device cuda
      hemax-batch transfer data/ --out transfer/ --source BCCD --source PBC,marrow --steps 600 --coarse
    """
    import json
    from dataclasses import asdict, replace

    from .learning.recipe import Recipe
    from .learning.transfer import COLUMNS, table_rows
    from .learning.transfer import transfer as run_all
    from .outputs.tables import write_table
    from .vocabulary import CLAIM

    groups = [tuple(group.split(",")) for group in only]
    named = [source for group in groups for source in group]
    if twice := sorted({source for source in named if named.count(source) > 1}):
        raise click.UsageError(
            f"--source {', '.join(twice)}: named more than once, and a table has one row of each; run again "
            "with another --out"
        )
    recipe = (Recipe.coarse if coarse else Recipe)(
        steps=steps,
        batch=batch_size,
        synthetic=synthetic,
        seed=seed,
        pretrained=not from_scratch,
        stain=stain,
    )
    if no_pseudo_masks:
        recipe = replace(recipe, first_stage=0.0)
    rows = run_all(data, recipe, out, device, groups, say=click.echo)
    write_table(out / "transfer.csv", COLUMNS, table_rows(rows))
    (out / "transfer.json").write_text(
        json.dumps({"claim": CLAIM, "recipe": asdict(recipe), "sources": rows}, indent=1)
    )
