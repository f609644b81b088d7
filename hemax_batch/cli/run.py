"""The command `run`: its options, and the call of the pipeline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..bounded_files import read_toml
from ..errors import HemaxError, UsageError
from .review import export_options
from .streams import tolerate_lost_output

#: A single file up to this size is most likely one camera field, which needs no workers.
_FIELD_BYTES = 8_000_000
_FILE = click.Path(dir_okay=False, path_type=Path)
_EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _read_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Read defaults from a TOML file: `core-um = 300` means `--core-um 300`. The command line wins."""
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
            f"{path}: unknown setting {', '.join(unknown)}. `hemax-batch run --help` lists the settings"
        )
    ctx.default_map = {**(ctx.default_map or {}), **given}


@click.command(context_settings={"show_default": True})
@click.argument("inputs", nargs=-1, metavar="SLIDES...")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The results folder. It is created if it does not exist.",
)
@click.option(
    "--manifest",
    type=_EXISTING_FILE,
    help="A table of slides (CSV) with the column path, and optionally sample_id, mpp, wbc and age_group.",
)
@click.option("--weights", type=_FILE, help="The weights.  [default: the weights that ship]")
@click.option(
    "--image",
    type=int,
    help="Which image of a file with several (from 1).  [default: the finest, largest one in colour]",
)
@click.option(
    "--focus-plane",
    type=int,
    help="Which focus plane of several (from 1).  [default: the sharpest]",
)
@click.option(
    "--mpp", type=float, help="µm per pixel, for slides that do not record it or record it wrongly."
)
@click.option(
    "--core-um",
    type=float,
    default=400.0,
    help="Side of a region in µm. A region is the unit of work.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "openvino"]),
    default="auto",
    help="The inference engine. `auto` is OpenVINO on a CPU where it is installed, else PyTorch.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "f32", "bf16"]),
    default="auto",
    help="The network's arithmetic. `auto` is bf16 for OpenVINO on a CPU that has it, else f32.",
)
@click.option(
    "--batch-size",
    type=int,
    help="Patches per batch. It is halved when memory is short.  [default: 8; GPU: 64]",
)
@click.option(
    "--min-confidence",
    type=float,
    help="The confidence below which a cell is `unidentified`.  [default: that of the weights]",
)
@click.option(
    "--exhaustive",
    is_flag=True,
    help="Apply the network everywhere, not only at the candidates of the screening.",
)
@click.option(
    "--audit",
    type=float,
    default=0.01,
    metavar="FRACTION",
    help="Share of the unscreened area to check, to estimate the missed cells.",
)
@click.option(
    "--target-cells", type=int, default=200, help="White cells that make a differential sufficient."
)
@click.option(
    "--count-in",
    type=click.Choice(["monolayer", "all"]),
    default="monolayer",
    help="Where white cells count. The whole smear counts if its monolayer holds too few.",
)
@click.option(
    "--wbc",
    type=float,
    help="The analyser's white count (10^9/l), to correct for nucleated red cells.",
)
@click.option(
    "--rules",
    type=_EXISTING_FILE,
    help="A TOML file of flags and reference ranges.  [default: built in]",
)
@click.option(
    "--age-group", metavar="NAME", help="Use the reference ranges of this age group of --rules."
)
@click.option(
    "--max-unreadable",
    type=float,
    default=0.05,
    help="Share of the area that may be unreadable before a slide fails.",
)
@click.option(
    "--workers",
    type=int,
    help="Worker processes. 0 uses this process alone.  [default: what the job may use]",
)
@click.option("--gpus", type=int, help="GPUs to use.  [default: all visible GPUs]")
@click.option(
    "--scheduler", metavar="ADDRESS", help="An existing dask scheduler, such as tcp://host:8786."
)
@click.option(
    "--scheduler-file", type=_FILE, help="The scheduler file of an existing dask scheduler."
)
@click.option(
    "--tls",
    type=_EXISTING_FILE,
    nargs=3,
    metavar="CA CERT KEY",
    help="PEM files for an encrypted cluster.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Process finished slides again. Foreign files are never touched.",
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Process slides again that failed or lost some area, and have not changed.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first slide that fails.")
@click.option("--dry-run", is_flag=True, help="Show what a run would do. Nothing is written.")
@click.option(
    "--max-minutes", type=float, help="Stop in good order after this time. The next run continues."
)
@click.option(
    "--wait-lock",
    "wait_lock_s",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="Wait this long for another run to end.",
)
@click.option(
    "--region-timeout",
    "region_timeout_s",
    type=float,
    default=1800.0,
    metavar="SECONDS",
    help="A region that takes longer counts as hanging. It is retried once, then reported as lost.",
)
@click.option(
    "--open-timeout",
    "open_timeout_s",
    type=float,
    default=300.0,
    metavar="SECONDS",
    help="A slide that takes longer to open fails.",
)
@click.option(
    "--on-gpu-loss",
    type=click.Choice(["cpu", "retire"]),
    default="cpu",
    help="What workers do after they lose their GPU: continue on the CPU, or end.",
)
@click.option(
    "--settle",
    "settle_s",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="Leave a slide for the next run if it changed this recently. It may still be copied.",
)
@click.option(
    "--log-json", type=_FILE, help="Append every event to this file, one JSON object per line."
)
@click.option("--quiet", "-q", is_flag=True, help="Print only failures and the last line.")
@export_options
@click.option(
    "--config",
    type=_EXISTING_FILE,
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="Read defaults of these options from a TOML file.",
)
def run(inputs: tuple[str, ...], out: Path, **given: Any) -> None:
    """Find, outline, classify and explain the white cells of smear scans.

    SLIDES are scans, folders (searched recursively), globs, or lists of these (@slides.txt). Results appear in --out,
    slide by slide. A killed run continues from its finished regions. A finished slide is skipped until the slide,
    the weights or the settings change.

    \b
    Exit codes: 0 all done or nothing to do; 1 unexpected error; 2 wrong usage; 3 some slides failed; 4 all failed;
    5 another run holds the results folder; 6 the results cannot be written; 7 --max-minutes reached;
    8 a read hangs, which --workers 0 cannot end; 130 SIGINT; 143 SIGTERM.

    \b
    Example:
      hemax-batch run slides/ --out results/
      hemax-batch run --manifest slides.csv --out results/
      hemax-batch run "/scans/**/*.svs" --out results/ --workers 8 --log-json run.jsonl --quiet
    """
    tolerate_lost_output()
    manifest = given.pop("manifest")
    if not inputs and not manifest:
        raise UsageError(
            "no input: name slides, folders, globs, a list (@slides.txt) or a --manifest"
        )
    local = given["workers"] != 0 and not (
        given["scheduler"] or given["scheduler_file"] or given["dry_run"]
    )
    given["engine"], given["precision"] = _resolve_engine(given)
    if (
        local and not out.exists() and (manifest or not _is_one_field(inputs))
    ):  # there is certainly work: the workers load while this process loads
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
            "--age-group selects a table of --rules. The built-in ranges are those of adults"
        )
    given["rules"] = Rules.from_toml(rules, age_group) if rules else Rules()
    settings = RunSettings(
        **{
            name: given.pop(name)
            for name in tuple(given)
            if name in RunSettings.__dataclass_fields__
        }
    )
    per_slide: dict[str, RunSettings] = {}
    if manifest:
        from .manifest import read_manifest

        per_slide = read_manifest(manifest, settings, rules)
        inputs = (*per_slide, *inputs)
    given["tls"] = TlsFiles(*given["tls"]) if given["tls"] else None
    options = RunOptions(**given, command_line=tuple(sys.argv))
    if options.dry_run:
        summary = dry_run(inputs, out, settings, options, click.echo, per_slide)
    else:
        summary = run_pipeline(inputs, out, settings, options, per_slide)
    click.echo(summary.text)
    exported = 0
    if formats and not options.dry_run:
        try:
            exported = export_all(
                out, (), formats, click.echo, overwrite=False, wait_lock_s=options.wait_lock_s
            )
        except HemaxError as error:  # the exit code of the run itself wins
            click.echo(f"hemax-batch: the export failed: {error}", err=True)
            exported = error.exit_code
    sys.exit(summary.exit_code or exported)


def _resolve_engine(given: dict[str, Any]) -> tuple[str, str]:
    """Say which engine and precision `auto` means. The workers of an existing cluster may have GPUs: PyTorch finds them."""
    from ..model.engines.selection import resolve_engine
    from ..scheduling.resources import visible_gpus

    engine, precision = given["engine"], given["precision"]
    elsewhere = given["scheduler"] or given["scheduler_file"]
    if given["gpus"] and not elsewhere and (found := len(visible_gpus())) < given["gpus"]:
        raise UsageError(
            f"--gpus {given['gpus']}: {found} can be used; see `hemax-batch doctor`, or leave --gpus out to use "
            "the GPUs that are there"
        )
    on_cpu = engine == "openvino" or not (elsewhere or (given["gpus"] != 0 and visible_gpus()))
    return resolve_engine(engine, precision, on_cpu and not elsewhere)


def _is_one_field(inputs: tuple[str, ...]) -> bool:
    """Whether the input is a single small file. Starting workers early would cost it more than the field itself."""
    path = Path(inputs[0])
    return len(inputs) == 1 and path.is_file() and path.stat().st_size <= _FIELD_BYTES
