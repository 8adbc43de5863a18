"""Results: the records of one or several runs as one table of scores."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchkit.analysis.statistics import Paired, Spread, spread
from benchkit.analysis.tables import group_seeds, name_seeds
from benchkit.analysis.variants import FoundCell, check_comparable, name_variants, newest, protocol_fields
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.core.record import Record
from benchkit.core.task import SPLITS
from benchkit.data import Split, load_data, subsample
from benchkit.experiment.companions import CONTROLS, RANDOM_ENCODER, SHUFFLED_LABELS, controls, folder_of
from benchkit.store.cells import CellStore

if TYPE_CHECKING:
    import pandas as pd

    from benchkit.core.record import Status
    from benchkit.core.task import TaskSpec
    from benchkit.experiment.companions import Control

Log = Callable[[str], None]

MEAN = "mean"
"""The name that the mean over tasks has in place of a task."""

COUNTED = ("ok", "collapsed")
"""Statuses whose numbers count: a collapsed head is a result, those of training that diverged are chance."""

Seeds = Mapping[int, float]
"""One number a seed."""


@dataclass(frozen=True)
class Fault:
    """A cell that is not `ok`.

    Attributes:
        phases: those it spoils, in order: the phase it happened in and all that should have followed.
        reason: one line.
    """

    head: str
    seed: int
    status: Status
    phases: tuple[str, ...]
    reason: str

    @property
    def counts(self) -> bool:
        """Whether the numbers of the spoilt phases are in the means all the same. A collapsed head is a
        result; numbers of training that diverged depend on when it was stopped.
        """
        return self.status == "collapsed"


@dataclass(frozen=True)
class Results:
    """All that a table needs, in the order it is shown in.

    Attributes:
        metrics: name of the metric, by task.
        values: by (head, phase, task, split): the numbers that count.
        train_seconds: by (head, phase): of each seed that counts, in the order of the records.
        parameters: of a head, by head.
        events: (head, seed, what happened on the way).
        trained_controls: the same heads trained as controls, by kind: `shuffled labels`, `random encoder`.
    """

    heads: tuple[str, ...]
    phases: tuple[str, ...]
    metrics: Mapping[str, str]
    values: Mapping[tuple[str, str, str, str], Seeds]
    train_seconds: Mapping[tuple[str, str], Sequence[float]]
    parameters: Mapping[str, int]
    controls: Sequence[Control]
    faults: Sequence[Fault]
    events: Sequence[tuple[str, int, str]]
    trained_controls: Mapping[str, Results] = field(default_factory=dict)

    def seeds(self, head: str, phase: str, task: str, split: str) -> Seeds:
        """A number a seed; for the mean over tasks, of the seeds where every task has one."""
        if task != MEAN:
            return self.values.get((head, phase, task, split), {})
        columns = [self.seeds(head, phase, each, split) for each in self.metrics]
        common = [seed for seed in columns[0] if all(seed in column for column in columns)] if columns else []
        return {seed: sum(column[seed] for column in columns) / len(columns) for seed in common}

    def over(self, head: str, phase: str, task: str, split: str) -> Spread:
        """Mean and spread of `seeds`."""
        return spread(self.seeds(head, phase, task, split).values())

    def gap(self, head: str, phase: str, task: str, split: str) -> Seeds:
        """Train minus `split`, seed by seed."""
        train, other = self.seeds(head, phase, task, "train"), self.seeds(head, phase, task, split)
        return {seed: train[seed] - other[seed] for seed in train if seed in other}

    def splits(self, phase: str, task: str) -> list[str]:
        """The splits of a task (or of all, for the mean) that any head was scored on in a phase. If every
        head failed, those with a control, and if there is none, all.
        """
        if task == MEAN:
            each = [self.splits(phase, one) for one in self.metrics]
            return [split for split in SPLITS if each and all(split in one for one in each)]
        scored = {key[3] for key, seeds in self.values.items() if key[1:3] == (phase, task) and seeds}
        scored = scored or {control.split for control in self.controls if control.task == task} or set(SPLITS)
        return [split for split in SPLITS if split in scored]

    def title(self, task: str) -> str:
        """A task in a table's corner: `sst · accuracy`, `mean of tasks`."""
        return "mean of tasks" if task == MEAN else f"{task} · {self.metrics[task]}"

    def judged(self, phase: str, task: str) -> str:
        """The split that heads are compared on: test, or dev where test has no labels."""
        return "test" if "test" in self.splits(phase, task) else "dev"

    def control(self, task: str, split: str) -> float | None:
        """What a constant prediction scores; for the mean, the mean over tasks if every task has one."""
        known = {each.task: each.value for each in self.controls if each.split == split}
        if task != MEAN:
            return known.get(task)
        values = [known[name] for name in self.metrics if name in known]
        return sum(values) / len(values) if values and len(values) == len(self.metrics) else None

    def seconds(self, head: str, phase: str) -> Spread:
        """Training time of a seed."""
        return spread(self.train_seconds.get((head, phase), ()))

    def faults_of(self, head: str, phase: str) -> list[Fault]:
        """The faults of a head that affect a phase."""
        return [fault for fault in self.faults if fault.head == head and phase in fault.phases]


