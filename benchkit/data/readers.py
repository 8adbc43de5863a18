"""From a data folder to splits: where a task's file is, its columns and its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from benchkit.core.errors import UserError, one_line
from benchkit.core.task import SPLITS, Example, TaskSpec
from benchkit.data.splits import BrokenRow, Split, content_sha256
from benchkit.data.tables import STATE, Table, format_of, read_table

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
    """A file, the first of several Parquet files, or a folder that `datasets.save_to_disk` wrote."""
    for pattern in task.files:
        for name in NAMES[split]:
            path = folder / pattern.format(split=name)
            if path.is_file():
                return path
            if path.suffix == ".parquet":
                if (saved := path.with_suffix("") / STATE).is_file():
                    return saved.parent
                shards = sorted(path.parent.glob(f"{escape(path.stem)}-00000-of-[0-9][0-9][0-9][0-9][0-9].parquet"))
                if len(shards) > 1:
                    raise UserError(f"{shards[0]} and {shards[1].name} are two versions of one split: keep one")
                if shards:
                    return shards[0]
    return None


def missing(folder: Path, task: TaskSpec, split: str, others: list[str]) -> UserError:
    """The error for a split that is not there; `others` are the tasks that are whole."""
    if not task.files:
        return UserError(f"task {task.name!r} is read from no folder: leave it out with --tasks, or use --data demo")
    looked = [pattern.format(split=NAMES[split][0]) for pattern in task.files]
    more = f" and {len(looked) - 3} other names" if len(looked) > 3 else ""
    nested = _nested(folder, task, split)
    if any((folder / name).is_file() for name in (STATE, "dataset_dict.json")):
        way_out = f"it is one that datasets.save_to_disk wrote: move it to {folder / task.name}, with a folder a split"
    elif nested:
        way_out = f"did you mean {nested}?"
    elif others:
        way_out = f"add it, or leave the task out with --tasks {','.join(others)}"
    else:
        way_out = "add it, or choose the tasks that are there with --tasks"
    return UserError(
        f"no {split} split of {task.name} in {folder}: looked for {', '.join(looked[:3])}{more}; "
        f"there {_listing(folder, task)}; {way_out}"
    )


def _listing(folder: Path, task: TaskSpec) -> str:
    """What a folder holds, in the task's folder if there is one."""
    inner = next((path for name in (task.name, *task.files) if (path := folder / name.split("/")[0]).is_dir()), folder)
    names = sorted(path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in inner.iterdir())
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{'are' if len(names) > 1 else 'is'} {', '.join(names[:5]) or 'nothing'}{more}"


