"""The report of a comparison: its sections, and the files of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchkit.analysis.comparisons import (
    ALL_PAIRS,
    COLUMNS,
    LETTERS_NOTE,
    all_groups,
    compact_letters,
    compare,
    difference_sections,
    rows,
)
from benchkit.analysis.multitask import gains_section, interference_section, stored_gains
from benchkit.analysis.results import MEAN, Results, collect, describe
from benchkit.analysis.statistics import spread
from benchkit.analysis.tables import (
    NOTHING,
    TERMINAL_WIDTH,
    Block,
    Intervals,
    Row,
    Section,
    Style,
    duration,
    latex_page,
    name_seeds,
    number,
    paragraphs,
    plus_minus,
    render_all,
    table,
    width,
)
from benchkit.store.files import write_atomic

if TYPE_CHECKING:
    from benchkit.analysis.comparisons import Letters, Verdict
    from benchkit.analysis.multitask import Gain
    from benchkit.analysis.results import Log, Stored
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
        {**_row(control, head, phase, task, split), "head": f"{head}, {kind}"}
        for kind, control in results.trained_controls.items()
        for head in control.heads
        for phase in control.phases
        for task in (*control.metrics, MEAN)
        for split in control.splits(phase, task)
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
    over = results.over(head, phase, task, split)
    return {
        "head": head, "task": task, "phase": phase, "split": split,
        "metric": results.metrics.get(task, MEAN),
        "mean": over.mean, "std": over.std, "ci_low": over.low, "ci_high": over.high, "n_seeds": over.n,
        "head_params": results.parameters.get(head),
        "train_seconds": spread(results.seconds(head, phase).values()).mean,
        "error": describe(results.faults_of(head, phase)),
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
    trained_controls: Mapping[str, Sequence[Record]] | None = None,
    log: Log,
) -> None:
    """Write `summary.csv`, `curves.csv` and `table.md`, and `curves.png` where matplotlib is installed.

    Each file is replaced whole or not at all. Numbers have six significant digits.

    Args:
        phases: those that were asked for; by default those that any record has.
        trained_controls: records of the same heads trained as controls, by kind.
        log: takes a line where something was left out.

    Raises:
        UserError: a file cannot be written.
        ValueError: two records are of the same head and seed.
    """
    results = collect(records, controls, tasks, phases, trained_controls)
    write_atomic(folder / "summary.csv", _csv(results_frame(results)).encode())
    write_atomic(folder / "curves.csv", _csv(curves_frame(records)).encode())
    write_atomic(folder / "table.md", render_all(comparison(results), "markdown").encode())
    if find_spec("matplotlib") is None:
        log("curves.png left out: it takes matplotlib, pip install matplotlib")
        return
    from benchkit.analysis.plots import draw_curves, write_png

    figure = draw_curves(results, records, controls)
    if figure is None:
        log("curves.png left out: no cell has a curve")
    else:
        write_png(figure, folder / "curves.png")


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def comparison_text(
    records: Sequence[Record],
    controls: Sequence[Control],
    tasks: Mapping[str, TaskSpec],
    *,
    phases: Iterable[str] = (),
    trained_controls: Mapping[str, Sequence[Record]] | None = None,
    style: Style = "terminal",
) -> str:
    """The comparison of heads as text, see `comparison`.

    Args:
        phases: those that were asked for; by default those that any record has.
        trained_controls: records of the same heads trained as controls, by kind: rows among the controls.

    Raises:
        ValueError: two records are of the same head and seed.
    """
    results = collect(records, controls, tasks, phases, trained_controls)
    return render_all(comparison(results), style)


def comparison(
    results: Results, *, letters: Letters | None = None, remarks: Sequence[str] = (), overview: bool = False
) -> list[Section]:
    """The last phase task by task, earlier phases in short where that fits a terminal, and notes.

    Each number is the mean over seeds ± their standard deviation. `train − test` (`train − dev` where test has no
    labels) is taken seed by seed. A head with `!` has seeds that failed, diverged or collapsed: see the notes.

    No number is bold. An interval over a few seeds leaves out the chance of the test examples and that of having looked
    for the best of several heads, so it cannot say which head won; that takes paired predictions.

    Args:
        letters: from paired predictions; with them there is a column of intervals too.
        remarks: lines to put before the footnotes.
        overview: also the short table of each phase, before those at length.
    """
    sections = []
    for phase in reversed(results.phases):
        blocks, short = _long(results, phase, letters), _short(results, phase)
        if overview:
            blocks = [short, *blocks]
        elif phase != results.phases[-1] and width(table([short], "terminal")) <= TERMINAL_WIDTH:
            blocks = [short]
        sections.append(Section(f"{phase or 'no phase'}: {seed_counts(results, phase)}", blocks))
    notes = [*remarks, *footnotes(results, intervals=letters is not None)]
    return [*sections, Section("", (), notes)]


def _long(results: Results, phase: str, letters: Letters | None) -> list[Block]:
    """A block a task and one for their mean; the last block has parameters and time as well."""
    tasks, wide = _with_mean(results), letters is not None
    costs = ("parameters", "time") if wide else ("head parameters", "time a seed")
    blocks = []
    for task in tasks:
        last, split = task == tasks[-1], results.judged(phase, task)
        rows = [_long_row(results, head, phase, task, last, letters) for head in results.heads]
        controls = _constant_cells(results, task, split)
        controls += [
            (f"{head}, {_kind(kind)}{_mark(control, head, phase)}", _cells(control, head, phase, task, split))
            for kind, control in results.trained_controls.items()
            for head in control.heads
        ]
        rows += [Row((name, *cells[:2], *[""] * wide, cells[2], *["", ""] * last), True) for name, cells in controls]
        header = (results.title(task), "dev", "test", *["95 % CI"] * wide, f"train − {split}", *costs * last)
        align = ("left",) * (4 + wide) + ("right",) * 2 * last
        blocks.append(Block(header, rows, align, _intervals(results, phase, task)))
    return blocks


def _intervals(results: Results, phase: str, task: str) -> Intervals:
    split = results.judged(phase, task)
    seeds = [list(results.seeds(head, phase, task, split).values()) for head in results.heads]
    return Intervals([(spread(each), each) for each in seeds], results.control(task, split))


def _long_row(results: Results, head: str, phase: str, task: str, last: bool, letters: Letters | None) -> Row:
    judged = results.judged(phase, task)
    cells = _cells(results, head, phase, task, judged)
    if letters is not None:
        for place, split in enumerate(("dev", "test")):
            cells[place] = f"{cells[place]} {letters.get((phase, task, split, head), '')}".strip()
        over = results.over(head, phase, task, judged)
        cells.insert(2, f"±{over.high - over.mean:.3f}" if over.n > 1 else NOTHING)
    name = f"{head}{_mark(results, head, phase)}"
    return Row((name, *cells, *(_costs(results, head, phase) if last else ())))


def _cells(results: Results, head: str, phase: str, task: str, judged: str) -> list[str]:
    """Dev, test, and train minus the judged split; for a head without numbers, why."""
    cells = [plus_minus(results.over(head, phase, task, split)) for split in ("dev", "test")]
    return _with_reason(results, head, phase, [*cells, _gap(results, head, phase, task, judged)])


def _gap(results: Results, head: str, phase: str, task: str, judged: str) -> str:
    return plus_minus(spread(results.gap(head, phase, task, judged).values()), signed=True)


def _with_reason(results: Results, head: str, phase: str, cells: list[str]) -> list[str]:
    """With the reason in the first cell where none has a number."""
    if any(cell != NOTHING for cell in cells):
        return cells
    reason = ", ".join(dict.fromkeys(fault.status for fault in results.faults_of(head, phase))) or "not run"
    return [reason, *cells[1:]]


def _short(results: Results, phase: str) -> Block:
    """One row a head: test (dev where test has no labels) of each task, the gap of their mean, the time."""
    tasks = _with_mean(results)
    splits = {task: results.judged(phase, task) for task in tasks}
    names = [task if splits[task] == "test" else f"{task} ({splits[task]})" for task in tasks]
    rows = []
    for head in results.heads:
        cells = [plus_minus(results.over(head, phase, task, splits[task])) for task in tasks]
        cells = _with_reason(results, head, phase, [*cells, _gap(results, head, phase, tasks[-1], splits[tasks[-1]])])
        rows.append(Row((f"{head}{_mark(results, head, phase)}", *cells, _costs(results, head, phase)[1])))
    constants = [number(results.control(task, splits[task])) for task in tasks]
    if any(cell != NOTHING for cell in constants):
        rows.append(Row(("controls", *constants, "", ""), True))
    header = ("test", *names, f"train − {splits[tasks[-1]]}", "time")
    return Block(header, rows, ("left",) * (len(header) - 1) + ("right",))


def _with_mean(results: Results) -> list[str]:
    return [*results.metrics, *[MEAN] * (len(results.metrics) > 1)]


def _constant_cells(results: Results, task: str, judged: str) -> list[tuple[str, list[str]]]:
    """Name and cells of the constant predictions on a task; for the mean, of all tasks together."""
    name = next((each.name for each in results.controls if each.task == task), "controls")
    dev, test, train, other = (results.control(task, split) for split in ("dev", "test", "train", judged))
    if dev is None and test is None:
        return []
    gap = None if train is None or other is None else train - other
    return [(name, [number(dev), number(test), number(gap, signed=True)])]


def _kind(control: str) -> str:
    """`shuffled` for `shuffled labels`: what a narrow column shows."""
    return control.partition(" ")[0]


def _mark(results: Results, head: str, phase: str) -> str:
    return " !" if results.faults_of(head, phase) else ""


def _costs(results: Results, head: str, phase: str) -> tuple[str, str]:
    parameters = results.parameters.get(head)
    seconds = results.seconds(head, phase)
    return (
        NOTHING if parameters is None else f"{parameters:,}",
        duration(spread(seconds.values()).mean) if seconds else NOTHING,
    )


_FEW = 10
"""Below this many seeds a standard deviation is itself a guess."""
_EVENTS = 6


def seed_counts(results: Results, phase: str) -> str:
    """`one seed`, `mean ± std over 3 seeds`, `mean ± std over 1 to 3 seeds`: the numbers behind the means."""
    counts = sorted(set(_counts(results, phase).values()) - {0})
    if not counts:
        return "no numbers"
    if counts == [1]:
        return "one seed"
    return f"mean ± std over {' to '.join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))} seeds"


def footnotes(results: Results, *, intervals: bool = False) -> list[str]:
    """One line each, the worst first.

    Args:
        intervals: whether the table has a column of them.
    """
    lines = _faults(results) + _trained_control_notes(results)
    lines += _uneven(results)
    lines += _spread(results, intervals)
    lines += _splits(results)
    return lines + _events(results)


def fault_notes(results: Results) -> list[str]:
    """The footnotes on faults and events, which a page has tables for."""
    return [*_faults(results), *_events(results)]


def _counts(results: Results, phase: str) -> dict[str, int]:
    """How many seeds a head's numbers in a phase come from."""
    return {head: len(results.phase_results.get((head, phase), ())) for head in results.heads}


