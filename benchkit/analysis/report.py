"""The report of a comparison: its sections, and the files of a run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchkit.analysis import tables
from benchkit.analysis.baselines import gains_section, interference_section, stored_gains
from benchkit.analysis.comparisons import LEVEL, all_groups, compact_letters, difference_sections, verdicts_frame
from benchkit.analysis.statistics import spread
from benchkit.analysis.tables import NOTHING, Block, Intervals, Row, Section, group, name_seeds, number, plus_minus
from benchkit.store.files import write_atomic

if TYPE_CHECKING:
    from benchkit.analysis.baselines import Gain
    from benchkit.analysis.comparisons import Letters, Verdict
    from benchkit.analysis.results import Log, Stored
    from benchkit.analysis.tables import Results, Style
    from benchkit.core.record import Record


ALL_PAIRS = 10
"""Up to so many pairs a report shows all of them; beyond, the letters say enough."""
SUMMARY = (
    "head", "task", "phase", "split", "metric", "mean", "std", "ci_low", "ci_high",
    "n_seeds", "head_params", "train_seconds", "error",
)  # fmt: skip
CURVES = ("cell", "head", "seed", "phase", "epoch", "task", "split", "metric", "value", "loss")


def summary_frame(results: Results) -> pd.DataFrame:
    """One row per head, phase, task and split, then the task `mean`; at the end one row per control.

    `n_seeds` is the number of seeds in `mean`. `std` and the 95 % t-interval are over seeds, and are empty for fewer
    than two. The task `mean` is the mean over tasks for each seed where every task has a number. A failed or diverged
    seed is left out of the means; a collapsed one is included. `error` names both, in the phase where it happened and
    in later phases. `train_seconds` is the mean per seed in that phase. Controls have no phase and no seeds.
    """
    rows = [
        {
            "head": f"{head}{kind}", "task": task, "phase": phase, "split": split,
            "metric": each.metrics.get(task, tables.MEAN),
            "mean": over.mean, "std": over.std, "ci_low": over.low, "ci_high": over.high, "n_seeds": over.n,
            "head_params": each.parameters.get(head),
            "train_seconds": each.seconds(head, phase).mean,
            "error": tables.describe(each.faults_of(head, phase)),
        }
        for kind, each in [("", results), *((f", {name}", each) for name, each in results.trained_controls.items())]
        for head in each.heads
        for phase in each.phases
        for task in (*each.metrics, tables.MEAN)
        for split in each.splits(phase, task)
        for over in [each.over(head, phase, task, split)]
    ]  # fmt: skip
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


def curves_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row per cell, phase, epoch, task and split.

    A diverged cell has rows up to the epoch where it stopped. For `train`, value and loss are running means over the
    epoch, with dropout on.
    """
    rows = [
        (record.key, record.head, record.seed, result.name, *(getattr(point, name) for name in CURVES[4:]))
        for record in records
        for result in record.phases
        for point in result.curve
    ]
    numbers = {"seed": "int64", "epoch": "int64", "value": "float64", "loss": "float64"}
    return pd.DataFrame(rows, columns=list(CURVES)).astype(numbers)


def write_report(folder: Path, results: Results, records: Sequence[Record], *, log: Log) -> None:
    """Write `summary.csv`, `curves.csv` and `table.md`, and `curves.png` where matplotlib is installed.

    Each file is replaced whole or not at all. Numbers have six significant digits.

    Args:
        results: of the records.
        log: called with a line for everything that was left out.

    Raises:
        UserError: a file cannot be written.
    """
    write_atomic(folder / "summary.csv", _csv(summary_frame(results)).encode())
    write_atomic(folder / "curves.csv", _csv(curves_frame(records)).encode())
    write_atomic(folder / "table.md", tables.render_all(comparison(results), "markdown").encode())
    if find_spec("matplotlib") is None:
        log("curves.png left out: it takes matplotlib, pip install matplotlib")
        return
    from benchkit.analysis.plots import draw_curves, write_figure

    figure = draw_curves(results, records, results.controls)
    if figure is None:
        log("curves.png left out: no cell has a curve")
    else:
        write_figure(figure, folder / "curves.png")


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def comparison_text(results: Results, style: Style = "terminal") -> str:
    """The comparison of heads as text, see `comparison`."""
    return tables.render_all(comparison(results), style)


