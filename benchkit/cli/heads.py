"""`benchkit heads`: what can be compared, what it is made of, whether it keeps the contract, how to start one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli.heads_check import check
from benchkit.cli.heads_new import new

if TYPE_CHECKING:
    from benchkit.plugins import Plugins

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
    from benchkit.describe.heads import Setting, check_names
    from benchkit.describe.text import render_list
    from benchkit.plugins import load_plugins
    from benchkit.runner.request import Request, split_names

    plugins = load_plugins(head_files)
    names = tuple(sorted(plugins.heads))
    check_names(names, plugins)
    request = Request(heads=names, tasks=split_names(tasks or ""), encoder=encoder)
    setting = Setting.open(request, plugins)
    click.echo(render_list([setting.listed(name) for name in names], setting))


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
    from benchkit.describe.draw import as_mermaid, write_svg
    from benchkit.describe.heads import Setting
    from benchkit.describe.text import render_head
    from benchkit.errors import UserError
    from benchkit.plugins import load_plugins
    from benchkit.runner.request import Request, split_names

    if head and head.endswith(".py"):
        head_files = (*head_files, Path(head))
        head = None
    plugins = load_plugins(head_files)
    names = (head,) if head else _of_files(plugins, head_files)
    if svg and len(names) > 1:
        raise UserError(f"--svg draws one head; name one of {', '.join(names)}")
    tasks = split_names(options["tasks"] or "")
    request = Request(heads=names, tasks=tasks, encoder=options["encoder"], settings=settings)
    setting = Setting.open(request, plugins)
    shown = [setting.shown(name) for name in names]
    if svg:
        write_svg(shown[0], svg)
    drawn = [as_mermaid(each) if mermaid else render_head(each) for each in shown]
    click.echo("\n\n".join(drawn))


def _of_files(plugins: Plugins, files: tuple[Path, ...]) -> tuple[str, ...]:
    """The heads that come from files, where none is named."""
    from benchkit.errors import UserError

    names = tuple(name for (kind, name), owner in plugins.owners.items() if kind == "head" and owner in map(str, files))
    if not names:
        raise UserError(f"name a head (known: {', '.join(sorted(plugins.heads))}), or give a file that has one")
    return names


heads.add_command(check)
heads.add_command(new)
