"""The command line: parse, call, print. Importing it costs click and nothing else, so that `--help` is immediate."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import threading
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
    _replace_characters()
    try:
        with _no_lost_interrupt():
            try:
                cli.main(standalone_mode=False)
            finally:
                sys.stdout.flush()
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
    except OSError as error:
        if error.errno not in _FULL:
            raise
        with suppress(OSError, ValueError):  # what is still to be written would fail again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _stop(f"benchkit: error: cannot write {error.filename or 'the output'}: {error.strerror}", 2)


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


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_ASCII = str.maketrans("─━│█▏·×±−–—→←↑↓≤≥✓✗…’‘“”", "--|#|.x~---><^v<>+x.''\"\"")  # noqa: RUF001


def _replace_characters() -> None:
    """Where the output's encoding lacks a character, write one of the same width that looks like it, else `?`."""
    codecs.register_error("benchkit", lambda error: (_in_ascii(error), error.end))  # type: ignore[attr-defined]
    codecs.register(lambda name: _strict_ascii() if name == "benchkit_ascii" else None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="benchkit_ascii" if is_ascii else None, errors="benchkit")


def _strict_ascii() -> codecs.CodecInfo:
    """ASCII under another name: click takes the usual one for a mistake, and writes UTF-8 in its place."""
    ascii_ = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_.encode,
        ascii_.decode,
        incrementalencoder=ascii_.incrementalencoder,
        incrementaldecoder=ascii_.incrementaldecoder,
        name="benchkit_ascii",
    )


def _in_ascii(error: UnicodeError) -> str:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_ASCII)
    return "".join(each if each.isascii() else "?" for each in text)


def _stop(line: str, code: int) -> None:
    click.echo(line, err=True)
    sys.exit(code)
