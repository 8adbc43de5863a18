"""The files of a run: summary, curves, table and plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchkit.analysis.results import MEAN, Results, collect, describe
from benchkit.analysis.statistics import spread
from benchkit.analysis.tables import render_results
from benchkit.store.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from benchkit.core.record import Record
    from benchkit.core.task import TaskSpec
    from benchkit.experiment.companions import Control


SUMMARY = (
    "head", "task", "phase", "split", "metric", "mean", "std", "ci_low", "ci_high",
    "n_seeds", "head_params", "train_seconds", "error",
)  # fmt: skip
CURVES = ("cell", "head", "seed", "phase", "epoch", "task", "split", "metric", "value", "loss")


def summary_frame(
    records: Sequence[Record],
    controls: Sequence[Control],
    tasks: Mapping[str, TaskSpec],
    phases: Iterable[str] = (),
) -> pd.DataFrame:
    """One row a head, phase, task and split, then the task `mean`; at the end a row a control.

    `n_seeds` is how many seeds are behind `mean`; `std` and the 95 % t-interval are over seeds and empty
    below two. The task `mean` is the mean over tasks, taken seed by seed, where every task has a number. A
    failed or diverged seed is in no mean, a collapsed one is; either is named in `error`, in the phase it
    happened in and those after it. `train_seconds` is the mean a seed, of that phase. Controls have no
    phase and no seeds.

    Raises:
        ValueError: two records are of the same head and seed.
    """
    return results_frame(collect(records, controls, tasks, phases))


def results_frame(results: Results) -> pd.DataFrame:
    """`summary_frame` of what was collected."""
    rows = [
        _row(results, head, phase, task, split)
        for head in results.heads
        for phase in results.phases
        for task in (*results.metrics, MEAN)
        for split in results.splits(phase, task)
    ]
    rows += [
        {**_row(vain, head, phase, task, split), "head": f"{head}, {name}"}
        for name, vain in results.beside.items()
        for head in vain.heads
        for phase in vain.phases
        for task in (*vain.metrics, MEAN)
        for split in vain.splits(phase, task)
    ]
    rows += [
        {
            "head": control.name, "task": control.task, "phase": "", "split": control.split,
            "metric": control.metric, "mean": control.value, "n_seeds": 0, "error": "",
        }
        for task in results.metrics
        for control in results.controls
        if control.task == task
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(SUMMARY))
    numbers = dict.fromkeys(("mean", "std", "ci_low", "ci_high", "train_seconds"), "float64")
    return frame.astype({**numbers, "n_seeds": "int64", "head_params": "Int64"})


def _row(results: Results, head: str, phase: str, task: str, split: str) -> dict[str, Any]:
    over = spread(results.seeds(head, phase, task, split).values())
    return {
        "head": head, "task": task, "phase": phase, "split": split,
        "metric": results.metrics.get(task, MEAN),
        "mean": over.mean, "std": over.std, "ci_low": over.low, "ci_high": over.high, "n_seeds": over.n,
        "head_params": results.parameters.get(head),
        "train_seconds": spread(results.seconds(head, phase).values()).mean,
        "error": describe(results.of(head, phase)),
    }  # fmt: skip


def curves_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a cell, phase, epoch, task and split. What diverged is in it, up to where it stopped; for
    `train`, value and loss are running means over the epoch, with dropout on.
    """
    rows = [
        (record.key, record.head, record.seed, result.name, *(getattr(point, name) for name in CURVES[4:]))
        for record in records
        for result in record.phases
        for point in result.curve
    ]
    numbers = {"seed": "int64", "epoch": "int64", "value": "float64", "loss": "float64"}
    return pd.DataFrame(rows, columns=list(CURVES)).astype(numbers)


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
    from benchkit.analysis.plots import plot_curves

    if not plot_curves(records, folder / "curves.png", controls=controls, tasks=tasks, phases=results.phases):
        log("curves.png left out: no cell has a curve")


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
