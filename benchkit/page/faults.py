"""What went wrong, and what happened on the way: never left to a footnote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchkit.page.markup import Markup, tag
from benchkit.page.numbers import ranges
from benchkit.page.rows import Column, head_cell, section, table, text

if TYPE_CHECKING:
    from benchkit.page.content import Content
    from benchkit.report.results import Results

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