def collect(
    records: Sequence[Record],
    controls: Sequence[Control],
    tasks: Mapping[str, TaskSpec],
    phases: Iterable[str] = (),
    trained_controls: Mapping[str, Sequence[Record]] | None = None,
) -> Results:
    """Arrange finished cells. Heads come in the order of the records, tasks in that of `tasks`.

    Args:
        phases: those that were asked for; by default those that any record has. Without either there is one
            phase without a name, so that a head that failed at once still has its row.
        trained_controls: records of the same heads trained as controls, by kind.

    Raises:
        ValueError: two records are of the same head and seed: these are two comparisons, not one.
    """
    longest = sorted(records, key=lambda record: -len(record.phases))
    phases = tuple(phases) or tuple(dict.fromkeys(phase.name for each in longest for phase in each.phases)) or ("",)
    values: dict[tuple[str, str, str, str], dict[int, float]] = {}
    train_seconds: dict[tuple[str, str], list[float]] = {}
    faults, seen = [], set()
    for record in records:
        if (record.head, record.seed) in seen:
            raise ValueError(f"two records of head {record.head!r} with seed {record.seed} in one comparison")
        seen.add((record.head, record.seed))
        fault = _fault(record, phases)
        faults += [fault] if fault else []
        for result in record.phases:
            if fault and result.name in fault.phases and not fault.counts:
                continue
            train_seconds.setdefault((record.head, result.name), []).append(result.train_seconds)
            for score in result.scores:
                key = (record.head, result.name, score.task, score.split)
                values.setdefault(key, {})[record.seed] = score.value
    return Results(
        heads=tuple(dict.fromkeys(record.head for record in records)),
        phases=phases,
        metrics={name: task.metric.name for name, task in tasks.items()},
        values=values,
        train_seconds=train_seconds,
        parameters={each.head: each.parameters["head"] for each in reversed(records) if "head" in each.parameters},
        controls=controls,
        faults=faults,
        events=[(each.head, each.seed, event) for each in records for result in each.phases for event in result.events],
        trained_controls={name: collect(each, (), tasks, phases) for name, each in (trained_controls or {}).items()},
    )


def _fault(record: Record, phases: Sequence[str]) -> Fault | None:
    """What went wrong with a record. An error that begins with a phase's name belongs to that phase;
    another to the last recorded phase, or where the cell failed, to the first that is missing.
    """
    if record.status == "ok":
        return None
    done = [result.name for result in record.phases if result.name in phases]
    missing = [name for name in phases if name not in done]
    named = [name for name in phases if name and record.error.startswith(name)]
    likely = [*missing[:1], *done[-1:]] if record.status == "failed" else [*done[-1:], *missing[:1]]
    spoilt = phases[phases.index([*named, *likely][0]) :]
    reason = " ".join(record.error.split()) or "no reason given"
    return Fault(record.head, record.seed, record.status, tuple(spoilt), reason)


