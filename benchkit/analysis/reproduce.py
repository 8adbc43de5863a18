"""A run next to the numbers of the published report."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from benchkit.analysis.results import Results, Stored, collect
from benchkit.analysis.statistics import Spread
from benchkit.analysis.tables import NOTHING, Block, Row, Section, number, plus_minus
from benchkit.analysis.variants import protocol_fields
from benchkit.core.errors import UserError
from benchkit.core.identity import changes, shown
from benchkit.core.plugins import Plugins
from benchkit.core.protocol import load_preset
from benchkit.core.record import Record
from benchkit.core.settings import plain


@dataclass(frozen=True)
class Published:
    """What a report states.

    Attributes:
        source: title, author and place in it.
        numbers: of one run a head, by head, task and split.
        rows: of its data, by task and split.
        encoder, config: the encoder's name, and the sizes that identify it.
        phases: after which its numbers were taken.
    """

    source: str
    numbers: Mapping[str, Mapping[str, Mapping[str, float]]]
    rows: Mapping[str, Mapping[str, int]]
    encoder: str
    config: Mapping[str, Any]
    phases: Sequence[str]


def published() -> Published:
    """The numbers of the file `report_numbers.toml`."""
    values = tomllib.loads((files("benchkit.analysis") / "report_numbers.toml").read_text("utf-8"))
    encoder = values["encoder"]
    return Published(
        values["source"], values["numbers"], values["rows"], encoder["name"], encoder["config"], values["phases"]
    )


PRESET = "paper"
SPLITS = ("test", "train")
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

    The report has one run a head, so that its number has the chance of one training in it, as large as the spread of
    the run's seeds; the run's mean has that chance over its seeds. Where the run was scored on another number of
    examples, so on others, both have the chance of their examples too. What chance allows is the t-interval of all of
    it together (Satterthwaite 1946).

    Raises:
        UserError: the run has none of the report's heads or tasks.
    """
    results = collect(stored.records, (), stored.tasks)
    heads = {label: name for label, name in stored.heads.items() if name in report.numbers}
    tasks = [task for task in report.rows if task in stored.tasks]
    if not heads or not tasks:
        raise UserError(
            f"nothing to compare with the report: it has the heads {', '.join(report.numbers)} on "
            f"{', '.join(report.rows)}; the run has {', '.join(stored.heads)} on {', '.join(stored.tasks)}"
        )
    phase = results.phases[-1]
    return [
        _agreement(stored, results, report, (label, phase, task, split), report.numbers[name][task][split])
        for task in tasks
        for label, name in sorted(heads.items(), key=lambda item: list(report.numbers).index(item[1]))
        for split in SPLITS
    ]


def _agreement(
    stored: Stored, results: Results, report: Published, key: tuple[str, str, str, str], there: float
) -> Agreement:
    head, _, task, split = key
    over = results.over(*key)
    rows = _row_counts(stored.records, task).get(split, 0)
    metric = stored.tasks[task].metric.name
    variances = [(_seed_variance(over.std, over.n), over.n - 1.0)] if over.n > 1 else []
    if rows and _other(rows, report.rows[task][split]):
        variances += [(_example_variance(metric, over.mean, rows), math.inf)]
        variances += [(_example_variance(metric, there, report.rows[task][split]), math.inf)]
    return Agreement(head, task, metric, split, there, over, _half(variances) if over.n else math.nan)


def _other(rows: int, count: int) -> bool:
    """Whether so many rows cannot be the report's."""
    return abs(rows - count) > _HEADER


def _seed_variance(std: float, seeds: int) -> float:
    """Of a mean over seeds minus one more run."""
    return std**2 * (1 + 1 / seeds)


def _example_variance(metric: str, value: float, rows: int) -> float:
    """Of a score for the split having these examples: of a share, or of Pearson's r under normality."""
    return (value * (1 - value) if metric == "accuracy" else (1 - value**2) ** 2) / max(1, rows - 1)


def _half(variances: Sequence[tuple[float, float]]) -> float:
    """Half of a 95 % t-interval for a sum of independent errors, each with its degrees of freedom."""
    from scipy.special import stdtrit

    total = sum(variance for variance, _ in variances)
    if not total:
        return math.nan if not variances else 0.0
    weight = sum(variance**2 / freedom for variance, freedom in variances)
    return float(stdtrit(min(total**2 / weight if weight else math.inf, 1e9), 0.975)) * math.sqrt(total)


def deviations(stored: Stored, report: Published, plugins: Plugins) -> Iterator[str]:
    """In what the run is not the report's, a line each, the most important first."""
    records = [each for each in stored.records if stored.heads[each.head] in report.numbers]
    yield from _encoders(records, report)
    yield from _data(records, report)
    yield from _protocol(records, report, plugins)
    yield from _configs(records, stored, plugins)


