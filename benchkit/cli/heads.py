"""`benchkit heads` and `benchkit plugins`."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchkit.core.head import HeadSpec
    from benchkit.core.plugins import Plugins
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
    from benchkit.core.errors import UserError
    from benchkit.core.plugins import load_plugins

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


@click.command()
@click.argument("name")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=".", metavar="DIR",
              help="Folder in which the package's own is made; default: here.")  # fmt: skip
def new(name: str, folder: Path) -> None:
    """Write a package benchkit-NAME with a small working head: module, test, README, licence, CI.

    It installs, is found, passes its test and runs as it is; then put your idea into its module. NAME is the head's
    name, such as `my-head`.
    """
    from benchkit.core.plugins import load_plugins
    from benchkit.testing.scaffold import check_name, write_package

    plugins = load_plugins()
    names = check_name(name, {*plugins.heads, *plugins.tasks, *(plugin.name for plugin in plugins.plugins)})
    place = write_package(names, folder)
    click.echo(f"wrote {place}; your head goes into {names.module}.py. Next:\n")
    for line in next_commands(name, place):
        click.echo(f"    {line}")


def next_commands(name: str, place: Path) -> list[str]:
    """What to type after the package was written, from installing it to the table."""
    return [
        f"cd {shlex.quote(str(place))}",
        "pip install -e '.[test]'",
        "pytest",
        f"benchkit heads check {name}",
        f"benchkit run --heads {name},baseline --phases pretrain",
    ]


_head_file = click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
                          help="A Python file with a head of yours; repeatable.")  # fmt: skip
_encoder = click.option("--encoder", metavar="NAME|DIR", default="embedded", show_default=True,
                        help="The encoder whose features the heads read.")  # fmt: skip
_tasks = click.option("--tasks", metavar="NAMES", help="Tasks to build for, comma separated; default: the demo's.")


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    return _head_file(_encoder(_tasks(command)))


@click.group(invoke_without_command=True, short_help="List heads; show, check or start one.")
@_common
@click.pass_context
def heads(context: click.Context, head_files: tuple[Path, ...], encoder: str, tasks: str | None) -> None:
    """List the heads: what they read, how many parameters they have on this encoder, whose they are."""
    if context.invoked_subcommand is not None:
        return
    from benchkit.core.errors import UserError
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.config import Request, split_names
    from benchkit.inspect.heads import Setup, render_list

    plugins = load_plugins(head_files)
    names = tuple(sorted(plugins.heads))
    if not names:
        raise UserError("there is no head: see benchkit plugins")
    request = Request(heads=names, tasks=split_names(tasks or ""), encoder=encoder, device="cpu")
    setup = Setup.open(request, plugins)
    click.echo(render_list([setup.listed(name) for name in names], setup))


@heads.command(short_help="Show a head's layers, parameters and settings, or draw it.")
@click.argument("head", metavar="NAME|FILE", required=False)
@_common
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
              help="Change a field: cnn.channels=16, pooling=cls …; repeatable.")  # fmt: skip
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="Draw it: a standalone SVG.")
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart, and nothing else.")
def show(head: str | None, head_files: tuple[Path, ...], settings: tuple[str, ...], svg: Path | None, mermaid: bool,
         **options: Any) -> None:  # fmt: skip
    """Show what a head is made of: its layers with the shapes of their results, its parameters, its settings.

    \b
    benchkit heads show cnn --set cnn.channels=16
    benchkit heads show my_head.py --svg my_head.svg

    The head is built and run once for each task, on made-up features of the encoder's size.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.core.errors import UserError
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.config import Request, split_names
    from benchkit.inspect.heads import Setup, as_mermaid, as_svg, render_head
    from benchkit.store.files import write_atomic

    if head and head.endswith(".py"):
        head_files = (*head_files, Path(head))
        head = None
    plugins = load_plugins(head_files)
    names = (head,) if head else _of_files(plugins, head_files)
    if svg and len(names) > 1:
        raise UserError(f"--svg draws one head; name one of {', '.join(names)}")
    tasks = split_names(options["tasks"] or "")
    request = Request(heads=names, tasks=tasks, encoder=options["encoder"], settings=settings, device="cpu")
    setup = Setup.open(request, plugins)
    shown = [setup.shown(name) for name in names]
    if svg:
        write_atomic(svg, as_svg(shown[0]).encode())
    drawn = [as_mermaid(each) if mermaid else render_head(each) for each in shown]
    click.echo("\n\n".join(drawn))


def _of_files(plugins: Plugins, files: tuple[Path, ...]) -> tuple[str, ...]:
    """The heads that come from files, where none is named."""
    from benchkit.core.errors import UserError

    names = tuple(name for (kind, name), owner in plugins.owners.items() if kind == "head" and owner in map(str, files))
    if not names:
        raise UserError(f"name a head (known: {', '.join(sorted(plugins.heads))}), or give a file that has one")
    return names


heads.add_command(check)
heads.add_command(new)


@click.command(short_help="List what is installed, and what is broken.")
@click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A Python file with a head of yours, listed beside the plugins; repeatable.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def plugins(head_files: tuple[Path, ...], as_json: bool) -> None:
    """List every plugin: its distribution and version, its state, what it offers, through which hooks, and its file.

    A plugin that is broken, or claims another's name, is listed with its error; BENCHKIT_PLUGINS=NAME,NAME loads only
    the plugins named. The exit code is 0 all the same.
    """
    from benchkit.core.plugins import load_plugins
    from benchkit.inspect.heads import as_data, render

    found = load_plugins(head_files, strict=False)
    if as_json:
        import json

        click.echo(json.dumps(as_data(found), indent=2))
    else:
        click.echo(render(found))
