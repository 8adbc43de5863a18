"""What ends up in site-packages: built as a user would, without network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path

import pytest

import benchkit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    # A build front end that left its settings in the environment would change what is built.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HATCH_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def _names(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def _sources(folder: str, pattern: str, base: str = "") -> set[str]:
    root = ROOT if folder.startswith("benchkit") else ROOT / (base or folder)
    return {str(path.relative_to(root)) for path in (ROOT / folder).rglob(pattern)}


def test_wheel_holds_the_package_and_the_plugins_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = (
        _sources("benchkit", "*.py")
        | _sources("benchkit", "*.toml")
        | _sources("benchkit", "*.txt")
        | _sources("benchkit", "*.jinja")
        | _sources("benchkit/analysis/templates", "*.html")
        | _sources("benchkit/analysis/templates", "*.css")
        | _sources("benchkit/analysis/templates", "*.js")
        | _sources("plugins", "*.py")
        | _sources("plugins/benchkit_demo", "embedded/*", base="plugins")
        | _sources("plugins", "*.toml")
        | {"benchkit/py.typed"}
    )
    assert _names(wheel) == expected


def test_presets_ship(wheel: zipfile.ZipFile) -> None:
    assert {f"benchkit/core/presets/{name}.toml" for name in ("demo", "paper")} <= _names(wheel)


def test_top_level_names_are_ours(wheel: zipfile.ZipFile) -> None:
    """No `plugins`, `tests` or `docs` may be left behind in somebody's site-packages."""
    tops = {name.partition("/")[0] for name in _names(wheel)}
    assert all(top == "benchkit" or top.startswith("benchkit_") for top in tops), tops


def test_the_embedded_encoder_is_small(wheel: zipfile.ZipFile) -> None:
    found = [each for each in wheel.infolist() if "/embedded/" in each.filename]
    assert {each.filename.rpartition("/")[2] for each in found} >= {"config.json", "model.safetensors", "vocab.txt"}
    assert sum(each.file_size for each in found) < 12e6


def test_every_plugin_is_registered_and_every_entry_point_exists(wheel: zipfile.ZipFile) -> None:
    parser = ConfigParser()
    parser.read_string(_dist_info(wheel, "entry_points.txt").decode())
    assert set(parser["benchkit"].values()) == {path.stem for path in (ROOT / "plugins").glob("benchkit_*")}
    assert dict(parser["console_scripts"]) == {"benchkit": "benchkit.cli:main"}


def test_metadata(wheel: zipfile.ZipFile) -> None:
    metadata = message_from_bytes(_dist_info(wheel, "METADATA"))
    assert metadata["Version"] == benchkit.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert _dist_info(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def _dist_info(wheel: zipfile.ZipFile, name: str) -> bytes:
    return wheel.read(f"benchkit-{benchkit.__version__}.dist-info/{name}")


def test_constraints_pin_every_dependency() -> None:
    """A pin that is forgotten is a number that cannot be made again."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line and not line.startswith("#")}
    assert {re.split(r"[\[>]", one)[0] for one in wanted if not one.startswith("benchkit[")} <= pinned
