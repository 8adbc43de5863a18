"""Which file of a folder holds which split of a task."""

from __future__ import annotations

from pathlib import Path

from benchkit.data.tables import format_of
from benchkit.errors import UserError
from benchkit.task import SPLITS, TaskSpec

NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        UserError: no such folder.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"data folder {folder} {what}: give the folder that holds the tasks' files, or `hub` or `demo`")


def find_splits(folder: Path, task: TaskSpec) -> dict[str, Path]:
    """The splits that are there: of the task's patterns the first that fits, of a split's names the first.

    Raises:
        UserError: the splits come from different sets, such as `sts/train.tsv.gz` and `STS-B/dev.tsv`. The sets
            cut the same pairs differently, so that train and test would overlap.
    """
    found = {split: path for split in SPLITS if (path := _find(folder, task, split))}
    sets: dict[tuple[Path, str], list[Path]] = {}
    for path in found.values():
        sets.setdefault((path.parent, format_of(path)), []).append(path)
    if len(sets) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found.values())
        raise UserError(f"the splits of {task.name} in {folder} come from different sets ({names}): keep one set")
    return found


def _find(folder: Path, task: TaskSpec, split: str) -> Path | None:
    candidates = (folder / pattern.format(split=name) for pattern in task.files for name in NAMES[split])
    return next((path for path in candidates if path.is_file()), None)


def missing(folder: Path, task: TaskSpec, split: str, others: list[str]) -> UserError:
    """The error for a split that is not there; `others` are the tasks that are whole."""
    if not task.files:
        return UserError(f"task {task.name!r} is read from no folder: leave it out with --tasks, or use --data demo")
    looked = [pattern.format(split=NAMES[split][0]) for pattern in task.files]
    more = f" and {len(looked) - 3} other names" if len(looked) > 3 else ""
    nested = _nested(folder, task, split)
    if nested:
        way_out = f"did you mean {nested}?"
    elif others:
        way_out = f"add it, or leave the task out with --tasks {','.join(others)}"
    else:
        way_out = "add it, or choose the tasks that are there with --tasks"
    return UserError(
        f"no {split} split of {task.name} in {folder}: looked for {', '.join(looked[:3])}{more}; {way_out}"
    )


def _nested(folder: Path, task: TaskSpec, split: str) -> Path | None:
    """A folder next inside that has the split: the user named its parent."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return next((path for path in inside if _find(path, task, split)), None)
