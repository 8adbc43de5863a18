"""Tables as text, Markdown and LaTeX."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tabulate import tabulate

from benchkit.analysis import latex
from benchkit.analysis.notes import footnotes, in_short, seed_counts
from benchkit.analysis.results import MEAN, Results, Seeds, collect
from benchkit.analysis.statistics import spread

if TYPE_CHECKING:
    from benchkit.core.record import Record
    from benchkit.core.task import TaskSpec
    from benchkit.experiment.companions import Control


Style = Literal["terminal", "markdown", "latex"]


@dataclass(frozen=True)
class Row:
    """Cells of one line; `aside` sets it apart from the others, as a control is."""

    cells: tuple[str, ...]
    aside: bool = False


@dataclass(frozen=True)
class Block:
    """A small table with its own header; `align` has `left` or `right` for each column."""

    header: tuple[str, ...]
    rows: Sequence[Row]
    align: tuple[str, ...]


def width(text: str) -> int:
    """Of the longest line."""
    return max((len(line) for line in text.splitlines()), default=0)


def table(blocks: Sequence[Block], style: Style) -> str:
    """Blocks below each other. On a terminal they share their columns' widths."""
    if style == "latex":
        return latex.table(
            [(block.header, [(row.cells, row.aside) for row in block.rows], block.align) for block in blocks]
        )
    return _terminal(blocks) if style == "terminal" else "\n\n".join(_markdown(block) for block in blocks)


def heading(text: str, style: Style) -> str:
    if style == "latex":
        return latex.heading(text)
    return text if style == "terminal" else f"### {escape(text)}"


def notes(lines: Sequence[str], style: Style, columns: int) -> str:
    """Footnotes, one a line; on a terminal wrapped to so many columns."""
    if style == "latex":
        return latex.notes(lines)
    if style == "markdown":
        return "\n".join(f"- {escape(line)}" for line in lines)
    return "\n".join(textwrap.fill(line, columns, subsequent_indent="  ") for line in lines)


def escape(text: str) -> str:
    """Markdown that shows this text."""
    return re.sub(r"([\\`*_|<\[\]])", r"\\\1", text)


def _terminal(blocks: Sequence[Block]) -> str:
    count = max(len(block.header) for block in blocks)
    align = next(block.align for block in blocks if len(block.header) == count)
    cells = [
        [*row, *[""] * (count - len(row))]
        for block in blocks
        for row in (block.header, *(_set_apart(row) for row in block.rows))
    ]
    text = tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=align)
    lines = iter([line.rstrip() for line in text.splitlines()])
    rule = "─" * width(text)
    parts = []
    for block in blocks:
        header = next(lines)
        parts.append("\n".join([header, rule, *(next(lines) for _ in block.rows)]))
    return "\n\n".join(parts)


def _set_apart(row: Row) -> tuple[str, ...]:
    return (f"({row.cells[0]})", *row.cells[1:]) if row.aside else row.cells


def _markdown(block: Block) -> str:
    rows = [[_in_table(cell, row.aside) for cell in row.cells] for row in block.rows]
    header = [escape(cell) for cell in block.header]
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=block.align)


def _in_table(cell: str, aside: bool) -> str:
    return f"*{escape(cell)}*" if aside and cell else escape(cell)


NOTHING = "–"


def render(
    records: Sequence[Record],
    controls: Sequence[Control],
    tasks: Mapping[str, TaskSpec],
    *,
    phases: Iterable[str] = (),
    beside: Mapping[str, Sequence[Record]] | None = None,
    style: Style = "terminal",
    columns: int = 100,
) -> str:
    """The comparison of heads: the last phase task by task, earlier phases in short, and what to know about
    it.

    Each number is the mean over seeds ± their standard deviation. `train − test` (`train − dev` where test
    is unlabelled) is taken seed by seed. A head with `!` has seeds that failed, diverged or collapsed: see
    the notes.

    No number is bold. An interval over a few seeds leaves out the chance of the test examples and that of
    having looked for the best of several heads, so it cannot say which head won; that takes paired
    predictions.

    Args:
        phases: those that were asked for; by default those that any record has.
        beside: records of the same heads trained in vain, by what was done: rows among the controls.
        columns: a terminal's width. Earlier phases are shown at length if the short table is wider.

    Raises:
        ValueError: two records are of the same head and seed.
    """
    return render_results(collect(records, controls, tasks, phases, beside), style=style, columns=columns)