def describe(faults: Iterable[Fault]) -> str:
    """`failed (seeds 0, 2): out of memory; diverged (seed 1): …`."""
    seeds = group_seeds(((fault.status, fault.reason), fault.seed) for fault in faults)
    return "; ".join(f"{status} ({name_seeds(group)}): {reason}" for (status, reason), group in seeds.items())


def _shared_with_control(record: Record) -> str:
    """What a cell shares with its trained controls: all but data, encoder and the version of the code."""
    return shared_identity(record, ("head", "protocol", "tasks", "seed", "execution"))


def shared_identity(record: Record, parts: Iterable[str]) -> str:
    """These parts of a cell's identity, as a key to find another cell that shares them."""
    return json.dumps([record.identity.get(part) for part in parts], sort_keys=True)


@dataclass(frozen=True)
class Stored:
    """The cells of one or more runs.

    Attributes:
        records: in the order of the heads, then of seeds. `head` is the name that tables show, such as `cnn @ paper`
            where one head was run with several settings.
        folders: of each cell, by its key.
        heads: the head's own name, by the name that tables show.
        tasks: by name, in the order they were trained in.
        notes: what differs between heads of one name, a line each.
    """

    records: tuple[Record, ...]
    folders: Mapping[str, Path]
    heads: Mapping[str, str]
    tasks: Mapping[str, TaskSpec]
    notes: tuple[str, ...]
    log: Log

    @cached_property
    def results(self) -> Results:
        """All numbers, arranged for tables."""
        trained = {}
        for kind in (SHUFFLED_LABELS, RANDOM_ENCODER):
            if cells := self.companions(f"{CONTROLS}/{folder_of(kind)}", _shared_with_control):
                trained[kind] = [each.record for each in cells]
        return collect(self.records, self.controls, self.tasks, trained_controls=trained)

    @cached_property
    def controls(self) -> tuple[Control, ...]:
        """Constant predictions, learnt on train, without their losses, for which torch would be needed; none, with a
        logged line, for a task whose data is not found again.
        """
        return self._constant_predictions(with_loss=False)

    @cached_property
    def controls_with_loss(self) -> tuple[Control, ...]:
        """`controls` with the losses that plots show."""
        return self._constant_predictions(with_loss=True)

    def companions(self, name: str, shared: Callable[[Record], str]) -> list[FoundCell]:
        """Cells of the runs in the folder `name` inside these runs, in the order of `records`, each record with the
        head's name of the cell in the same run with which it has `shared` in common.
        """
        runs = {record.key: self.folders[record.key].parent.parent for record in self.records}
        heads = {(runs[record.key], shared(record)): record.head for record in self.records}
        found: dict[tuple[str, int], FoundCell] = {}
        for run in dict.fromkeys(runs.values()):
            for record, folder in load_cells(run / name / "cells", self.log):
                if head := heads.get((run, shared(record))):
                    found.setdefault((head, record.seed), FoundCell(replace(record, head=head), run, folder))
        order = list(self.heads)
        return [found[key] for key in sorted(found, key=lambda key: (order.index(key[0]), key[1]))]

    def phase_of_predictions(self, record: Record) -> str:
        """The phase whose predictions a cell keeps, its last; "" where it has none."""
        return record.phases[-1].name if record.phases and record.status != "failed" else ""

    def predictions(self, record: Record, phase: str, task: str, split: str) -> pd.DataFrame:
        """What a cell predicted for each example of a split.

        Returns:
            Indexed by the example's id, in the order of the data: `label` (NaN where there is none), `prediction` (a
            class index, or a score in the label range) and `score` (the probability of the predicted class; of a
            regression the prediction). Logits are not kept. Empty where the task has no such split.

        Raises:
            UserError: it is not the cell's last phase, or the file cannot be read.
        """
        if phase != self.phase_of_predictions(record):
            kept = self.phase_of_predictions(record) or "no phase"
            raise UserError(f"{self.folders[record.key]} keeps the predictions of {kept}, not of {phase}")
        frames = cell_predictions(self.folders[record.key], record.predictions_sha256)
        return frames.get((task, split), frames["", ""])

    def texts(self, task: str, split: str) -> Mapping[str, tuple[str, ...]] | None:
        """The texts of a split's examples, one or two each, by the example's id.

        None, with a logged line, where the data is not found again, or is not what the cells were trained on.
        """
        found = self._splits[task].get(split)
        return None if found is None else dict(zip(found.ids, found.texts, strict=True))

    def _constant_predictions(self, *, with_loss: bool) -> tuple[Control, ...]:
        found = ((task, self._splits[name]) for name, task in self.tasks.items())
        return tuple(
            row for task, splits in found if "train" in splits for row in controls(task, splits, with_loss=with_loss)
        )

    @cached_property
    def _splits(self) -> dict[str, Mapping[str, Split]]:
        """The data of each task, as far as it is what the cells were trained on; a logged line where it is not."""
        found: dict[str, Mapping[str, Split]] = {}
        for name, task in self.tasks.items():
            try:
                found[name] = _load_splits(self.records, task)
            except (UserError, OSError) as error:
                found[name] = {}
                self.log(f"no texts and controls of {name}: {error}")
        return found


