"""docs/plugins.md is true: its blocks run, in order, in one folder; its signatures and fields are the code's."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import benchkit
from benchkit.cli import cli
from benchkit.cli.heads import next_commands
from benchkit.core import hookspecs
from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import HeadSpec, option
from benchkit.core.plugins import load_plugins
from benchkit.core.task import TaskShape, TaskSpec
from benchkit.nn import blocks
from benchkit.testing.scaffold import Names

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "plugins.md").read_text("utf-8")
SMALL = [f"--set={task}.{split}_size=40" for task in ("sst", "quora", "sts") for split in ("train", "dev", "test")]


def blocks_of(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The Python blocks, each by the name in its first line."""
    return {block.partition("\n")[0].removeprefix("# "): block for block in blocks_of("python")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("author")
    for name, block in files().items():
        (place / name).write_text(block, encoding="utf-8")
    return place


COMMANDS = [line for block in blocks_of("console") for line in block.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_run(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, to be quick; on fewer rows of the demo's."""
    program, *arguments = shlex.split(line)
    assert program == "benchkit"
    monkeypatch.chdir(folder)
    small = [*SMALL, "--jobs=1"] if arguments[0] == "run" else []
    done = CliRunner().invoke(cli, [*arguments, *small])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    if "tell.py" in line:
        # One step on 40 rows may well diverge; the observer is told that too.
        assert re.fullmatch(r"cnn 0 (ok|collapsed|diverged)\n", (folder / "told.txt").read_text())
    if "polite" in line and arguments[0] == "run":
        assert "polite · f1" in done.output


@pytest.mark.slow
def test_its_test_passes(folder: Path) -> None:
    """The quick checks of it; `heads check` above has run them all."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "shapes or symmetric"]
    command.append("test_gated.py")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_its_hooks_are_the_code_s() -> None:
    names = sorted(name for name in dir(hookspecs) if name.startswith("benchkit_"))
    told = blocks_of("text")[0].splitlines()
    assert sorted(line.partition("(")[0] for line in told) == names
    for line in told:
        name = line.partition("(")[0]
        assert line == f"{name}{inspect.signature(getattr(hookspecs, name))}".replace("'", "")


def test_what_it_says_to_type_is_what_is_printed() -> None:
    assert "\n".join(next_commands("my-head", Path("benchkit-my-head"))) + "\n" in blocks_of("text")
    (entry,) = (tomllib.loads(block) for block in blocks_of("toml"))
    assert entry == {"project": {"entry-points": {"benchkit": {"my-head": Names("my-head").module}}}}


@pytest.mark.parametrize(
    "spec", [HeadSpec, TaskSpec, TaskShape, Pooled, Tokens, Layers], ids=lambda spec: spec.__name__
)
def test_it_names_every_field(spec: type) -> None:
    """In words or in an example, where a reader would look for it."""
    missing = [
        field.name
        for field in dataclasses.fields(spec)
        if f"`{field.name}`" not in TEXT and not re.search(rf"\b{field.name}\b ?[=(]", TEXT)
    ]
    # By position in the example: HeadSpec("gated", "A gated linear, …", Gated, Config, …).
    assert set(missing) <= ({"name", "summary", "cls", "config"} if spec is HeadSpec else set())


def test_it_names_every_option_and_block() -> None:
    assert all(f"{name}=" in TEXT for name in list(inspect.signature(option).parameters)[1:])
    own = [
        name
        for name, each in inspect.getmembers(blocks, inspect.isfunction)
        if each.__module__ == blocks.__name__ and name[0] != "_"
    ]
    assert all(f"`{name}`" in TEXT for name in own)


def test_every_public_name_an_author_needs_is_exported(folder: Path) -> None:
    used = {
        name.strip()
        for line in re.findall(r"^from benchkit import (.*)$", TEXT, re.MULTILINE)
        for name in line.split(",")
    }
    assert used <= set(benchkit.__all__) | {"losses"}
    assert all(getattr(benchkit, name) for name in benchkit.__all__)


def test_its_plugins_load_together(folder: Path) -> None:
    plugins = load_plugins(folder / name for name in files() if not name.startswith("test_"))
    assert plugins.head("gated").symmetric
    assert plugins.task("polite").metric.name == "f1"
    assert "small" in plugins.encoders
