"""The documentation is true: blocks run, generated pages are fresh, every hook is documented."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchkit.core.plugins import load_plugins
from benchkit.core.protocol import load_file

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BIN = Path(sys.executable).parent
SMALL = ["--phases", "pretrain", "--seeds", "2", "--set", "pretrain.epochs=2"]
SHORTER = {"benchkit run --head-file": ["--seeds", "2", "--set", "pretrain.epochs=2"],
           "benchkit tune": ["--set", "pretrain.epochs=2"]}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("console") for line in block.splitlines() if line]


def execute(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def test_generated_pages_are_fresh() -> None:
    """In a process of its own, as `make docs` does: click keeps what it once made of a command."""
    done = execute([sys.executable, "docs/build.py", "--check"], ROOT)
    assert done.returncode == 0, f"run `make docs`\n{done.stdout}{done.stderr}"


def test_make_targets_that_the_readme_names_exist() -> None:
    named = [line for line in commands() if line.startswith("make ")]
    assert named
    for line in named:
        assert execute(["make", "-n", *shlex.split(line)[1:]], ROOT).returncode == 0


def test_links_lead_somewhere() -> None:
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "results" / "README.md"):
        text = re.sub(r"```.*?```", "", file.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_the_protocol_of_the_readme_loads(tmp_path: Path) -> None:
    (written,) = [block for block in blocks("toml") if "base" in tomllib.loads(block)]
    (tmp_path / "own.toml").write_text(written)
    plugins = load_plugins()
    protocol = load_file(tmp_path / "own.toml", plugins.tasks, plugins.heads)
    assert protocol.phase("finetune").epochs == 25  # from its base
    assert protocol.layers == (0, 3, -1)
    assert plugins.head("cnn").configure(protocol.head_options["cnn"]).kernel_size == 5


def test_the_protocol_of_its_page_loads(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    (written,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "own.toml").write_text(written)
    plugins = load_plugins()
    protocol = load_file(tmp_path / "own.toml", plugins.tasks, plugins.heads)
    assert protocol.phases == ("pretrain", "top", "whole")
    assert protocol.phase("whole").layer_decay == 0.9


@pytest.mark.slow
def test_the_readme_s_commands_run(tmp_path: Path) -> None:
    """In order, in one folder, as a reader would; a head of one's own among them.

    The one that `make run` runs is small here, since CI runs it at its full size; two others train for fewer epochs.
    """
    by_make = execute(["make", "-n", "run"], ROOT).stdout
    (head, python) = blocks("python")
    (tmp_path / "my_head.py").write_text(head)
    ran = 0
    for line in commands():
        arguments = shlex.split(line)
        if arguments[0] != "benchkit" or "$" in line:
            continue  # `make` and `pip` set up what this test runs in; real data have a test of their own
        if f"bin/{line}\n" in by_make:
            arguments += SMALL
        arguments += next((more for start, more in SHORTER.items() if line.startswith(start)), [])
        done = execute(arguments, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        ran += 1
    assert ran >= 3
    assert "compare" in (tmp_path / "results/runs/my-head/table.md").read_text()
    done = execute([sys.executable, "-c", python], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([2, 128])" in done.stdout


@pytest.mark.real
def test_the_readme_s_real_data_command(real_data: Path, weights: object, tmp_path: Path) -> None:
    (line,) = [each for each in commands() if "$BENCHKIT_DATA" in each]
    weights("all-MiniLM-L6-v2")  # type: ignore[operator]
    done = execute([*shlex.split(os.path.expandvars(line)), "--dry-run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "50 cells" in done.stdout
