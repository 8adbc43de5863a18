"""What a run is compared with besides its own heads: each task alone, and the numbers of the published report."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from benchkit.analysis import tables
from benchkit.analysis.results import paired_predictions, protocol_fields, shared_identity
from benchkit.analysis.statistics import Difference, Spread, paired_differences, spread
from benchkit.analysis.tables import NOTHING, Block, Row, Section, group, interval, name_seeds, number, plus_minus
from benchkit.core.errors import UserError
from benchkit.core.protocol import load_preset
from benchkit.core.record import changes, shown
from benchkit.core.settings import plain
from benchkit.experiment.companions import SINGLE_TASK

if TYPE_CHECKING:
    from pathlib import Path

    from benchkit.analysis.results import Stored
    from benchkit.core.plugins import Plugins
    from benchkit.core.record import Record
    from benchkit.core.task import TaskSpec


@dataclass(frozen=True)
class Gain:
    """A head's score on one task, together minus its single-task baseline; `split` is dev where test has no labels."""

    head: str
    task: str
    metric: str
    split: str
    seeds: tuple[int, ...]
    difference: Difference | None


def gains(
    together: Sequence[Record],
    baselines: Mapping[str, Sequence[Record]],
    tasks: Mapping[str, TaskSpec],
    folders: Mapping[str, Path],
) -> list[Gain]:
    """Of each task and head, over the seeds that have a number both together and alone.

    Args:
        baselines: the same heads trained on one task, by task.
        folders: of all cells, by key.

    Raises:
        UserError: predictions cannot be read, or are not of the same examples.
    """
    found = []
    for task in (tasks[name] for name in baselines):
        for head in dict.fromkeys(record.head for record in together):
            alone, own = (
                {r.seed: r for r in side if r.head == head and r.status in tables.COUNTED}
                for side in (baselines[task.name], together)
            )
            seeds = tuple(sorted(alone.keys() & own.keys()))
            a, b = ([side[seed] for seed in seeds] for side in (alone, own))
            scored = [{(s.task, s.split) for s in record.phases[-1].scores} for record in (*a, *b)]
            split = "test" if all((task.name, "test") in each for each in scored) else "dev"
            difference = None
            if seeds:
                pair = paired_predictions(task, split, (a, folders), (b, folders))
                difference = paired_differences({task.name: pair})[task.name]
            found.append(Gain(head, task.name, task.metric.name, split, seeds, difference))
    return found


def stored_gains(stored: Stored) -> list[Gain]:
    """`gains` of runs with single-task baselines, read back from the folders inside theirs; none for other runs."""
    found, folders = {}, dict(stored.folders)
    for task in stored.tasks:
        if cells := stored.companions(f"{SINGLE_TASK}/{task}", partial(_shared_with_alone, task=task)):
            found[task] = [each.record for each in cells]
            folders |= {each.record.key: each.folder for each in cells}
    return gains(stored.records, found, stored.tasks, folders)


def _shared_with_alone(record: Record, task: str) -> str:
    """What a cell shares with the one in the same run that was trained on this task alone."""
    shared = shared_identity(record, ("head", "protocol", "seed", "execution", "encoder"))
    return f"{record.identity['data'].get(task)} {shared}"


def gains_section(found: Sequence[Gain]) -> Section | None:
    """A block a task, a row a head; None where nothing was trained on single tasks."""
    rows = []
    for gain in found:
        cells = (NOTHING, NOTHING, NOTHING, "no seed with a number in both", "")
        if known := gain.difference:
            between, word = f"{name_seeds(gain.seeds)} only: unknown", ""
            if not math.isnan(known.low):
                between = interval(known.low, known.high)
                word = "gains" if known.low > 0 else "loses" if known.high < 0 else "cannot tell"
            cells = (number(known.a), number(known.b), number(known.value, signed=True), between, word)
        rows.append(((gain.task, gain.metric), (gain.split, Row((gain.head, *cells)))))
    blocks = []
    for (task, metric), each in group(rows).items():
        header = (f"{task} · {metric} · {each[-1][0]}", "alone", "together", "together − alone", "95 % interval", "")
        blocks.append(Block(header, [row for _, row in each], ("left", "right", "right", "left", "left", "left")))
    note = (
        "Together: the head trained on all tasks; alone: on this one, with the same data, epochs and seeds; after the "
        "last phase. The interval holds the chance of training and of the examples; it is not corrected for the number "
        "of rows."
    )
    return Section("", blocks, [note]) if blocks else None