def _load_splits(records: Iterable[Record], task: TaskSpec) -> Mapping[str, Split]:
    """The rows of each split that the cells saw.

    Raises:
        UserError: data missing, or other data than the cells'.
    """
    # Cells that failed early do not say where their data was.
    record = next((each for each in records if task.name in each.data.get("splits", {})), None)
    if record is None:
        raise UserError("no cell got as far as to say where its data was")
    digests, rows = record.identity["data"][task.name], record.data["splits"][task.name]
    seed = int(protocol_fields(record.identity).get("subsample_seed", 0))
    stratified = task.kind == "classification"
    found = {
        split: subsample(data, rows.get(split, {}).get("rows", 0), seed, stratified)
        for split, data in load_data(record.data["name"], [task])[task.name].items()
    }
    changed = [split for split, digest in digests.items() if split not in found or found[split].digest() != digest]
    if changed:
        raise UserError(f"{record.data['name']} has changed since the run ({', '.join(changed)})")
    return {split: found[split] for split in digests}


def read_runs(folders: Sequence[Path], *, log: Log, head_files: Iterable[Path] = ()) -> Stored:
    """Read the finished cells of runs, each a folder that `benchkit run` wrote.

    One head with several settings becomes several heads, each with a name of its own. Of cells in one folder that
    differ in nothing but the version of benchkit or torch, those of the newest version count.

    Args:
        log: takes a line for each cell or thing that had to be left out.
        head_files: Python files with tasks that are not installed.

    Raises:
        UserError: a folder is missing or holds no usable cell; a task is not installed; the runs were scored on
            different examples, so that their numbers cannot be put side by side.
    """
    cells = [each for folder in dict.fromkeys(folders) for each in _read_run(folder, log)]
    check_comparable(cells)
    cells = newest(cells, log)
    names, notes = name_variants(cells)
    runs = list(dict.fromkeys(each.run for each in cells))
    heads = list(dict.fromkeys(each.record.head for each in cells))
    cells.sort(key=lambda each: (runs.index(each.run), heads.index(each.record.head)))
    tasks = dict.fromkeys(task["name"] for each in cells for task in each.record.identity["tasks"])
    order = list(dict.fromkeys(names[each.record.key] for each in cells))
    cells.sort(key=lambda each: (order.index(names[each.record.key]), each.record.seed))
    return Stored(
        records=tuple(replace(each.record, head=names[each.record.key]) for each in cells),
        folders={each.record.key: each.folder for each in cells},
        heads={names[each.record.key]: each.record.head for each in cells},
        tasks=_load_tasks(tasks, head_files),
        notes=tuple(notes),
        log=log,
    )


def _load_tasks(names: Iterable[str], head_files: Iterable[Path]) -> dict[str, TaskSpec]:
    """Tasks by name. Plugins that only offer heads are not imported, as they take torch with them."""
    plugins = load_plugins(head_files, hook="benchkit_tasks")
    if not set(names) <= set(plugins.tasks):
        plugins = load_plugins(head_files)
    try:
        return {name: plugins.task(name) for name in names}
    except UserError as error:
        raise UserError(f"{error}; give the file it is in with --head-file") from error


