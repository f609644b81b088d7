"""The command line. It parses, calls and prints; it imports nothing heavy before a command runs."""

from __future__ import annotations

from typing import Any

import click

from .. import __version__
from ..errors import HemaxError
from .doctor import doctor
from .evaluation import compare, evaluate, faithfulness, slide_rates, transfer
from .laboratory import monitor, verify
from .models import models
from .review import export, report, retally
from .run import run
from .slides import info, synth
from .training import calibrate, train


class _Commands(click.Group):
    """A group that shows our own errors as one line, and ends with their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; print a HemaxError without a traceback."""
        try:
            return super().invoke(ctx)
        except HemaxError as error:
            click.echo(f"hemax-batch: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "-V", "--version", prog_name="hemax-batch")
def main() -> None:
    """Count and explain white blood cells in scans of blood smears, in batches.

    The result is a pre-classification, for review by a qualified morphologist; research use only.

    \b
    Example:
      hemax-batch run slides/ --out results/
    """


for _command in (
    run,
    report,
    retally,
    export,
    info,
    doctor,
    synth,
    train,
    calibrate,
    evaluate,
    slide_rates,
    faithfulness,
    compare,
    transfer,
    verify,
    monitor,
    models,
):
    _command.context_settings.update(main.context_settings)  # also when it is called by itself
    main.add_command(_command)
