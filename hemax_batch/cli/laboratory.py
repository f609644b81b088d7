"""The laboratory's commands: `verify` and `monitor`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..laboratory.verification import Verification

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_ANY = click.Path(exists=True, path_type=Path)
_DAY = click.DateTime(["%Y-%m-%d"])
OUT_OF_LIMITS = 9


@click.command()
@click.argument("manual", type=_ANY, required=False, metavar="MANUAL.csv")
@click.argument("results", type=_FOLDER, required=False, metavar="RESULTS")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the page, the JSON and the tables.",
)
@click.option(
    "--rules",
    type=_FILE,
    help="The laboratory's limits, set before (--print-rules).  [default: none]",
)
@click.option(
    "--scans",
    type=_FILE,
    help="Table of `slide` and `result`: other names, or several scans of a slide.",
)
@click.option(
    "--counts",
    type=click.Choice(["preclassified", "reviewed"]),
    default="preclassified",
    help="The tool's counts before review, or those after it.",
)
@click.option(
    "--template",
    is_flag=True,
    help="Print the table to fill in; of RESULTS's slides where a folder is named.",
)
@click.option(
    "--print-rules", is_flag=True, help="Print a rules file with every entry, to be changed."
)
def verify(
    manual: Path | None,
    results: Path | None,
    out: Path | None,
    rules: Path | None,
    scans: Path | None,
    counts: str,
    template: bool,
    print_rules: bool,
) -> None:
    """Verify the tool against manual differentials: agreement, bias, flags, repeatability.

    MANUAL.csv has a row for each slide and examiner: slide, examiner, cells, and the count of each
    class. A slide has one or two examiners. Rows that do not hold are refused by number. Without
    --rules nothing is accepted or refused.

    \b
    Exit codes: 0 made, and each limit met or none set; 1 results cannot be read back; 2 input
    refused; 6 the output cannot be written; 9 made, and a limit is not met.

    \b
    Example:
      hemax-batch verify --template results/ > manual.csv
      hemax-batch verify --print-rules > laboratory.toml
      hemax-batch verify manual.csv results/ --rules laboratory.toml --out verification/
    """
    from ..errors import UsageError
    from ..laboratory.manual_counts import template as empty_table
    from ..laboratory.rules import TEMPLATE
    from ..laboratory.tool_counts import known_results
    from ..laboratory.verify import PAGE, Study
    from ..laboratory.verify import verify as run

    if template or print_rules:
        folder = next((path for path in (results, manual) if path and path.is_dir()), None)
        text = (
            TEMPLATE.read_text("utf-8")
            if print_rules
            else empty_table(known_results(folder) if folder else ())
        )
        click.echo(text, nl=False)
        return
    if manual is None or results is None or out is None:
        raise UsageError(
            "name MANUAL.csv, RESULTS and --out DIR; --template prints the table to fill in"
        )
    if manual.is_dir():
        raise UsageError(
            f"{manual}: is a folder; name the table of manual counts first, then RESULTS"
        )
    found = run(Study(manual, results, out, rules, scans, counts))
    click.echo(_verdict_words(found))
    click.echo(f"  written to {out / PAGE}")
    sys.exit(OUT_OF_LIMITS if found.failed else 0)


def _verdict_words(v: Verification) -> str:
    """What the terminal says of a verification."""
    lines = [f"{len(v.slides)} slides compared, {len(v.left_out)} left out"]
    lines += [f"  {slide}: {why}" for slide, why in v.left_out[:5]]
    if not v.verdicts:
        return "\n".join(
            [*lines, "  no limits were set: nothing is accepted or refused (--print-rules)"]
        )
    for x in v.verdicts:
        if x.passed is not True:
            measured = "not measured" if x.passed is None else f"{x.measured.value:.3g}"
            lines.append(
                f"  not met: {x.criterion} of {x.subject}: {measured}, limit {x.limit.words}"
            )
    return "\n".join([*lines, f"  {len(v.verdicts) - v.failed} of {len(v.verdicts)} limits met"])


@click.command()
@click.argument("results", type=_FOLDER)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the page, the JSON and the table.",
)
@click.option(
    "--baseline",
    required=True,
    nargs=2,
    type=_DAY,
    metavar="FIRST LAST",
    help="First and last night of a period in which all was well; 20 nights or more.",
)
@click.option(
    "--control",
    "controls",
    multiple=True,
    metavar="PATTERN",
    help="Ids of a control slide (QC-*), charted by itself; may be given again.",
)
@click.option("--slides", "table", type=_FILE, help="Table of `slide`, `date` and `scanner`.")
@click.option(
    "--path-pattern",
    metavar="REGEX",
    help="Where date and scanner stand in a slide's path: (?P<date>…), (?P<scanner>…).",
)
@click.option(
    "--rules",
    type=_FILE,
    help="Which rules reject and which measures alarm (verify --print-rules).",
)
@click.option("--quiet", "-q", is_flag=True, help="Print only what is out of control.")
def monitor(
    results: Path,
    out: Path,
    baseline: tuple[datetime, datetime],
    controls: tuple[str, ...],
    table: Path | None,
    path_pattern: str | None,
    rules: Path | None,
    quiet: bool,
) -> None:
    """Chart the drift of scanner, stain and network from night to night, against a baseline.

    Red-cell diameter, stain, background, focus, unfamiliar and unidentified cells, the screen's
    audit, class shares and corrections in review, by night and by scanner, with the rules of
    Westgard. No cell is read. The night is that in which a result was written, unless --slides or
    --path-pattern tell it.

    \b
    Exit codes: 0 in control; 2 input refused, or no result there; 6 the output cannot be written; 9
    out of control.

    \b
    Example:
      hemax-batch monitor results/ --baseline 2026-01-01 2026-02-28 --out monitor/
      hemax-batch monitor results/ --baseline 2026-01-01 2026-02-28 --out monitor/ --control "QC-*"
      \\
        --path-pattern "(?P<scanner>[^/]+)/(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})/[^/]+$"
    """
    from ..laboratory.monitor import PAGE, MonitorOptions
    from ..laboratory.monitor import monitor as run
    from ..laboratory.nights import SlideTimes, read_pattern, read_slide_table
    from ..laboratory.rules import read_rules

    first, last = (moment.date() for moment in baseline)
    times = SlideTimes(read_slide_table(table), read_pattern(path_pattern))
    watch = run(
        MonitorOptions(results, out, (first, last), read_rules(rules), times, tuple(controls))
    )
    for chart in watch.alarms:
        click.echo(chart.words)
    if not quiet:
        state = "out of control" if watch.alarms else "in control"
        click.echo(
            f"{state}: {len(watch.charts)} charts of {len(watch.nights.slides)} slides; "
            f"{out / PAGE}"
        )
    sys.exit(OUT_OF_LIMITS if watch.alarms else 0)
