"""The report as one HTML page: style and script are inside it, and a policy in it forbids all requests."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

import benchkit
from benchkit.analysis.baselines import gains_section, interference_section, stored_gains
from benchkit.analysis.comparisons import compact_letters, difference_sections, disagreements
from benchkit.analysis.plots import COLOURS, page_data
from benchkit.analysis.report import ALL_PAIRS, comparison
from benchkit.analysis.results import protocol_fields
from benchkit.analysis.tables import NOTHING, Block, Row, Section, describe, group, number, plus_minus, ranges

if TYPE_CHECKING:
    from benchkit.analysis.comparisons import TaskPredictions, Verdict
    from benchkit.analysis.results import Stored
    from benchkit.analysis.tables import Intervals, Results
    from benchkit.core.record import Record
    from benchkit.core.task import TaskSpec

_SCRIPTS = ("plot", "table", "theme", "curves", "costs", "calibration", "page")
_EXAMPLES = 8
_WIDTH, _MARGIN = 216, 8  # of the pictures of intervals, in pixels


def page(
    stored: Stored, verdicts: Sequence[Verdict], predictions: Mapping[str, TaskPredictions], *, texts: bool = True
) -> str:
    """The HTML. All tables are in it as such; the script sorts them and draws the charts.

    Args:
        verdicts: paired comparisons of heads; empty where there is nothing to pair.
        predictions: from `read_predictions`.
        texts: show examples with their texts; without, by their ids.
    """
    results = stored.results
    environment = Environment(
        loader=PackageLoader("benchkit.analysis"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    style, script = _file("page.css"), "\n".join(_file(f"{name}.js") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    shared = compact_letters(results, verdicts) if _all_pairs(results, verdicts) else {}
    *phases, notes = comparison(results, letters=shared, overview=True)
    multitask = [each for each in (interference_section(stored.records), gains_section(stored_gains(stored))) if each]
    return environment.get_template("page.html").render(
        title=_title(stored),
        version=benchkit.__version__,
        policy=f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
        style=Markup(style),
        script=Markup(script),
        data=htmlsafe_json_dumps(page_data(stored, predictions), separators=(",", ":"), allow_nan=False),
        colours=len(COLOURS),
        summary=_summary(stored),
        cells=len(stored.records),
        bad=len(results.faults),
        phases=[_section(results, each, "scores") for each in phases],
        notes=[*stored.notes, *notes.notes],
        pairs=len({(each.a, each.b) for each in verdicts}),
        most_pairs=ALL_PAIRS,
        differences=[_section(results, each, "pairs") for each in difference_sections(verdicts, results)],
        multitask=[_section(results, each, "multitask") for each in multitask],
        heads=results.heads,
        confusion=[each for each in predictions.values() if each.task.classes],
        examples=[found for each in predictions.values() if (found := _examples(stored, each, texts))[1]],
        texts=texts,
        said=_said,
        word=_word,
        faults=[_section(results, each, "faults") for each in _fault_sections(results)],
        surroundings=[*_facts([*map(_surroundings, stored.records)]), *_memory(stored.records)],
        protocol=_facts([*map(_protocol, stored.records)]),
        provenance=[_section(results, each, "data") for each in (_heads(stored), _data(stored))],
        all_cells=_section(results, _cells(stored), "cells"),
    )


def _all_pairs(results: Results, verdicts: Sequence[Verdict]) -> bool:
    """Whether every head was compared with every other, as letters need, and not all with one."""
    heads = {head for each in verdicts for head in (each.a, each.b)}
    return len({(each.a, each.b) for each in verdicts}) == math.comb(len(heads), 2)


def _file(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """What a content security policy knows an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _title(stored: Stored) -> str:
    heads, seeds = len(stored.results.heads), len({each.seed for each in stored.records})
    encoder = next((each.encoder["name"] for each in stored.records if each.encoder.get("name")), "an encoder")
    return f"{_count(heads, 'head')} × {_count(seeds, 'seed')} on {encoder}"