def _nested(folder: Path, task: TaskSpec, split: str) -> Path | None:
    """A folder next inside that has the split: the user named its parent."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return next((path for path in inside if _find(path, task, split)), None)


Aliases = Mapping[str, Sequence[str]]
"""Other names of a column, by its name."""
ID_NAMES = ("id", "idx", "index")
HANDFUL = 5
"""Broken rows that are left out of any file; a file with more than 1 % as well as more than these is wrong."""


class BadRow(Exception):
    """Why a row is left out."""


def to_split(table: Table, task: TaskSpec, split: str, path: Path, name: str) -> Split:
    """The usable rows of a table.

    Args:
        path: the file, for errors; `name` is what records call it.

    Raises:
        UserError: a column is missing, a label is out of range, or too many rows are broken.
    """
    columns = [column.strip() for column in table.columns]
    texts = [require_column(table, each, task.aliases, path) for each in task.texts]
    label = _label_column(table, task, split, path)
    number = id_column(table, task.aliases)

    rows: list[tuple[str, tuple[str, ...], float]] = []
    broken = [BrokenRow(name, line, reason) for line, reason in table.bad]
    for line, cells in table.rows:
        try:
            row = texts_of(cells, texts, task.texts)
            value = math.nan if label is None else _label(cells[label], task, path, line)
            given = "" if number is None or cells[number] is None else _whole(str(cells[number]).strip(), "id")
        except BadRow as bad:
            broken.append(BrokenRow(name, line, str(bad)))
            continue
        rows.append((given or str(line), row, value))
    broken.sort(key=lambda each: each.line)
    _check_broken(broken, len(rows), path)

    ids, repeated = _distinct([row[0] for row in rows])
    labels = np.array([row[2] for row in rows], dtype=np.float64)
    split_texts = tuple(row[1] for row in rows)
    labels_from = "unlabelled" if label is None else f"label from {columns[label]}"
    read_from = ", ".join(columns[each] for each in texts)
    return Split(
        task=task.name,
        name=split,
        ids=ids,
        texts=split_texts,
        labels=labels,
        source=f"{name} ({table.dialect}; texts from {read_from}; {labels_from})" if table.dialect else name,
        sha256=table.sha256 or content_sha256(ids, split_texts, labels),
        broken=tuple(broken),
        repeated_ids=repeated,
    )


def find_columns(table: Table, names: Sequence[str]) -> list[int]:
    """The columns of the first of the names that is there, as it is written or else in any case."""
    for fold in (str.strip, lambda name: name.strip().lower()):
        for name in names:
            if found := [at for at, column in enumerate(table.columns) if fold(column) == fold(name)]:
                return found
    return []


def id_column(table: Table, aliases: Aliases) -> int | None:
    """The column of ids; None where there is none."""
    return next(iter(find_columns(table, (*aliases.get("id", ()), *ID_NAMES))), None)


def require_column(table: Table, wanted: str, aliases: Aliases, path: Path) -> int:
    """The index of the column `wanted`, or of the first of its other names that is present. Case does not matter.

    Raises:
        UserError: there is no such column, or several.
    """
    names = (wanted, *aliases.get(wanted, ()))
    found = find_columns(table, names)
    if len(found) > 1:
        raise UserError(f"{path} has {len(found)} columns named {table.columns[found[0]].strip()!r}: keep one")
    if found:
        return found[0]
    named = [column if len(column) <= 30 else column[:29] + "…" for each in table.columns if (column := each.strip())]
    near = next((match[0] for name in names if (match := get_close_matches(name, named, n=1))), None)
    first = [cells for _, cells in table.rows[:100]]
    nested = next(
        (name for at, name in enumerate(table.columns) if any(isinstance(row[at], dict | list) for row in first)), None
    )
    hint = "; is there a header row?" if table.dialect.startswith(("TSV", "CSV")) else ""
    if nested is not None:
        hint = f"; {nested!r} holds lists or structures: make columns of what is in them"
    elif near:
        hint = f"; did you mean {near!r}? Rename it"
    other = f" (or {', '.join(names[1:])})" if names[1:] else ""
    there = ", ".join(named[:10]) + (f" and {len(named) - 10} more" if len(named) > 10 else "")
    raise UserError(f"{path} has no column {wanted!r}{other}, only {there or 'unnamed ones'}{hint}")


def _label_column(table: Table, task: TaskSpec, split: str, path: Path) -> int | None:
    """The label's column; None for a test split without labels."""
    if split == "test":
        found = find_columns(table, (task.label, *task.aliases.get(task.label, ())))
        if not found or all(_is_blank(cells[found[0]], task) for _, cells in table.rows):
            return None
    return require_column(table, task.label, task.aliases, path)


def _is_blank(value: Any, task: TaskSpec) -> bool:
    """Whether a test label says "none": empty, or -1 as in Hugging Face's GLUE, where -1 is no label of the task."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return True
    low = 0 if task.classes else task.low
    return low > -1 and str(value).strip() in ("-1", "-1.0")


def texts_of(cells: Sequence[Any], columns: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    """The texts in some columns of a row, stripped.

    Raises:
        BadRow: one is empty or no text.
    """
    found = []
    for name, column in zip(names, columns, strict=True):
        value = cells[column]
        if value is None or (isinstance(value, str) and not (value := value.strip())):
            raise BadRow(f"empty {name}")
        if not isinstance(value, str):
            raise BadRow(f"{name} is not text but {value!r:.60}")
        found.append(_whole(value, name))
    return tuple(found)


def _whole(text: str, name: str) -> str:
    """The text, unless there is half of a character in it: that can be neither stored nor tokenized."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name} holds half of a character (a lone surrogate)") from None
    return text