def _encoders(records: Sequence[Record], report: Published) -> Iterator[str]:
    for name, config in {each.encoder["name"]: each.encoder["config"] for each in records if each.encoder}.items():
        differing = {field: config.get(field) for field, value in report.config.items() if config.get(field) != value}
        if differing or name != report.encoder:
            sizes = f": {shown(differing)}, not {shown({each: report.config[each] for each in differing})}"
            yield f"The encoder is {name}, the report's is {report.encoder}{sizes if differing else ''}."


def _data(records: Sequence[Record], report: Published) -> Iterator[str]:
    for task, rows in report.rows.items():
        here = _row_counts(records, task)
        differing = [
            f"{split} {here[split]:,} rows, not {count:,}"
            for split, count in rows.items()
            if split in here and _other(here[split], count)
        ]
        if differing:
            yield f"The data of {task} are not the report's: {'; '.join(differing)}."


def _row_counts(records: Sequence[Record], task: str) -> dict[str, int]:
    """Of the splits of a task, in the first cell that says."""
    found: Mapping[str, Mapping[str, int]] = next(
        (each.data["splits"][task] for each in records if task in each.data.get("splits", {})), {}
    )
    return {split: values["rows"] for split, values in found.items()}


def _protocol(records: Sequence[Record], report: Published, plugins: Plugins) -> Iterator[str]:
    preset = protocol_fields({"protocol": load_preset(PRESET, plugins.tasks, plugins.heads).identity()})
    protocols = [protocol_fields(record.identity) for record in records]
    lines = [
        f"{change.field.removeprefix('protocol.')} {shown(change.a)} → {shown(change.b)}"
        for protocol in protocols
        for change in changes({"protocol": preset}, {"protocol": protocol})
        if change.path[-1] not in report.phases  # a phase that was left out is named once, by `phases`
    ]
    if lines:
        yield f"The protocol is not that of the preset {PRESET}: {'; '.join(dict.fromkeys(lines))}."
    for phases in dict.fromkeys(tuple(protocol["phases"]) for protocol in protocols):
        if not set(report.phases) <= set(phases):
            there, here = (" and ".join(each) for each in (report.phases, phases))
            yield f"The report's numbers are after {there}; these are after {here}."


def _configs(records: Sequence[Record], stored: Stored, plugins: Plugins) -> Iterator[str]:
    """Heads that were not run with their defaults, which are the report's."""
    for head in dict.fromkeys(each.head for each in records):
        config = next(each.identity["head"]["config"] for each in records if each.head == head)
        default = plain(plugins.head(stored.heads[head]).config())
        found = [f"{each.field} {shown(each.a)} → {shown(each.b)}" for each in changes(default, config)]
        if found:
            yield f"The head {head} is not as in the report: {'; '.join(found)}."


def section(rows: Sequence[Agreement], deviations: Sequence[str], report: Published) -> Section:
    """A block a task, the report's number first; then how many agree, and in what the run is not the report's."""
    blocks = [
        Block(
            (f"{task} · {metric}", "", "report", "here", "difference", "allowed", ""),
            [_row(row) for row in rows if row.task == task],
            ("left", "left", "right", "right", "right", "right", "left"),
        )
        for task, metric in dict.fromkeys((row.task, row.metric) for row in rows)
    ]
    return Section("", blocks, [_count(rows), *deviations, *_method(rows), f"Report: {report.source}."])


def _row(row: Agreement) -> Row:
    allowed = NOTHING if math.isnan(row.allowed) else f"±{row.allowed:.3f}"
    here, difference = plus_minus(row.here), number(row.difference, signed=True)
    return Row((row.head, row.split, number(row.there), here, difference, allowed, row.verdict))


def _count(rows: Sequence[Agreement]) -> str:
    counts = Counter(row.verdict for row in rows)
    return f"{len(rows)} numbers: {'; '.join(f'{verdict}: {count}' for verdict, count in counts.most_common())}."


def _method(rows: Sequence[Agreement]) -> list[str]:
    seeds = sorted({row.here.n for row in rows if row.here.n})
    if not seeds:
        return []
    count = " to ".join(str(each) for each in dict.fromkeys((seeds[0], seeds[-1])))
    lines = [
        f"Here: mean ± std over {count} seed{'s' if seeds[-1] > 1 else ''}. Allowed: 95 % interval of the difference "
        "from one run of the report, for the chance of training, and for that of the examples where their number "
        "differs. Whether the report's numbers are those of its best run is unknown."
    ]
    if any(row.verdict == "agrees, loosely" for row in rows):
        lines.append("Loosely: the seeds here vary so much that numbers 0.1 away would agree as well. Run more seeds.")
    return lines
