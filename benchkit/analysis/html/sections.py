"""The page's sections."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchkit.analysis.comparisons import LEVEL, Verdict, groups
from benchkit.analysis.html import charts as forest
from benchkit.analysis.html.content import Observed, Outcome, disputes, judged
from benchkit.analysis.html.markup import (
    NOTHING,
    Column,
    Markup,
    facts,
    fold,
    head_cell,
    interval,
    join,
    lines,
    number,
    numeric,
    p_value,
    plus_minus,
    ranges,
    section,
    swatch,
    table,
    tag,
    text,
)
from benchkit.analysis.notes import footnotes, seed_counts
from benchkit.analysis.results import MEAN, Results, describe
from benchkit.analysis.statistics import spread
from benchkit.analysis.tables import duration

if TYPE_CHECKING:
    from benchkit.analysis.html.content import Content
    from benchkit.analysis.results import Results
    from benchkit.core.record import Record


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


_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FEW_PAIRS = 6
_LEAD_TOLD_APART = (
    "Heads are compared pair by pair on the same seeds and examples, with both as chance; p is corrected for the "
    "number of pairs on a task (Holm). Heads that share a letter cannot be told apart, which is not to say that "
    "they are equal."
)


def told_apart(content: Content) -> Markup:
    """Nothing where there are no pairs. Phases come last first."""
    found = content.verdicts
    phases = [phase for phase in reversed(content.results.phases) if any(each.phase == phase for each in found)]
    if not phases:
        return join([])
    parts = [
        _phase_told_apart(content, [each for each in found if each.phase == phase], len(phases) > 1) for phase in phases
    ]
    return section("verdicts", "What can be told apart", *parts, lead=_LEAD_TOLD_APART)


def _phase_told_apart(content: Content, verdicts: Sequence[Verdict], named: bool) -> Markup:
    tasks = sorted({each.task for each in verdicts}, key=[MEAN, *content.results.metrics].index)
    here = {task: [each for each in verdicts if each.task == task] for task in tasks}
    letters = [_letters(content, each) for each in here.values() if _complete(each)]
    pairs = _pairs(content, [each for task in tasks for each in here[task]])
    return join(
        [
            tag("h3", verdicts[0].phase) if named else "",
            tag("div", *letters, class_="panels small") if letters else "",
            pairs if len(verdicts) <= _FEW_PAIRS * len(tasks) or not letters else fold("Every pair", pairs),
        ]
    )


def _complete(verdicts: Sequence[Verdict]) -> bool:
    """Whether every head was compared with every other, as groups take, and not all with one."""
    heads = {head for each in verdicts for head in (each.a, each.b)}
    return len(verdicts) == math.comb(len(heads), 2)


def _letters(content: Content, verdicts: Sequence[Verdict]) -> Markup:
    """A compact letter display (Piepho 2004) of one task, best head first."""
    phase, task, split = verdicts[0].phase, verdicts[0].task, verdicts[0].split
    means = {
        head: spread(content.results.seeds(head, phase, task, split).values()).mean
        for head in content.results.heads
        if any(head in (each.a, each.b) for each in verdicts)
    }
    heads = sorted(means, key=lambda head: -means[head])
    found = groups(verdicts, heads)
    rows = [_letter_row(content, head, means[head], found) for head in heads]
    columns = [Column("head"), Column(split, right=True), Column("group")]
    title = "Mean over tasks" if task == MEAN else f"{task} · {content.results.metrics[task]}"
    note = _sentence(verdicts, found)
    return tag("div", table(title, columns, rows, class_="letters"), tag("p", note, class_="note"))


def _letter_row(content: Content, head: str, mean: float, found: Sequence[Sequence[str]]) -> Markup:
    shared = " ".join(_letter(place) for place, group in enumerate(found) if head in group)
    return tag("tr", head_cell(head, content.results.heads.index(head)), numeric(number(mean)), text(shared))


def _letter(place: int) -> str:
    """`a` to `z`, then `aa`."""
    more, last = divmod(place, len(_LETTERS))
    return (_letter(more - 1) if more else "") + _LETTERS[last]


def _sentence(verdicts: Sequence[Verdict], found: Sequence[Sequence[str]]) -> str:
    """The group display in words."""
    apart = sum(each.differ for each in verdicts)
    if any(math.isnan(each.p_holm) for each in verdicts):
        return "Some pairs have fewer than two seeds in common, so nothing can be said of them."
    if len(found) == 1:
        return "No two heads can be told apart."
    if apart == len(verdicts):
        return "The two can be told apart." if apart == 1 else f"All {apart} pairs can be told apart."
    return f"{apart} of {len(verdicts)} pairs can be told apart."


def _pairs(content: Content, verdicts: Sequence[Verdict]) -> Markup:
    aso = any(each.aso is not None for each in verdicts)
    columns = [
        Column("task", "text"),
        Column("first", "text"),
        Column("second", "text"),
        Column("second − first", "number"),
        Column("95 % interval", hint="seeds and examples both as chance", right=True),
        Column("p (Holm)", "number", f"told apart below {LEVEL:g}"),
        Column("McNemar p", "number", "exact, a cross-check over examples alone"),
        *[Column("ASO ε", "number", "almost stochastic order of the better over the worse")] * aso,
        Column("verdict"),
    ]
    return table("Every pair", columns, [_pair(content, each, aso) for each in verdicts], class_="pairs")


def _pair(content: Content, verdict: Verdict, aso: bool) -> Markup:
    difference = verdict.difference
    sides = [_side(content, head) for head in (verdict.a, verdict.b)]
    better = verdict.b if difference.value > 0 else verdict.a
    said = f"{better} is higher" if verdict.differ else "not told apart"
    known = not math.isnan(verdict.p_holm)
    return tag(
        "tr",
        text("mean of tasks" if verdict.task == MEAN else verdict.task),
        *sides,
        numeric(number(difference.value, signed=True), difference.value),
        numeric(interval(difference.low, difference.high, signed=True)),
        numeric(p_value(verdict.p_holm) if known else NOTHING, verdict.p_holm),
        numeric(NOTHING if verdict.mcnemar is None else p_value(verdict.mcnemar), verdict.mcnemar),
        *[numeric(number(verdict.aso), verdict.aso)] * aso,
        text(said if known else "too few seeds"),
        class_="apart" if verdict.differ else None,
    )


def _side(content: Content, head: str) -> Markup:
    key = swatch(content.results.heads.index(head))
    return text(join([key, tag("span", head, class_="name")]), data_value=head)


_SHADES = 10
_EXAMPLES = 8


def confusion(content: Content) -> Markup:
    """A matrix a head and classification, or nothing where no task has classes."""
    tasks = [each for each in content.observed.values() if each.task.classes]
    if not tasks:
        return join([])
    heads = content.results.heads
    groups = []
    for observed in tasks:
        each = [_matrix(observed, head, heads.index(head), outcome) for head, outcome in observed.outcomes.items()]
        groups += [tag("h3", f"{observed.task.name}, on {observed.split}"), tag("div", *each, class_="matrices")]
    return section(
        "confusion",
        "Confusion",
        *groups,
        lead="Of a hundred examples with a label (a row), how many were predicted as each class, over all seeds.",
    )


def _matrix(observed: Observed, head: str, index: int, outcome: Outcome) -> Markup:
    classes = observed.task.classes
    totals = outcome.confusion.sum(axis=1)
    header = tag(
        "tr",
        tag("th", "label", scope="col", class_="corner"),
        *(tag("th", name, scope="col") for name in classes),
        tag("th", "share", scope="col", class_="share"),
    )
    rows = [
        tag("tr", tag("th", name, scope="row"), *_cells(outcome.confusion[i], i), _share(totals[i], totals.sum()))
        for i, name in enumerate(classes)
    ]
    said = outcome.confusion.sum(axis=0)
    last = tag("tr", tag("th", "predicted", scope="row"), *(_share(each, said.sum()) for each in said), tag("td"))
    caption = tag("caption", swatch(index), tag("span", head, class_="name"))
    whole = tag("table", caption, tag("thead", header), tag("tbody", *rows), tag("tfoot", last), class_="matrix")
    return tag("div", whole, class_="frame", tabindex="0", role="region", aria_label=f"confusion of {head}")


def _cells(counts: Sequence[int] | np.ndarray, own: int) -> list[Markup]:
    total = int(np.sum(counts))
    cells = []
    for column, count in enumerate(counts):
        share = int(count) / total if total else 0.0
        shade = round(share * _SHADES)
        classes = f"h{shade}{' own' if column == own else ''}"
        cells.append(tag("td", _percent(share) if total else "–", class_=classes, title=f"{int(count):,} predictions"))
    return cells


def _share(count: int, total: int) -> Markup:
    return tag("td", _percent(int(count) / int(total)) if total else "–", class_="share")


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share == 0 or share >= 0.005 else "<1"


def examples(content: Content) -> Markup:
    """For each task the examples that divide heads most, with their texts where the data is still there."""
    parts = []
    for name, observed in content.observed.items():
        found = disputes(observed, _EXAMPLES)
        if not found:
            continue
        texts = content.stored.texts(name, observed.split) if content.texts else None
        rows = [_example(content, observed, each.id, each.label, each.row, texts) for each in found]
        missing = "example (the data was not found again)" if content.texts else "example"
        columns = [Column("text" if texts else missing), Column("label")]
        columns += [Column(head) for head in observed.outcomes]
        parts.append(table(f"{name}, on {observed.split}", columns, rows, class_="examples"))
    if not parts:
        return join([])
    return section(
        "examples",
        "Where heads disagree",
        *parts,
        lead=(
            "The examples on which heads differ most in how many seeds are right, or of scores in the mean distance "
            "from the label; of equals the hardest first. Shown is what most seeds predict, or the mean prediction."
        ),
    )


def _example(
    content: Content,
    observed: Observed,
    id_: str,
    label: float,
    row: int,
    texts: Mapping[str, tuple[str, ...]] | None,
) -> Markup:
    parts = (texts or {}).get(id_, ())
    shown = tag("div", *(tag("p", part) for part in parts)) if parts else tag("code", id_)
    said = [_said(observed, head, outcome, row) for head, outcome in observed.outcomes.items()]
    return tag("tr", text(shown, class_="sentence"), text(_word(observed, label), data_head="label"), *said)


def _said(observed: Observed, head: str, outcome: Outcome, row: int) -> Markup:
    task, miss, word = observed.task, float(outcome.miss[row]), _word(observed, float(outcome.said[row]))
    if not task.classes:
        off = f"off by {number(miss * (task.high - task.low), digits=2)}"
        return text(join([word, tag("small", off)]), data_head=head)
    seeds = f"{round((1 - miss) * outcome.seeds)} of {outcome.seeds} right"
    right = outcome.said[row] == observed.labels[row]
    shown = join([tag("b", "✓ " if right else "✗ "), word, tag("small", seeds)])
    return text(shown, class_="right" if right else "wrong", data_head=head)


def _word(observed: Observed, value: float) -> str:
    """A label or prediction in words."""
    return observed.task.classes[int(value)] if observed.task.classes else number(value, digits=2)


_EPOCH = re.compile(r"(?P<phase>\S+) epoch (?P<epoch>\d+): (?P<what>.+)", re.DOTALL)


def faults(content: Content) -> Markup:
    """Cells that failed, diverged or collapsed; then events, with the epochs they happened in."""
    results = content.results
    bad, cells = len(results.faults), len(content.records)
    lead = (
        f"All {cells} cells ran to their end."
        if not bad
        else f"{bad} of {cells} cells did not end well. Failed and diverged cells are in no mean; collapsed ones are, "
        "as a head that predicts one class is a result."
    )
    parts = []
    if bad:
        columns = [Column(each) for each in ("head", "seeds", "status", "from phase", "in the means", "reason")]
        parts.append(table("Cells that failed, diverged or collapsed", columns, _fault_rows(results)))
    if results.events:
        columns = [Column(each) for each in ("head", "seed", "phase", "epochs", "what")]
        parts.append(table("On the way", columns, _event_rows(results), class_="events"))
    return section("faults", "Faults", *parts, lead=lead)


def _fault_rows(results: Results) -> list[Markup]:
    groups: dict[tuple[str, str, str, str, str], list[int]] = {}
    for each in results.faults:
        counts = "yes" if each.counts else "no"
        groups.setdefault((each.head, each.status, each.phases[0] or "–", counts, each.reason), []).append(each.seed)
    return [
        tag("tr", head_cell(head, _index(results.heads, head)), *map(text, (ranges(seeds), status, phase, counts, why)))
        for (head, status, phase, counts, why), seeds in groups.items()
    ]


def _event_rows(results: Results) -> list[Markup]:
    groups: dict[tuple[str, int, str, str], list[int]] = {}
    for head, seed, event in results.events:
        found = _EPOCH.fullmatch(event)
        key = (head, seed, found["phase"], found["what"]) if found else (head, seed, "–", event)
        groups.setdefault(key, []).extend([int(found["epoch"])] if found else [])
    return [
        tag("tr", head_cell(head, _index(results.heads, head)), *map(text, (str(seed), phase, ranges(epochs), what)))
        for (head, seed, phase, what), epochs in groups.items()
    ]


def _index(heads: Sequence[str], head: str) -> int:
    return list(heads).index(head)


def provenance(content: Content) -> Markup:
    parts = [
        tag("h3", "Encoder, code and machine"),
        facts([each for each in _surroundings(content) if each[1] != NOTHING], "facts wide"),
        tag("h3", "Protocol"),
        facts([each for each in _protocol(content) if each[1] != NOTHING], "facts wide"),
        _heads(content),
        tag("h3", "Data"),
        _data(content),
        fold(f"All {len(content.records)} cells", _cells_provenance(content)),
    ]
    return section(
        "provenance",
        "Provenance",
        *parts,
        lead="As recorded with the cells. Where cells differ, each value stands with the number of cells it holds for.",
    )


def _distinct(content: Content, read: Callable[[Record], Any]) -> Markup:
    """What a field is in all cells that say so; with counts where they do not agree."""
    counts: dict[str, int] = {}
    for record in content.records:
        value = read(record)
        if value not in (None, "", {}):
            words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            counts[words] = counts.get(words, 0) + 1
    if len(counts) < 2:
        return join([next(iter(counts), NOTHING)])
    return join([tag("span", f"{value} ({count} cells)", class_="one") for value, count in counts.items()], " ")


def _surroundings(content: Content) -> Iterator[tuple[str, Markup]]:
    """Name and value, as the cells have them."""

    def row(name: str, read: Callable[[Record], Any]) -> tuple[str, Markup]:
        return name, _distinct(content, read)

    yield row("encoder", lambda each: each.encoder.get("name"))
    yield row("encoder parameters", lambda each: _count(each.parameters.get("encoder")))
    yield row("encoder fingerprint", lambda each: each.encoder.get("fingerprint"))
    yield row("encoder notes", lambda each: "; ".join(each.encoder.get("notes", ())))
    yield row("benchkit", lambda each: each.environment.get("benchkit"))
    yield row("git", lambda each: each.environment.get("git"))
    yield row("engine source", lambda each: each.identity.get("engine", {}).get("source"))
    yield row("python", lambda each: each.environment.get("python"))
    for package in dict.fromkeys(name for each in content.records for name in each.environment.get("packages", {})):
        yield row(package, lambda each, name=package: each.environment.get("packages", {}).get(name))  # type: ignore[misc]
    for name in ("processor", "platform", "device", "precision", "threads", "feature_cache", "cuda_graph", "compiled"):
        yield row(name.replace("_", " "), lambda each, name=name: each.environment.get(name))  # type: ignore[misc]
    memory = [each.peak_memory_bytes / 2**30 for each in content.records if each.peak_memory_bytes]
    if memory:
        ends = dict.fromkeys(f"{each:.1f}" for each in (min(memory), max(memory)))
        yield "peak memory of a cell", join([" to ".join(ends) + " GiB"])
    yield row("data", folder_name)


def folder_name(record: Record) -> str:
    """The data's name without its folder's place: a page is passed on, and says by sha256 what the data are."""
    return Path(str(record.data.get("name") or "")).name


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _protocol(content: Content) -> Iterator[tuple[str, Markup]]:
    names = dict.fromkeys(name for each in content.records for name in _flat(each.identity.get("protocol", {})))
    for name in names:
        yield name, _distinct(content, lambda each, name=name: _flat(each.identity.get("protocol", {})).get(name))  # type: ignore[misc]
    for name in content.results.metrics:
        yield f"{name}.loss", _distinct(content, lambda each, name=name: _task(each, name).get("loss"))  # type: ignore[misc]


def _task(record: Record, name: str) -> Mapping[str, Any]:
    return next((each for each in record.identity.get("tasks", ()) if each["name"] == name), {})


def _flat(part: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Fields by their dotted names, as `--set` has them."""
    rows: dict[str, str] = {}
    for name, value in part.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name}.")
        else:
            rows[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return rows


def _heads(content: Content) -> Markup:
    """Config and sizes of each head, as its first cell has them."""
    rows = []
    for index, head in enumerate(content.results.heads):
        records = [each for each in content.records if each.head == head]
        own = records[0].identity.get("head", {})
        config = _flat(own.get("config", {}))
        sizes = next((each.parameters for each in records if each.parameters), {})
        rows.append(
            tag(
                "tr",
                head_cell(head, index),
                text(join([tag("code", f"{name}={value}") for name, value in config.items()], " ")),
                *(numeric(_count(sizes.get(part)) or NOTHING) for part in ("head", "trunk", "branches")),
                text(tag("code", str(own.get("source", NOTHING))[:12])),
                text(ranges(each.seed for each in records)),
            )
        )
    columns = [Column("head"), Column("config")]
    columns += [Column(each) for each in ("parameters", "trunk", "branches", "source", "seeds")]
    return table("Heads", columns, rows, class_="heads")


def _data(content: Content) -> Markup:
    rows = []
    for record in content.records:
        for task, splits in record.data.get("splits", {}).items():
            for split, about in splits.items():
                sums = (about["sha256"], record.identity.get("data", {}).get(task, {}).get(split, NOTHING))
                rows.append(
                    tag(
                        "tr",
                        tag("th", f"{task} {split}", scope="row"),
                        numeric(f"{about['rows']:,}"),
                        text(about["source"]),
                        *(text(tag("code", each[:16], title=each)) for each in sums),
                    )
                )
    columns = [Column(each) for each in ("split", "rows", "file and columns", "sha256 of file", "of content")]
    return table("Splits", columns, list(dict.fromkeys(rows)), class_="data")


def _cells_provenance(content: Content) -> Markup:
    rows = [
        tag(
            "tr",
            head_cell(each.head, content.results.heads.index(each.head)),
            text(str(each.seed)),
            text(each.status),
            text(", ".join(f"{phase.name} {phase.best_epoch}/{phase.epochs}" for phase in each.phases) or NOTHING),
            text(tag("code", " ".join(phase.order_hash for phase in each.phases) or NOTHING)),
            text(tag("code", each.key)),
            text(tag("code", each.predictions_sha256[:16] or NOTHING)),
        )
        for each in content.records
    ]
    titles = ("head", "seed", "status", "best epoch", "order of batches", "cell", "sha256 of predictions")
    return table("Cells", [Column(each) for each in titles], rows, class_="cells")
