"""Verdicts as tables: letters beside the means, and a row a pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from benchkit.report.layout import Block, Row, Style, heading, notes, table
from benchkit.report.results import MEAN
from benchkit.report.stats import spread
from benchkit.report.verdicts import LEVEL, Verdict, groups

if TYPE_CHECKING:
    from benchkit.report.results import Results
    from benchkit.report.table import Letters

ALL_PAIRS = 10
"""A table of so many pairs is still read; of more the letters tell."""


def letters(results: Results, verdicts: Sequence[Verdict]) -> Letters:
    """Letters of the heads that were compared pair by pair, best first."""
    found: dict[tuple[str, str, str, str], str] = {}
    for phase, task, split in dict.fromkeys((each.phase, each.task, each.split) for each in verdicts):
        here = [each for each in verdicts if (each.phase, each.task, each.split) == (phase, task, split)]
        named = {head for each in here for head in (each.a, each.b)}
        means = {head: spread(results.seeds(head, phase, task, split).values()).mean for head in named}
        ordered = sorted((head for head in results.heads if head in named), key=lambda head: -means[head])
        for place, group in enumerate(groups(here, ordered)):
            for head in group:
                key = (phase, task, split, head)
                found[key] = found.get(key, "") + _letter(place)
    return found


def _letter(place: int) -> str:
    """`a` to `z`, then `A'`, `B'` …, which no table should need."""
    return ascii_lowercase[place] if place < len(ascii_lowercase) else f"{chr(65 + place % 26)}'"


def letters_note(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    return [
        "Heads that share a letter on a task cannot be told apart there: paired over seeds and examples, "
        f"Holm-corrected p at least {LEVEL}."
    ]


def pair_tables(verdicts: Sequence[Verdict], results: Results, style: Style, columns: int = 100) -> str:
    """A row a pair, a block a task; the last phase first."""
    parts = []
    for phase in reversed(results.phases):
        here = [each for each in verdicts if each.phase == phase]
        if here:
            blocks = [_block([each for each in here if each.task == task], results) for task in _tasks(here)]
            parts += [heading(f"{phase}: differences", style), table(blocks, style)]
    return "\n\n".join([*parts, notes(_notes(verdicts), style, columns)]) + "\n" if parts else ""


def _tasks(verdicts: Sequence[Verdict]) -> list[str]:
    return list(dict.fromkeys(each.task for each in verdicts))


def _block(verdicts: Sequence[Verdict], results: Results) -> Block:
    first = verdicts[0]
    metric = "" if first.task == MEAN else f" · {results.metrics[first.task]}"
    title = f"{'mean of tasks' if first.task == MEAN else first.task}{metric} · {first.split}"
    order = any(each.aso is not None for each in verdicts)
    header = (title, "difference", "95 % interval", "p (Holm)", "McNemar", *["ASO ε"] * order, "seeds", "verdict")
    rows = [Row(_cells(each, order)) for each in verdicts]
    return Block(header, rows, ("left", *["right"] * (5 + order), "left"))


def _cells(verdict: Verdict, order: bool) -> tuple[str, ...]:
    difference = verdict.difference
    known = not math.isnan(difference.p)
    return (
        f"{verdict.b} − {verdict.a}",
        signed(difference.value),
        f"{signed(difference.low)} to {signed(difference.high)}" if known else "–",
        chance(verdict.p_holm),
        chance(verdict.mcnemar),
        *["–" if verdict.aso is None else f"{verdict.aso:.2f}"] * order,
        str(difference.seeds),
        conclusion(verdict),
    )


def conclusion(verdict: Verdict) -> str:
    """`cnn better`, `not told apart`, `one seed`."""
    if math.isnan(verdict.p_holm):
        return "one seed"
    if not verdict.differ:
        return "not told apart"
    return f"{verdict.b if verdict.difference.value > 0 else verdict.a} better"


def _notes(verdicts: Sequence[Verdict]) -> list[str]:
    lines = [
        "Interval and p take seeds and examples both as chance; p is corrected for the comparisons on a task (Holm). "
        "McNemar's p, uncorrected, takes the trained models as they are."
    ]
    if min(each.difference.seeds for each in verdicts) < 5:
        lines.append("With few seeds intervals are wide: benchkit plan says how many a difference takes.")
    if any(each.difference.seeds < 2 for each in verdicts):
        lines.append("One seed in common: how much training varies is unknown, so there is no interval.")
    if any(each.split == "dev" for each in verdicts):
        lines.append("dev chose the epoch, so it flatters; heads are flattered alike if they vary alike.")
    if any(each.aso is not None for each in verdicts):
        lines.append("ASO ε: of the better over the worse; below 0.5 its seeds are better at most quantiles, 0 at all.")
    return lines


COLUMNS = (
    "phase", "task", "split", "metric", "a", "b", "mean_a", "mean_b", "difference", "ci_low", "ci_high", "p", "p_holm",
    "mcnemar", "aso_epsilon", "n_seeds", "verdict",
)  # fmt: skip


def rows(verdicts: Sequence[Verdict], results: Results) -> list[dict[str, Any]]:
    """For CSV and JSON; None where there is no number."""
    return [
        {
            "phase": each.phase, "task": each.task, "split": each.split,
            "metric": results.metrics.get(each.task, MEAN), "a": each.a, "b": each.b,
            **_numbers(each), "n_seeds": each.difference.seeds, "verdict": conclusion(each),
        }
        for each in verdicts
    ]  # fmt: skip


def _numbers(verdict: Verdict) -> Mapping[str, float | None]:
    difference = verdict.difference
    values = {
        "mean_a": difference.a, "mean_b": difference.b, "difference": difference.value, "ci_low": difference.low,
        "ci_high": difference.high, "p": difference.p, "p_holm": verdict.p_holm, "mcnemar": verdict.mcnemar,
        "aso_epsilon": verdict.aso,
    }  # fmt: skip
    return {name: None if value is None or math.isnan(value) else value for name, value in values.items()}


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def chance(p: float | None) -> str:
    if p is None or math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
