"""How far tasks pull the shared weights in one direction, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from benchkit.report.layout import Block, Row, Style, notes, table
from benchkit.report.stats import spread

if TYPE_CHECKING:
    from benchkit.record import Record

_ALIGN = ("left", "left", "right", "right", "right", "right")
_NOTE = (
    "Cosine of two tasks' gradients on what they share, after each epoch, on a fixed batch of each, dropout off; mean "
    "over seeds, ± their standard deviation. Below 0, a step for the one task undoes some of the other's. It was "
    "measured beside the training and changes no number of it."
)


def render(records: Sequence[Record], style: Style = "terminal", columns: int = 100) -> str:
    """A block a phase and shared part, a row a head and pair of tasks; "" where nothing was measured."""
    blocks = list(_blocks(records))
    return f"{table(blocks, style)}\n\n{notes([_NOTE], style, columns)}" if blocks else ""


def _blocks(records: Sequence[Record]) -> Iterator[Block]:
    found = _collect(records)
    for phase, part in dict.fromkeys(key[:2] for key in found):
        rows = [_row(key[2], key[3], found[key]) for key in found if key[:2] == (phase, part)]
        header = (f"{phase} · {part}", "tasks", "first epoch", "last epoch", "all epochs", "below 0")
        yield Block(header, rows, _ALIGN)


def _collect(records: Sequence[Record]) -> dict[tuple[str, str, str, str], list[list[float]]]:
    """By phase, part, head and pair: the cosines of each seed, in the order of the epochs."""
    found: dict[tuple[str, str, str, str], list[list[float]]] = {}
    for record in records:
        for phase in record.phases:
            seeds: dict[tuple[str, str, str, str], list[float]] = {}
            for each in phase.interference or ():
                seeds.setdefault((phase.name, each.part, record.head, f"{each.a} · {each.b}"), []).append(each.value)
            for key, values in seeds.items():
                found.setdefault(key, []).append(values)
    return found


def _row(head: str, pair: str, seeds: Sequence[Sequence[float]]) -> Row:
    means = [sum(values) / len(values) for values in seeds]
    every = [value for values in seeds for value in values]
    below = sum(value < 0 for value in every) / len(every)
    columns: Mapping[str, list[float]] = {
        "first": [values[0] for values in seeds],
        "last": [values[-1] for values in seeds],
        "all": means,
    }
    return Row((head, pair, *(_number(values) for values in columns.values()), f"{below:.0%}"))


def _number(values: Sequence[float]) -> str:
    over = spread(values)
    text = f"{over.mean:+.2f}" + (f" ± {over.std:.2f}" if over.n > 1 else "")
    return text.replace("-0.00", "+0.00").replace("-", "−")
