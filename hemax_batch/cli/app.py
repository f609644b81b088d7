"""The command line: parse, call, print. Nothing heavy is imported before a command is known."""

from __future__ import annotations

import click

from .. import __version__
from ..errors import HemaxError
from .doctor import doctor
from .evaluation import compare, evaluate, faithfulness, transfer
from .laboratory import monitor, verify
from .models import models
from .review import export, report, retally
from .run import run
from .slides import info, synth
from .training import calibrate, train


class _Commands(click.Group):
    """Shows our own errors as one line, with the exit code of their kind."""

    def invoke(self, ctx: click.Context):
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
def main():
    """Explainable white-cell differentials from blood-smear scans, in batches.

    What it gives is a pre-classification, for review by a qualified morphologist; research use only.

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
    faithfulness,
    compare,
    transfer,
    verify,
    monitor,
    models,
):
    _command.context_settings |= main.context_settings  # also where it is called by itself
    main.add_command(_command)
