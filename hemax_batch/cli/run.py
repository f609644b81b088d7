"""The command `run`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..bounded_files import read_toml
from ..errors import HemaxError, UsageError
from .review import export_options

_FILE = click.Path(dir_okay=False, path_type=Path)
_EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _read_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Defaults from a TOML file: `core-um = 300` is `--core-um 300`; the command line goes first."""
    if path is None:
        return
    try:
        values = read_toml(path)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    known = {param.name for param in ctx.command.params}
    given = {name.replace("-", "_"): value for name, value in values.items()}
    if unknown := sorted(set(given) - known):
        raise click.BadParameter(
            f"{path}: unknown setting {', '.join(unknown)}; `hemax-batch run --help` lists them"
        )
    ctx.default_map = {**(ctx.default_map or {}), **given}


@click.command(context_settings={"show_default": True})
@click.argument("inputs", nargs=-1, required=True, metavar="SLIDES...")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Results folder; made where it is missing.",
)
@click.option("--weights", type=_FILE, help="A checkpoint.  [default: the one that ships]")
@click.option(
    "--mpp", type=float, help="µm per pixel, for slides that do not say it or say it wrongly."
)
@click.option(
    "--core-um", type=float, default=400.0, help="Side of a region, the unit of work, in µm."
)
@click.option(
    "--engine",
    type=click.Choice(["torch", "openvino"]),
    default="torch",
    help="What the network runs in; OpenVINO, a package apart, is faster without a GPU.",
)
@click.option(
    "--batch-size",
    type=int,
    help="Patches at a time; halved where memory is short.  [default: 8; GPU: 64]",
)
@click.option(
    "--min-confidence",
    type=float,
    help="Below it a cell is `unidentified`.  [default: as the weights say]",
)
@click.option(
    "--exhaustive",
    is_flag=True,
    help="The network looks everywhere, not only where the screen points.",
)
@click.option(
    "--audit",
    type=float,
    default=0.01,
    metavar="FRACTION",
    help="Share of passed-over glass to check.",
)
@click.option(
    "--target-cells", type=int, default=200, help="White cells that make a differential sufficient."
)
@click.option(
    "--count-in",
    type=click.Choice(["monolayer", "all"]),
    default="monolayer",
    help="Where white cells count; in the whole smear too where its monolayer holds too few.",
)
@click.option(
    "--wbc",
    type=float,
    help="The analyser's white count (10^9/l), to correct for nucleated red cells.",
)
@click.option(
    "--rules",
    type=_EXISTING_FILE,
    help="Flags and reference ranges from a TOML file.  [default: built in]",
)
@click.option(
    "--age-group", metavar="NAME", help="Use the reference ranges of this age group in --rules."
)
@click.option(
    "--max-unreadable",
    type=float,
    default=0.05,
    help="Share of the area that may be lost before a slide fails.",
)
@click.option(
    "--workers",
    type=int,
    help="Worker processes; 0: this process alone.  [default: what the job may use]",
)
@click.option("--gpus", type=int, help="GPUs to use.  [default: all visible]")
@click.option(
    "--scheduler", metavar="ADDRESS", help="An existing dask scheduler, such as tcp://host:8786."
)
@click.option("--scheduler-file", type=_FILE, help="The same, by the file that it wrote.")
@click.option(
    "--tls",
    type=_EXISTING_FILE,
    nargs=3,
    metavar="CA CERT KEY",
    help="PEM files for an encrypted cluster.",
)
@click.option(
    "--overwrite", is_flag=True, help="Do current slides again; what is not ours is never touched."
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Try slides again that failed, or lost some area, and have not changed.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first slide that fails.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option(
    "--max-minutes", type=float, help="Stop in good order after this long; the next run goes on."
)
@click.option(
    "--wait-lock",
    "wait_lock_s",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="Wait for another run's end.",
)
@click.option(
    "--region-timeout",
    "region_timeout_s",
    type=float,
    default=1800.0,
    metavar="SECONDS",
    help="A region that takes longer counts as hung; it is tried again, then lost.",
)
@click.option(
    "--open-timeout",
    "open_timeout_s",
    type=float,
    default=300.0,
    metavar="SECONDS",
    help="A slide that takes longer to open counts as hung, and fails.",
)
@click.option(
    "--on-gpu-loss",
    type=click.Choice(["cpu", "retire"]),
    default="cpu",
    help="Workers that lose their GPU go on without it, or end while the others go on.",
)
@click.option(
    "--settle",
    "settle_s",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="Leave slides that changed this recently (still being copied?) for the next run.",
)
@click.option(
    "--log-json", type=_FILE, help="Append every event to this file, one JSON object a line."
)
@click.option("--quiet", "-q", is_flag=True, help="Only failures and the last line.")
@export_options
@click.option(
    "--config",
    type=_EXISTING_FILE,
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="Defaults for these options from a TOML file.",
)
def run(inputs, out, **given):
    """Find, outline, classify and explain the white cells of smear scans.

    SLIDES: scans, folders (searched recursively), globs, or lists of these (@slides.txt). Results appear in --out, a
    slide at a time; a run that was killed goes on from its finished regions, and finished slides are not done again
    unless slide, weights or settings change.

    \b
    Exit codes: 0 all done or nothing to do; 1 unexpected; 2 usage; 3 some slides failed; 4 all failed; 5 another run
    holds the results folder; 6 the results cannot be written; 7 --max-minutes reached; 8 a read hangs, which
    --workers 0 cannot end; 130 SIGINT; 143 SIGTERM.

    \b
    Example:
      hemax-batch run slides/ --out results/
      hemax-batch run "/scans/**/*.svs" --out results/ --workers 8 --log-json run.jsonl --quiet
    """
    local = given["workers"] != 0 and not (
        given["scheduler"] or given["scheduler_file"] or given["dry_run"]
    )
    if (
        local and not out.exists()
    ):  # there is work to do for sure: workers load while this process does
        from ..scheduling.forkserver import start_forkserver

        start_forkserver(given["engine"])
    from ..cells.rules import Rules
    from ..interchange.export import FORMATS, export_all, select_formats
    from ..pipeline import dry_run
    from ..pipeline import run as run_pipeline
    from ..settings import RunOptions, RunSettings, TlsFiles

    formats = select_formats([f.name for f in FORMATS if given.pop(f.name.replace("-", "_"))])
    age_group, rules = given.pop("age_group"), given["rules"]
    if age_group and not rules:
        raise UsageError(
            "--age-group names a table of --rules; the built-in ranges are those of adults"
        )
    given["rules"] = Rules.from_toml(rules, age_group) if rules else Rules()
    settings = RunSettings(**{name: given.pop(name) for name in RunSettings.__dataclass_fields__})
    given["tls"] = TlsFiles(*given["tls"]) if given["tls"] else None
    options = RunOptions(**given, command_line=tuple(sys.argv))
    if options.dry_run:
        summary = dry_run(inputs, out, settings, options, click.echo)
    else:
        summary = run_pipeline(inputs, out, settings, options)
    click.echo(summary.text)
    exported = 0
    if formats and not options.dry_run:
        try:
            exported = export_all(
                out, (), formats, click.echo, overwrite=False, wait_lock_s=options.wait_lock_s
            )
        except HemaxError as error:  # hides nothing of how the run itself ended
            click.echo(f"hemax-batch: not exported: {error}", err=True)
            exported = error.exit_code
    sys.exit(summary.exit_code or exported)
