"""The command line: parse, call, print. Importing it costs click and nothing else, so that `--help` is immediate."""

from __future__ import annotations

import sys

import click

import benchkit
from benchkit.cli.data import data
from benchkit.cli.encoders import encoders
from benchkit.cli.explain import explain
from benchkit.cli.heads import heads, plugins
from benchkit.cli.machine import cache, doctor
from benchkit.cli.predict import export, predict
from benchkit.cli.pretrain import pretrain
from benchkit.cli.report import compare, plan, report, repro
from benchkit.cli.run import run
from benchkit.cli.speed import speed
from benchkit.cli.tune import tune
from benchkit.core.errors import UserError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(benchkit.__version__, prog_name="benchkit")
def cli() -> None:
    """Which head architecture is worth putting on this encoder?

    Heads are plugins; each is trained on the same encoder, through the same phases, on the same batches. Start with
    `benchkit run`: it needs no data, no download and no GPU.
    """


cli.add_command(run)
cli.add_command(tune)
cli.add_command(report)
cli.add_command(compare)
cli.add_command(repro)
cli.add_command(plan)
cli.add_command(explain)
cli.add_command(speed)
cli.add_command(predict)
cli.add_command(export)
cli.add_command(data)
cli.add_command(encoders)
cli.add_command(pretrain)
cli.add_command(heads)
cli.add_command(plugins)
cli.add_command(cache)
cli.add_command(doctor)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    try:
        cli.main(standalone_mode=False)
    except UserError as error:
        _stop(f"benchkit: error: {error}", 2)
    except MemoryError as error:
        _stop(f"benchkit: error: out of memory: {error}; close other programs or use a smaller encoder or --jobs 1", 2)
    except click.exceptions.Abort:
        _stop("benchkit: interrupted", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except BrokenPipeError:  # `benchkit … | head`
        sys.stderr.close()
        sys.exit(0)


def _stop(line: str, code: int) -> None:
    click.echo(line, err=True)
    sys.exit(code)
