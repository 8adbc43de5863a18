"""A run beside the report's numbers."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from benchkit.analysis.results import Results, Stored, collect
from benchkit.analysis.statistics import spread
from benchkit.analysis.tables import Block, Row, notes, table
from benchkit.core.errors import UserError
from benchkit.core.identity import changes, shown
from benchkit.core.plugins import Plugins
from benchkit.core.protocol import load_preset
from benchkit.core.record import Record
from benchkit.core.settings import plain
from benchkit.experiment.cell import protocol_part


@dataclass(frozen=True)
class Published:
    """What a report states.

    Attributes:
        source: title, author and place in it.
        numbers: of one run a head, by head, task and split.
        rows: of its data, by task and split.
        encoder, config: the encoder's name, and the sizes that tell it from others.
    """

    source: str
    numbers: Mapping[str, Mapping[str, Mapping[str, float]]]
    rows: Mapping[str, Mapping[str, int]]
    encoder: str
    config: Mapping[str, Any]


def published() -> Published:
    values = tomllib.loads((files("benchkit.analysis") / "report_numbers.toml").read_text("utf-8"))
    encoder = values["encoder"]
    return Published(values["source"], values["numbers"], values["rows"], encoder["name"], encoder["config"])


PRESET = "paper"
SPLITS = ("test", "train")
# Agreement within more than this is not worth much: a number this far off would agree as well.
_LOOSE = 0.1
# The report may have counted a file's header as a row.
_HEADER = 1


@dataclass(frozen=True)
class Beside:
    """One number of the report beside the run's.

    Attributes:
        here, std, seeds: mean over seeds, their standard deviation, and how many; NaN and 0 where the run has none.
        allowed: half of the 95 % interval of `here - there`; NaN where one seed on the same examples leaves it unknown.
    """

    head: str
    task: str
    metric: str
    split: str
    there: float
    here: float
    std: float
    seeds: int
    allowed: float

    @property
    def difference(self) -> float:
        return self.here - self.there

    @property
    def verdict(self) -> str:
        if not self.seeds:
            return "no number here"
        if math.isnan(self.allowed):
            return "one seed: cannot tell"
        if abs(self.difference) <= self.allowed:
            return "agrees" if self.allowed <= _LOOSE else "agrees, loosely"
        return f"{'higher' if self.difference > 0 else 'lower'} than chance allows"


def set_beside(stored: Stored, report: Published) -> list[Beside]:
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
            f"nothing to set beside the report: it has the heads {', '.join(report.numbers)} on "
            f"{', '.join(report.rows)}; the run has {', '.join(stored.heads)} on {', '.join(stored.tasks)}"
        )
    phase = results.phases[-1]
    return [
        _beside(stored, results, report, (label, phase, task, split), report.numbers[name][task][split])
        for task in tasks
        for label, name in sorted(heads.items(), key=lambda item: list(report.numbers).index(item[1]))
        for split in SPLITS
    ]


def _beside(
    stored: Stored, results: Results, report: Published, key: tuple[str, str, str, str], there: float
) -> Beside:
    head, _, task, split = key
    over = spread(results.seeds(*key).values())
    rows = _rows(stored.records, task).get(split, 0)
    metric = stored.tasks[task].metric.name
    variances = [(_seed_variance(over.std, over.n), over.n - 1.0)] if over.n > 1 else []
    if rows and _other(rows, report.rows[task][split]):
        variances += [(_example_variance(metric, over.mean, rows), math.inf)]
        variances += [(_example_variance(metric, there, report.rows[task][split]), math.inf)]
    allowed = _half(variances) if over.n else math.nan
    return Beside(head, task, metric, split, there, over.mean, over.std, over.n, allowed)


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
    """In what the run is not the report's, a line each, the gravest first."""
    records = [each for each in stored.records if stored.heads[each.head] in report.numbers]
    yield from _encoders(records, report)
    yield from _data(records, report)
    yield from _protocol(records, plugins)
    yield from _configs(records, stored, plugins)


