"""The comparison as tables: all tasks together, then each by itself, phase after phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchkit.page import forest
from benchkit.page.content import judged
from benchkit.page.markup import Markup, join, tag
from benchkit.page.numbers import NOTHING, interval, number, plus_minus
from benchkit.page.rows import Column, fold, head_cell, lines, numeric, section, table, text
from benchkit.report.notes import footnotes, seed_counts
from benchkit.report.results import MEAN, Results, describe
from benchkit.report.stats import spread
from benchkit.report.table import duration

if TYPE_CHECKING:
    from benchkit.page.content import Content

_LEAD = (
    "± is the standard deviation over seeds. In the pictures the mark is the mean, the line its 95 % interval "
    "(Student t over seeds), each tick one seed, the dotted line the control: what labels alone give. An arrow says "
    "that an interval goes on. Each axis is only as wide as its heads need."
)
# Lines of the footnotes that other parts of the page say, or say better.
_ELSEWHERE = ("! ", "± is", "… and ")


def comparison(content: Content) -> Markup:
    """The last phase at length; earlier ones folded."""
    results = content.results
    last, earlier = results.phases[-1], results.phases[-2::-1] if len(results.phases) > 1 else ()
    elsewhere = (*_ELSEWHERE, *(event for _, _, event in results.events))
    notes = [line for line in footnotes(results) if not line.startswith(elsewhere)]
    return section(
        "comparison",
        "Comparison",
        _phase(results, last),
        lines([*content.stored.notes, *notes]),
        *(fold(f"Earlier phase: {phase}", _phase(results, phase)) for phase in earlier),
        lead=_LEAD,
    )


def _phase(results: Results, phase: str) -> Markup:
    tables = [_table(results, phase, task) for task in (MEAN, *results.metrics)]
    return join([tag("h3", f"{phase or 'No phase'}: {seed_counts(results, phase)}"), *tables])


def _table(results: Results, phase: str, task: str) -> Markup:
    """Of one task, or of the mean over tasks, which has each task's mean and the costs besides."""
    split = judged(results, phase, task)
    heads = results.heads
    axis = forest.axis(
        [list(results.seeds(head, phase, task, split).values()) for head in heads],
        [spread(results.seeds(head, phase, task, split).values()) for head in heads],
    )
    overall = task == MEAN
    title = "Mean over tasks" if overall else f"{task} · {results.metrics[task]}"
    rows = [_row(results, phase, task, split, index, axis) for index in range(len(heads))]
    control = _control_row(results, task, split, overall)
    columns = _columns(results, phase, task, split)
    foot = _foot(axis, len(columns)) if axis else ""
    return table(f"{title}, on {split}", columns, rows, control, foot=foot, class_="scores")


def _foot(axis: forest.Axis, columns: int) -> Markup:
    """The axis, below the column of pictures."""
    return tag("tr", tag("td"), tag("td"), tag("td", forest.ruler(axis)), tag("td", colspan=columns - 3))


def _columns(results: Results, phase: str, task: str, split: str) -> list[Column]:
    first = [
        Column("head", "text"),
        Column(f"{split}, mean ± std", "number", "standard deviation over seeds"),
        Column("seeds and interval"),
        Column("95 % interval", hint="of the mean over seeds; not of the choice of examples", right=True),
    ]
    gap = Column(f"train − {split}", "number", "seed by seed; how far a head over-fits")
    if task != MEAN:
        return [*first, Column("dev", "number"), Column("train", "number"), gap, Column("seeds", "number")]
    each = [Column(_named(results, phase, name), "number") for name in results.metrics]
    return [*first, *each, gap, Column("parameters", "number", "of the head"), Column("time a seed", "number")]


def _named(results: Results, phase: str, task: str) -> str:
    split = judged(results, phase, task)
    return task if split == "test" else f"{task} ({split})"


def _row(results: Results, phase: str, task: str, split: str, index: int, axis: forest.Axis | None) -> Markup:
    head = results.heads[index]
    seeds = list(results.seeds(head, phase, task, split).values())
    over, gap = spread(seeds), spread(results.gap(head, phase, task, split).values())
    faults = results.of(head, phase)
    excuse = "" if seeds else ", ".join(dict.fromkeys(fault.status for fault in faults)) or "not run"
    label = f"{head}: {plus_minus(over)}, 95 % interval {interval(over.low, over.high)}"
    picture = forest.row(axis, seeds, over, index, _control(results, task, split), label) if axis and seeds else ""
    return tag(
        "tr",
        head_cell(head, index, describe(faults) if faults else ""),
        numeric(excuse or plus_minus(over), over.mean),
        text(picture, class_="plot"),
        numeric(interval(over.low, over.high)),
        *_others(results, phase, task, head, numeric(plus_minus(gap, signed=True), gap.mean)),
    )


def _others(results: Results, phase: str, task: str, head: str, gap: Markup) -> list[Markup]:
    if task != MEAN:
        each = [spread(results.seeds(head, phase, task, split).values()) for split in ("dev", "train")]
        count = each[0].n
        return [*(numeric(plus_minus(over), over.mean) for over in each), gap, numeric(str(count), count)]
    means = [
        spread(results.seeds(head, phase, name, judged(results, phase, name)).values()).mean for name in results.metrics
    ]
    size, time = results.parameters.get(head), spread(results.seconds(head, phase).values())
    return [
        *(numeric(number(mean), mean) for mean in means),
        gap,
        numeric(NOTHING if size is None else f"{size:,}", size),
        numeric(duration(time.mean) if time.n else NOTHING, time.mean),
    ]


def _control(results: Results, task: str, split: str) -> float | None:
    """Of one task; for the mean, of all tasks' together."""
    known = {each.task: each.value for each in results.controls if each.split == split}
    if task != MEAN:
        return known.get(task)
    values = [known[name] for name in results.metrics if name in known]
    return sum(values) / len(values) if values and len(values) == len(results.metrics) else None


def _control_row(results: Results, task: str, split: str, overall: bool) -> Sequence[Markup]:
    value = _control(results, task, split)
    if value is None:
        return []
    name = "controls" if overall else next(each.name for each in results.controls if each.task == task)
    dev, train = (_control(results, task, other) for other in ("dev", "train"))
    gap = numeric(number(None if train is None else train - value, signed=True))
    if overall:
        each = [_control(results, one, split) for one in results.metrics]
        rest = [*(numeric(number(one)) for one in each), gap, numeric(NOTHING), numeric(NOTHING)]
    else:
        rest = [numeric(number(dev)), numeric(number(train)), gap, numeric(NOTHING)]
    cells = [head_cell(name, None), numeric(number(value)), text(""), numeric(NOTHING), *rest]
    return [tag("tr", *cells, class_="aside")]