def comparison(
    results: Results, *, letters: Letters | None = None, remarks: Sequence[str] = (), overview: bool = False
) -> list[Section]:
    """The last phase task by task, earlier phases in short if they fit a terminal, and notes.

    Each number is the mean over seeds ± their standard deviation. `train − test` (`train − dev` where test has no
    labels) is taken seed by seed. A head with `!` has seeds that failed, diverged or collapsed: see the notes.

    No number is bold. An interval over a few seeds ignores the sampling of the test examples and the selection of the
    best of several heads. So it cannot say which head won; paired predictions can.

    Args:
        letters: from paired predictions, if there are any; they add a column of intervals.
        remarks: lines to put before the footnotes.
        overview: start with the short table of each phase.
    """
    sections = []
    for phase in reversed(results.phases):
        blocks, short = _long(results, phase, letters), _short(results, phase)
        if overview:
            blocks = [short, *blocks]
        elif phase != results.phases[-1] and tables.fits_terminal(short):
            blocks = [short]
        counts = {*_seed_counts(results, phase).values()} - {0} or {0}
        known = " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))
        seeds = {"0": "no numbers", "1": "one seed"}.get(known, f"mean ± std over {known} seeds")
        sections.append(Section(f"{phase or 'no phase'}: {seeds}", blocks))
    shared = (
        "Heads that share a letter on a task cannot be told apart there: paired over seeds and examples, "
        f"Holm-corrected p at least {LEVEL}."
    )
    notes = footnotes(results, intervals=letters is not None, faults=not overview)
    return [*sections, Section("", (), [*[shared] * bool(letters), *remarks, *notes])]


def _long(results: Results, phase: str, letters: Letters | None) -> list[Block]:
    """One block per task and one for their mean. The last block also has parameters and time."""
    tasks, wide = _with_mean(results), letters is not None
    costs = ("parameters", "time") if wide else ("head parameters", "time a seed")
    blocks = []
    for task in tasks:
        last, split = task == tasks[-1], results.judged(phase, task)
        rows, pictures = [], []
        for head in results.heads:
            cells = _cells(results, head, phase, task, split)
            seeds = list(results.seeds(head, phase, task, split).values())
            over = spread(seeds)
            pictures.append((over, seeds))
            if letters is not None:
                for place, each in enumerate(("dev", "test")):
                    cells[place] = f"{cells[place]} {letters.get((phase, task, each, head), '')}".strip()
                cells.insert(2, f"±{over.high - over.mean:.3f}" if over.n > 1 else NOTHING)
            name = f"{head}{_mark(results, head, phase)}"
            rows.append(Row((name, *cells, *(_costs(results, head, phase) if last else ()))))
        asides = [*_constant(results, task, split)]
        asides += [
            (f"{head}, {_kind(kind)}{_mark(control, head, phase)}", *_cells(control, head, phase, task, split))
            for kind, control in results.trained_controls.items()
            for head in control.heads
        ]
        rows += [Row((name, dev, test, *[""] * wide, gap, *["", ""] * last), True) for name, dev, test, gap in asides]
        header = (results.title(task), "dev", "test", *["95 % CI"] * wide, f"train − {split}", *costs * last)
        align = ("left",) * (4 + wide) + ("right",) * 2 * last
        blocks.append(Block(header, rows, align, Intervals(pictures, results.control(task, split))))
    return blocks


def _short(results: Results, phase: str) -> Block:
    """One row per head: test (dev if test has no labels) of each task, the gap of their mean, the time."""
    tasks = _with_mean(results)
    splits = {task: results.judged(phase, task) for task in tasks}
    rows = []
    for head in results.heads:
        cells = [plus_minus(results.over(head, phase, task, splits[task])) for task in tasks]
        cells = _with_reason(results, head, phase, [*cells, _gap(results, head, phase, tasks[-1], splits[tasks[-1]])])
        rows.append(Row((f"{head}{_mark(results, head, phase)}", *cells, _costs(results, head, phase)[1])))
    constants = [number(results.control(task, splits[task])) for task in tasks]
    if any(cell != NOTHING for cell in constants):
        rows.append(Row(("controls", *constants, "", ""), True))
    names = [task if split == "test" else f"{task} ({split})" for task, split in splits.items()]
    header = ("test", *names, f"train − {splits[tasks[-1]]}", "time")
    return Block(header, rows, ("left",) * (len(header) - 1) + ("right",))


def _with_mean(results: Results) -> list[str]:
    return [*results.metrics, *[tables.MEAN] * (len(results.metrics) > 1)]