Letters = Mapping[tuple[str, str, str, str], str]
"""By phase, task, split and head: `ab`; heads that share a letter cannot be told apart."""


def render_results(
    results: Results, *, style: Style, columns: int = 100, letters: Letters | None = None, remarks: Sequence[str] = ()
) -> str:
    """`render` of what was collected.

    Args:
        letters: from paired predictions; with them there is a column for the intervals too.
        remarks: lines to put before the footnotes.
    """
    parts = []
    for phase in reversed(results.phases):
        title = f"{phase or 'no phase'}: {seed_counts(results, phase)}"
        blocks = _long(results, phase, letters)
        short = _short(results, phase)
        if phase != results.phases[-1] and width(table([short], "terminal")) <= columns:
            blocks = [short]
        parts += [heading(title, style), table(blocks, style)]
    parts.append(notes([*remarks, *footnotes(results, intervals=letters is not None)], style, columns))
    return "\n\n".join(parts) + "\n"


def _long(results: Results, phase: str, letters: Letters | None) -> list[Block]:
    """A block a task and one for their mean; the last block has parameters and time besides."""
    tasks = _with_mean(results)
    blocks = []
    for task in tasks:
        last = task == tasks[-1]
        gap = _gap_split(results, phase, task)
        title = "mean of tasks" if task == MEAN else f"{task} · {results.metrics[task]}"
        rows = [_long_row(results, head, phase, task, gap, last, letters) for head in results.heads]
        wide = letters is not None
        rows += [
            Row((name, *cells[:2], *[""] * wide, cells[2], *["", ""] * last), True)
            for name, cells in (*_control_rows(results, task, gap), *_trained_rows(results, phase, task, gap))
        ]
        costs = ("parameters", "time") if wide else ("head parameters", "time a seed")
        blocks.append(
            Block(
                (title, "dev", "test", *["95 % CI"] * wide, f"train − {gap}", *costs * last),
                rows,
                ("left",) * (4 + wide) + ("right",) * 2 * last,
            )
        )
    return blocks


def _long_row(results: Results, head: str, phase: str, task: str, gap: str, last: bool, letters: Letters | None) -> Row:
    seeds = {split: results.seeds(head, phase, task, split) for split in ("dev", "test")}
    scores = {split: _score(each) for split, each in seeds.items()}
    cells = [*scores.values(), _score(results.gap(head, phase, task, gap), signed=True)]
    if all(cell == NOTHING for cell in cells):
        cells[0] = _excuse(results, head, phase)
    if letters is not None:
        for place, split in enumerate(scores):
            cells[place] = f"{cells[place]} {letters.get((phase, task, split, head), '')}".strip()
        cells.insert(2, _half(seeds[gap]))
    return Row((_name(results, head, phase), *cells, *(_costs(results, head, phase) if last else ())))


def _half(seeds: Seeds) -> str:
    """Half the width of the 95 % interval of a mean."""
    over = spread(seeds.values())
    return NOTHING if over.n < 2 else f"±{over.high - over.mean:.3f}"


