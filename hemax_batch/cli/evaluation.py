"""The commands that measure weights and trainings: `evaluate`, `slide-rates`, `faithfulness`, `compare`, `transfer`."""

from __future__ import annotations

from pathlib import Path

import click

from .requirements import (
    IMAGENET,
    WITHOUT_AVERAGE_PRECISION,
    imagenet_modules,
    is_installed,
    require_modules,
)
from .training import COARSE_OPTION, STAIN_OPTION


@click.command()
@click.argument(
    "data", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Weights to measure.  [default: the weights that ship]",
)
@click.option("--split", default="val", show_default=True, help="The split to measure, or `all`.")
@click.option("--source", "sources", multiple=True, help="Measure only this source. Repeatable.")
@click.option(
    "--strange",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Images whose cells the out-of-distribution score should flag, in a layout of DATA. "
    "Without rows in cells.csv, every cell that is found counts.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write evaluation.json, .csv and .html, and called_cells.csv, to this folder.",
)
@click.option(
    "--no-second-look",
    is_flag=True,
    help="Switch off test-time augmentation of unsure cells.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def evaluate(
    data: tuple[Path, ...],
    weights: Path | None,
    split: str,
    strange: tuple[Path, ...],
    sources: tuple[str, ...],
    out: Path | None,
    no_second_look: bool,
    device: str,
) -> None:
    """Measure weights on labelled images.

    Each figure has its 95 % interval. The accuracy of the commonest class stands beside it.
    Split `all` is for sources that the weights never learnt. It is refused for other sources.
    The out-of-distribution score is measured on known cells, on corrupted cells, and on the cells of --strange.
    Average precision needs pycocotools (extra `train`). Without it, the other figures are measured.

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
    from ..learning.evaluation.slide_rates import write_called_cells
    from ..model.predictor import Predictor

    if not is_installed("pycocotools"):
        click.echo(WITHOUT_AVERAGE_PRECISION, err=True)
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
        write_called_cells(cells, predictor.card.min_confidence, out / "called_cells.csv")


@click.command("slide-rates")
@click.argument("cells", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--slides", default=200, show_default=True, type=click.IntRange(1), help="Slides of each kind."
)
@click.option(
    "--slide-cells",
    default=200,
    show_default=True,
    type=click.IntRange(1),
    help="White cells on each slide.",
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the rates to this JSON."
)
def slide_rates(cells: Path, slides: int, slide_cells: int, seed: int, out: Path | None) -> None:
    """Measure how often slides are flagged for blasts.

    CELLS is called_cells.csv of `evaluate --out`. Slides of normal blood, and slides with 1 to 30 % blasts,
    are laid out from one half of its cells. The other half, or the other sources, say how many blasts error
    explains. A slide is flagged if more are called.

    \b
    Example:
      hemax-batch slide-rates evaluation/called_cells.csv --out slide_rates.json
    """
    import json

    from ..learning.evaluation.slide_rates import read_called_cells
    from ..learning.evaluation.slide_rates import slide_rates as measure

    try:
        rows = measure(read_called_cells(cells), slides, slide_cells, seed)
    except KeyError as error:
        raise click.UsageError(
            f"{cells}: has no column {error}; give called_cells.csv of `evaluate --out`"
        ) from error
    head = ("source", "errors of", "blasts", "flagged", "any called", "called", "by error", "limit")
    click.echo("{:14} {:14} {:>7} {:>22} {:>11} {:>7} {:>9} {:>6}".format(*head))
    for row in rows:
        flagged = row["flagged"]
        interval = f"{flagged['value']:.3f} ({flagged['low']:.3f}-{flagged['high']:.3f})"
        click.echo(
            f"{row['source']:14} {row['table']:14} {100 * row['blasts']:5.0f} % {interval:>22} "
            f"{row['any_blast']['value']:11.3f} {row['called']:7.1f} {row['expected']:9.2f} {row['limit']:6.1f}"
        )
    if out:
        out.write_text(json.dumps({"rates": rows}, indent=1) + "\n")


@click.command()
@click.argument(
    "data", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Weights to measure.  [default: the weights that ship]",
)
@click.option(
    "--limit",
    default=150,
    show_default=True,
    help="How many held-out cells to test, evenly over the classes.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write faithfulness.json, faithfulness.csv and faithfulness.html to this folder.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def faithfulness(
    data: tuple[Path, ...], weights: Path | None, limit: int, out: Path | None, device: str
) -> None:
    """Test on real cells whether the explanations describe what the network uses.

    The test changes one attribute of the picture at a time. It deletes and inserts regions of the picture.
    It predicts the class from the explanation alone. Random explanation heads are the control.
    It measures on split `val`. Split `train` only fits the path from explanation to class.

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

    require_modules("faithfulness", ["sklearn"])
    examples = [e for folder in data for e in read_folder(folder)]
    learnt, held_out = ([e for e in examples if e.split == split] for split in ("train", "val"))
    predictor = Predictor.load(weights, device, test_time_augmentation=False)
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
    help="Folder for comparison.json and for every trained model.",
)
@click.option("--steps", default=1900, show_default=True, help="Optimiser steps per model.")
@click.option("--batch-size", default=16, show_default=True, help="Patches, or crops, per step.")
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(1), help="Trainings per model."
)
@click.option(
    "--model",
    "only",
    multiple=True,
    metavar="NAME",
    help="Train only this model of the table. Repeatable.",
)
@click.option(
    "--masks",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Draw missing masks with these weights first.",
)
@click.option(
    "--no-pseudo-masks",
    is_flag=True,
    help="Teach masks only where people drew them.",
)
@STAIN_OPTION
@COARSE_OPTION
@click.option("--from-scratch", is_flag=True, help="Start every model from random weights.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def compare(  # noqa: PLR0913 - one parameter per option
    data: tuple[Path, ...],
    out: Path,
    steps: int,
    batch_size: int,
    seeds: int,
    only: tuple[str, ...],
    masks: Path | None,
    no_pseudo_masks: bool,
    stain: float,
    coarse: bool,
    from_scratch: bool,
    device: str,
) -> None:
    """Compare HemaX with and without explanations, and with plain classifiers.

    Every model is trained once per seed, at the same budget. One training takes about as long as `train --steps`.
    A killed comparison resumes. Several commands with one --model each may share one --out.
    The table shows the models that are named, or all models without --model.

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
    if not from_scratch:
        require_modules("compare", IMAGENET)
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
    help="Folder for transfer.csv, transfer.json and every trained model.",
)
@click.option("--steps", default=1900, show_default=True, help="Optimiser steps per training.")
@click.option("--batch-size", default=16, show_default=True, help="Patches per step.")
@click.option(
    "--synthetic",
    default=800,
    show_default=True,
    help="Synthetic fields that the second stage adds.",
)
@click.option(
    "--source",
    "only",
    multiple=True,
    metavar="SOURCE[,SOURCE]",
    help="Leave out only this source, or these sources together. Repeatable.  [default: each in turn]",
)
@click.option(
    "--no-pseudo-masks",
    is_flag=True,
    help="Teach masks only where people drew them.",
)
@STAIN_OPTION
@COARSE_OPTION
@click.option("--from-scratch", is_flag=True, help="Start the backbone from random weights.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def transfer(  # noqa: PLR0913 - one parameter per option
    data: tuple[Path, ...],
    out: Path,
    steps: int,
    batch_size: int,
    synthetic: int,
    only: tuple[str, ...],
    no_pseudo_masks: bool,
    stain: float,
    coarse: bool,
    from_scratch: bool,
    seed: int,
    device: str,
) -> None:
    """Estimate performance in another laboratory: train without one source, measure on all of it.

    There is one training per source. Each takes about as long as `train --steps`. A killed command resumes.
    Sources that are left out together share one training, which then misses more than one source.

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
            f"--source {', '.join(twice)}: named more than once. The table has one row per source. "
            "Run again with another --out"
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
    if not from_scratch:
        require_modules("transfer", imagenet_modules([recipe.arch]))
    rows = run_all(data, recipe, out, device, groups, echo=click.echo)
    write_table(out / "transfer.csv", COLUMNS, table_rows(rows))
    (out / "transfer.json").write_text(
        json.dumps({"claim": CLAIM, "recipe": asdict(recipe), "sources": rows}, indent=1)
    )