def _faults(results: Results) -> list[str]:
    groups: dict[tuple[str, str, str, tuple[str, ...], bool], list[int]] = {}
    for fault in results.faults:
        key = (fault.head, fault.status, fault.reason, fault.phases, fault.counts)
        groups.setdefault(key, []).append(fault.seed)
    lines = []
    for (head, status, reason, phases, counts), seeds in groups.items():
        where = f" in {phases[0]}" if phases[0] and not reason.startswith(phases[0]) else ""
        means = f"{'In' if counts else 'Not in'} the means of {' and '.join(phases)}." if any(phases) else ""
        lines.append(f"! {head}, {name_seeds(seeds)}: {status}{where}: {reason.rstrip('.')}. {means}".rstrip())
    return lines


def _trained_control_notes(results: Results) -> list[str]:
    """What trained controls are for, and what went wrong with them."""
    lines = [
        line.replace(f"! {head},", f"! {head}, {_kind(kind)},", 1)
        for kind, control in results.trained_controls.items()
        for head in control.heads
        for line in _faults(control)
        if line.startswith(f"! {head},")
    ]
    why = {
        "shuffled labels": "shuffled: trained on shuffled labels, so its score is its architecture's, not learnt",
        "random encoder": "random: on an encoder with random weights, which distinguishes words and knows none",
    }
    found = [why[kind] for kind in results.trained_controls if kind in why]
    return [*lines, *[f"Controls named after a head: {'; '.join(found)}."][: len(found)]]


