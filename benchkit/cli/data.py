"""`benchkit data`: look at data before training on it."""

from __future__ import annotations

import click


@click.group()
def data() -> None:
    """Look at data before training on it."""


@data.command()
@click.argument("folder", metavar="DIR|demo")
@click.option("--tasks", default="sst,quora,sts", show_default=True, metavar="A,B", help="Tasks to look for.")
def check(folder: str, tasks: str) -> None:
    """Show rows, label balance, lengths, duplicates, texts shared between splits, broken rows and sha256.

    Exits with 0 if the data can be used; with 1 if it was read but something is seriously off (listed under
    Problems: a split or a class missing, scores of another range, dev or test found in train); with 2 if the
    folder or a file cannot be used at all.
    """
    from benchkit.data import check_data
    from benchkit.data.tell import render
    from benchkit.errors import UserError
    from benchkit.plugins import load_plugins

    plugins = load_plugins()
    names = list(dict.fromkeys(name for each in tasks.split(",") if (name := each.strip())))
    if not names:
        raise UserError(f"--tasks names none; known: {', '.join(sorted(plugins.tasks))}")
    found = check_data(folder, [plugins.task(name) for name in names])
    click.echo(render(found))
    if not found.usable:
        raise SystemExit(1)