def interference_section(records: Sequence[Record]) -> Section | None:
    """Whether the gradients of tasks agree: a block a phase and shared part, a row a head and pair of tasks; None where
    nothing was measured.
    """
    found = group(
        ((phase.name, each.part, record.head, f"{each.a} · {each.b}"), (record.seed, each.value))
        for record in records
        for phase in record.phases
        for each in phase.interference or ()
    )
    rows = []
    for (name, part, head, pair), cosines in found.items():
        seeds = list(group(cosines).values())
        columns = [each[0] for each in seeds], [each[-1] for each in seeds], [sum(each) / len(each) for each in seeds]
        words = [plus_minus(spread(each), signed=True, digits=2).replace("−0.00", "+0.00") for each in columns]
        below = f"{sum(value < 0 for _, value in cosines) / len(cosines):.0%}"
        rows.append((f"{name} · {part}", Row((head, pair, *words, below))))
    header, align = ("tasks", "first epoch", "last epoch", "all epochs", "below 0"), ("left", "left", *["right"] * 4)
    note = (
        "Cosine of two tasks' gradients on what they share, after each epoch, on a fixed batch of each, dropout off; "
        "mean over seeds, ± their standard deviation. Below 0, a step for the one task undoes some of the other's. It "
        "was measured apart from the training and changes no number of it."
    )
    blocks = [Block((title, *header), each, align) for title, each in group(rows).items()]
    return Section("", blocks, [note]) if blocks else None


@dataclass(frozen=True)
class Published:
    """What a report states.

    Attributes:
        source: title, author and place in it.
        numbers: of one run a head, by head, task and split.
        rows: of its data, by task and split.
        encoder: its `name`, and in `config` the sizes that identify it.
        phases: after which its numbers were taken.
    """

    source: str
    numbers: Mapping[str, Mapping[str, Mapping[str, float]]]
    rows: Mapping[str, Mapping[str, int]]
    encoder: Mapping[str, Any]
    phases: Sequence[str]


def published() -> Published:
    """The numbers of the file `report_numbers.toml`."""
    return Published(**tomllib.loads((files("benchkit.analysis") / "report_numbers.toml").read_text("utf-8")))


# Agreement within more than this is not worth much: a number this far off would agree as well.
_LOOSE = 0.1
# The report may have counted a file's header as a row.
_HEADER = 1


@dataclass(frozen=True)
class Agreement:
    """One number of the report and the run's.

    Attributes:
        here: the run's, over its seeds.
        allowed: half of the 95 % interval of `difference`; NaN where one seed on the same examples leaves it unknown.
    """

    head: str
    task: str
    metric: str
    split: str
    there: float
    here: Spread
    allowed: float

    @property
    def difference(self) -> float:
        return self.here.mean - self.there

    @property
    def verdict(self) -> str:
        if not self.here.n:
            return "no number here"
        if math.isnan(self.allowed):
            return "one seed: cannot tell"
        if abs(self.difference) <= self.allowed:
            return "agrees" if self.allowed <= _LOOSE else "agrees, loosely"
        return f"{'higher' if self.difference > 0 else 'lower'} than chance allows"


def agreements(stored: Stored, report: Published) -> list[Agreement]:
    """Every number of the report of a head that the run has, in the report's order.

    Raises:
        UserError: the run has none of the report's heads or tasks.
    """
    results = tables.collect(stored.records, (), stored.tasks)
    heads = [label for name in report.numbers for label, own in stored.heads.items() if own == name]
    tasks = [task for task in report.rows if task in stored.tasks]
    if not heads or not tasks:
        raise UserError(
            f"nothing to compare with the report: it has the heads {', '.join(report.numbers)} on "
            f"{', '.join(report.rows)}; the run has {', '.join(stored.heads)} on {', '.join(stored.tasks)}"
        )
    found = []
    for task in tasks:
        metric, rows = stored.tasks[task].metric.name, _row_counts(stored.records, task)
        for head in heads:
            for split in ("test", "train"):
                here = results.over(head, results.phases[-1], task, split)
                there = report.numbers[stored.heads[head]][task][split]
                allowed = _allowed(metric, here, there, rows.get(split, 0), report.rows[task][split])
                found.append(Agreement(head, task, metric, split, there, here, allowed))
    return found


def _allowed(metric: str, here: Spread, there: float, rows: int, rows_there: int) -> float:
    """Half of the 95 % t-interval of the difference (Satterthwaite 1946); NaN where it is unknown.

    The report has one run a head, so that its number has the chance of one training in it, as large as the spread of
    the run's seeds; the run's mean has that chance over its seeds. Where the run was scored on another number of
    examples, so on others, both have the chance of their examples too.
    """
    from scipy.special import stdtrit

    if not here.n:
        return math.nan
    # Each error's variance, and its degrees of freedom.
    variances = [(here.std**2 * (1 + 1 / here.n), here.n - 1.0)] if here.n > 1 else []
    if rows and _other(rows, rows_there):
        # Of a share, or of Pearson's r under normality.
        variances += [
            ((value * (1 - value) if metric == "accuracy" else (1 - value**2) ** 2) / max(1, count - 1), math.inf)
            for value, count in ((here.mean, rows), (there, rows_there))
        ]
    total = sum(variance for variance, _ in variances)
    if not total:
        return 0.0 if variances else math.nan
    weight = sum(variance**2 / freedom for variance, freedom in variances)
    return float(stdtrit(min(total**2 / weight if weight else math.inf, 1e9), 0.975)) * math.sqrt(total)


