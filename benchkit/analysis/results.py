"""Results: records as one table of scores, from one run or several."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from benchkit.analysis.variants import Found, check_comparable, tell_apart
from benchkit.core.errors import UserError
from benchkit.core.task import SPLITS
from benchkit.data import Split, load_data, subsample
from benchkit.experiment.companions import CONTROLS, RANDOM_ENCODER, SHUFFLED_LABELS, Control, controls, folder_of
from benchkit.store.cells import CellStore

if TYPE_CHECKING:
    import pandas as pd

    from benchkit.core.record import PhaseResult, Record, Status
    from benchkit.core.task import TaskSpec
    from benchkit.experiment.companions import Control


MEAN = "mean"
"""The name that the mean over tasks has in place of a task."""

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
        phase_results: by (head, phase): what the seeds that count left.
        parameters: of a head, by head.
        events: (head, seed, what happened on the way).
        beside: the same heads trained in vain, as controls, by what was done: `shuffled labels`, `random encoder`.
    """

    heads: tuple[str, ...]
    phases: tuple[str, ...]
    metrics: Mapping[str, str]
    values: Mapping[tuple[str, str, str, str], Seeds]
    phase_results: Mapping[tuple[str, str], Sequence[PhaseResult]]
    parameters: Mapping[str, int]
    controls: Sequence[Control]
    faults: Sequence[Fault]
    events: Sequence[tuple[str, int, str]]
    beside: Mapping[str, Results] = field(default_factory=dict)

    def seeds(self, head: str, phase: str, task: str, split: str) -> Seeds:
        """A number a seed; for the mean over tasks, of the seeds where every task has one."""
        if task != MEAN:
            return self.values.get((head, phase, task, split), {})
        columns = [self.seeds(head, phase, each, split) for each in self.metrics]
        common = [seed for seed in columns[0] if all(seed in column for column in columns)] if columns else []
        return {seed: sum(column[seed] for column in columns) / len(columns) for seed in common}

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

    def seconds(self, head: str, phase: str) -> Seeds:
        """Training time, numbered by the order of the records."""
        return dict(enumerate(result.train_seconds for result in self.phase_results.get((head, phase), ())))

    def of(self, head: str, phase: str) -> list[Fault]:
        """The faults of a head that show in a phase."""
        return [fault for fault in self.faults if fault.head == head and phase in fault.phases]