def _encoders(records: Sequence[Record], report: Published) -> Iterator[str]:
    for name, config in {each.encoder["name"]: each.encoder["config"] for each in records if each.encoder}.items():
        differing = {field: config.get(field) for field, value in report.config.items() if config.get(field) != value}
        if differing or name != report.encoder:
            sizes = f": {shown(differing)}, not {shown({each: report.config[each] for each in differing})}"
            yield f"The encoder is {name}, the report's is {report.encoder}{sizes if differing else ''}."


def _data(records: Sequence[Record], report: Published) -> Iterator[str]:
    for task, rows in report.rows.items():
        here = _rows(records, task)
        differing = [
            f"{split} {here[split]:,} rows, not {count:,}"
            for split, count in rows.items()
            if split in here and _other(here[split], count)
        ]
        if differing:
            yield f"The data of {task} are not the report's: {'; '.join(differing)}."


def _rows(records: Sequence[Record], task: str) -> dict[str, int]:
    """Of the splits of a task, in the first cell that says."""
    found: Mapping[str, Mapping[str, int]] = next(
        (each.data["splits"][task] for each in records if task in each.data.get("splits", {})), {}
    )
    return {split: values["rows"] for split, values in found.items()}


def _protocol(records: Sequence[Record], plugins: Plugins) -> Iterator[str]:
    preset = {"protocol": protocol_part(load_preset(PRESET, plugins.tasks, plugins.heads))}
    lines = [
        f"{change.field.removeprefix('protocol.')} {shown(change.a)} → {shown(change.b)}"
        for record in records
        for change in changes(preset, {"protocol": record.identity["protocol"]})
        if change.path[-1] not in ("pretrain", "finetune")  # a phase left out: told once, by `phases`
    ]
    if lines:
        yield f"The protocol is not that of the preset {PRESET}: {'; '.join(dict.fromkeys(lines))}."
    if any("finetune" not in record.identity["protocol"]["phases"] for record in records):
        yield "The report's numbers are after both phases; these are after phase 1, the encoder frozen."


def _configs(records: Sequence[Record], stored: Stored, plugins: Plugins) -> Iterator[str]:
    """Heads that were not run with their defaults, which are the report's."""
    for head in dict.fromkeys(each.head for each in records):
        config = next(each.identity["head"]["config"] for each in records if each.head == head)
        default = plain(plugins.head(stored.heads[head]).config())
        found = [f"{each.field} {shown(each.a)} → {shown(each.b)}" for each in changes(default, config)]
        if found:
            yield f"The head {head} is not as in the report: {'; '.join(found)}."


_ALIGN = ("left", "left", "right", "right", "right", "right", "left")


def render(rows: Sequence[Beside], deviations: Sequence[str], report: Published, columns: int = 100) -> str:
    """A block a task, the report's number first; then how many agree, and in what the run is not the report's."""
    tasks = dict.fromkeys((row.task, row.metric) for row in rows)
    blocks = [
        Block(
            (f"{task} · {metric}", "", "report", "here", "difference", "allowed", ""),
            [_row(row) for row in rows if row.task == task],
            _ALIGN,
        )
        for task, metric in tasks
    ]
    lines = [_count(rows), *deviations, *_method(rows), f"Report: {report.source}."]
    return f"{table(blocks, 'terminal')}\n\n" + "\n".join(notes([line], "terminal", columns) for line in lines)


def _row(row: Beside) -> Row:
    here = "–" if not row.seeds else f"{row.here:.3f}" + (f" ± {row.std:.3f}" if row.seeds > 1 else "")
    difference = "–" if not row.seeds else f"{row.difference:+.3f}".replace("-", "−")
    allowed = "–" if math.isnan(row.allowed) else f"±{row.allowed:.3f}"
    return Row((row.head, row.split, f"{row.there:.3f}", here, difference, allowed, row.verdict))


def _count(rows: Sequence[Beside]) -> str:
    counts = Counter(row.verdict for row in rows)
    return f"{len(rows)} numbers: {'; '.join(f'{verdict}: {count}' for verdict, count in counts.most_common())}."


def _method(rows: Sequence[Beside]) -> list[str]:
    seeds = sorted({row.seeds for row in rows if row.seeds})
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