def _summary(stored: Stored) -> list[tuple[str, str]]:
    results, records = stored.results, stored.records
    sizes = {each.parameters["encoder"] for each in records if "encoder" in each.parameters}
    data = dict.fromkeys(_folder_name(each) for each in records if each.data.get("name"))
    rows = {task: splits for each in records for task, splits in each.data.get("splits", {}).items()}
    train = {task: f", {splits['train']['rows']:,} to train" for task, splits in rows.items() if "train" in splits}
    tasks = [f"{task} ({metric}{train.get(task, '')})" for task, metric in results.metrics.items()]
    return [
        ("tasks", ", ".join(tasks)),
        ("phases", " then ".join(phase or "none" for phase in results.phases)),
        ("seeds", ranges(each.seed for each in records)),
        ("encoder parameters", " / ".join(f"{size / 1e6:.1f} M" for size in sorted(sizes)) or NOTHING),
        ("data", ", ".join(data) or NOTHING),
        ("cells", f"{sum(each.status == 'ok' for each in records)} of {len(records)} ended well"),
    ]


def _section(results: Results, section: Section, class_: str) -> dict[str, Any]:
    """A section as the page's template takes it: with sort keys, marks of heads and pictures of intervals."""
    tables = [_table(results, block, class_, section.title) for block in section.blocks]
    return {"title": section.title, "tables": tables, "notes": section.notes}


def _table(results: Results, block: Block, class_: str, title: str) -> dict[str, Any]:
    # In a column of numbers may stand a dash, or the reason why there is none.
    columns = [[row.cells[column] for row in block.rows] for column in range(len(block.header))]
    numeric = [
        any(_sort_key(cell) is not None for cell in cells)
        and all(_sort_key(cell) is not None or not re.search(r"\d", cell) for cell in cells)
        for cells in columns
    ]
    numeric[0] = False
    right = [number or side == "right" for number, side in zip(numeric, block.align, strict=True)]
    intervals, axis, pictures = block.intervals, None, list[dict[str, Any]]()
    if intervals and (axis := _axis(intervals)):
        pictures = [_picture(axis, over, seeds, intervals.control) for over, seeds in intervals.rows]
    bodies: list[list[dict[str, Any]]] = [[], []]
    for row, picture in zip_longest(sorted(block.rows, key=lambda row: row.aside), pictures):
        keys = ("" if (key := _sort_key(cell)) is None else f"{key:.9g}" for cell in row.cells[1:])
        cells = list(zip(row.cells[1:], keys, right[1:], strict=True))
        bodies[row.aside].append({"name": _name(results, row), "cells": cells, "picture": picture})
    return {
        "class": class_, "label": f"{title}: {block.header[0]}".removeprefix(": "),
        "bodies": [each for each in bodies if each],
        "header": list(zip(block.header, numeric, right, strict=True)), "axis": axis and _ruler(*axis),
    }  # fmt: skip


def _name(results: Results, row: Row) -> dict[str, Any]:
    """The first cell of a row; of a head, its number, and what went wrong with it where the cell says so."""
    name = row.cells[0].removesuffix(" !")
    head = None if row.aside or name not in results.heads else results.heads.index(name)
    if head is None or name == row.cells[0]:
        return {"text": row.cells[0], "head": head, "fault": ""}
    return {"text": name, "head": head, "fault": describe(each for each in results.faults if each.head == name)}


_NUMBER = re.compile(r"[<±]?([+−]?[\d,]*\.?\d+)(?: %|%| (?:±|to|[a-zA-Z']+)\b.*| ±.*)?")
_TIME = re.compile(r"(?:(\d+) h)? ?(?:(\d+) min)? ?(?:([\d.]+) s)?")


def _sort_key(cell: str) -> float | None:
    """The number that a cell begins with, a duration in seconds; None for words."""
    time = _TIME.fullmatch(cell) if cell else None
    if time:
        return sum(float(part or 0) * unit for part, unit in zip(time.groups(), (3600, 60, 1), strict=True))
    found = _NUMBER.fullmatch(cell)
    return float(found[1].replace("−", "-").replace(",", "")) if found else None


