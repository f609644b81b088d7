"""The commands that measure: `evaluate`, `faithfulness`, `compare`, `transfer`."""

from __future__ import annotations

from pathlib import Path

import click

from .training import COARSE_OPTION, STAIN_OPTION


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

    from ..learning.data.read_folder import read_folder
    from ..learning.data.sources import select_examples
    from ..learning.evaluation.evaluate import evaluate as measure
    from ..learning.evaluation.evaluation_page import write_evaluation_page
    from ..learning.evaluation.metrics import flatten_report
    from ..learning.evaluation.model_card import write_figures
    from ..learning.evaluation.ood_evaluation import measure_ood
    from ..model.predictor import Predictor

    predictor = Predictor.load(
        weights, device, platelets=True, test_time_augmentation=not no_second_look
    )
    examples = select_examples(
        [e for folder in data for e in read_folder(folder)], split, sources, predictor.card
    )
    report, cells = measure(predictor, examples, echo=lambda text: click.echo(text, err=True))
    report["unfamiliar"] = measure_ood(
        predictor, examples, [e for folder in strange for e in read_folder(folder)]
    )
    for name, value, low, high, n in flatten_report(report):
        click.echo(f"{name:70} {value:.4f}" + (f"  ({low:.4f} to {high:.4f}, n {n})" if n else ""))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(report, indent=1))
        write_figures(report, out / "evaluation.csv")
        write_evaluation_page(out / "evaluation.html", predictor.card, report, cells)


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

    from ..learning.data.read_folder import read_folder
    from ..learning.evaluation.faithfulness import faithfulness as test
    from ..learning.evaluation.faithfulness_page import write_faithfulness_page
    from ..learning.evaluation.metrics import flatten_report
    from ..learning.evaluation.model_card import write_figures
    from ..model.predictor import Predictor

    examples = [e for folder in data for e in read_folder(folder)]
    learnt, held_out = ([e for e in examples if e.split == split] for split in ("train", "val"))
    predictor = Predictor.load(
        weights, device, test_time_augmentation=False
    )  # what it sees at once
    report, cells = test(
        predictor, learnt, held_out, limit, echo=lambda text: click.echo(text, err=True)
    )
    for name, value, low, high, n in flatten_report(report):
        click.echo(f"{name:90} {value:.3f}" + (f"  ({low:.3f} to {high:.3f}, n {n})" if n else ""))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "faithfulness.json").write_text(json.dumps(report, indent=1))
        write_figures(report, out / "faithfulness.csv")
        write_faithfulness_page(out / "faithfulness.html", predictor, report, cells)


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
@STAIN_OPTION
@COARSE_OPTION
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

    from ..learning.data.read_folder import read_folder
    from ..learning.experiments.compare import MODELS
    from ..learning.experiments.compare import compare as run_all
    from ..learning.training.recipe import Recipe

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
        difference = row.get("hemax-s less this")
        click.echo(
            f"{name:30} {row['accuracy']['value']:.4f} ({row['accuracy']['low']:.4f} to {row['accuracy']['high']:.4f})"
            + (
                f"  difference {difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"
                if difference
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
@STAIN_OPTION
@COARSE_OPTION
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

    from ..learning.experiments.transfer import transfer as run_all
    from ..learning.experiments.transfer_table import COLUMNS, table_rows
    from ..learning.training.recipe import Recipe
    from ..outputs.tables import write_table
    from ..vocabulary import CLAIM

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
    rows = run_all(data, recipe, out, device, groups, echo=click.echo)
    write_table(out / "transfer.csv", COLUMNS, table_rows(rows))
    (out / "transfer.json").write_text(
        json.dumps({"claim": CLAIM, "recipe": asdict(recipe), "sources": rows}, indent=1)
    )