def collect(
    records: Sequence[Record],
    controls: Sequence[Control],
    tasks: Mapping[str, TaskSpec],
    phases: Iterable[str] = (),
    beside: Mapping[str, Sequence[Record]] | None = None,
) -> Results:
    """Arrange finished cells. Heads come in the order of the records, tasks in that of `tasks`.

    Args:
        phases: those that were asked for; by default those that any record has. Without either there is one
            phase of no name, so that a head that failed at once still has its row.
        beside: records of the same heads trained in vain, by what was done.

    Raises:
        ValueError: two records are of the same head and seed: these are two comparisons, not one.
    """
    longest = sorted(records, key=lambda record: -len(record.phases))
    found = dict.fromkeys(result.name for record in longest for result in record.phases)
    phases = tuple(phases) or tuple(found) or ("",)
    values: dict[tuple[str, str, str, str], dict[int, float]] = {}
    phase_results: dict[tuple[str, str], list[PhaseResult]] = {}
    parameters: dict[str, int] = {}
    faults, seen = [], set()
    for record in records:
        if (record.head, record.seed) in seen:
            raise ValueError(f"two records of head {record.head!r} with seed {record.seed} in one comparison")
        seen.add((record.head, record.seed))
        fault = _fault(record, phases)
        faults += [fault] if fault else []
        if "head" in record.parameters:
            parameters.setdefault(record.head, record.parameters["head"])
        for result in record.phases:
            if fault and result.name in fault.phases and not fault.counts:
                continue
            phase_results.setdefault((record.head, result.name), []).append(result)
            for score in result.scores:
                key = (record.head, result.name, score.task, score.split)
                values.setdefault(key, {})[record.seed] = score.value
    return Results(
        heads=tuple(dict.fromkeys(record.head for record in records)),
        phases=phases,
        metrics={name: task.metric.name for name, task in tasks.items()},
        values=values,
        phase_results=phase_results,
        parameters=parameters,
        controls=controls,
        faults=faults,
        events=[
            (record.head, record.seed, event)
            for record in records
            for result in record.phases
            for event in result.events
        ],
        beside={name: collect(each, (), tasks, phases) for name, each in (beside or {}).items()},
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
    seeds: dict[tuple[str, str], list[int]] = {}
    for fault in faults:
        seeds.setdefault((fault.status, fault.reason), []).append(fault.seed)
    return "; ".join(f"{status} ({name_seeds(group)}): {reason}" for (status, reason), group in seeds.items())


def name_seeds(seeds: Iterable[int]) -> str:
    """`seed 1`, `seeds 0, 2`."""
    names = [str(seed) for seed in sorted(seeds)]
    return f"seed{'s' if len(names) > 1 else ''} {', '.join(names)}"


# What a control shares with its cell: all but data, encoder and the version of the code.
_SAME = ("head", "protocol", "tasks", "seed", "execution")


def read_vain(runs: Iterable[Path], records: Iterable[Record], log: Callable[[str], None]) -> dict[str, list[Record]]:
    """Records under `controls/` of these runs, by what was done: those of the cells that were run in earnest too.

    They go by the name that the cell run in earnest has in tables; of two with one name and seed, the first counts.
    """
    wanted = {likeness(record.identity, _SAME): record.head for record in records}
    found: dict[str, dict[tuple[str, int], Record]] = {}
    for name, run in product((SHUFFLED_LABELS, RANDOM_ENCODER), list(runs)):
        store = CellStore(run / CONTROLS / folder_of(name) / "cells", log)
        for record in filter(None, map(store.load, store.keys())):
            head = wanted.get(likeness(record.identity, _SAME))
            if head is not None:
                found.setdefault(name, {}).setdefault((head, record.seed), replace(record, head=head))
    order = list(dict.fromkeys(wanted.values()))
    return {
        name: sorted(each.values(), key=lambda record: (order.index(record.head), record.seed))
        for name, each in found.items()
    }


def likeness(identity: Mapping[str, object], parts: Iterable[str]) -> str:
    """These parts of what a cell was run with, to find another that shares them."""
    return json.dumps([identity.get(part) for part in parts], sort_keys=True)


class Origin:
    """Splits of the tasks of some records; `log` gets one line for each task that is not found as it was."""

    def __init__(self, records: Sequence[Record], tasks: Mapping[str, TaskSpec], log: Callable[[str], None]) -> None:
        self._records, self._tasks, self._log = records, tasks, log
        self._loaded: dict[str, Mapping[str, Split]] = {}

    def split(self, task: str, split: str) -> Split | None:
        """A split with the rows that the cells saw; None if it is not found again."""
        return self._splits(task).get(split)

    def controls(self) -> tuple[Control, ...]:
        """Constant predictions, learnt on train, of the tasks that are found again."""
        rows: list[Control] = []
        for name, task in self._tasks.items():
            splits = self._splits(name)
            if "train" in splits:
                rows += controls(task, splits)
        return tuple(rows)

    def _splits(self, task: str) -> Mapping[str, Split]:
        if task not in self._loaded:
            try:
                self._loaded[task] = self._load(task)
            except (UserError, OSError) as error:
                self._loaded[task] = {}
                self._log(f"no texts and controls of {task}: {error}")
        return self._loaded[task]

    def _load(self, name: str) -> dict[str, Split]:
        """The splits whose content is the recorded one.

        Raises:
            UserError: data missing, or other data than the cells'.
        """
        record = self._record(name)
        expected = record.identity["data"][name]
        seed = int(record.identity["protocol"].get("subsample_seed", 0))
        stratified = self._tasks[name].kind == "classification"
        found = load_data(record.data["name"], [self._tasks[name]])[name]
        kept = {}
        for split, data in found.items():
            part = subsample(data, record.data["splits"][name].get(split, {}).get("rows", 0), seed, stratified)
            if part.digest() == expected.get(split):
                kept[split] = part
        changed = [split for split in expected if split not in kept]
        if changed:
            raise UserError(f"{record.data['name']} has changed since the run ({', '.join(changed)})")
        return kept

    def _record(self, task: str) -> Record:
        """One that says where its data was; cells that failed early do not."""
        for record in self._records:
            if task in record.data.get("splits", {}):
                return record
        raise UserError("no cell got as far as to say where its data was")


Log = Callable[[str], None]


@dataclass(frozen=True)
class Stored:
    """The cells of one or more runs.

    Attributes:
        records: in the order of the heads, then of seeds. `head` is the name that tables show: where one head was run
            with several settings it tells them apart, as in `cnn @ paper`.
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
        runs = dict.fromkeys(folder.parent.parent for folder in self.folders.values())
        return collect(self.records, self.controls, self.tasks, beside=read_vain(runs, self.records, self.log))

    @cached_property
    def controls(self) -> tuple[Control, ...]:
        """Constant predictions, learnt on train; none, with a logged line, for a task whose data is not found again."""
        return self._origin.controls()

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
        frame = _read_predictions(self.folders[record.key], record.predictions_sha256)
        rows = frame[(frame["task"] == task) & (frame["split"] == split)]
        return rows.set_index("id")[["label", "prediction", "score"]]

    def texts(self, task: str, split: str) -> Mapping[str, tuple[str, ...]] | None:
        """The texts of a split's examples, one or two each, by the example's id.

        None, with a logged line, where the data is not found again, or is not what the cells were trained on.
        """
        found = self._origin.split(task, split)
        return None if found is None else dict(zip(found.ids, found.texts, strict=True))

    @cached_property
    def _origin(self) -> Origin:
        return Origin(self.records, self.tasks, self.log)


def read_runs(folders: Sequence[Path], *, log: Log, head_files: Iterable[Path] = ()) -> Stored:
    """Read the finished cells of runs, each a folder that `benchkit run` wrote.

    One head with several settings becomes several heads, named apart. Of cells that differ in nothing but the version
    of benchkit or torch, in one folder, the newest version's count.

    Args:
        log: takes a line for each cell or thing that had to be left out.
        head_files: Python files with tasks that are not installed.

    Raises:
        UserError: a folder is missing or holds no usable cell; a task is not installed; the runs were scored on
            different examples, so that their numbers cannot be put side by side.
    """
    from benchkit.core.plugins import load_plugins

    found = [each for folder in dict.fromkeys(folders) for each in _read_run(folder, log)]
    check_comparable(found)
    found, notes = tell_apart(found, log)
    plugins = load_plugins(head_files)
    names = dict.fromkeys(task["name"] for each in found for task in each.record.identity["tasks"])
    try:
        tasks = {name: plugins.task(name) for name in names}
    except UserError as error:
        raise UserError(f"{error}; give the file it is in with --head-file") from error
    return Stored(
        records=tuple(replace(each.record, head=each.label) for each in found),
        folders={each.record.key: each.folder for each in found},
        heads={each.label: each.record.head for each in found},
        tasks=tasks,
        notes=tuple(notes),
        log=log,
    )


def _read_run(folder: Path, log: Log) -> list[Found]:
    """The usable cells of one run: heads as its own table has them, then seeds."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name one that benchkit run wrote, with a folder `cells` in it")
    store = CellStore(folder / "cells" if (folder / "cells").is_dir() else folder, log)
    keys = store.keys()
    if not keys:
        raise UserError(f"{folder} has no finished cell: name a folder that benchkit run wrote (its --out)")
    records = [record for key in keys if (record := _load(store, key, log)) is not None]
    if not records:
        raise UserError(f"none of the {len(keys)} cells in {folder} is usable (the lines above say why); run it again")
    unfinished = sum(each.is_dir() for each in store.root.iterdir()) - len(keys)
    if unfinished > 0:
        log(f"{folder}: {unfinished} more cells were started and not finished; the same benchkit run goes on with them")
    order = {head: place for place, head in enumerate(_heads_of_table(folder))}
    records.sort(key=lambda record: (order.get(record.head, len(order)), record.head, record.seed))
    return [Found(record, folder, store.root / record.key) for record in records]


def _load(store: CellStore, key: str, log: Log) -> Record | None:
    record = store.load(key)
    if record is not None and not {"head", "protocol", "tasks", "data"} <= set(record.identity):
        log(f"cell {store.root / key} does not say what it was run with, so it is left out")
        return None
    return record


def _heads_of_table(folder: Path) -> Iterator[str]:
    """The heads in the order in which they were asked for, as far as the run got to writing its table."""
    try:
        with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
            rows = [(row.get("head") or "", row.get("phase")) for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return
    yield from dict.fromkeys(head for head, phase in rows if phase)


@lru_cache(maxsize=2)
def _read_predictions(folder: Path, _: str) -> pd.DataFrame:
    """All predictions of a cell; callers ask task by task."""
    return CellStore(folder.parent).predictions(folder.name)
