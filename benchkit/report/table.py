"""The comparison table that a run prints and writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchkit.report.layout import Block, Row, Style, heading, notes, table, width
from benchkit.report.notes import footnotes, seed_counts
from benchkit.report.results import MEAN, Results, Seeds, collect
from benchkit.report.stats import spread

if TYPE_CHECKING:
    from benchkit.controls import Control
    from benchkit.record import Record
    from benchkit.task import TaskSpec

NOTHING = "–"


def render(
    records: Sequence[Record],
    controls: Sequence[Control],
    tasks: Mapping[str, TaskSpec],
    *,
    phases: Iterable[str] = (),
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
        columns: a terminal's width. Earlier phases are shown at length if the short table is wider.

    Raises:
        ValueError: two records are of the same head and seed.
    """
    return render_results(collect(records, controls, tasks, phases), style=style, columns=columns)


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
            for name, cells in _control_rows(results, task, gap)
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
