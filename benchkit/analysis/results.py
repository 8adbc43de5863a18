"""Results: the records of one or several runs as one table of scores."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchkit.analysis.statistics import Spread, spread
from benchkit.analysis.tables import name_seeds
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.core.record import Record
from benchkit.core.task import SPLITS
from benchkit.data import Split, load_data, subsample
from benchkit.experiment.companions import CONTROLS, RANDOM_ENCODER, SHUFFLED_LABELS, controls, folder_of
from benchkit.store.cells import CellStore

if TYPE_CHECKING:
    import pandas as pd

    from benchkit.core.record import PhaseResult, Status
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
        phase_results: by (head, phase): what the seeds that count left.
        parameters: of a head, by head.
        events: (head, seed, what happened on the way).
        trained_controls: the same heads trained as controls, by kind: `shuffled labels`, `random encoder`.
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

    def seconds(self, head: str, phase: str) -> Seeds:
        """Training time, numbered by the order of the records."""
        return dict(enumerate(result.train_seconds for result in self.phase_results.get((head, phase), ())))

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
    seeds: dict[tuple[str, str], list[int]] = {}
    for fault in faults:
        seeds.setdefault((fault.status, fault.reason), []).append(fault.seed)
    return "; ".join(f"{status} ({name_seeds(group)}): {reason}" for (status, reason), group in seeds.items())


def protocol_fields(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded protocol with the names of its phases under `phases` and the settings of each under its name.

    Newer records hold a list of tables under `phases`, older ones a list of names.
    """
    protocol = dict(identity.get("protocol", {}))
    tables = [each for each in protocol.get("phases", ()) if isinstance(each, Mapping)]
    if tables:
        protocol["phases"] = [each["name"] for each in tables]
        protocol |= {each["name"]: {key: value for key, value in each.items() if key != "name"} for each in tables}
    return protocol


# What a trained control shares with its cell: all but data, encoder and the version of the code.
_SHARED = ("head", "protocol", "tasks", "seed", "execution")


def read_trained_controls(runs: Iterable[Path], records: Iterable[Record], log: Log) -> dict[str, list[Record]]:
    """The matching control cells under `controls/` of these runs, by kind.

    A control takes the name that tables give the matching cell; of two with one name and seed, the first counts.
    """
    wanted = {shared_identity(record, _SHARED): record.head for record in records}
    order = list(dict.fromkeys(wanted.values()))
    runs, found = list(runs), {}
    for kind in (SHUFFLED_LABELS, RANDOM_ENCODER):
        cells: dict[tuple[str, int], Record] = {}
        for run in runs:
            for record, _ in load_cells(run / CONTROLS / folder_of(kind) / "cells", log):
                head = wanted.get(shared_identity(record, _SHARED))
                if head is not None:
                    cells.setdefault((head, record.seed), replace(record, head=head))
        if cells:
            found[kind] = sorted(cells.values(), key=lambda record: (order.index(record.head), record.seed))
    return found


def shared_identity(record: Record, parts: Iterable[str]) -> str:
    """These parts of a cell's identity, as a key to find another cell that shares them."""
    return json.dumps([record.identity.get(part) for part in parts], sort_keys=True)


def load_cells(root: Path, log: Log) -> list[tuple[Record, Path]]:
    """The usable cells under a folder, each with its own folder; `log` takes a line for each that is not usable."""
    store = CellStore(root, log)
    return [(record, root / key) for key in store.keys() if (record := _load(store, key, log)) is not None]  # noqa: SIM118


