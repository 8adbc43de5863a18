"""A run beside the report as text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from benchkit.compare.published import Published
from benchkit.compare.repro import Beside
from benchkit.report.layout import Block, Row, notes, table

_ALIGN = ("left", "left", "right", "right", "right", "right", "left")


def render(rows: Sequence[Beside], deviations: Sequence[str], report: Published, columns: int = 100) -> str:
    """A block a task, the report's number first; then how many agree, and in what the run is not the report's."""
    tasks = dict.fromkeys((row.task, row.metric) for row in rows)
    blocks = [
        Block(
            (f"{task} · {metric}", "", "report", "here", "difference", "allowed", ""),
            [_row(row) for row in rows if row.task == task],
            _ALIGN,
        )
        for task, metric in tasks
    ]
    lines = [_count(rows), *deviations, *_method(rows), f"Report: {report.source}."]
    return f"{table(blocks, 'terminal')}\n\n" + "\n".join(notes([line], "terminal", columns) for line in lines)


def _row(row: Beside) -> Row:
    here = "–" if not row.seeds else f"{row.here:.3f}" + (f" ± {row.std:.3f}" if row.seeds > 1 else "")
    difference = "–" if not row.seeds else f"{row.difference:+.3f}".replace("-", "−")
    allowed = "–" if math.isnan(row.allowed) else f"±{row.allowed:.3f}"
    return Row((row.head, row.split, f"{row.there:.3f}", here, difference, allowed, row.verdict))


def _count(rows: Sequence[Beside]) -> str:
    counts = Counter(row.verdict for row in rows)
    return f"{len(rows)} numbers: {'; '.join(f'{verdict}: {count}' for verdict, count in counts.most_common())}."


def _method(rows: Sequence[Beside]) -> list[str]:
    seeds = sorted({row.seeds for row in rows if row.seeds})
    if not seeds:
        return []
    count = " to ".join(str(each) for each in dict.fromkeys((seeds[0], seeds[-1])))
    lines = [
        f"Here: mean ± std over {count} seed{'s' if seeds[-1] > 1 else ''}. Allowed: 95 % interval of the difference "
        "from one run of the report, for the chance of training, and for that of the examples where their number "
        "differs. Whether the report's numbers are those of its best run is unknown."
    ]
    if any(row.verdict == "agrees, loosely" for row in rows):
        lines.append("Loosely: the seeds here vary so much that numbers 0.1 away would agree as well. Run more seeds.")
    return lines
