"""`benchkit heads`: what heads there are, and whether they keep the contract."""

from __future__ import annotations

import click

from benchkit.cli.heads_check import check


@click.group()
def heads() -> None:
    """Look at heads, and check one of your own."""


heads.add_command(check)
