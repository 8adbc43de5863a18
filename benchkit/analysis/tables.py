"""Scores of heads arranged for tables, and sections of a report as text for a terminal, Markdown and LaTeX."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from tabulate import tabulate

from benchkit.analysis.statistics import Spread, spread
from benchkit.core.task import SPLITS

if TYPE_CHECKING:
    from benchkit.core.record import Record, Status
    from benchkit.core.task import TaskSpec
    from benchkit.experiment.companions import Control

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
        phases: the phases that it affects, in order: the one it happened in and all later ones.
        reason: one line.
    """

    head: str
    seed: int
    status: Status
    phases: tuple[str, ...]
    reason: str

    @property
    def counts(self) -> bool:
        """Whether the numbers of the affected phases are included in the means.

        Those of a collapsed head are: it is a result. Those of a diverged training are not: they depend on when it was
        stopped.
        """
        return self.status == "collapsed"


@dataclass(frozen=True)
class Results:
    """The data of a table, in the order in which it is shown.

    Attributes:
        metrics: name of the metric, by task.
        values: by (head, phase, task, split): the numbers that are included in means.
        train_seconds: by (head, phase): one for each included seed, in the order of the records.
        parameters: number of parameters, by head.
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
        """The number of each seed. The mean over tasks has only the seeds for which every task has a number."""
        if task != MEAN:
            return self.values.get((head, phase, task, split), {})
        columns = [self.seeds(head, phase, each, split) for each in self.metrics]
        common = [seed for seed in columns[0] if all(seed in column for column in columns)] if columns else []
        return {seed: sum(column[seed] for column in columns) / len(columns) for seed in common}

    def over(self, head: str, phase: str, task: str, split: str) -> Spread:
        """Mean and standard deviation over seeds; see `seeds`."""
        return spread(self.seeds(head, phase, task, split).values())

    def gap(self, head: str, phase: str, task: str, split: str) -> Seeds:
        """The score on train minus the score on `split`, for each seed."""
        train, other = self.seeds(head, phase, task, "train"), self.seeds(head, phase, task, split)
        return {seed: train[seed] - other[seed] for seed in train if seed in other}

    def splits(self, phase: str, task: str) -> list[str]:
        """The splits of a task on which any head was scored in a phase; for the mean, those that all tasks have.

        If every head failed, the splits with a control. If no split has one, all splits.
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
        """The score of a constant prediction; for the mean, the mean over tasks if every task has one."""
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
        phases: the requested phases; by default those that any record has. If there are none, one phase without a name
            is used, so that a head that failed at once still has a row.
        trained_controls: records of the same heads trained as controls, by kind.

    Raises:
        ValueError: two records have the same head and seed, so they belong to two comparisons.
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
    """What went wrong with a record.

    An error that begins with the name of a phase belongs to that phase. Any other error belongs to the last recorded
    phase or, if the cell failed, to the first missing one.
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
    seeds = group(((fault.status, fault.reason), fault.seed) for fault in faults)
    return "; ".join(f"{status} ({name_seeds(group)}): {reason}" for (status, reason), group in seeds.items())


Style = Literal["terminal", "markdown", "latex"]
TERMINAL_WIDTH = 100
"""Columns of a terminal that notes are wrapped to."""


@dataclass(frozen=True)
class Row:
    """The cells of one row. `aside` sets the row apart from the others, as for controls."""

    cells: tuple[str, ...]
    aside: bool = False


@dataclass(frozen=True)
class Intervals:
    """What a page draws next to the rows of a block, on one axis.

    Attributes:
        rows: for each row that is not aside, its mean with interval and the value of each seed.
        control: the score of constant predictions; None if unknown.
    """

    rows: Sequence[tuple[Spread, Sequence[float]]]
    control: float | None = None


@dataclass(frozen=True)
class Block:
    """A small table with its own header; `align` has `left` or `right` for each column."""

    header: tuple[str, ...]
    rows: Sequence[Row]
    align: tuple[str, ...]
    intervals: Intervals | None = None


@dataclass(frozen=True)
class Section:
    """A part of a report, the same in every format: a title ("" for none), tables, and notes below them."""

    title: str
    blocks: Sequence[Block] = ()
    notes: Sequence[str] = ()


def render(section: Section, style: Style = "terminal") -> str:
    """A section as text, without a line end."""
    parts = [heading(section.title, style)] if section.title else []
    parts += [table(section.blocks, style)] if section.blocks else []
    parts += [notes(section.notes, style)] if section.notes else []
    return "\n\n".join(parts)


def render_all(sections: Iterable[Section], style: Style = "terminal") -> str:
    """Sections below each other, with a line end."""
    return "\n\n".join(render(section, style) for section in sections) + "\n"


def table(blocks: Sequence[Block], style: Style) -> str:
    """Blocks below each other. On a terminal and in LaTeX they share their columns."""
    if style == "latex":
        return _latex(blocks)
    return _terminal(blocks) if style == "terminal" else "\n\n".join(_markdown(block) for block in blocks)


def heading(text: str, style: Style) -> str:
    if style == "latex":
        return rf"\paragraph{{{latex_escape(text)}}}\mbox{{}}\par\smallskip"
    return text if style == "terminal" else f"### {escape(text)}"


def notes(lines: Sequence[str], style: Style) -> str:
    """Footnotes, one a line; on a terminal wrapped."""
    if style == "latex":
        each = "".join(rf"\par {latex_escape(line)}" + "\n" for line in lines)
        return "\\par\\smallskip\n{\\footnotesize\\raggedright\n" + each + "\\par}"
    if style == "markdown":
        return "\n".join(f"- {escape(line)}" for line in lines)
    return "\n".join(textwrap.fill(line, TERMINAL_WIDTH, subsequent_indent="  ") for line in lines)


def escape(text: str) -> str:
    """Escape text for Markdown."""
    return re.sub(r"([\\`*_|<\[\]])", r"\\\1", text)


def fits_terminal(block: Block) -> bool:
    return max(map(len, _terminal([block]).splitlines())) <= TERMINAL_WIDTH


def _terminal(blocks: Sequence[Block]) -> str:
    widest = max(blocks, key=lambda block: len(block.header))
    rows = [row for block in blocks for row in (Row(block.header), *block.rows)]
    cells = [
        [
            f"({row.cells[0]})" if row.aside else row.cells[0],
            *row.cells[1:],
            *[""] * (len(widest.header) - len(row.cells)),
        ]
        for row in rows
    ]
    text = tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=widest.align)
    lines = iter([line.rstrip() for line in text.splitlines()])
    rule = "─" * max(map(len, text.splitlines()))
    return "\n\n".join("\n".join([next(lines), rule, *(next(lines) for _ in block.rows)]) for block in blocks)


def _markdown(block: Block) -> str:
    rows = [[f"*{escape(cell)}*" if row.aside and cell else escape(cell) for cell in row.cells] for row in block.rows]
    header = [escape(cell) for cell in block.header]
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=block.align)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
    "−": "$-$", "–": "--", "·": r"$\cdot$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "ε": r"$\varepsilon$",
    "…": r"\dots{}", '"': "''",
}  # fmt: skip


def latex_escape(text: str) -> str:
    """Escape text for LaTeX. A letter that the standard fonts lack is shown as its code point."""
    return "".join(_LATEX.get(sign) or (sign if sign <= "ÿ" else f"[U+{ord(sign):04X}]") for sign in text)


def render_page(lines: Sequence[str], sections: Iterable[Section], style: Style) -> str:
    """Lines of plain text, not wrapped, then the sections. LaTeX output is a fragment to paste into a paper."""
    body = render_all(sections, style)
    if style != "latex":
        return "".join(f"{escape(line) if style == 'markdown' else line}\n" for line in lines) + f"\n{body}"
    body = re.sub(r"\n{3,}", "\n\n", "".join(f"{latex_escape(line)}\\par\n" for line in lines) + f"\n{body}").strip()
    needs = (
        "% Needs \\usepackage{booktabs}, \\usepackage[T1]{fontenc} and lines of about 15 cm; made by benchkit report."
    )
    setting = r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}\setlength{\parindent}{0pt}"
    return f"{needs}\n{setting}\n{body}\n\\par\\endgroup\n"


def _latex(blocks: Sequence[Block]) -> str:
    """One tabular in the style of the package booktabs. A row that is set apart is in italics."""
    widest = max(blocks, key=lambda block: len(block.header))
    count = len(widest.header)
    lines = [r"\begin{tabular}{" + "".join(each[0] for each in widest.align) + "}"]
    for place, block in enumerate(blocks):
        lines += [r"\addlinespace\midrule" if place else r"\toprule", _latex_row(block.header, count, ""), r"\midrule"]
        lines += [_latex_row(row.cells, count, r"\textit" if row.aside else "") for row in block.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex_row(cells: Sequence[str], count: int, command: str) -> str:
    shown = [f"{command}{{{latex_escape(cell)}}}" if command and cell else latex_escape(cell) for cell in cells]
    return " & ".join([*shown, *[""] * (count - len(shown))]) + r" \\"


NOTHING = "–"


def number(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """`0.457`, `−0.012`, `+0.012` where signed; a dash for none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def plus_minus(over: Spread, *, signed: bool = False, digits: int = 3) -> str:
    """`0.457 ± 0.012`; one seed has no ±."""
    mean = number(over.mean, signed=signed, digits=digits)
    return f"{mean} ± {over.std:.{digits}f}" if over.n > 1 else mean


def interval(low: float, high: float, *, digits: int = 3) -> str:
    """`−0.012 to +0.031`, with a word since a dash between signed numbers cannot be read; a dash for none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return " to ".join(number(end, signed=True, digits=digits) for end in (low, high))


def duration(seconds: float) -> str:
    """`0.8 s`, `48 s`, `3 min 12 s`, `1 h 39 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, left = divmod(round(seconds / 60), 60)
    return f"{hours} h {left:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def name_seeds(seeds: Iterable[int]) -> str:
    """`seed 1`, `seeds 0, 2`."""
    names = [str(seed) for seed in sorted(seeds)]
    return f"seed{'s' if len(names) > 1 else ''} {', '.join(names)}"


Key = TypeVar("Key")
Value = TypeVar("Value")


def group(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """The values of each key; keys are in the order of their first occurrence."""
    found: dict[Key, list[Value]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def ranges(values: Iterable[int]) -> str:
    """`0–9, 12`."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in parts)
