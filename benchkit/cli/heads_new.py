"""`benchkit heads new`: from an idea to a package that runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import click


@click.command()
@click.argument("name")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=".", metavar="DIR",
              help="Folder in which the package's own is made; default: here.")  # fmt: skip
def new(name: str, folder: Path) -> None:
    """Write a package benchkit-NAME with a small working head: module, test, README, licence, CI.

    It installs, is found, passes its test and runs as it is; then put your idea into its module. NAME is the head's
    name, such as `my-head`.
    """
    from benchkit.plugins import load_plugins
    from benchkit.scaffold import check_name, write_package

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