def _axis(intervals: Intervals) -> tuple[float, float] | None:
    """One that holds every seed, and intervals as far as they are not much wider than all seeds together: that of two
    seeds can be wider than what the metric can be.
    """
    values = [value for _, seeds in intervals.rows for value in seeds if math.isfinite(value)]
    if not values:
        return None
    low, high = min(values), max(values)
    room = max(high - low, 0.005)
    ends = [(over.low, over.high) for over, _ in intervals.rows if math.isfinite(over.low)]
    lowest = max(min([end[0] for end in ends], default=low), low - room)
    highest = min(max([end[1] for end in ends], default=high), high + room)
    edge = max(highest - lowest, 0.005) * 0.03
    return min(lowest, low) - edge, max(highest, high) + edge


def _place(axis: tuple[float, float], value: float) -> float:
    return round(_MARGIN + (value - axis[0]) / (axis[1] - axis[0]) * (_WIDTH - 2 * _MARGIN), 1)


def _picture(axis: tuple[float, float], over: Any, seeds: Sequence[float], control: float | None) -> dict[str, Any]:
    """Where the parts of a row's picture are: mean, interval with arrows where it goes on, seeds, control."""
    low, high = axis
    known = math.isfinite(over.low)
    ends = [_place(axis, min(max(end, low), high)) for end in (over.low, over.high)] if known else []
    return {
        "mean": _place(axis, over.mean) if over.n else None,
        "interval": ends,
        "arrows": [(x, turn) for x, turn, beyond in
                   zip(ends, (4, -4), (over.low < low, over.high > high), strict=False) if beyond],
        "seeds": [_place(axis, value) for value in seeds],
        "control": _place(axis, control) if control is not None and low <= control <= high else None,
        "label": f"{plus_minus(over)}, 95 % interval {number(over.low)} to {number(over.high)}",
    }  # fmt: skip


def _ruler(low: float, high: float) -> list[tuple[float, str]]:
    """A tick at each of a few round numbers: its place and its text."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step = next(step * each for each in (5, 2, 1, 0.5) if (high - low) / (step * each) >= 2)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(_place((low, high), tick), number(tick, digits=digits)) for tick in ticks]


def _examples(stored: Stored, predictions: TaskPredictions, texts: bool) -> tuple[TaskPredictions, list[int], Any]:
    """The rows of the examples that divide heads most, and their texts where the data is still there."""
    rows = disagreements(predictions, _EXAMPLES)
    return predictions, rows, stored.texts(predictions.task.name, predictions.split) if rows and texts else None


def _said(predictions: TaskPredictions, head: str, row: int) -> tuple[str, str, bool | None]:
    """A head's prediction in words, how it did over its seeds, and whether it is right; None for a score."""
    task, found = predictions.task, predictions.heads[head]
    miss, word = float(found.miss[row]), _word(task, found.said[row])
    if not task.classes:
        return word, f"off by {number(miss * (task.high - task.low), digits=2)}", None
    right = bool(found.said[row] == predictions.labels[row])
    return word, f"{round((1 - miss) * found.seeds)} of {found.seeds} right", right


def _word(task: TaskSpec, value: float) -> str:
    """A label or prediction in words."""
    return task.classes[int(value)] if task.classes else number(float(value), digits=2)


_EPOCH = re.compile(r"(?P<phase>\S+) epoch (?P<epoch>\d+): (?P<what>.+)", re.DOTALL)


def _fault_sections(results: Results) -> list[Section]:
    """Cells that failed, diverged or collapsed; then events, with the epochs they happened in."""
    faults = group(
        ((each.head, each.status, each.phases[0] or NOTHING, "yes" if each.counts else "no", each.reason), each.seed)
        for each in results.faults
    )
    events: dict[tuple[str, str, str, str], list[int]] = {}
    for head, seed, event in results.events:
        found = _EPOCH.fullmatch(event)
        phase, what = (found["phase"], found["what"]) if found else (NOTHING, event)
        events.setdefault((head, str(seed), phase, what), []).extend([int(found["epoch"])] if found else [])
    failed = [(head, ranges(seeds), *rest) for (head, *rest), seeds in faults.items()]
    odd = [(*cell, ranges(epochs), what) for (*cell, what), epochs in events.items()]
    header = ("head", "seeds", "status", "from phase", "in the means", "reason")
    sections = [_plain("Cells that failed, diverged or collapsed", header, failed)] if failed else []
    return [*sections, *[_plain("During training", ("head", "seed", "phase", "epochs", "what"), odd)] * bool(odd)]