def _other(rows: int, count: int) -> bool:
    """Whether so many rows cannot be the report's."""
    return abs(rows - count) > _HEADER


def _row_counts(records: Sequence[Record], task: str) -> dict[str, int]:
    """Of the splits of a task, in the first cell that says."""
    found = (each.data["splits"][task] for each in records if task in each.data.get("splits", {}))
    return {split: values["rows"] for split, values in next(found, {}).items()}


def deviations(stored: Stored, report: Published, plugins: Plugins) -> Iterator[str]:
    """In what the run is not the report's, a line each, the most important first."""
    records = [each for each in stored.records if stored.heads[each.head] in report.numbers]
    there, sizes = report.encoder["name"], report.encoder["config"]
    for name, config in {each.encoder["name"]: each.encoder["config"] for each in records if each.encoder}.items():
        other = {field: config.get(field) for field, value in sizes.items() if config.get(field) != value}
        if other or name != there:
            what = f": {shown(other)}, not {shown({field: sizes[field] for field in other})}" if other else ""
            yield f"The encoder is {name}, the report's is {there}{what}."
    for task, rows in report.rows.items():
        here = _row_counts(records, task)
        lines = [
            f"{split} {here[split]:,} rows, not {count:,}"
            for split, count in rows.items()
            if split in here and _other(here[split], count)
        ]
        if lines:
            yield f"The data of {task} are not the report's: {'; '.join(lines)}."
    yield from _protocol_deviations(records, report, plugins)
    for head in dict.fromkeys(each.head for each in records):
        config = next(each.identity["head"]["config"] for each in records if each.head == head)
        found = changes(plain(plugins.head(stored.heads[head]).config()), config)  # defaults are the report's
        if found:
            fields = "; ".join(f"{each.field} {shown(each.a)} → {shown(each.b)}" for each in found)
            yield f"The head {head} is not as in the report: {fields}."


def _protocol_deviations(records: Sequence[Record], report: Published, plugins: Plugins) -> Iterator[str]:
    preset = protocol_fields({"protocol": load_preset("paper", plugins.tasks, plugins.heads).identity()})
    protocols = [protocol_fields(record.identity) for record in records]
    lines = [
        f"{change.field.removeprefix('protocol.')} {shown(change.a)} → {shown(change.b)}"
        for protocol in protocols
        for change in changes({"protocol": preset}, {"protocol": protocol})
        if change.path[-1] not in report.phases  # a phase that was left out is named once, by `phases`
    ]
    if lines:
        yield f"The protocol is not that of the preset paper: {'; '.join(dict.fromkeys(lines))}."
    for phases in dict.fromkeys(tuple(protocol["phases"]) for protocol in protocols):
        if not set(report.phases) <= set(phases):
            there, here = (" and ".join(each) for each in (report.phases, phases))
            yield f"The report's numbers are after {there}; these are after {here}."


def agreement_section(rows: Sequence[Agreement], deviations: Sequence[str], report: Published) -> Section:
    """A block a task, the report's number first; then how many agree, and in what the run is not the report's."""
    blocks = []
    for task, metric in dict.fromkeys((row.task, row.metric) for row in rows):
        cells = [
            Row((
                row.head, row.split, number(row.there), plus_minus(row.here), number(row.difference, signed=True),
                NOTHING if math.isnan(row.allowed) else f"±{row.allowed:.3f}", row.verdict,
            ))
            for row in rows if row.task == task
        ]  # fmt: skip
        header = (f"{task} · {metric}", "", "report", "here", "difference", "allowed", "")
        blocks.append(Block(header, cells, ("left", "left", *["right"] * 4, "left")))
    counts = Counter(row.verdict for row in rows).most_common()
    notes = [f"{len(rows)} numbers: {'; '.join(f'{verdict}: {n}' for verdict, n in counts)}.", *deviations]
    if seeds := {row.here.n for row in rows if row.here.n}:
        count = " to ".join(map(str, dict.fromkeys((min(seeds), max(seeds)))))
        notes.append(
            f"Here: mean ± std over {count} seed{'s' if max(seeds) > 1 else ''}. Allowed: 95 % interval of the "
            "difference from one run of the report, for the chance of training, and for that of the examples where "
            "their number differs. Whether the report's numbers are those of its best run is unknown."
        )
    if any(row.verdict == "agrees, loosely" for row in rows):
        notes.append("Loosely: the seeds here vary so much that numbers 0.1 away would agree as well. Run more seeds.")
    return Section("", blocks, [*notes, f"Report: {report.source}."])