def _uneven(results: Results) -> list[str]:
    lines = []
    for phase in results.phases:
        counts = _counts(results, phase)
        if len(set(counts.values())) > 1:
            each = ", ".join(f"{head} {count}" for head, count in counts.items())
            lines.append(f"Seeds behind the means of {phase}: {each}.")
    return lines


def _spread(results: Results, intervals: bool) -> list[str]:
    counts = {count for phase in results.phases for count in _counts(results, phase).values() if count}
    if not counts:
        return []
    if max(counts) == 1:
        return ["One seed: how much these numbers vary between runs is unknown; small differences mean nothing."]
    text = "± is the standard deviation over seeds, not an interval; summary.csv has 95 % intervals of the mean."
    if intervals:
        text = (
            "± after a mean is the standard deviation over seeds; 95 % CI is the t-interval of the mean over seeds, "
            "for these test examples."
        )
    if min(counts) < _FEW:
        text += f" With fewer than {_FEW} seeds it is rough."
    return [text]


def _splits(results: Results) -> list[str]:
    scored = {
        task: {split for phase in results.phases for split in results.splits(phase, task)} for task in results.metrics
    }
    unlabelled = [task for task, splits in scored.items() if "test" not in splits]
    lines = []
    if len(unlabelled) < len(scored):
        lines.append("Test was scored once a cell and phase, with the epoch chosen on dev.")
    if unlabelled:
        lines.append(f"No labelled test: {', '.join(unlabelled)}. Dev chose the epoch, so it flatters.")
    return lines


