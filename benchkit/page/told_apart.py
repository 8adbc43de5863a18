"""Which heads differ by more than chance: groups that share a letter, and every pair behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchkit.page.markup import Markup, join, tag
from benchkit.page.numbers import NOTHING, interval, number, p_value
from benchkit.page.rows import Column, fold, head_cell, numeric, section, swatch, table, text
from benchkit.report.results import MEAN
from benchkit.report.stats import spread
from benchkit.report.verdicts import LEVEL, Verdict, groups

if TYPE_CHECKING:
    from benchkit.page.content import Content

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FEW_PAIRS = 6
_LEAD = (
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
    parts = [_phase(content, [each for each in found if each.phase == phase], len(phases) > 1) for phase in phases]
    return section("verdicts", "What can be told apart", *parts, lead=_LEAD)


def _phase(content: Content, verdicts: Sequence[Verdict], named: bool) -> Markup:
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
