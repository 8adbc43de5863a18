"""From a folder, or the tasks' own generators, to splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchkit.data.locate import check_folder, find_splits, missing
from benchkit.data.rows import to_split
from benchkit.data.split import Split
from benchkit.data.tables import Table, read_table
from benchkit.errors import UserError
from benchkit.task import SPLITS, Example, TaskSpec

DEMO = "demo"
DEMO_SEED = 0
REQUIRED = ("train", "dev")


def load_data(source: str | Path, tasks: Sequence[TaskSpec]) -> dict[str, dict[str, Split]]:
    """Task -> split -> rows; splits in the order train, dev, test. `source` is a folder or `demo`.

    A task of which the folder has no file is read from its own data, if it has any. Test may be absent or unlabelled.
    A folder named `demo` can be given as `./demo`.

    Raises:
        UserError: folder, train or dev missing; a file that is broken or the wrong one; labels out of range.
    """
    if str(source) == DEMO and not isinstance(source, Path):
        return {task.name: load_demo(task) for task in tasks}
    folder = Path(source)
    check_folder(folder)
    paths = {task.name: find_splits(folder, task) for task in tasks}
    own = {task.name for task in tasks if task.data is not None and not paths[task.name]}
    whole = [name for name, found in paths.items() if name in own or all(split in found for split in REQUIRED)]
    for task in tasks:
        for split in REQUIRED:
            if task.name not in own and split not in paths[task.name]:
                raise missing(folder, task, split, whole)
    return {
        task.name: load_own(task) if task.name in own else load_files(folder, paths[task.name], task) for task in tasks
    }


def present(source: str | Path, tasks: Sequence[TaskSpec]) -> list[str]:
    """Names of the tasks that `source` has something of: a file in the folder, demo data, or data of their own.

    Raises:
        UserError: no such folder, none of the tasks, or one whose splits come from different sets.
    """
    if str(source) == DEMO and not isinstance(source, Path):
        found = [task.name for task in tasks if task.demo or task.data]
    else:
        check_folder(Path(source))
        found = [task.name for task in tasks if find_splits(Path(source), task) or task.data]
    if not found:
        known = ", ".join(task.name for task in tasks) or "none is installed"
        raise UserError(
            f"no data of any task in {source} (tasks: {known}); name one with --tasks to see where it looks"
        )
    return found


def load_files(folder: Path, paths: Mapping[str, Path], task: TaskSpec) -> dict[str, Split]:
    """The splits of one task from files under `folder`."""
    return {
        split: to_split(read_table(path), task, split, path, path.relative_to(folder).as_posix())
        for split, path in paths.items()
    }


def load_demo(task: TaskSpec, seed: int = DEMO_SEED) -> dict[str, Split]:
    """The synthetic splits of one task; its own data where it makes none.

    Raises:
        UserError: the task has neither.
    """
    if task.demo is not None:
        return _made(partial(task.demo, seed), task, DEMO, f"{DEMO}: synthetic, seed {seed}")
    if task.data is not None:
        return load_own(task)
    raise UserError(f"task {task.name!r} has no demo data: leave it out with --tasks, or give a folder with --data")


def load_own(task: TaskSpec) -> dict[str, Split]:
    """The splits that a task's plugin brings.

    Raises:
        UserError: they are not usable, or the plugin failed to make them.
    """
    assert task.data is not None
    return _made(task.data, task, "own", "the task's own data")


def _made(
    make: Callable[[], Mapping[str, Sequence[Example]]], task: TaskSpec, kind: str, source: str
) -> dict[str, Split]:
    """Examples as splits; they pass the checks that files pass."""
    try:
        made = make()
        tables = {split: _table(made[split], task) for split in SPLITS if split in made}
    except UserError:
        raise
    except Exception as error:  # a stranger's plugin may raise anything
        text = " ".join(str(error).split())
        raise UserError(f"{kind} data of task {task.name!r} cannot be made: {type(error).__name__}: {text}") from error
    for split in REQUIRED:
        if split not in tables:
            raise UserError(f"{kind} data of task {task.name!r} has no {split} split: its plugin must make one")
    return {
        split: to_split(table, task, split, Path(kind) / task.name / split, source) for split, table in tables.items()
    }


def _table(examples: Sequence[Example], task: TaskSpec) -> Table:
    rows = [(number, (each.id, *each.texts, each.label)) for number, each in enumerate(examples, start=1)]
    return Table(("id", *task.texts, task.label), list(rows), [], "", "")
