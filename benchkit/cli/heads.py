"""`benchkit heads`: what heads there are, whether they keep the contract, and how to start one."""

from __future__ import annotations

import click

from benchkit.cli.heads_check import check
from benchkit.cli.heads_new import new


@click.group()
def heads() -> None:
    """Look at heads, check one of your own, or start one."""


heads.add_command(check)
heads.add_command(new)
