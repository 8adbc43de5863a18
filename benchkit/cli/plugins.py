"""`benchkit plugins`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="List what is installed, and what is broken.")
@click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A Python file with a head of yours, listed beside the plugins; repeatable.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def plugins(head_files: tuple[Path, ...], as_json: bool) -> None:
    """List every plugin: its distribution and version, its state, what it offers, through which hooks, and its file.

    A plugin that is broken, or claims another's name, is listed with its error; BENCHKIT_PLUGINS=NAME,NAME loads only
    the plugins named. The exit code is 0 all the same.
    """
    from benchkit.describe.installed import as_data, render
    from benchkit.plugins import load_plugins

    found = load_plugins(head_files, strict=False)
    if as_json:
        import json

        click.echo(json.dumps(as_data(found), indent=2))
    else:
        click.echo(render(found))