def _read_run(folder: Path, log: Log) -> list[FoundCell]:
    """The usable cells of one run: heads as its own table has them, then seeds."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name one that benchkit run wrote, with a folder `cells` in it")
    root = folder / "cells" if (folder / "cells").is_dir() else folder
    finished = len(CellStore(root).keys())
    if not finished:
        raise UserError(f"{folder} has no finished cell: name a folder that benchkit run wrote (its --out)")
    cells = [FoundCell(record, folder, path) for record, path in load_cells(root, log)]
    if not cells:
        raise UserError(f"none of the {finished} cells in {folder} is usable (the lines above say why); run it again")
    unfinished = sum(each.is_dir() for each in root.iterdir()) - finished
    if unfinished > 0:
        log(f"{folder}: {unfinished} more cells were started and not finished; the same benchkit run goes on with them")
    order = _heads_of_table(folder)
    cells.sort(key=lambda each: (order.get(each.record.head, len(order)), each.record.head, each.record.seed))
    return cells


def _heads_of_table(folder: Path) -> dict[str, int]:
    """Places of the heads in the order in which they were asked for, as far as the run got to writing its table."""
    try:
        with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
            heads = dict.fromkeys(row.get("head") or "" for row in csv.DictReader(file) if row.get("phase"))
    except (OSError, ValueError, csv.Error):
        return {}
    return {head: place for place, head in enumerate(heads)}


def load_cells(root: Path, log: Log) -> list[tuple[Record, Path]]:
    """The usable cells under a folder, each with its own folder; `log` takes a line for each that is not usable."""
    store, found = CellStore(root, log), []
    for key in store.keys():  # noqa: SIM118
        try:
            if record := store.load(key):
                _check_identity(record)
                found.append((record, root / key))
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            log(f"cell {root / key} is left out: its record is damaged or incomplete ({reason})")
    return found


def _check_identity(record: Record) -> None:
    """Look up what reports rely on in the parts of a record whose types no class declares.

    Raises:
        KeyError, TypeError, AttributeError: a part is missing, or of another type.
    """
    identity = record.identity
    protocol_fields(identity).get("phases")
    _ = identity["head"]["name"], identity["head"].get("config", {}).items()
    _ = [(task["name"], task["metric"]) for task in identity["tasks"]]
    _ = [splits.items() for splits in identity["data"].values()]
    _ = sum(split["rows"] for splits in record.data.get("splits", {}).values() for split in splits.values())


@lru_cache(maxsize=2)
def cell_predictions(folder: Path, _: str) -> dict[tuple[str, str], pd.DataFrame]:
    """The predictions of a cell by task and split, since callers ask for one after another; none under ("", "")."""
    frame = CellStore(folder.parent).predictions(folder.name).set_index("id")
    columns = ["label", "prediction", "score"]
    groups = frame.groupby(["task", "split"], observed=True, sort=False)[columns]
    return {("", ""): frame[columns].iloc[:0], **{(str(key[0]), str(key[1])): rows for key, rows in groups}}


Side = tuple[Sequence[Record], Mapping[str, Path]]
"""Cells, and the folder of each by its key."""


def paired_predictions(task: TaskSpec, split: str, a: Side, b: Side) -> Paired:
    """What the cells of two sides, in pairs of one seed, predicted for a task.

    Raises:
        UserError: they are not of the same examples.
    """
    frames = [
        cell_predictions(folders[record.key], record.predictions_sha256)[task.name, split]
        for records, folders in (a, b)
        for record in records
    ]
    if any(not frame.index.equals(frames[0].index) for frame in frames):
        raise UserError(f"predictions of {task.name} {split} are not of the same examples; run the cells again")
    predictions = np.stack([frame["prediction"].to_numpy(float) for frame in frames])
    count = len(a[0])
    return Paired(frames[0]["label"].to_numpy(float), predictions[:count], predictions[count:], task.metric.score)
