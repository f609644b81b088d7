"""The commands on finished results: `report`, `retally` and `export`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..review.agreement import Agreement
    from ..review.apply_corrections import SlideReview

_RESULTS = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("results", type=_RESULTS)
@click.option(
    "--slide",
    "slides",
    multiple=True,
    metavar="ID",
    help="Only this slide. Repeatable.  [default: all slides]",
)
def report(results: Path, slides: tuple[str, ...]) -> None:
    """Write report.html of each slide, and index.html, again from RESULTS.

    It needs neither slides nor network. The same results give the same files.
    A browser keeps its review of a result, also after the report was written again.

    \b
    Exit codes: 0 all written; 3 the results of some slides cannot be read; 4 none can be read.

    \b
    Example:
      hemax-batch report results/
      hemax-batch report results/ --slide smear-0042
    """
    from ..review.rebuild_reports import rebuild_reports

    sys.exit(rebuild_reports(results, slides, click.echo))


@click.command()
@click.argument("results", type=_RESULTS)
@click.option(
    "--corrections",
    "files",
    required=True,
    multiple=True,
    type=_FILE,
    help="The file that report.html exported. Give it twice for two reviewers.",
)
@click.option(
    "--reviewer",
    "reviewers",
    multiple=True,
    help="The reviewer of each file.  [default: the name in the file]",
)
@click.option(
    "--wbc", type=float, help="The analyser's white count (10^9/l).  [default: that of the run]"
)
@click.option(
    "--wait-lock",
    "wait_lock_s",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="Wait this long for a run to end.",
)
def retally(
    results: Path,
    files: tuple[Path, ...],
    reviewers: tuple[str, ...],
    wbc: float | None,
    wait_lock_s: float,
) -> None:
    """Count again after a review. Show the differential before and after, the reviewer and the time.

    Each decision is checked against RESULTS first. One wrong decision refuses the whole file.
    Two files, from two reviewers, give their agreement and a merged result.
    Everything is written to RESULTS/reviews/. The masks and tables of the run do not change.

    \b
    Exit codes: 0 counted; 1 the results cannot be read; 2 corrections refused; 5 a run holds the folder;
    6 the reviews cannot be written.

    \b
    Example:
      hemax-batch retally results/ --corrections corrections.csv --reviewer "A. Weber"
      hemax-batch retally results/ --corrections first.csv --corrections second.csv
    """
    from ..errors import UsageError
    from ..review.retally import retally as apply
    from ..review.review_state import FOLDER

    if reviewers and len(reviewers) != len(files):
        raise UsageError(
            f"{len(files)} --corrections, {len(reviewers)} --reviewer: give one name per file, or none"
        )
    tally = apply(results, list(files), list(reviewers), wbc, wait_lock_s)
    for review in tally.reviews:
        click.echo(_review_text(review))
        click.echo(f"  written to {results / FOLDER / review.slide_id / review.sha256[:16]}")
    for agreement in tally.agreements:
        click.echo(_agreement_text(agreement))


def _agreement_text(a: Agreement) -> str:
    """Describe the agreement of two reviewers of a slide, in lines."""
    agreed, both = len(a.seen_by_both) - len(a.disputed), len(a.seen_by_both)
    kappa = (
        f"kappa {a.kappa:.2f}" if a.kappa == a.kappa else "no kappa: chance alone agrees as well"
    )
    columns = f"{a.first.slide_id}: {a.first.reviewer} and {a.second.reviewer} agree on {agreed} of the {both} cells that "
    lines = [columns + f"both reviewed ({kappa})" if both else columns + "both reviewed"]
    if a.disputed:
        shown = ", ".join(map(str, a.disputed[:12])) + (" …" if len(a.disputed) > 12 else "")
        lines.append(
            f"  disputed, unidentified in the merged count, for a third look: cells {shown}"
        )
    beyond = [d.class_name.replace("_", " ") for d in a.differences if d.beyond_chance]
    lines.append(f"  counts that differ beyond chance: {', '.join(beyond) or 'none'}")
    return "\n".join(lines)


def _review_text(review: SlideReview) -> str:
    """Show a slide's differential before and after, in lines."""
    before, after = review.count_before, review.count_after
    lines = [
        f"{review.slide_id}: {len(review.decided)} of {len(review.before)} cells reviewed by {review.reviewer}",
        f"  {'':24}{'before':>16}{'after':>16}",
        f"  {'white cells':24}{before.n_white:>16}{after.n_white:>16}",
    ]
    for name in ("neutrophils", *dict.fromkeys((*before.shares, *after.shares))):
        columns = []
        for d in (before, after):
            share = d.share(name) if name == "neutrophils" or name in d.shares else None
            columns.append(f"{share.count} ({share.percent:.1f} %)" if share and d.n_white else "-")
        lines.append(f"  {name.replace('_', ' '):24}{columns[0]:>16}{columns[1]:>16}")
    lines.append(f"  {'nucleated red cells':24}{before.nrbc:>16}{after.nrbc:>16}")
    lines.append(f"  {'unidentified':24}{before.unidentified:>16}{after.unidentified:>16}")
    lines += [
        f"  {name:24}{before.outside.get(name, 0):>16}{k:>16}" for name, k in after.outside.items()
    ]
    if review.unidentified_not_reviewed:
        lines.append(
            f"  not yet reviewed: {review.unidentified_not_reviewed} of the unidentified cells"
        )
    lines += [f"  after the review: {flag.words}" for flag in after.flags]
    lines.append(f"  {after.claim}")
    return "\n".join(lines)


def export_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose formats; `export` and `run` share them."""
    for name, words in (
        (
            "dicom-ann",
            "Write annotations.dcm: outlines as DICOM bulk annotations, for slides that are DICOM.",
        ),
        ("fhir", "Write fhir.json: the differential as a preliminary FHIR R4 DiagnosticReport."),
        ("anndata", "Write cells.h5ad: the cells as AnnData."),
        ("parquet", "Write cells.parquet: the cells with typed columns."),
    ):
        command = click.option(f"--{name}", is_flag=True, help=words)(command)
    return command


@click.command()
@click.argument("results", type=_RESULTS)
@export_options
@click.option(
    "--slide",
    "slides",
    multiple=True,
    metavar="ID",
    help="Only this slide. Repeatable.  [default: all slides]",
)
@click.option(
    "--wait-lock",
    "wait_lock_s",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="Wait this long for a run to end.",
)
def export(results: Path, slides: tuple[str, ...], wait_lock_s: float, **wanted: bool) -> None:
    """Write RESULTS in the formats of other programs, into each slide's folder.

    Every run already writes cells.geojson for QuPath, and masks.zarr for napari.
    The packages come with `pip install 'hemax-batch[interchange]'`.

    \b
    Example:
      hemax-batch export results/ --parquet --fhir
      hemax-batch export results/ --dicom-ann --slide smear-0042
    """
    from ..errors import UsageError
    from ..interchange.export import export_all, select_formats

    formats = select_formats(name.replace("_", "-") for name, chosen in wanted.items() if chosen)
    if not formats:
        raise UsageError("choose at least one of --parquet, --anndata, --fhir, --dicom-ann")
    sys.exit(export_all(results, slides, formats, click.echo, wait_lock_s=wait_lock_s))