def _plain(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Section:
    return Section(title, [Block(header, [Row(row) for row in rows], ("left",) * len(header))])


def _facts(parts: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """What each field is in the cells that say so; with counts where they do not agree."""
    found = []
    for name in dict.fromkeys(name for part in parts for name in part):
        counts = Counter(part[name] for part in parts if part.get(name))
        values = [f"{value} ({count} cells)" if len(counts) > 1 else value for value, count in counts.items()]
        found += [(name, values)] if values else []
    return found


def _surroundings(record: Record) -> dict[str, str]:
    """Encoder, code and machine of a cell."""
    environment = {**record.environment, **record.environment.get("packages", {}), "packages": ""}
    return {
        "encoder": str(record.encoder.get("name", "")),
        "encoder parameters": f"{record.parameters['encoder']:,}" if "encoder" in record.parameters else "",
        "encoder fingerprint": str(record.encoder.get("fingerprint", "")),
        "encoder notes": "; ".join(record.encoder.get("notes", ())),
        "engine source": str(record.identity.get("engine", {}).get("source", "")),
        **{name.replace("_", " "): value for name, value in _flat(environment).items()},
        "data": _folder_name(record),
    }


def _protocol(record: Record) -> dict[str, str]:
    """The protocol of a cell, and the losses of its tasks."""
    losses = {f"{task['name']}.loss": task.get("loss") or "" for task in record.identity["tasks"]}
    return {**_flat(protocol_fields(record.identity)), **losses}


def _memory(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """The peak memory of the smallest and the largest cell."""
    memory = sorted(each.peak_memory_bytes / 2**30 for each in records if each.peak_memory_bytes)
    ends = dict.fromkeys(f"{each:.1f}" for each in (*memory[:1], *memory[-1:]))
    return [("peak memory of a cell", [" to ".join(ends) + " GiB"])] if ends else []


def _folder_name(record: Record) -> str:
    """The data's name without its folder's place: a page is passed on, and says by sha256 what the data are."""
    return Path(str(record.data.get("name") or "")).name


def _flat(part: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Fields by their dotted names, as `--set` has them."""
    rows: dict[str, str] = {}
    for name, value in part.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name}.")
        else:
            rows[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return rows


def _heads(stored: Stored) -> Section:
    """Config and sizes of each head, as its first cell has them."""
    rows = []
    for head in stored.results.heads:
        records = [each for each in stored.records if each.head == head]
        own = records[0].identity["head"]
        config = " ".join(f"{name}={value}" for name, value in _flat(own.get("config", {})).items())
        sizes = next((each.parameters for each in records if each.parameters), {})
        counts = (f"{sizes[part]:,}" if part in sizes else NOTHING for part in ("head", "trunk", "branches"))
        source, seeds = str(own.get("source", NOTHING))[:12], ranges(each.seed for each in records)
        rows.append((head, config, *counts, source, seeds))
    return _plain("Heads", ("head", "config", "parameters", "trunk", "branches", "source", "seeds"), rows)


def _data(stored: Stored) -> Section:
    rows = [
        (
            f"{task} {split}", f"{about['rows']:,}", about["source"], about["sha256"],
            record.identity["data"].get(task, {}).get(split, NOTHING),
        )
        for record in stored.records
        for task, splits in record.data.get("splits", {}).items()
        for split, about in splits.items()
    ]  # fmt: skip
    header = ("split", "rows", "file and columns", "sha256 of file", "of content")
    return _plain("Data", header, list(dict.fromkeys(rows)))


def _cells(stored: Stored) -> Section:
    rows = []
    for each in stored.records:
        epochs = ", ".join(f"{phase.name} {phase.best_epoch}/{phase.epochs}" for phase in each.phases) or NOTHING
        order = " ".join(phase.order_hash for phase in each.phases) or NOTHING
        predictions = each.predictions_sha256[:16] or NOTHING
        rows.append((each.head, str(each.seed), each.status, epochs, order, each.key, predictions))
    header = ("head", "seed", "status", "best epoch", "order of batches", "cell", "sha256 of predictions")
    return _plain("Cells", header, rows)