def _events(results: Results) -> list[str]:
    """What happened on the way, each event with the cells it happened to."""
    groups: dict[str, dict[str, list[int]]] = {}
    for head, seed, event in results.events:
        groups.setdefault(event, {}).setdefault(head, []).append(seed)
    lines = [
        f"{event} ({'; '.join(f'{head} {name_seeds(seeds)}' for head, seeds in cells.items())})."
        for event, cells in groups.items()
    ]
    hidden = len(lines) - _EVENTS
    return lines if hidden <= 0 else [*lines[:_EVENTS], f"… and {hidden} more events, in the cells' records."]


def verdicts_of(stored: Stored, split: str = "test", against: str | None = None, *, aso: bool = False) -> list[Verdict]:
    """Those of every phase whose predictions are kept; see `compare`.

    Raises:
        UserError: there is no head `against`.
    """
    phases = stored.results.phases
    return [each for phase in phases for each in compare(stored, phase, split, against, aso=aso)]


def sections(
    stored: Stored,
    verdicts: Sequence[Verdict],
    *,
    against: str | None = None,
    only: str | None = None,
) -> list[Section]:
    """The scores, what tasks do to each other, and the differences: against one head, or of few pairs all.

    Args:
        only: `scores` or `verdicts`.
    """
    results = stored.results
    shared = {} if against else compact_letters(results, verdicts)
    found = []
    if only != "verdicts":
        remarks = [*[LETTERS_NOTE] * bool(shared), *stored.notes]
        found += comparison(results, letters=shared, remarks=remarks)
        found += [each for each in (interference_section(stored.records), gains_section(stored_gains(stored))) if each]
    pairs = len({(each.phase, each.a, each.b) for each in verdicts})
    if only == "verdicts" or (only is None and (against or pairs <= ALL_PAIRS)):
        found += difference_sections(verdicts, results)
    elif only is None:
        line = f"{pairs} pairs: --only verdicts shows them all, --against HEAD those of one."
        found.append(Section("", (), [line]))
    return found


def as_text(
    stored: Stored,
    verdicts: Sequence[Verdict],
    style: Style,
    *,
    against: str | None = None,
    only: str | None = None,
) -> str:
    """What was compared, then the `sections`."""
    body = render_all(sections(stored, verdicts, against=against, only=only), style)
    text = f"{paragraphs(provenance(stored), style)}\n{body}"
    return latex_page(text) if style == "latex" else text


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
    if only == "verdicts":
        frame = pd.DataFrame(rows(verdicts, stored.results), columns=list(COLUMNS))
    else:
        frame = results_frame(stored.results)
    return _csv(frame)


def as_json(stored: Stored, verdicts: Sequence[Verdict]) -> str:
    """Everything: `runs`, `scores`, `verdicts`, `groups` by phase and task, best first, what tasks do to each other
    (`together_minus_alone`, `interference`), and `notes`.
    """
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
    if found := gain.difference:
        low, high = (each if math.isfinite(each) else None for each in (found.low, found.high))
        values |= {"alone": found.a, "together": found.b, "low": low, "high": high}
    return values
