"""Confusion matrices as tables, and the examples that divide heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchkit.page.markup import Markup, join, tag
from benchkit.page.numbers import number
from benchkit.page.outcomes import Observed, Outcome, disputes
from benchkit.page.rows import Column, section, swatch, table, text

if TYPE_CHECKING:
    from benchkit.page.content import Content

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
