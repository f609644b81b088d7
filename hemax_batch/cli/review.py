"""The commands on finished results: `report`, `retally`, `export`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_RESULTS = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("results", type=_RESULTS)
@click.option(
    "--slide",
    "slides",
    multiple=True,
    metavar="ID",
    help="Only this slide; may be given again.  [default: all]",
)
def report(results, slides):
    """Make report.html of each slide, and index.html, again from RESULTS alone: no slide, no network needed.

    The same results give the same files. Reviews that a browser keeps are kept: they hang on the result, not the file.

    \b
    Exit codes: 0 all made; 3 some slides' results cannot be read back; 4 none can.

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
    help="What report.html exported; twice for two reviewers.",
)
@click.option(
    "--reviewer",
    "reviewers",
    multiple=True,
    help="Who signs each file.  [default: as the file says]",
)
@click.option(
    "--wbc", type=float, help="The analyser's white count (10^9/l).  [default: as the run was told]"
)
@click.option(
    "--wait-lock",
    "wait_lock_s",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="Wait for a run's end.",
)
def retally(results, files, reviewers, wbc, wait_lock_s):
    """Count again after a review: before and after side by side, who reviewed what, and when.

    Every decision is checked against RESULTS first; one that does not hold refuses the whole file. With two files, of
    two reviewers, their agreement is measured and their results merged. Written to RESULTS/reviews/; masks and tables
    of the run are not touched.

    \b
    Exit codes: 0 counted; 1 the results cannot be read back; 2 corrections refused; 5 a run holds the folder; 6 the
    reviews cannot be written.

    \b
    Example:
      hemax-batch retally results/ --corrections corrections.csv --reviewer "A. Weber"
      hemax-batch retally results/ --corrections first.csv --corrections second.csv
    """
    from ..errors import UsageError
    from ..review.retally import FOLDER
    from ..review.retally import retally as apply

    if reviewers and len(reviewers) != len(files):
        raise UsageError(
            f"{len(files)} --corrections, {len(reviewers)} --reviewer: give one name a file, or none"
        )
    tally = apply(results, list(files), list(reviewers), wbc, wait_lock_s)
    for review in tally.reviews:
        click.echo(_review_text(review))
        click.echo(f"  written to {results / FOLDER / review.slide_id / review.sha256[:16]}")
    for agreement in tally.agreements:
        click.echo(_agreement_text(agreement))


def _agreement_text(a) -> str:
    """Two reviewers of a slide, in lines of plain text."""
    agreed, both = len(a.seen_by_both) - len(a.disputed), len(a.seen_by_both)
    kappa = (
        f"kappa {a.kappa:.2f}"
        if a.kappa == a.kappa
        else "no kappa: chance alone would agree as well"
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


def _review_text(review) -> str:
    """A slide's differential before and after, in lines of plain text."""
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
            f"  not yet looked at: {review.unidentified_not_reviewed} of the unidentified cells"
        )
    lines += [f"  after the review: {flag.words}" for flag in after.flags]
    lines.append(f"  {after.claim}")
    return "\n".join(lines)


def export_options(command):
    """The options that choose formats, of `export` and of `run`."""
    for name, words in (
        (
            "dicom-ann",
            "annotations.dcm: outlines as DICOM bulk annotations, of slides that are DICOM.",
        ),
        ("fhir", "fhir.json: the differential as a FHIR R4 DiagnosticReport, preliminary."),
        ("anndata", "cells.h5ad: the cells as AnnData."),
        ("parquet", "cells.parquet: the cells with typed columns."),
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
    help="Only this slide; may be given again.  [default: all]",
)
@click.option(
    "--wait-lock",
    "wait_lock_s",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="Wait for a run's end.",
)
def export(results, slides, wait_lock_s, **wanted):
    """Write the results in other programs' formats, into each slide's folder, from RESULTS alone.

    QuPath reads cells.geojson and napari masks.zarr, which every run writes. Needs the packages of
    `pip install 'hemax-batch[interchange]'`.

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
