"""The author's path as one walks it: a fresh environment, wheels, the commands that were printed, no network."""

from __future__ import annotations

import ast
import os
import shlex
import site
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

import benchkit

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "benchkit-attention-example"
SMALL = [
    *(f"--set={task}.{split}_size=96" for task in ("sst", "quora", "sts") for split in ("train", "dev", "test")),
    "--set=pretrain.epochs=3",
    "--seeds=1",
    "--jobs=1",
]


# Not everything that `heads check` runs as well: torch.compile takes longer than all the rest.
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Fresh:
    """An environment in which only what this file installs is installed, and our dependencies are borrowed."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def pip_install(self, *paths: Path) -> None:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.python),
            "install",
            "-q",
            "--disable-pip-version-check",
        ]
        offline = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", "--no-compile"]
        self.run(self.folder, *pip, *offline, *map(str, paths))

    def benchkit(self, folder: Path, *arguments: str) -> str:
        """The output of the `benchkit` that is installed here."""
        return self.run(folder, str(self.folder / "bin" / "benchkit"), *arguments)

    def run(self, folder: Path, *command: str) -> str:
        hidden = ("PYTHONPATH", "VIRTUAL_ENV", "BENCHKIT_PLUGINS")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"BENCHKIT_CACHE": str(self.folder / "cache")}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """benchkit and the example, as wheels; torch, pytest and the like by a path to where this test found them."""
    found = Fresh(tmp_path_factory.mktemp("fresh"))
    venv.create(found.folder, with_pip=False)
    (packages,) = (found.folder / "lib").glob("python*/site-packages")
    # Ours come first on the path, so the benchkit that is installed here hides the one that runs this test.
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (packages / "borrowed.pth").write_text("\n".join(lines))
    found.pip_install(ROOT, EXAMPLE)
    return found


def test_the_environment_is_what_it_says(fresh: Fresh) -> None:
    where = fresh.run(fresh.folder, str(fresh.python), "-c", "import benchkit; print(benchkit.__file__)")
    assert where.startswith(str(fresh.folder))


@pytest.mark.slow
def test_from_a_name_to_a_row_in_the_table(fresh: Fresh, tmp_path: Path) -> None:
    """New, install, test, check, run: each step is the line that `heads new` printed."""
    said = fresh.benchkit(tmp_path, "heads", "new", "my-idea")
    go, install, test, check, run = (shlex.split(line) for line in said.splitlines() if line.startswith("    "))
    folder = tmp_path / go[1]
    assert (go, install) == (["cd", "benchkit-my-idea"], ["pip", "install", "-e", ".[test]"])
    fresh.pip_install(folder)
    assert test == ["pytest"]
    assert " passed" in fresh.run(folder, str(fresh.python), *PYTEST, "-k", "not compiles")
    assert "my-idea" in fresh.benchkit(folder, *check[1:])
    assert run[:2] == ["benchkit", "run"]
    table = fresh.benchkit(folder, *run[1:], *SMALL)
    rows = [line.split()[0] for line in table.splitlines() if line[:1].isalpha()]
    assert rows.count("my-idea") == rows.count("baseline") >= 4  # three tasks and their mean
    assert "failed" not in table
    assert "diverged" not in table


@pytest.mark.slow
def test_the_example_is_found_checked_and_run(fresh: Fresh, tmp_path: Path) -> None:
    """The commands of its README, but for installing it."""
    text = (EXAMPLE / "README.md").read_text("utf-8")
    lines = [shlex.split(line) for line in text.split("```console\n")[1].split("```")[0].splitlines()]
    assert [line[0] for line in lines] == ["pip", "pytest", "benchkit", "benchkit"]
    fresh.run(EXAMPLE, str(fresh.python), *PYTEST, "-k", "order or shapes")
    assert "attention-example" in fresh.benchkit(tmp_path, *lines[2][1:])
    table = fresh.benchkit(tmp_path, *lines[3][1:], *SMALL)
    assert "attention-example" in table
    assert "failed" not in table
    assert "diverged" not in table


def test_the_example_is_at_most_forty_lines_of_code() -> None:
    source = (EXAMPLE / "benchkit_attention_example.py").read_text("utf-8")
    code = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and not _is_docstring(node)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = source.splitlines()
    written = [lines[number - 1] for number in sorted(code) if lines[number - 1].strip()]
    assert 20 < len(written) <= 40, len(written)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_the_example_and_new_packages_ask_for_a_benchkit_that_has_what_they_use() -> None:
    import tomllib

    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"benchkit>={benchkit.__version__}" in project["dependencies"]
