"""Keys are made of what source code computes: comments and messages rerun nothing, formulas rerun everything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import benchkit
from benchkit.core.source import ENCODING, TRAINING, code_hash, file_hash, package_files

PACKAGE = Path(benchkit.__file__).parent

SOURCE = '''"""What it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STEEPNESS = 20.0
"""How steep."""


def loss(x: Tensor, log: Callable[[str], None]) -> Tensor:
    """Of what is above zero."""
    if (x < 0).any():
        raise ValueError(f"{x} is below zero")  # it cannot be
    log("computing")
    return STEEPNESS * (x + 1).log()
'''


def changed(tmp_path: Path, old: str, new: str) -> bool:
    """Whether the hash changes with an edit."""
    file = tmp_path / "source.py"
    file.write_text(SOURCE)
    before = file_hash(file)
    assert old in SOURCE
    file.write_text(SOURCE.replace(old, new))
    return file_hash(file) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# it cannot be", "# unless it is negative"),
        ('"""Of what is above zero."""', '"""The logarithm."""'),
        ('"""What it is."""\n', ""),
        ('"""How steep."""', '"""Su\'s 20."""'),
        ("\n\n\ndef", "\ndef"),
        ('f"{x} is below zero"', 'f"negative: {x}"'),
        ('log("computing")', 'log("computing the loss")'),
        ("    from torch import Tensor", "    from torch import Tensor, nn"),
        ("STEEPNESS * (x + 1).log()", "(\n        STEEPNESS\n        * (x + 1).log()\n    )"),
    ],
)
def test_what_cannot_change_a_number_changes_no_hash(tmp_path: Path, old: str, new: str) -> None:
    assert not changed(tmp_path, old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("20.0", "10.0"),
        ("(x + 1).log()", "(x + 2).log()"),
        ("x < 0", "x <= 0"),
        ("ValueError", "TypeError"),
        ("STEEPNESS *", "STEEPNESS +"),
    ],
)
def test_a_formula_changes_it(tmp_path: Path, old: str, new: str) -> None:
    assert changed(tmp_path, old, new)


EDITS: dict[str, Callable[[str], str]] = {
    "comment": lambda text: text + "\n# a remark\n",
    "docstring": lambda text: text.replace('"""', '"""In other words: ', 1),
    "formula": lambda text: text + "\n_ADDED = 1 + 1\n",
}


@pytest.mark.parametrize("names", [ENCODING, TRAINING], ids=["features", "cells"])
def test_edits_of_the_package(tmp_path: Path, names: tuple[str, ...]) -> None:
    """In a copy: a comment and a docstring in any numeric module rerun no cell, a formula in any one reruns all."""
    copy = tmp_path / "benchkit"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_hash(package_files(names))
    assert code_hash(package_files(names, copy)) == before
    for name in names:
        text = (copy / name).read_text()
        for edit, change in EDITS.items():
            (copy / name).write_text(change(text))
            assert (code_hash(package_files(names, copy)) != before) == (edit == "formula"), (name, edit)
        (copy / name).write_text(text)


def test_a_listing_is_no_part_of_it() -> None:
    """What prints, reads files or counts FLOPs may change freely."""
    assert set(ENCODING) <= set(TRAINING)
    assert not any(name.startswith(("analysis", "cli", "data", "inspect", "tuning")) for name in TRAINING)
