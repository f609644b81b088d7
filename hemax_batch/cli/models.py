"""The commands on weights: `models list`, `show`, `verify`, `average_weights`, `import`."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def models():
    """List, describe, verify and import weights.

    \b
    Example:
      hemax-batch models list
      hemax-batch models show
      hemax-batch models verify my.safetensors
    """


@models.command("list")
def list_models():
    """The weights that ship.

    \b
    Example:
      hemax-batch models list
    """
    from ..model.checkpoint import SHIPPED, read_card

    card = read_card()
    click.echo(
        f"{SHIPPED.stem}  {card.arch}  {card.mpp} µm/px  sha256 {card.sha256[:16]}…  {card.path}"
    )


@models.command()
@click.argument("weights", required=False, type=click.Path(dir_okay=False, path_type=Path))
def show(weights):
    """The model card of WEIGHTS (default: the shipped ones).

    \b
    Example:
      hemax-batch models show
    """
    import tempfile

    from ..learning.evaluation.model_card import write_card
    from ..model.checkpoint import read_card

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "card.md"
        write_card(read_card(weights), path)
        click.echo(path.read_text(encoding="utf-8"))


@models.command()
@click.argument("weights", required=False, type=click.Path(dir_okay=False, path_type=Path))
def verify(weights):
    """Check format, vocabulary and hashes of WEIGHTS (default: the shipped ones); exit code 1 if any is wrong.

    \b
    Example:
      hemax-batch models verify my.safetensors
    """
    from ..model.checkpoint import read_card

    card = read_card(weights)
    click.echo(f"{card.path}: sound, sha256 {card.sha256}")


@models.command()
@click.argument(
    "weights", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the mean goes.",
)
def average(weights, out):
    """The mean of several trainings' WEIGHTS, of one architecture. `calibrate` it next: it has no figures yet.

    \b
    Example:
      hemax-batch models average first.safetensors second.safetensors --out mean.safetensors
    """
    from ..learning.data.sources import reject_mixed_sources
    from ..model.checkpoint import average_weights as mean_of
    from ..model.checkpoint import read_card, reject_shuffled_labels

    reject_mixed_sources([reject_shuffled_labels(read_card(path)) for path in weights])
    card = mean_of(list(weights), out)
    click.echo(f"{card.path}: sha256 {card.sha256}")


@models.command("import")
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where your weights are kept.",
)
def import_weights(weights, folder):
    """Check WEIGHTS from elsewhere, and keep them in a folder with their card and hash.

    Format, vocabulary, hash and tensors are checked; only safetensors are read, which run no code. Weights of the same
    name that differ are not replaced.

    \b
    Example:
      hemax-batch models import ours.safetensors --to weights/
      hemax-batch run slides/ --out results/ --weights weights/ours.safetensors
    """
    from ..learning.training.import_weights import import_weights

    card = import_weights(weights, folder)
    click.echo(f"{card.path}: {card.arch}, {card.mpp} µm/px, sha256 {card.sha256}")
