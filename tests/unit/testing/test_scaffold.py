"""`benchkit heads new`: what it refuses, and that it leaves nothing behind. The whole path is in test_author.py."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from string import Template

import pytest
from click.testing import CliRunner

import benchkit
from benchkit.cli import cli
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.testing import scaffold
from benchkit.testing.scaffold import LAYOUT, Names, check_name, write_package

FOLDER = Path(scaffold.__file__).parent / "templates"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "letters"),
        ("MyHead", "'my-head' would do"),
        ("my_head", "'my-head' would do"),
        ("my head", "'my-head' would do"),
        ("-mine", "'mine' would do"),
        ("3cnn", "a letter first"),
        ("../up", "'up' would do"),
        ("ünder", "letters"),
        ("benchkit-mine", "name the head alone"),
        ("pretrain", "has a meaning"),
        ("cnn", "'cnn' is taken by an installed plugin"),
        ("sst", "'sst' is taken"),
        ("demo", "'demo' is taken"),
        ("cs224n", "'cs224n' is taken"),
    ],
)
def test_a_name_that_cannot_be_is_refused_in_one_line(name: str, message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["heads", "new", "--dir", str(tmp_path), "--", name])
    assert isinstance(done.exception, UserError)  # the main command prints it and exits with 2
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x", "my-head", "none", "class", "head", "a1-b2", "my-head-2"])
def test_a_package_is_whole_and_loads(name: str, tmp_path: Path) -> None:
    place = write_package(check_name(name, ()), tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [f"benchkit-{name}"]
    written = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    names = Names(name)
    assert written == {Template(target).substitute(names.values()) for target in LAYOUT.values()}
    plugins = load_plugins([place / f"{names.module}.py"])
    assert plugins.head(name).configure({"width": "32"}).width == 32
    compile((place / "tests" / f"test_{names.module}.py").read_text(), "test", "exec")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_modes_are_those_that_the_umask_says(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        place = write_package(Names("my-head"), tmp_path)
    finally:
        os.umask(before)
    for path in (place, *place.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_the_project_file(tmp_path: Path) -> None:
    place = write_package(Names("my-head"), tmp_path)
    written = tomllib.loads((place / "pyproject.toml").read_text())
    project = written["project"]
    assert project["name"] == "benchkit-my-head"
    assert project["entry-points"] == {"benchkit": {"my-head": "benchkit_my_head"}}
    assert f"benchkit>={benchkit.__version__}" in project["dependencies"]
    ours = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert written["build-system"] == ours["build-system"]
    assert ours["project"]["requires-python"].startswith(project["requires-python"])
    assert "${{ matrix.python }}" in (place / ".github/workflows/ci.yml").read_text()


def test_every_template_is_used_and_filled(tmp_path: Path) -> None:
    assert {path.name for path in FOLDER.glob("*.txt")} == set(LAYOUT)
    place = write_package(Names("my-head"), tmp_path)
    for path in place.rglob("*"):
        if path.is_file():
            assert "$" not in path.read_text().replace("${{", ""), path.name


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    place = write_package(Names("mine"), tmp_path)
    (place / "benchkit_mine.py").write_text("work of weeks")
    with pytest.raises(UserError, match="exists already"):
        write_package(Names("mine"), tmp_path)
    assert (place / "benchkit_mine.py").read_text() == "work of weeks"
    with pytest.raises(UserError, match=r"no folder .*nowhere: create it"):
        write_package(Names("other"), tmp_path / "nowhere")


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that is not there stands for a disk that is full half-way."""
    monkeypatch.setitem(LAYOUT, "gone.txt", "gone")
    with pytest.raises(UserError, match=r"cannot write .*benchkit-mine"):
        write_package(Names("mine"), tmp_path)
    assert list(tmp_path.iterdir()) == []
