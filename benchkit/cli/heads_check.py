"""`benchkit heads check`: the conformance kit, a verdict a line."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from benchkit.head import HeadSpec
    from benchkit.testing import Verdict

_MARKS = {"ok": ("✓", "green"), "failed": ("✗", "red"), "skipped": ("–", "yellow")}
_STATES = {"ok": "passed", "failed": "failed", "skipped": "skipped"}


@click.command()
@click.argument("head", metavar="NAME|FILE")
def check(head: str) -> None:
    """Check that a head keeps the contract: shapes, gradients, padding, seeds and more, in a few seconds.

    An installed head by its name, or every head in a Python file. The same checks are pytest tests in
    benchkit.testing.HeadContract. Exit code 0: all passed; 1: some failed; 2: there is no such head or file.
    """
    specs = _specs(head)  # a name nobody has is told before torch is loaded
    passed = [_passes(spec) for spec in specs]
    if not all(passed):
        raise SystemExit(1)


def _specs(head: str) -> list[HeadSpec]:
    """The head of that name, or the heads in that file.

    Raises:
        UserError: there is no such head, or the file does not load or holds none.
    """
    from benchkit.errors import UserError
    from benchkit.plugins import load_plugins

    path = Path(head)
    if path.suffix != ".py" and not path.is_file():
        return [load_plugins().head(head)]
    plugins = load_plugins([path])
    names = [name for plugin in plugins.plugins if plugin.module == str(path) for name in plugin.heads]
    if not names:
        raise UserError(f"{path} offers no head: return a HeadSpec from a function benchkit_heads() marked @hookimpl")
    return [plugins.head(name) for name in names]


def _passes(spec: HeadSpec) -> bool:
    """Print a head's verdicts as they come; whether none is a failure."""
    from benchkit.testing import CHECKS, check_head

    started = time.monotonic()
    width = max(len(each.name) for each in CHECKS)
    click.echo(f"{click.style(spec.name, bold=True)}  {spec.summary}")
    states: Counter[str] = Counter()
    for verdict in check_head(spec):
        states[verdict.status] += 1
        click.echo(_line(verdict, width))
    total = ", ".join(f"{states[state]} {word}" for state, word in _STATES.items() if states[state])
    click.echo(f"{total} in {time.monotonic() - started:.1f} s")
    return not states["failed"]


def _line(verdict: Verdict, width: int) -> str:
    """A mark, the check's name, and what it asks for or how the head fails; long reasons go on below."""
    from shutil import get_terminal_size
    from textwrap import fill

    mark, colour = _MARKS[verdict.status]
    text = f"skipped: {verdict.reason}" if verdict.status == "skipped" else verdict.reason or verdict.description
    indent = " " * (width + 6)
    columns = max(60, get_terminal_size((100, 24)).columns)
    wrapped = fill(text, columns, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return f"  {click.style(mark, fg=colour)} {verdict.check:<{width}}  {wrapped.lstrip()}"
