"""`benchkit heads`: what there is to compare, and how to add to it."""

from __future__ import annotations

import click

from benchkit.cli.heads_new import new


@click.group()
def heads() -> None:
    """The heads that are installed, and new ones."""


heads.add_command(new)