def _load(store: CellStore, key: str, log: Log) -> Record | None:
    try:
        record = store.load(key)
        if record is not None:
            _check_readable(record)
    except (RecursionError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        log(f"cell {store.root / key} is left out: its record is damaged or incomplete ({reason})")
        return None
    return record


def _check_readable(record: Record) -> None:
    """Look up what reports rely on.

    Raises:
        KeyError, TypeError, AttributeError: a part is missing, or of another type.
    """
    identity = record.identity
    protocol_fields(identity).get("phases")
    _ = identity["head"]["name"], identity["head"].get("config", {}).items(), identity["protocol"].items()
    _ = [(task["name"], task["metric"]) for task in identity["tasks"]]
    _ = [splits.items() for splits in identity["data"].values()]
    for part in (record.parameters, record.environment, record.data, record.encoder, record.sources):
        part.get("")
    rows = [split["rows"] for splits in record.data.get("splits", {}).values() for split in splits.values()]
    scores = [score.value for phase in record.phases for score in phase.scores]
    seconds = [each for phase in record.phases for each in (phase.train_seconds, phase.eval_seconds)]
    _ = sum([record.seed, *rows, *scores, *seconds]), record.head.strip(), record.error.strip(), record.key.strip()
    _ = {"ok": 0, "collapsed": 0, "diverged": 0, "failed": 0}[record.status]


class Origin:
    """The data that some records were trained on; `log` takes a line for each task whose data is not found again."""

    def __init__(self, records: Sequence[Record], tasks: Mapping[str, TaskSpec], log: Log) -> None:
        self._records, self._tasks, self._log = records, tasks, log
        self._loaded: dict[str, Mapping[str, Split]] = {}

    def split(self, task: str, split: str) -> Split | None:
        """A split with the rows that the cells saw; None if it is not found again."""
        return self._splits(task).get(split)

    def controls(self, *, with_loss: bool) -> tuple[Control, ...]:
        """Constant predictions, learnt on train, of the tasks that are found again."""
        found = ((task, self._splits(name)) for name, task in self._tasks.items())
        return tuple(
            row for task, splits in found if "train" in splits for row in controls(task, splits, with_loss=with_loss)
        )

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
        seed = int(protocol_fields(record.identity).get("subsample_seed", 0))
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


Setting = Mapping[str, str]
"""What a cell was run with, except its seed: `protocol.pooling` -> `cls`."""


@dataclass(frozen=True)
class FoundCell:
    """A cell that was read: its run, its own folder, and the name that tables give its head."""

    record: Record
    run: Path
    folder: Path
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or self.record.head


def check_comparable(found: Sequence[FoundCell]) -> None:
    """Numbers stand side by side only if they were scored by one metric on the same examples.

    Raises:
        UserError: names the two runs, the task and the split.
    """
    seen: dict[tuple[str, str], tuple[FoundCell, str]] = {}
    for each in found:
        for (task, what), value in _scoring(each.record).items():
            first, expected = seen.setdefault((task, what), (each, value))
            if value != expected:
                where = f"{first.run} and {each.run}" if first.run != each.run else f"cells in {each.run}"
                raise UserError(
                    f"{where} differ in {what} of {task} ({expected[:8]} and {value[:8]}), so their numbers cannot "
                    "stand in one table; report them one at a time"
                )


def _scoring(record: Record) -> dict[tuple[str, str], str]:
    metrics = {(task["name"], "the metric"): str(task["metric"]) for task in record.identity["tasks"]}
    data = record.identity["data"]
    digests = {
        (task, f"the {split} data"): digest
        for task, splits in data.items()
        for split, digest in splits.items()
        if split != "train"
    }
    return {**metrics, **digests}


def name_variants(found: Sequence[FoundCell], log: Log) -> tuple[list[FoundCell], list[str]]:
    """Give each setting of one head a name of its own; a cell that was found twice counts once.

    Returns:
        The cells, and a line for each head with several settings on what these differ in.
    """
    found = list({each.record.key: each for each in reversed(found)}.values())[::-1]
    found = _newest(found, log)
    notes: dict[str, list[str]] = {}
    named = []
    for head in dict.fromkeys(each.record.head for each in found):
        cells = [each for each in found if each.record.head == head]
        names, differing = _names(cells)
        named += [replace(each, name=names[_key(each)]) for each in cells]
        if differing:
            notes.setdefault(differing, []).append(", ".join(dict.fromkeys(names.values())))
    named.sort(key=lambda each: list(dict.fromkeys(other.run for other in found)).index(each.run))
    order = list(dict.fromkeys(each.label for each in named))
    named.sort(key=lambda each: (order.index(each.label), each.record.seed))
    return named, [f"{'; '.join(heads)} differ in {what}." for what, heads in notes.items()]


def _newest(found: list[FoundCell], log: Log) -> list[FoundCell]:
    """Without the cells that were rerun in the same folder with newer code or libraries."""
    newest: dict[tuple[Path, str], tuple[float, str]] = {}
    for each in found:
        where, age = (each.run, _key(each, engine=False)), (each.folder / "record.json").stat().st_mtime
        newest[where] = max(newest.get(where, (0.0, "")), (age, _key(each)))
    kept = [each for each in found if newest[each.run, _key(each, engine=False)][1] == _key(each)]
    dropped = len(found) - len(kept)
    if dropped:
        log(f"left out {dropped} of {len(found)} cells: the same was run again with another version of the code")
    return kept


def _names(cells: Sequence[FoundCell]) -> tuple[dict[str, str], str]:
    """The name of each setting of one head, by its key, and what they differ in."""
    settings = {_key(each): _setting(each.record) for each in cells}
    head = cells[0].record.head
    if len(settings) == 1:
        return dict.fromkeys(settings, head), ""
    runs = {key: tuple(dict.fromkeys(each.run for each in cells if _key(each) == key)) for key in settings}
    names = _by_run(head, runs, settings)
    if names is None:
        names = {key: f"{head} ({fields})" for key, fields in _by_fields(settings).items()}
    return names, ", ".join(f"{_short(name)} ({_listed(each.values())})" for name, each in _differing(settings).items())


def _by_run(head: str, runs: Mapping[str, tuple[Path, ...]], settings: Mapping[str, Setting]) -> dict[str, str] | None:
    """`cnn @ paper`, with the fields that differ in one run behind it; None where runs overlap or are one."""
    folders = {run for each in runs.values() for run in each}
    together = {each: [key for key in runs if runs[key] == each] for each in runs.values()}
    if len(together) == 1 or len(folders) != sum(map(len, together)):
        return None
    short = _short_paths(sorted(folders))
    names = {}
    for each, keys in together.items():
        fields = _by_fields({key: settings[key] for key in keys}) if len(keys) > 1 else {}
        for key in keys:
            names[key] = f"{head} @ {'+'.join(short[run] for run in each)}" + (f" ({fields[key]})" if fields else "")
    return names


def _by_fields(settings: Mapping[str, Setting]) -> dict[str, str]:
    """`dropout=0.1` for each of some settings: the fields that differ from the others."""
    differing = _differing(settings)
    return {
        key: ", ".join(f"{_short(name)}={values[key][:12]}" for name, values in differing.items()) for key in settings
    }


def _differing(settings: Mapping[str, Setting]) -> dict[str, dict[str, str]]:
    """Fields that are not the same in all: their values, by setting."""
    names = sorted({name for each in settings.values() for name in each})
    values = {name: {key: each.get(name, "–") for key, each in settings.items()} for name in names}
    return {name: each for name, each in values.items() if len(set(each.values())) > 1}


def _listed(values: Any) -> str:
    return " / ".join(value[:12] for value in dict.fromkeys(values))


def _short(field: str) -> str:
    """A field as `--set` has it, as far as it has one."""
    return field.removeprefix("head.config.").removeprefix("protocol.")


def _short_paths(paths: Sequence[Path]) -> dict[Path, str]:
    """Each path by as many of its last parts as make it unique."""
    whole = {path: path.resolve().parts for path in paths}
    for count in range(1, max(map(len, whole.values())) + 1):
        short = {path: "/".join(parts[-count:]) for path, parts in whole.items()}
        if len(set(short.values())) == len(set(whole.values())):
            return short
    return {path: str(path) for path in paths}


def _key(each: FoundCell, *, engine: bool = True) -> str:
    return json.dumps(_setting(each.record, engine=engine), sort_keys=True)


def _setting(record: Record, *, engine: bool = True) -> Setting:
    parts = {name: part for name, part in record.identity.items() if name not in ("seed", *["engine"] * (not engine))}
    parts["protocol"] = protocol_fields(record.identity)
    parts["tasks"] = {task["name"]: task for task in record.identity["tasks"]}
    parts["order of tasks"] = [task["name"] for task in record.identity["tasks"]]
    flat = dict(_flatten(parts))
    if not engine:  # its sources are code as well
        flat = {name: value for name, value in flat.items() if not name.endswith(".source")}
    return flat


def _flatten(part: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in part.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return rows


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
        runs = dict.fromkeys(folder.parent.parent for folder in self.folders.values())
        trained = read_trained_controls(runs, self.records, self.log)
        return collect(self.records, self.controls, self.tasks, trained_controls=trained)

    @cached_property
    def controls(self) -> tuple[Control, ...]:
        """Constant predictions, learnt on train, without their losses, for which torch would be needed; none, with a
        logged line, for a task whose data is not found again.
        """
        return self._origin.controls(with_loss=False)

    @cached_property
    def controls_with_loss(self) -> tuple[Control, ...]:
        """`controls` with the losses that plots show."""
        return self._origin.controls(with_loss=True)

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
        found = self._origin.split(task, split)
        return None if found is None else dict(zip(found.ids, found.texts, strict=True))

    @cached_property
    def _origin(self) -> Origin:
        return Origin(self.records, self.tasks, self.log)


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
    found = [each for folder in dict.fromkeys(folders) for each in _read_run(folder, log)]
    check_comparable(found)
    found, notes = name_variants(found, log)
    tasks = _load_tasks(
        dict.fromkeys(task["name"] for each in found for task in each.record.identity["tasks"]), head_files
    )
    return Stored(
        records=tuple(replace(each.record, head=each.label) for each in found),
        folders={each.record.key: each.folder for each in found},
        heads={each.label: each.record.head for each in found},
        tasks=tasks,
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
    store = CellStore(folder / "cells" if (folder / "cells").is_dir() else folder, log)
    keys = store.keys()
    if not keys:
        raise UserError(f"{folder} has no finished cell: name a folder that benchkit run wrote (its --out)")
    records = [record for record, _ in load_cells(store.root, log)]
    if not records:
        raise UserError(f"none of the {len(keys)} cells in {folder} is usable (the lines above say why); run it again")
    unfinished = sum(each.is_dir() for each in store.root.iterdir()) - len(keys)
    if unfinished > 0:
        log(f"{folder}: {unfinished} more cells were started and not finished; the same benchkit run goes on with them")
    order = {head: place for place, head in enumerate(_heads_of_table(folder))}
    records.sort(key=lambda record: (order.get(record.head, len(order)), record.head, record.seed))
    return [FoundCell(record, folder, store.root / record.key) for record in records]


def _heads_of_table(folder: Path) -> Iterator[str]:
    """The heads in the order in which they were asked for, as far as the run got to writing its table."""
    try:
        with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
            rows = [(row.get("head") or "", row.get("phase")) for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return
    yield from dict.fromkeys(head for head, phase in rows if phase)


@lru_cache(maxsize=2)
def cell_predictions(folder: Path, _: str) -> dict[tuple[str, str], pd.DataFrame]:
    """The predictions of a cell by task and split, since callers ask for one after another; none under ("", "")."""
    import pandas as pd

    frame = CellStore(folder.parent).predictions(folder.name)
    task, split = frame["task"].cat, frame["split"].cat
    codes = np.stack([task.codes, split.codes])
    starts = np.flatnonzero((np.diff(codes, prepend=-2) != 0).any(axis=0))  # rows of one split stand together
    rows = frame.set_index("id")[["label", "prediction", "score"]]
    pieces: dict[tuple[str, str], list[pd.DataFrame]] = {("", ""): [rows.iloc[:0]]}
    for start, stop in zip(starts, [*starts[1:], len(frame)], strict=True):
        key = str(task.categories[codes[0, start]]), str(split.categories[codes[1, start]])
        pieces.setdefault(key, []).append(rows.iloc[start:stop])
    return {key: each[0] if len(each) == 1 else pd.concat(each) for key, each in pieces.items()}


def stack_predictions(frames: Sequence[pd.DataFrame], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and predictions (seed, n) of several cells.

    Raises:
        UserError: they are not of the same examples.
    """
    if any(not frame.index.equals(frames[0].index) for frame in frames):
        raise UserError(f"the predictions of {what} are not of the same examples; run the cells again")
    return frames[0]["label"].to_numpy(float), np.stack([frame["prediction"].to_numpy(float) for frame in frames])