def _label(value: Any, task: TaskSpec, path: Path, line: int) -> float:
    """A class index, given as such or by name, or a score."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow("label missing")
    if isinstance(value, str) and value.strip() in task.classes:
        return float(task.classes.index(value.strip()))
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        number = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        raise BadRow(f"label {value!r:.60} is not a number") from None
    if math.isnan(number):
        raise BadRow("label missing (NaN)")
    low, high = (0, len(task.classes) - 1) if task.classes else (task.low, task.high)
    if not low <= number <= high or (task.classes and not number.is_integer()):
        kind = f"a class from {low} to {high}" if task.classes else f"a score from {low:g} to {high:g}"
        raise UserError(
            f"{path}:{line}: label {value!s:.30} out of range: {task.name} takes {kind}; is this the right file?"
        )
    return number


def _check_broken(broken: Sequence[BrokenRow], usable: int, path: Path) -> None:
    if not broken and not usable:
        raise UserError(f"{path} has a header and no rows: is the file whole?")
    total = usable + len(broken)
    if not usable or (len(broken) > HANDFUL and len(broken) * 100 > total):
        first = f"the first in line {broken[0].line}: {broken[0].reason}"
        raise UserError(f"{path}: {len(broken)} of {total} rows are broken, {first}; is this the right file?")


def _distinct(ids: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Ids with a suffix on the second and later occurrence, and how many got one; predictions are paired by id."""
    if len(set(ids)) == len(ids):
        return tuple(ids), 0
    taken, seen, result, repeated = set(ids), set[str](), [], 0
    for each in ids:
        name, count = each, 2
        while name in seen or (name != each and name in taken):
            name, count = f"{each}#{count}", count + 1
        repeated += name != each
        seen.add(name)
        result.append(name)
    return tuple(result), repeated


DEMO = "demo"
DEMO_SEED = 0
REQUIRED = ("train", "dev")


def load_data(
    source: str | Path, tasks: Sequence[TaskSpec], problems: list[str] | None = None
) -> dict[str, dict[str, Split]]:
    """Task -> split -> rows; splits in the order train, dev, test. `source` is a folder or `demo`.

    A task of which the folder has no file is read from its own data, if it has any. Test may be absent or unlabelled.
    A folder named `demo` can be given as `./demo`.

    Args:
        problems: gets a line for each train or dev split that is missing, which is then no error unless all are.

    Raises:
        UserError: folder, train or dev missing; a file that is broken or the wrong one; labels out of range.
    """
    if source == DEMO:
        return {task.name: load_demo(task) for task in tasks}
    folder = Path(source)
    check_folder(folder)
    paths = {task.name: find_splits(folder, task) for task in tasks}
    own = {task.name for task in tasks if task.data is not None and not paths[task.name]}
    whole = [name for name, found in paths.items() if name in own or found.keys() >= set(REQUIRED)]
    absent = [
        missing(folder, task, split, whole)
        for task in tasks
        for split in REQUIRED
        if task.name not in own and split not in paths[task.name]
    ]
    if absent and (problems is None or not (own or any(paths.values()))):
        raise absent[0]
    if problems is not None:
        problems += map(str, absent)
    return {
        task.name: load_own(task) if task.name in own else load_files(folder, paths[task.name], task) for task in tasks
    }


def present(source: str | Path, tasks: Sequence[TaskSpec]) -> list[str]:
    """Names of the tasks that `source` has something of: a file in the folder, demo data, or data of their own.

    Raises:
        UserError: no such folder, none of the tasks, or one whose splits come from different sets.
    """
    if source == DEMO:
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
        raise UserError(f"{kind} data of task {task.name!r} cannot be made: {one_line(error)}") from error
    for split in REQUIRED:
        if split not in tables:
            raise UserError(f"{kind} data of task {task.name!r} has no {split} split: its plugin must make one")
    return {
        split: to_split(table, task, split, Path(kind) / task.name / split, source) for split, table in tables.items()
    }


def _table(examples: Sequence[Example], task: TaskSpec) -> Table:
    rows = [(number, (each.id, *each.texts, each.label)) for number, each in enumerate(examples, start=1)]
    return Table(("id", *task.texts, task.label), list(rows), [], "", "")
