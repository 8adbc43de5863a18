"""Finished cells of one or several runs, read back: which stand in one table, and under which names."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchkit.analysis.statistics import Paired
from benchkit.analysis.tables import Results, collect, group
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.core.record import Record, changes, shown
from benchkit.data import Split, load_data, subsample
from benchkit.experiment.companions import CONTROLS, RANDOM_ENCODER, SHUFFLED_LABELS, controls, folder_of
from benchkit.store.cells import CellStore

if TYPE_CHECKING:
    import pandas as pd

    from benchkit.core.task import TaskSpec
    from benchkit.experiment.companions import Control

Log = Callable[[str], None]

Identity = Mapping[str, Any]


class FoundCell(NamedTuple):
    """A cell that was read, with the folder of its run and its own."""

    record: Record
    run: Path
    folder: Path


def protocol_fields(identity: Identity) -> dict[str, Any]:
    """A recorded protocol with the names of its phases under `phases` and the settings of each under its name.

    Newer records hold a list of tables under `phases`, older ones a list of names.
    """
    protocol = dict(identity.get("protocol", {}))
    tables = [each for each in protocol.get("phases", ()) if isinstance(each, Mapping)]
    if tables:
        protocol["phases"] = [each["name"] for each in tables]
        protocol |= {each["name"]: {key: value for key, value in each.items() if key != "name"} for each in tables}
    return protocol


def check_comparable(cells: Sequence[FoundCell]) -> None:
    """Numbers stand side by side only if they were scored by one metric on the same examples.

    Raises:
        UserError: names the two runs, the task and the split.
    """
    seen: dict[tuple[str, str], tuple[Path, str]] = {}
    for each in cells:
        identity = each.record.identity
        scoring = {(task["name"], "the metric"): str(task["metric"]) for task in identity["tasks"]}
        for task, splits in identity["data"].items():
            scoring |= {(task, f"the {split} data"): value for split, value in splits.items() if split != "train"}
        for (task, what), value in scoring.items():
            first, expected = seen.setdefault((task, what), (each.run, value))
            if value != expected:
                where = f"{first} and {each.run}" if first != each.run else f"cells in {each.run}"
                raise UserError(
                    f"{where} differ in {what} of {task} ({expected[:8]} and {value[:8]}), so their numbers cannot "
                    "stand in one table; report them one at a time"
                )


def newest(cells: Sequence[FoundCell], log: Log) -> list[FoundCell]:
    """Each cell once, without those that were rerun in the same folder with newer code or libraries."""
    cells = list({each.record.key: each for each in reversed(cells)}.values())[::-1]
    latest: dict[tuple[Path, str], tuple[float, str]] = {}
    for each in cells:
        where, age = (each.run, _setting(each.record, code=False)), (each.folder / "record.json").stat().st_mtime
        latest[where] = max(latest.get(where, (0.0, "")), (age, _setting(each.record)))
    kept = [each for each in cells if latest[each.run, _setting(each.record, code=False)][1] == _setting(each.record)]
    if len(kept) < len(cells):
        log(f"left out {len(cells) - len(kept)} of {len(cells)} cells: the same was run again with another version of "
            "the code")  # fmt: skip
    return kept


def _setting(record: Record, *, code: bool = True) -> str:
    """What a cell was run with, except its seed, as a key; `code`: with the versions of the sources and libraries."""
    left_out = {"seed"} if code else {"seed", "engine"}
    parts = {name: part for name, part in record.identity.items() if name not in left_out}
    text = json.dumps({**parts, "protocol": protocol_fields(record.identity)}, sort_keys=True)
    if code:
        return text
    return json.dumps(json.loads(text, object_hook=lambda part: {k: v for k, v in part.items() if k != "source"}))


def name_variants(cells: Sequence[FoundCell]) -> tuple[dict[str, str], list[str]]:
    """Give each setting of one head a name of its own.

    Returns:
        The name by the cell's key, and a line for each head with several settings on what these differ in.
    """
    names: dict[str, str] = {}
    notes = []
    for head, found in group((each.record.head, each) for each in cells).items():
        settings = group((_setting(each.record), each) for each in found)
        variants = _names(head, settings)
        names |= {each.record.key: variants[setting] for setting, same in settings.items() for each in same}
        if len(settings) > 1:
            differing = _differing({setting: same[0].record.identity for setting, same in settings.items()})
            what = ", ".join(f"{name} ({' / '.join(dict.fromkeys(each.values()))})" for name, each in differing.items())
            notes.append((what, ", ".join(variants.values())))
    return names, [f"{'; '.join(heads)} differ in {what}." for what, heads in group(notes).items()]


def _names(head: str, settings: Mapping[str, Sequence[FoundCell]]) -> dict[str, str]:
    """The name of each setting: `cnn`; `cnn @ paper`, where no two runs share a setting; `cnn (dropout=0.1)`, where
    one run has several.
    """
    if len(settings) == 1:
        return dict.fromkeys(settings, head)
    together = group((tuple(dict.fromkeys(each.run for each in found)), key) for key, found in settings.items())
    runs = [run for each in together for run in each]
    by_run = len(together) > 1 and len(set(runs)) == len(runs)
    short, names = _short_paths(sorted(runs)), {}
    for where, keys in together.items() if by_run else [((), list(settings))]:
        name = f"{head} @ {'+'.join(short[run] for run in where)}" if by_run else head
        differing = _differing({key: settings[key][0].record.identity for key in keys})
        for key in keys:
            fields = ", ".join(f"{field}={values[key]}" for field, values in differing.items())
            names[key] = f"{name} ({fields})" if fields else name
    return names


def _differing(identities: Mapping[str, Identity]) -> dict[str, dict[str, str]]:
    """Fields, as `--set` has them, that are not the same in all: their values, cut short, by setting."""
    first, found = next(iter(identities.values())), dict[str, dict[str, str]]()
    for key, identity in identities.items():
        for change in changes({**first, "seed": 0}, {**identity, "seed": 0}):
            field = change.field.removeprefix("head.config.").removeprefix("protocol.")
            values = found.setdefault(field, dict.fromkeys(identities, shown(change.a)[:12]))
            values[key] = shown(change.b)[:12]
    return dict(sorted(found.items()))


def _short_paths(paths: Sequence[Path]) -> dict[Path, str]:
    """Each path by as many of its last parts as make it unique."""
    whole = {path: path.resolve().parts for path in paths}
    longest, different = max(map(len, whole.values())), len(set(whole.values()))
    count = next(n for n in range(1, longest + 1) if len({parts[-n:] for parts in whole.values()}) == different)
    return {path: "/".join(parts[-count:]) for path, parts in whole.items()}


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
