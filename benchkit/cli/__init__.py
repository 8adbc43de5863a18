"""The command line: parse, call, print. Importing it costs click and nothing else, so that `--help` is immediate."""

from __future__ import annotations

import errno
import os
import sys
import threading
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

import benchkit
from benchkit.cli.data import data
from benchkit.cli.encoders import encoders, pretrain
from benchkit.cli.heads import heads, plugins, speed
from benchkit.cli.machine import cache, doctor
from benchkit.cli.output import fail, replace_characters, stop
from benchkit.cli.predict import export, predict
from benchkit.cli.report import compare, explain, plan, report, repro
from benchkit.cli.run import run
from benchkit.cli.tune import tune
from benchkit.core.errors import UserError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True})
@click.version_option(benchkit.__version__, prog_name="benchkit")
def cli() -> None:
    """Which head architecture is worth putting on this encoder?

    Heads are plugins; each is trained on the same encoder, through the same phases, on the same batches. Start with
    `benchkit run`: it needs no data, no download and no GPU.
    """


for _command in (run, tune, report, compare, repro, plan, explain, speed, predict, export, data, encoders, pretrain,
                 heads, plugins, cache, doctor):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    replace_characters()
    try:
        with _no_lost_interrupt():
            try:
                cli.main(standalone_mode=False)
            finally:
                sys.stdout.flush()
    except UserError as error:
        fail([error], 2)
    except click.exceptions.Abort:
        stop("interrupted", 130)
    except getattr(click.exceptions, "NoArgsIsHelpError", ()) as page:  # click 8.1 has it not, and prints it itself
        page.show()
        sys.exit(page.exit_code)
    except click.UsageError as error:
        hint = f"; see {error.ctx.command_path} --help" if error.ctx else ""
        fail([f"{UserError(error.format_message().rstrip('.'))}{hint}"], 2)
    except click.ClickException as error:
        fail([UserError(error.format_message())], error.exit_code)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except BrokenPipeError:  # `benchkit … | head`
        sys.stderr.close()
        sys.exit(0)
    except (MemoryError, RuntimeError) as error:  # click's exceptions are of the latter kind too
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        fail([UserError(f"out of memory: {error}; close other programs, make less of it, or use --jobs 1")], 2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            if error.filename is None:
                raise
            fail([UserError(f"cannot use {error.filename}: {error.strerror}")], 2)
        with suppress(OSError, ValueError):  # what is still to be written would fail again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail([f"cannot write {error.filename or 'the output'}: {error.strerror}"], 2)


@contextmanager
def _no_lost_interrupt() -> Iterator[None]:
    """Press Ctrl-C again where Python must ignore it: in destructors and weak references' callbacks, moments later."""
    before = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            again = threading.Timer(0.02, interrupt_main)
            again.daemon = True
            again.start()
        else:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
