"""The commands that docs/data.md and docs/encoders.md show exist, with those arguments and options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from benchkit.cli import cli

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = [
    line
    for page in ("data.md", "encoders.md")
    for block in re.findall(r"^```console\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line: str) -> None:
    name, *arguments = shlex.split(line)
    assert name == "benchkit"
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), arguments.pop(0))
        assert found is not None
        command = found
    command.make_context(name, arguments)
