"""Head files: what they may import, what is often forgotten in them; and where the output goes to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchkit.cli import cli
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins

HEAD = """
from dataclasses import dataclass
from torch import nn
from benchkit import HeadSpec, hookimpl
from {helper} import SCALE

@dataclass(frozen=True)
class Config:
    pass

class Head(nn.Module):
    def __init__(self, config, hidden, tasks):
        super().__init__()
        self.outs = nn.ModuleDict({{task.name: nn.Linear(hidden * task.segments, task.out) for task in tasks}})

    def forward(self, features, task):
        return SCALE * self.outs[task](features.pooled.flatten(1))

{mark}
def benchkit_heads():
    return [HeadSpec("beside", "Scaled.", Head, Config, trunk="")]
"""


def test_modules_beside_a_head_file_are_found_and_part_of_its_key(tmp_path: Path) -> None:
    (tmp_path / "head.py").write_text(HEAD.format(helper="scales_beside", mark="@hookimpl"))
    (tmp_path / "scales_beside.py").write_text("from parts_beside.one import SCALE\n")
    (tmp_path / "unused_beside.py").write_text("SCALE = 3\n")
    (tmp_path / "parts_beside").mkdir()
    (tmp_path / "parts_beside" / "__init__.py").touch()
    (tmp_path / "parts_beside" / "one.py").write_text("SCALE = 2\n")
    path = list(sys.path)
    spec = load_plugins([tmp_path / "head.py"]).head("beside")
    assert sys.path == path
    assert set(spec.files()) == {"head.py", "scales_beside.py", "parts_beside/__init__.py", "parts_beside/one.py"}
    before = spec.source()
    (tmp_path / "parts_beside" / "one.py").write_text("SCALE = 2.5\n")
    assert spec.source() != before


def test_a_module_beside_that_python_would_not_import_is_refused(tmp_path: Path) -> None:
    (tmp_path / "head.py").write_text(HEAD.format(helper="json", mark="@hookimpl"))
    (tmp_path / "json.py").write_text("SCALE = 2\n")
    with pytest.raises(UserError, match="imports json, which is beside it"):
        load_plugins([tmp_path / "head.py"])


def test_what_is_often_forgotten_in_a_head_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "head.py").write_text(HEAD.format(helper="math", mark="").replace("SCALE", "pi"))
    with pytest.raises(UserError, match="benchkit_heads is there without @hookimpl"):
        load_plugins([tmp_path / "head.py"])
    (tmp_path / "old.py").write_text("from benchkit.blocks import finish\n")
    with pytest.raises(UserError, match=r"it is now benchkit\.nn\.blocks$"):
        load_plugins([tmp_path / "old.py"])
    (tmp_path / "old.py").write_text("from benchkit.blocks import finish\ndef benchkit_heads(): ...\n")
    with pytest.raises(UserError, match=r"benchkit\.nn\.blocks; and benchkit_heads is there without @hookimpl"):
        load_plugins([tmp_path / "old.py"])


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_output_of_any_encoding(encoding: str) -> None:
    command = [sys.executable, "-c", "from benchkit.cli import main; main()", "heads", "show", "baseline"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=True)
    assert "\n" + "-" * 80 in done.stdout.decode(encoding)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_disk_is_one_line() -> None:
    command = [sys.executable, "-c", "from benchkit.cli import main; main()", "plugins", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_the_list_of_heads_is_as_wide_as_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = CliRunner().invoke(cli, ["heads"]).output.splitlines()
    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > min(columns, 120) - 20
