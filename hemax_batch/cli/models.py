"""The commands on weights: `models list`, `show`, `verify`, `average` and `import`."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def models() -> None:
    """List, describe, verify, average and import weights.

    \b
    Example:
      hemax-batch models list
      hemax-batch models show
      hemax-batch models verify my.safetensors
    """


@models.command("list")
def list_models() -> None:
    """List the weights that ship.

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
def show(weights: Path | None) -> None:
    """Print the model card of WEIGHTS. The default is the weights that ship.

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
def verify(weights: Path | None) -> None:
    """Check the format, the vocabulary and the hashes of WEIGHTS. The exit code is 1 if one is wrong.

    The default is the weights that ship.

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
    help="The file to write.",
)
def average(weights: tuple[Path, ...], out: Path) -> None:
    """Average the WEIGHTS of several trainings of one architecture.

    The mean has no figures yet. Run `calibrate` on it next.

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
    help="The folder for your weights.",
)
def import_weights(weights: Path, folder: Path) -> None:
    """Check WEIGHTS from elsewhere, and copy them to a folder with their card and hash.

    Only safetensors files are read; they run no code. Format, vocabulary, hash and tensors are checked.
    Different weights of the same name are never replaced.

    \b
    Example:
      hemax-batch models import ours.safetensors --to weights/
      hemax-batch run slides/ --out results/ --weights weights/ours.safetensors
    """
    from ..learning.training.import_weights import import_weights

    card = import_weights(weights, folder)
    click.echo(f"{card.path}: {card.arch}, {card.mpp} µm/px, sha256 {card.sha256}")
