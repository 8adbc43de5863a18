"""The files of a run, all of them made anew from its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchkit.report.results import collect
from benchkit.report.summary import curves_frame, results_frame
from benchkit.report.table import render_results
from benchkit.store.atomic import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from benchkit.controls import Control
    from benchkit.record import Record
    from benchkit.task import TaskSpec


def write_report(
    folder: Path,
    records: Sequence[Record],
    controls: Sequence[Control],
    tasks: Mapping[str, TaskSpec],
    *,
    phases: Iterable[str] = (),
    beside: Mapping[str, Sequence[Record]] | None = None,
    log: Callable[[str], None],
) -> None:
    """Write `summary.csv`, `curves.csv` and `table.md`, and `curves.png` where matplotlib is installed.

    Each file is replaced whole or not at all. Numbers have six significant digits.

    Args:
        phases: those that were asked for; by default those that any record has.
        beside: records of the same heads trained in vain, by what was done.
        log: takes a line where something was left out.

    Raises:
        UserError: a file cannot be written.
        ValueError: two records are of the same head and seed.
    """
    results = collect(records, controls, tasks, phases, beside)
    write_atomic(folder / "summary.csv", _csv(results_frame(results)))
    write_atomic(folder / "curves.csv", _csv(curves_frame(records)))
    write_atomic(folder / "table.md", render_results(results, style="markdown").encode())
    if find_spec("matplotlib") is None:
        log("curves.png left out: it takes matplotlib, pip install matplotlib")
        return
    from benchkit.report.plot import plot_curves

    if not plot_curves(records, folder / "curves.png", controls=controls, tasks=tasks, phases=results.phases):
        log("curves.png left out: no cell has a curve")


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
