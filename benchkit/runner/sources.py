"""The source files behind a cell's numbers: of benchkit itself, and of a task's loss and metric."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import benchkit
from benchkit.errors import UserError
from benchkit.task import TaskSpec

# Parts of the package whose code can change a number. The rest (command line, tables) may change freely.
_ENGINE = (
    *("blocks.py", "branch.py", "controls.py", "features.py", "head.py", "losses.py", "metrics.py"),
    *("protocol.py", "rng.py", "settings.py", "task.py", "turns.py", "data", "encoder", "store", "train"),
    *("runner/execute.py", "runner/scoring.py", "runner/workspace.py"),
)
_SHORT = 12


def engine_files() -> dict[str, Path]:
    """The package's own files that can change a number, by name, in a fixed order."""
    root = Path(benchkit.__file__).parent
    parts = [root / part for part in _ENGINE]
    files = [file for path in parts for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return {file.relative_to(root).as_posix(): file for file in files}


def engine_source() -> str:
    """Hash of the package's own code that can change a number."""
    digest = hashlib.sha256()
    for name, file in engine_files().items():
        digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def task_files(task: TaskSpec, loss: str) -> dict[str, Path]:
    """The files of a task's loss and metric, by what is in them.

    Raises:
        UserError: one of the two has no source file.
    """
    files = {"loss": _file_of(task.losses[loss], task), "metric": _file_of(task.metric.score, task)}
    return {f"{part} in {file.name}": file for part, file in files.items()}


def task_source(task: TaskSpec, loss: str) -> str:
    """Hash of the source of a task's loss and metric."""
    code = hashlib.sha256()
    for function in (task.losses[loss], task.metric.score):
        code.update(_file_of(function, task).read_bytes())
    return code.hexdigest()


def short_hashes(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(file.read_bytes()).hexdigest()[:_SHORT] for name, file in files.items()}


def _file_of(function: Any, task: TaskSpec) -> Path:
    """The source file of a loss or metric; of what a partial wraps, or of a callable object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    try:
        file = inspect.getsourcefile(function if inspect.isroutine(function) else type(function))
    except TypeError:
        file = None
    if file is None:
        raise UserError(f"task {task.name!r}: {function!r} has no source file, so its results could not be keyed")
    return Path(file)
