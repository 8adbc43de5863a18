"""The command line as its entry point runs it, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from benchkit.cli import main


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Done]


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`call("run", "--help")`: exit code and what was printed."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["benchkit", *map(str, arguments)])
        code: object = 0
        capsys.readouterr()
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
        assert isinstance(code, int)
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return call


def assert_one_line(done: Done, *parts: str) -> None:
    """A user's mistake: one line that has these parts, and exit code 2."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("benchkit: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr
