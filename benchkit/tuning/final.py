"""The best config against the default, on fresh seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchkit.analysis.statistics import Difference, Paired, paired_differences
from benchkit.core.errors import UserError
from benchkit.core.plugins import Plugins, load_plugins
from benchkit.core.protocol import Protocol
from benchkit.core.record import Record
from benchkit.core.settings import plain
from benchkit.core.task import TaskSpec
from benchkit.experiment.config import Request
from benchkit.experiment.executors import LocalProcesses
from benchkit.experiment.run_cell import Emit
from benchkit.experiment.session import Session
from benchkit.experiment.workspace import Workspace
from benchkit.store.cells import CellStore
from benchkit.store.files import cache_root, write_atomic
from benchkit.tuning.storage import Storage, absolute, open_storage
from benchkit.tuning.study import Study, StudyConfig, Trial, best, check_name, read_config
from benchkit.tuning.trial import apply_params, configure, with_config

if TYPE_CHECKING:
    import pandas as pd


def write_toml(protocol: Protocol, comments: tuple[str, ...] = ()) -> str:
    """Every field of a protocol, its name excepted, which is that of the file; `comments` come first."""
    values = plain(protocol)
    del values["name"]
    tables: dict[str, Mapping[str, Any]] = {}
    for name in [name for name, value in values.items() if isinstance(value, Mapping)]:
        table = values.pop(name)
        grouped = all(isinstance(value, Mapping) for value in table.values())  # the options of all tasks, say
        tables |= table if grouped else {name: table}
    lines = [f"# {line}" for line in comments]
    lines += [f"{name} = {_value(value)}" for name, value in values.items()]
    for name, fields in tables.items():
        lines += ["", f"[{name}]", *(f"{field} = {_value(value)}" for field, value in fields.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    if value is None:  # TOML has no null; an optional field reads this as none
        return '"none"'
    assert not isinstance(value, Mapping)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


DEFAULT, BEST = "default", "best"


@dataclass(frozen=True)
class FinalComparison:
    """The default config against the best one.

    Attributes:
        split: `test`, or `dev` where no task has a labelled test; dev has chosen the best config, so it flatters it.
        metrics: by task.
        differences: by task, and "mean"; empty where a cell has no numbers.
        records: by `default` and `best`, a record a seed.
    """

    head: str
    split: str
    seeds: tuple[int, ...]
    metrics: dict[str, str]
    differences: dict[str, Difference]
    records: dict[str, tuple[Record, ...]]

    def faults(self) -> list[str]:
        return [
            f"{which} config, seed {record.seed}: {record.status}: {record.error}"
            for which, records in self.records.items()
            for record in records
            if record.status != "ok"
        ]


def fresh_seeds(count: int) -> tuple[int, ...]:
    """Seeds that no trial was trained with: all of them use 0."""
    return tuple(range(1, count + 1))


def write_protocols(folder: Path, config: StudyConfig, best: Trial, workspace: Workspace) -> None:
    """`default.toml` and `best.toml`, each all that `benchkit run --protocol` needs."""
    start = configure(config, config.space.default(), workspace).protocol
    write_protocol(folder / f"{DEFAULT}.toml", config, start, f"What study {config.name!r} started from.")
    comment = f"Trial {best.number} of study {config.name!r}: dev {config.objective.name} {best.values[0]:.4f}."
    write_protocol(folder / f"{BEST}.toml", config, trial_protocol(config, best, workspace), comment)


def write_protocol(path: Path, config: StudyConfig, protocol: Protocol, comment: str) -> None:
    cell = config.cell
    own = replace(protocol, encoder=config.encoder, data=config.data, heads=(cell.head,))
    files = "".join(f" --head-file {Path(file).name}" for file in cell.head_files)
    again = f'benchkit run --protocol {path.name}{files} --seeds "{cell.seed}," trains it as the trial was.'
    write_atomic(path, write_toml(own, (comment, again)).encode())


def trial_protocol(config: StudyConfig, trial: Trial, workspace: Workspace) -> Protocol:
    """The protocol of a trial, its head's config spelt out."""
    return with_config(apply_params(config.cell, trial.params, workspace), config.head, trial.config)


def retrain(folder: Path, request: Request, plugins: Plugins, emit: Emit) -> FinalComparison:
    """Train `default.toml` and `best.toml` of a folder with the request's seeds, in fresh processes, and compare.

    Finished cells are reused; with another `out` everything is trained again, to the same numbers.

    Raises:
        UserError: a protocol is missing, or what it names cannot be used.
    """
    records, session = {}, None
    for name in (DEFAULT, BEST):
        session = Session.open(replace(request, protocol=folder / f"{name}.toml"), plugins, emit)
        executor = LocalProcesses(session.workspace, session.plan.jobs)
        records[name] = session.run(emit, executor).records
    assert session is not None
    tasks = session.workspace.tasks(session.plan.protocol)
    return compare(records, session.store, tasks)


def compare(records: dict[str, tuple[Record, ...]], store: CellStore, tasks: Sequence[TaskSpec]) -> FinalComparison:
    """The paired test on the last phase's predictions, over the tasks that have labels on test."""
    start, best = records[DEFAULT], records[BEST]
    usable = all(record.status in ("ok", "collapsed") for record in (*start, *best))
    split, pairs = "test", {}
    if usable:
        a, b = ([store.predictions(record.key) for record in side] for side in (start, best))
        pairs = {task.name: pair for task in tasks if (pair := _pair(a, b, task, "test"))}
        if not pairs:
            split, pairs = "dev", {task.name: pair for task in tasks if (pair := _pair(a, b, task, "dev"))}
    return FinalComparison(
        head=start[0].head,
        split=split,
        seeds=tuple(record.seed for record in start),
        metrics={task.name: task.metric.name for task in tasks},
        differences=paired_differences(pairs) if pairs else {},
        records=records,
    )


def _pair(a: Sequence[pd.DataFrame], b: Sequence[pd.DataFrame], task: TaskSpec, split: str) -> Paired | None:
    """A task's predictions side by side; None if the split is unlabelled."""

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame["task"] == task.name) & (frame["split"] == split)]

    first = rows(a[0])
    if not len(first) or first["label"].isna().any():
        return None
    sides = []
    for side in (a, b):
        found = [rows(frame) for frame in side]
        if any(list(each["id"]) != list(first["id"]) for each in found):
            raise UserError(f"predictions of {task.name} {split} are not for the same examples: run it again")
        sides.append(np.stack([each["prediction"].to_numpy(float) for each in found]))
    return Paired(first["label"].to_numpy(float), sides[0], sides[1], task.metric.score)


_TUNED = Path("results/tune")
_AS_GIVEN = ("device", "threads", "feature_cache", "keep_encoder", "encoder_dtype", "cuda_graph", "compiled")


def run_again(
    name: str, url: str, seeds: Sequence[int], options: Mapping[str, Any], emit: Emit
) -> tuple[FinalComparison, Path]:
    """Train the best config of a study and its default, and compare them.

    Args:
        url: of the storage; "" looks into the journals under `results/tune`.
        seeds: by default those that `benchkit tune` takes.
        options: of `benchkit run`: where and how to run, and where data and encoder are.

    Returns:
        The comparison, and the folder with its cells.

    Raises:
        UserError: there is no such study, or no trial of it is complete.
    """
    storage, folder = _find(check_name(name), url)
    with closing(storage):
        config = read_config(storage, name)
        found = best(Study(config, storage).trials())
    if found is None:
        raise UserError(f"study {name!r} has no complete trial: go on with benchkit tune --study {name}")
    files = tuple(options["head_files"]) or tuple(map(Path, config.cell.head_files))
    plugins = load_plugins(files)
    workspace = Workspace(plugins, cache_root(), lambda line: emit({"event": "log", "line": line}))
    out = options["out"] or folder / name / "final"
    write_protocols(out, config, found, workspace)
    request = Request(
        head_files=files,
        seeds=tuple(seeds) or fresh_seeds(3),
        data=options["data"] or "",
        encoder=options["encoder"] or "",
        out=out,
        jobs=options["jobs"] or 0,
        **{each: options[each] for each in _AS_GIVEN},
    )
    return retrain(out, request, plugins, emit), out


def _find(name: str, url: str) -> tuple[Storage, Path]:
    """The storage of a study, and the folder that its results belong in."""
    if url:
        return open_storage(absolute(url), create=False), _TUNED / "from-study"
    found = []
    for path in sorted(_TUNED.glob("*/studies.journal")):
        storage = open_storage(f"journal:{path}", create=False)
        if _has(storage, name):
            found.append((storage, path.parent))
    if not found:
        raise UserError(f"no study {name!r} in the journals under {_TUNED}: say where it is with --storage")
    if len(found) > 1:
        places = ", ".join(f"journal:{folder / 'studies.journal'}" for _, folder in found)
        raise UserError(f"study {name!r} is in several journals: choose one with --storage, of {places}")
    return found[0]


def _has(storage: Storage, name: str) -> bool:
    import optuna

    return name in optuna.get_all_study_names(storage.optuna)