def _cells(results: Results, head: str, phase: str, task: str, judged: str) -> list[str]:
    """Dev, test, and train minus the judged split. A head without numbers has the reason instead."""
    cells = [plus_minus(results.over(head, phase, task, split)) for split in ("dev", "test")]
    return _with_reason(results, head, phase, [*cells, _gap(results, head, phase, task, judged)])


def _gap(results: Results, head: str, phase: str, task: str, judged: str) -> str:
    return plus_minus(spread(results.gap(head, phase, task, judged).values()), signed=True)


def _with_reason(results: Results, head: str, phase: str, cells: list[str]) -> list[str]:
    """Put the reason into the first cell if no cell has a number."""
    if any(cell != NOTHING for cell in cells):
        return cells
    reason = ", ".join(dict.fromkeys(fault.status for fault in results.faults_of(head, phase))) or "not run"
    return [reason, *cells[1:]]


def _constant(results: Results, task: str, judged: str) -> Iterator[tuple[str, ...]]:
    """Name and cells of the constant predictions on a task; for the mean, of all tasks together."""
    dev, test, train, other = (results.control(task, split) for split in ("dev", "test", "train", judged))
    if dev is not None or test is not None:
        gap = None if train is None or other is None else train - other
        name = next((each.name for each in results.controls if each.task == task), "controls")
        yield name, number(dev), number(test), number(gap, signed=True)


def _kind(control: str) -> str:
    """`shuffled` for `shuffled labels`: what a narrow column shows."""
    return control.partition(" ")[0]


def _mark(results: Results, head: str, phase: str) -> str:
    return " !" if results.faults_of(head, phase) else ""


def _costs(results: Results, head: str, phase: str) -> tuple[str, str]:
    parameters, seconds = results.parameters.get(head), results.seconds(head, phase)
    time = tables.duration(seconds.mean) if seconds.n else NOTHING
    return NOTHING if parameters is None else f"{parameters:,}", time


_FEW = 10
"""Below this many seeds a standard deviation is itself a guess."""
_EVENTS = 6
_KINDS = {
    "shuffled labels": "shuffled: trained on shuffled labels, so its score is its architecture's, not learnt",
    "random encoder": "random: on an encoder with random weights, which distinguishes words and knows none",
}


def footnotes(results: Results, *, intervals: bool = False, faults: bool = True) -> Iterator[str]:
    """One line each, the worst first.

    Args:
        intervals: whether the table has a column of them.
        faults: with the heads' faults and events.
    """
    if faults:
        yield from _faults(results)
    for kind, control in results.trained_controls.items():
        yield from _faults(control, f", {_kind(kind)}")
    if results.trained_controls:
        yield f"Controls named after a head: {'; '.join(_KINDS[kind] for kind in results.trained_controls)}."
    found: set[int] = set()
    for phase in results.phases:
        counts = _seed_counts(results, phase)
        found |= {*counts.values()} - {0}
        if len(set(counts.values())) > 1:
            yield f"Seeds behind the means of {phase}: {', '.join(f'{head} {n}' for head, n in counts.items())}."
    rough = f" With fewer than {_FEW} seeds it is rough." if min(found, default=_FEW) < _FEW else ""
    if found == {1}:
        yield "One seed: how much these numbers vary between runs is unknown; small differences mean nothing."
    elif found and intervals:
        yield (
            "± after a mean is the standard deviation over seeds; 95 % CI is the t-interval of the mean over seeds, "
            f"for these test examples.{rough}"
        )
    elif found:
        yield (
            "± is the standard deviation over seeds, not an interval; summary.csv has 95 % intervals of the mean."
            f"{rough}"
        )
    unlabelled = [
        task for task in results.metrics if not any("test" in results.splits(phase, task) for phase in results.phases)
    ]
    if len(unlabelled) < len(results.metrics):
        yield "Test was scored once a cell and phase, with the epoch chosen on dev."
    if unlabelled:
        yield f"No labelled test: {', '.join(unlabelled)}. Dev chose the epoch, so it flatters."
    if faults:
        yield from _events(results)


def _seed_counts(results: Results, phase: str) -> dict[str, int]:
    """How many seeds a head's numbers in a phase come from."""
    return {head: results.seconds(head, phase).n for head in results.heads}


def _faults(results: Results, kind: str = "") -> Iterator[str]:
    groups = group((replace(fault, seed=0), fault.seed) for fault in results.faults)
    for fault, seeds in groups.items():
        first, reason = fault.phases[0], fault.reason.rstrip(".")
        where = f" in {first}" if first and not reason.startswith(first) else ""
        means = f" {'In' if fault.counts else 'Not in'} the means of {' and '.join(fault.phases)}." if first else ""
        yield f"! {fault.head}{kind}, {name_seeds(seeds)}: {fault.status}{where}: {reason}.{means}"


