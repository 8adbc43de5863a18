"""What commands print beside tables: lines, lists and errors, and the exit code that an error has."""

from __future__ import annotations

import codecs
import io
import sys
import textwrap
from collections.abc import Iterable
from typing import Any, NoReturn

import click

_MARKS = {"ok": ("✓", "green"), "note": ("–", "yellow"), "skipped": ("–", "yellow"), "broken": ("✗", "red"),
          "failed": ("✗", "red")}  # fmt: skip
_ASCII = str.maketrans("─━│█▏·×±−–—→←↑↓≤≥✓✗…’‘“”", "--|#|.x~---><^v<>+x.''\"\"")  # noqa: RUF001


def say(line: str) -> None:
    """A line for the user that is no part of the result."""
    click.echo(line, err=True)


def stop(line: str, code: int) -> NoReturn:
    """Leave with a line that says why."""
    say(f"benchkit: {line}")
    sys.exit(code)


def fail(errors: Iterable[object], code: int = 1) -> None:
    """Print each error in a line of its own and leave with the exit code; without errors, go on."""
    lines = [f"benchkit: error: {error}" for error in errors]
    for line in lines:
        say(line)
    if lines:
        sys.exit(code)


def echo_json(data: Any) -> None:
    import json

    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def counted(number: int, what: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def size(count: int) -> str:
    """Bytes as people read them: `171 kB`, `35.0 MB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 1e3:.0f} kB" if count >= 1000 else f"{count} B"


def labelled(label: str, text: str, columns: int = 100) -> str:
    """A label, and beside it a text that is wrapped to so many columns."""
    indent = " " * len(click.unstyle(label))
    filled = textwrap.fill(text, columns, initial_indent=indent, subsequent_indent=indent, break_long_words=False,
                           break_on_hyphens=False)  # fmt: skip
    return label + filled.removeprefix(indent)


def marked(state: str, name: str, text: str, columns: int = 100) -> str:
    """A line of a list of findings: a mark for `ok`, `note`, `skipped`, `broken` or `failed`, a name, a text."""
    mark, colour = _MARKS[state]
    return labelled(f"  {click.style(mark, fg=colour)} {name}  ", text, columns)


def replace_characters() -> None:
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
    return codecs.CodecInfo(ascii_.encode, ascii_.decode, incrementalencoder=ascii_.incrementalencoder,
                            incrementaldecoder=ascii_.incrementaldecoder, name="benchkit_ascii")  # fmt: skip


def _in_ascii(error: UnicodeError) -> str:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_ASCII)
    return "".join(each if each.isascii() else "?" for each in text)