def _short(results: Results, phase: str) -> Block:
    """One row a head: test (dev where test is unlabelled) of each task, the gap of their mean, the time."""
    tasks = _with_mean(results)
    splits = {task: _gap_split(results, phase, task) for task in tasks}
    gap = splits[tasks[-1]]
    names = [task if splits[task] == "test" else f"{task} ({splits[task]})" for task in tasks]
    rows = []
    for head in results.heads:
        cells = [_score(results.seeds(head, phase, task, splits[task])) for task in tasks]
        cells.append(_score(results.gap(head, phase, tasks[-1], gap), signed=True))
        if all(cell == NOTHING for cell in cells):
            cells[0] = _excuse(results, head, phase)
        rows.append(Row((_name(results, head, phase), *cells, _costs(results, head, phase)[1])))
    constants = {(each.task, each.split): each.value for each in results.controls}
    bottom = [_number(_control(constants, results, task, splits[task])) for task in tasks]
    if any(cell != NOTHING for cell in bottom):
        rows.append(Row(("controls", *bottom, "", ""), True))
    header = ("test", *names, f"train − {gap}", "time")
    return Block(header, rows, ("left",) * (len(header) - 1) + ("right",))


def _with_mean(results: Results) -> list[str]:
    return [*results.metrics, *[MEAN] * (len(results.metrics) > 1)]


def _gap_split(results: Results, phase: str, task: str) -> str:
    """What train is compared with: test, or dev where test is unlabelled."""
    return "test" if "test" in results.splits(phase, task) else "dev"


def _control_rows(results: Results, task: str, gap: str) -> list[tuple[str, tuple[str, str, str]]]:
    """Name and cells of each control of a task, of which there is one; for the mean, of all tasks'
    together.
    """
    constants = {(each.task, each.split): each.value for each in results.controls}
    name = next((each.name for each in results.controls if each.task == task), "controls")
    dev, test, train, other = (_control(constants, results, task, split) for split in ("dev", "test", "train", gap))
    if dev is None and test is None:
        return []
    difference = None if train is None or other is None else train - other
    return [(name, (_number(dev), _number(test), _number(difference, signed=True)))]


def _trained_rows(results: Results, phase: str, task: str, gap: str) -> list[tuple[str, tuple[str, str, str]]]:
    """Name and cells of each head that was trained in vain."""
    rows = []
    for name, vain in results.beside.items():
        for head in vain.heads:
            dev, test = (_score(vain.seeds(head, phase, task, split)) for split in ("dev", "test"))
            if dev == test == NOTHING:
                dev = _excuse(vain, head, phase)
            label = f"{head}, {in_short(name)}{' !' * bool(vain.of(head, phase))}"
            rows.append((label, (dev, test, _score(vain.gap(head, phase, task, gap), signed=True))))
    return rows


def _control(constants: Mapping[tuple[str, str], float], results: Results, task: str, split: str) -> float | None:
    if task != MEAN:
        return constants.get((task, split))
    each = [constants.get((one, split)) for one in results.metrics]
    known = [value for value in each if value is not None]
    return sum(known) / len(known) if known and len(known) == len(each) else None


def _name(results: Results, head: str, phase: str) -> str:
    return f"{head} !" if results.of(head, phase) else head


def _excuse(results: Results, head: str, phase: str) -> str:
    """Why a head has no number: never a blank."""
    return ", ".join(dict.fromkeys(fault.status for fault in results.of(head, phase))) or "not run"


def _costs(results: Results, head: str, phase: str) -> tuple[str, str]:
    parameters = results.parameters.get(head)
    seconds = results.seconds(head, phase)
    return (
        NOTHING if parameters is None else f"{parameters:,}",
        duration(spread(seconds.values()).mean) if seconds else NOTHING,
    )


def _score(seeds: Seeds, *, signed: bool = False) -> str:
    over = spread(seeds.values())
    if over.n < 2:
        return _number(over.mean if over.n else None, signed=signed)
    return f"{_number(over.mean, signed=signed)} ± {over.std:.3f}"


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return NOTHING
    return f"{value:{'+' if signed else ''}.3f}".replace("-", "−")


def duration(seconds: float) -> str:
    """`0.8 s`, `48 s`, `3 min 12 s`, `1 h 39 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, left = divmod(round(seconds / 60), 60)
    return f"{hours} h {left:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"
