"""A comparison of two runs as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchkit.compare.measure import MEAN_NAME, SHARES, Measure
from benchkit.compare.runs import Comparison, Verdict
from benchkit.report.layout import Block, Row, notes, table
from benchkit.report.results import name_seeds

_ALIGN = ("left", "right", "right", "right", "left", "left")
_UNITS = {"speed.train": "steps a second", "speed.eval": "examples a second", "memory.peak": "MB"}
_SHOWN = 8


def render(comparison: Comparison, columns: int = 100) -> str:
    """A block a quantity, then what is not the same in the two runs."""
    names = list(dict.fromkeys(each.name for each in comparison.measures))
    rows = {name: [each for each in comparison.measures if each.name == name] for name in names}
    text = table([_block(name, each, comparison.split) for name, each in rows.items()], "terminal") if rows else ""
    lines = "\n".join(_wrapped(line, columns) for line in _remarks(comparison))
    return "\n\n".join(part for part in (text, lines) if part)


def render_verdicts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A line a condition and head: `✗` where it holds, which is the regression looked for."""
    for each in verdicts:
        mark = "✗" if each.holds else "✓"
        reason = each.lost and f"{each.lost}, no number to compare"
        if not reason and each.measure:
            reason = f"{_change(each.measure)} {'%' if each.measure.share else 'points'}{_in_brackets(each.measure)}"
        yield f"{mark} {each.condition.text}: {each.head} {reason or 'has no number in either run'}"


def _block(name: str, measures: Sequence[Measure], split: str) -> Block:
    share = name in SHARES
    title = f"{name} · {_UNITS[name]}" if share else f"{'mean of tasks' if name == MEAN_NAME else name} · {split}"
    header = (title, "A", "B", "B / A − 1, %" if share else "B − A, points", "95 % interval", "")
    return Block(header, [Row((each.head, *_values(each), _change(each), *_told(each))) for each in measures], _ALIGN)


def _values(measure: Measure) -> tuple[str, str]:
    if not measure.share:
        return f"{measure.a:.4f}", f"{measure.b:.4f}"
    scale = 1e6 if measure.name == "memory.peak" else 1.0
    return f"{measure.a / scale:,.0f}", f"{measure.b / scale:,.0f}"


def _change(measure: Measure) -> str:
    return f"{measure.change:+.2f}".replace("-", "−")


def _interval(measure: Measure) -> str:
    if math.isnan(measure.low):
        return ""
    return f"{measure.low:+.2f} to {measure.high:+.2f}".replace("-", "−")


def _told(measure: Measure) -> tuple[str, str]:
    if not _interval(measure):
        return "one seed: unknown", ""
    if measure.low == measure.high == 0:
        return _interval(measure), "the same"
    word = ("higher" if measure.change > 0 else "lower") if measure.sure else "cannot tell"
    return _interval(measure), word


def _in_brackets(measure: Measure) -> str:
    found = _interval(measure)
    return f" ({found})" if found else ""


def _remarks(comparison: Comparison) -> Iterator[str]:
    seeds: dict[str, list[str]] = {}
    for head, pairs in comparison.pairs.items():
        common = name_seeds(a.seed for a, _ in pairs) if pairs else "no seed with a number"
        seeds.setdefault(common, []).append(head)
    yield from (f"{', '.join(heads)}: {common} in both." for common, heads in seeds.items())
    for kind, lines in comparison.differences.items():
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        yield f"Not the same ({kind}): {'; '.join(lines[:_SHOWN])}{more}."
    yield from comparison.notes


def _wrapped(line: str, columns: int) -> str:
    return notes([line], "terminal", columns)