def _events(results: Results) -> Iterator[str]:
    """The events of training, each with the cells it happened to."""
    cells = group(((event, head), seed) for head, seed, event in results.events)
    groups = group((event, f"{head} {name_seeds(seeds)}") for (event, head), seeds in cells.items())
    yield from (f"{event} ({'; '.join(each)})." for event, each in list(groups.items())[:_EVENTS])
    if len(groups) > _EVENTS:
        yield f"… and {len(groups) - _EVENTS} more events, in the cells' records."


def as_text(
    stored: Stored, verdicts: Sequence[Verdict], style: Style, *, against: str | None = None, only: str | None = None
) -> str:
    """The report as text.

    It has what was compared, the scores, and the effects of tasks on each other. It has the differences if there are
    few pairs, or if all heads are compared with one.

    Args:
        only: `scores` or `verdicts`.
    """
    results = stored.results
    shared = {} if against else compact_letters(results, verdicts)
    found = []
    if only != "verdicts":
        found += comparison(results, letters=shared, remarks=stored.notes)
        found += [each for each in (interference_section(stored.records), gains_section(stored_gains(stored))) if each]
    pairs = len({(each.phase, each.a, each.b) for each in verdicts})
    if only == "verdicts" or (only is None and (against or pairs <= ALL_PAIRS)):
        found += difference_sections(verdicts, results)
    elif only is None:
        found += [Section("", (), [f"{pairs} pairs: --only verdicts shows them all, --against HEAD those of one."])]
    return tables.render_page(provenance(stored), found, style)


def provenance(stored: Stored) -> list[str]:
    """A line for each combination of run, encoder, data and machine."""
    lines = []
    for record in stored.records:
        environment, run = record.environment, stored.folders[record.key].parent.parent
        encoder = record.encoder.get("name") or "encoder unknown"
        data = Path(str(record.data.get("name") or "unknown")).name
        device = f"{environment.get('device', 'device unknown')} {environment.get('precision', '')}".strip()
        lines.append(f"{run}: {encoder} on {data} data, {device}, benchkit {environment.get('benchkit', 'unknown')}")
    return [f"{line}, {count} cell{'s' if count > 1 else ''}" for line, count in Counter(lines).items()]


def as_csv(stored: Stored, verdicts: Sequence[Verdict], only: str) -> str:
    """One table as CSV: the scores or the verdicts."""
    of_verdicts = only == "verdicts"
    return _csv(verdicts_frame(verdicts, stored.results) if of_verdicts else summary_frame(stored.results))


def as_json(stored: Stored, verdicts: Sequence[Verdict]) -> str:
    """The whole report as JSON.

    Its keys include `runs`, `scores`, `verdicts`, `groups` (by phase and task, best first), `together_minus_alone` and
    `interference` (the effects of tasks on each other), and `notes`.
    """
    results, differences = stored.results, verdicts_frame(verdicts, stored.results)
    scores = json.loads(summary_frame(results).to_json(orient="records", double_precision=10))
    cells = [
        {"key": each.key, "head": each.head, "seed": each.seed, "status": each.status, "error": each.error,
         "folder": str(stored.folders[each.key])}
        for each in stored.records
    ]  # fmt: skip
    content: dict[str, Any] = {
        "runs": provenance(stored),
        "cells": cells,
        "scores": scores,
        "verdicts": differences.astype(object).where(differences.notna(), None).to_dict("records"),
        "groups": [
            {"phase": phase, "task": task, "split": split, "groups": together}
            for (phase, task, split), together in all_groups(results, verdicts).items()
        ],
        "together_minus_alone": [_gain(each) for each in stored_gains(stored)],
        "interference": [
            {"key": record.key, "phase": phase.name, **asdict(each)}
            for record in stored.records
            for phase in record.phases
            for each in phase.interference or ()
        ],
        "notes": [*stored.notes, *footnotes(results, intervals=True)],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _gain(gain: Gain) -> dict[str, Any]:
    values = {name: value for name, value in vars(gain).items() if name != "difference"}
    if each := gain.difference:
        low, high = (None if math.isnan(end) else end for end in (each.low, each.high))
        values |= {"alone": each.a, "together": each.b, "low": low, "high": high}
    return values
