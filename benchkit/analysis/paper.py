"""A report of stored runs in one of its formats."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchkit.analysis import latex
from benchkit.analysis import multitask as interference
from benchkit.analysis.comparisons import ALL_PAIRS, COLUMNS, compare, groups, letters, letters_note, pair_tables, rows
from benchkit.analysis.notes import footnotes
from benchkit.analysis.report import results_frame
from benchkit.analysis.results import MEAN
from benchkit.analysis.tables import render_results

if TYPE_CHECKING:
    from benchkit.analysis.comparisons import Verdict
    from benchkit.analysis.results import Stored
    from benchkit.analysis.tables import Style


def verdicts_of(stored: Stored, split: str = "test", against: str | None = None, *, aso: bool = False) -> list[Verdict]:
    """Those of every phase whose predictions are kept; see `compare`.

    Raises:
        UserError: there is no head `against`.
    """
    phases = stored.results.phases
    return [each for phase in phases for each in compare(stored, phase, split, against, aso=aso)]


def as_text(
    stored: Stored,
    verdicts: Sequence[Verdict],
    style: Style,
    *,
    columns: int = 100,
    against: str | None = None,
    only: str | None = None,
) -> str:
    """What was compared, the table of scores, and that of differences: against one head, or of few pairs all."""
    results = stored.results
    shared = {} if against else letters(results, verdicts)
    remarks = [*letters_note(verdicts if shared else ()), *stored.notes]
    parts = [_lines(provenance(stored), style)]
    if only != "verdicts":
        parts.append(render_results(results, style=style, columns=columns, letters=shared, remarks=remarks))
        parts += [f"{text}\n" for text in _multitask(stored, style, columns) if text]
    pairs = len({(each.phase, each.a, each.b) for each in verdicts})
    if only == "verdicts" or (only is None and (against or pairs <= ALL_PAIRS)):
        parts.append(pair_tables(verdicts, results, style, columns))
    elif only is None:
        parts.append(_lines([f"{pairs} pairs: --only verdicts shows them all, --against HEAD those of one."], style))
    text = "\n".join(part for part in parts if part)
    return latex.page(text) if style == "latex" else text


def _multitask(stored: Stored, style: Style, columns: int) -> Iterator[str]:
    """What tasks do to each other, as far as it was measured: cosines of gradients, and together against alone."""
    from benchkit.analysis.multitask import render_single_task, stored_gains

    yield interference.render_interference(stored.records, style, columns)
    if found := stored_gains(stored):
        yield render_single_task(found, style, columns)


def _lines(lines: Sequence[str], style: Style) -> str:
    if style == "latex":
        return "".join(f"{latex.escape(line)}\\par\n" for line in lines)
    return "\n".join(lines) + "\n"


def provenance(stored: Stored) -> list[str]:
    """A line for each combination of run, encoder, data and machine."""
    lines: dict[str, int] = {}
    for record in stored.records:
        environment = record.environment
        run = stored.folders[record.key].parent.parent
        encoder = record.encoder.get("name") or "encoder unknown"
        data = Path(str(record.data.get("name") or "unknown")).name
        device = f"{environment.get('device', 'device unknown')} {environment.get('precision', '')}".strip()
        line = f"{run}: {encoder} on {data} data, {device}, benchkit {environment.get('benchkit', 'unknown')}"
        lines[line] = lines.get(line, 0) + 1
    return [f"{line}, {count} cell{'s' if count > 1 else ''}" for line, count in lines.items()]


def as_csv(stored: Stored, verdicts: Sequence[Verdict], only: str) -> str:
    """One table: of scores, or of verdicts."""
    import pandas as pd

    if only == "verdicts":
        frame = pd.DataFrame(rows(verdicts, stored.results), columns=list(COLUMNS))
    else:
        frame = results_frame(stored.results)
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def as_json(stored: Stored, verdicts: Sequence[Verdict]) -> str:
    """Everything: `runs`, `scores`, `verdicts`, `groups` by phase and task, best first, what tasks do to each other
    (`together_minus_alone`, `interference`), and `notes`.
    """
    from benchkit.analysis.multitask import stored_gains

    results = stored.results
    scores = json.loads(results_frame(results).to_json(orient="records", double_precision=10))
    cells = [
        {"key": each.key, "head": each.head, "seed": each.seed, "status": each.status, "error": each.error,
         "folder": str(stored.folders[each.key])}
        for each in stored.records
    ]  # fmt: skip
    content: dict[str, Any] = {
        "runs": provenance(stored),
        "cells": cells,
        "scores": scores,
        "verdicts": rows(verdicts, results),
        "groups": _groups(stored, verdicts),
        "together_minus_alone": [
            {
                "head": each.head,
                "task": each.task,
                "metric": each.metric,
                "split": each.split,
                "seeds": each.seeds,
                **(
                    {"alone": found.a, "together": found.b, "low": _finite(found.low), "high": _finite(found.high)}
                    if (found := each.difference)
                    else {}
                ),
            }
            for each in stored_gains(stored)
        ],
        "interference": [
            {"key": record.key, "phase": phase.name, **asdict(each)}
            for record in stored.records
            for phase in record.phases
            for each in phase.interference or ()
        ],
        "notes": [*stored.notes, *footnotes(results, intervals=True)],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _groups(stored: Stored, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    found = []
    for phase, task, split in dict.fromkeys((each.phase, each.task, each.split) for each in verdicts):
        here = [each for each in verdicts if (each.phase, each.task, each.split) == (phase, task, split)]
        means = {
            head: mean for each in here for head, mean in ((each.a, each.difference.a), (each.b, each.difference.b))
        }
        together = groups(here, sorted(means, key=lambda head: -means[head]))
        found.append({"phase": phase, "task": task or MEAN, "split": split, "groups": together})
    return found
