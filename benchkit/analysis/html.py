"""The report as one HTML page: style and script are inside it, and a policy in it forbids all requests."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import benchkit
from benchkit.analysis.comparisons import ALL_PAIRS, LETTERS_NOTE, compact_letters, difference_sections, disagreements
from benchkit.analysis.multitask import gains_section, interference_section, stored_gains
from benchkit.analysis.plots import COLOURS, page_data
from benchkit.analysis.report import comparison, fault_notes
from benchkit.analysis.results import describe
from benchkit.analysis.tables import NOTHING, Block, Intervals, Row, Section, number, plus_minus, ranges
from benchkit.analysis.variants import protocol_fields
from benchkit.store.files import write_atomic

if TYPE_CHECKING:
    from benchkit.analysis.comparisons import HeadPredictions, TaskPredictions, Verdict
    from benchkit.analysis.results import Results, Stored
    from benchkit.core.record import Record

_SCRIPTS = ("plot", "table", "theme", "curves", "costs", "calibration", "page")
_EXAMPLES = 8
_SHADES = 10
_WIDTH, _MARGIN = 216, 8  # of the pictures of intervals, in pixels


def write_page(
    stored: Stored,
    verdicts: Sequence[Verdict],
    predictions: Mapping[str, TaskPredictions],
    path: Path,
    *,
    texts: bool = True,
) -> None:
    """Write the `page`, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write_atomic(path, page(stored, verdicts, predictions, texts=texts).encode())


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
    *phases, notes = comparison(results, letters=shared, remarks=[LETTERS_NOTE] * bool(shared), overview=True)
    tables = _Tables(results)
    multitask = [each for each in (interference_section(stored.records), gains_section(stored_gains(stored))) if each]
    elsewhere = {*fault_notes(results)}
    return environment.get_template("page.html").render(
        title=_title(stored),
        version=benchkit.__version__,
        policy=f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
        style=Markup(style),
        script=Markup(script),
        data=Markup(_inert(json.dumps(page_data(stored, predictions), separators=(",", ":"), allow_nan=False))),
        colours=len(COLOURS),
        summary=_summary(stored),
        cells=len(stored.records),
        bad=len(results.faults),
        phases=[tables.section(each, "scores") for each in phases],
        notes=[*stored.notes, *(line for line in notes.notes if line not in elsewhere)],
        pairs=len({(each.a, each.b) for each in verdicts}),
        most_pairs=ALL_PAIRS,
        differences=[tables.section(each, "pairs") for each in difference_sections(verdicts, results)],
        multitask=[tables.section(each, "multitask") for each in multitask],
        confusion=[
            (
                name,
                each.split,
                [(tables.heads[head], head, *_matrix(each, found)) for head, found in each.heads.items()],
            )
            for name, each in predictions.items()
            if each.task.classes
        ],
        examples=[found for each in predictions.values() if (found := _examples(stored, each, texts))],
        faults=[tables.section(each, "faults") for each in _fault_sections(results)],
        surroundings=[*_facts([*map(_surroundings, stored.records)]), *_memory(stored.records)],
        protocol=_facts([*map(_protocol, stored.records)]),
        provenance=[tables.section(each, "data") for each in (_heads(stored), _data(stored))],
        all_cells=tables.section(_cells(stored), "cells"),
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


def _inert(text: str) -> str:
    """The same JSON without `<`, `>` and `&`, so that nothing in it can end the `<script>` it stands in."""
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


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
    tasks = [
        f"{task} ({metric}"
        + (f", {rows[task]['train']['rows']:,} to train" if "train" in rows.get(task, {}) else "")
        + ")"
        for task, metric in results.metrics.items()
    ]
    return [
        ("tasks", ", ".join(tasks)),
        ("phases", " then ".join(phase or "none" for phase in results.phases)),
        ("seeds", ranges(each.seed for each in records)),
        ("encoder parameters", " / ".join(f"{size / 1e6:.1f} M" for size in sorted(sizes)) or NOTHING),
        ("data", ", ".join(data) or NOTHING),
        ("cells", f"{sum(each.status == 'ok' for each in records)} of {len(records)} ended well"),
    ]


class _Tables:
    """Sections as the page's template takes them: with sort keys, marks of heads and pictures of intervals."""

    def __init__(self, results: Results) -> None:
        self.heads = {head: index for index, head in enumerate(results.heads)}
        self._faults = {head: describe(each for each in results.faults if each.head == head) for head in self.heads}

    def section(self, section: Section, class_: str) -> dict[str, Any]:
        tables = [self._table(block, class_, section.title) for block in section.blocks]
        return {"title": section.title, "tables": tables, "notes": section.notes}

    def _table(self, block: Block, class_: str, title: str) -> dict[str, Any]:
        keys = [[_sort_key(cell) for cell in row.cells] for row in block.rows]
        # Among numbers may stand a dash, or the reason why there is none.
        numeric = [
            column > 0 and any(row[column] is not None for row in keys)
            and all(row[column] is not None or not re.search(r"\d", each.cells[column])
                    for row, each in zip(keys, block.rows, strict=True) if not each.aside)
            for column in range(len(block.header))
        ]  # fmt: skip
        to_right = [number or side == "right" for number, side in zip(numeric, block.align, strict=True)]
        axis = _axis(block.intervals) if block.intervals else None
        pictures = iter(block.intervals.rows if block.intervals else ())
        rows: dict[bool, list[Any]] = {False: [], True: []}
        for row, key in zip(block.rows, keys, strict=True):
            cells = [
                {"text": cell, "value": "" if value is None else f"{value:.9g}", "right": right}
                for cell, value, right in zip(row.cells[1:], key[1:], to_right[1:], strict=True)
            ]
            picture = None
            if not row.aside and axis and block.intervals:
                picture = _picture(axis, *next(pictures), block.intervals.control)
            rows[row.aside].append({"name": self._name(row), "cells": cells, "picture": picture})
        return {
            "class": class_, "label": f"{title}: {block.header[0]}".removeprefix(": "),
            "bodies": [each for each in rows.values() if each],
            "header": list(zip(block.header, numeric, to_right, strict=True)), "axis": axis and _ruler(*axis),
        }  # fmt: skip

    def _name(self, row: Row) -> dict[str, Any]:
        """The first cell of a row; of a head, its number, and what went wrong with it where the cell says so."""
        name = row.cells[0].removesuffix(" !")
        head = None if row.aside else self.heads.get(name)
        if head is None or name == row.cells[0]:
            return {"text": row.cells[0], "head": head, "fault": ""}
        return {"text": name, "head": head, "fault": self._faults[name]}


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


def _matrix(predictions: TaskPredictions, found: HeadPredictions) -> tuple[list[str], list[Any], list[str]]:
    """Of a confusion matrix: the classes, a row a label with its share, and the shares of the predictions."""
    counts = found.confusion
    rows = []
    for own, name in enumerate(predictions.task.classes):
        cells = []
        for column, count in enumerate(counts[own]):
            share = _share(count, counts[own].sum())
            shade = round((share or 0) * _SHADES)
            cells.append({"text": _percent(share), "shade": shade, "own": column == own, "count": int(count)})
        rows.append((name, cells, _percent(_share(counts[own].sum(), counts.sum()))))
    predicted = [_percent(_share(each, counts.sum())) for each in counts.sum(axis=0)]
    return list(predictions.task.classes), rows, predicted


def _share(count: np.int64, total: np.int64) -> float | None:
    return float(count / total) if total else None


def _percent(share: float | None) -> str:
    if share is None:
        return NOTHING
    return f"{100 * share:.0f}" if share == 0 or share >= 0.005 else "<1"


def _examples(stored: Stored, predictions: TaskPredictions, texts: bool) -> dict[str, Any] | None:
    """The examples that divide heads most, with their texts where the data is still there."""
    found = disagreements(predictions, _EXAMPLES)
    if not found:
        return None
    known = stored.texts(predictions.task.name, predictions.split) if texts else None
    missing = "example (the data was not found again)" if texts else "example"
    return {
        "task": predictions.task.name,
        "split": predictions.split,
        "corner": "text" if known else missing,
        "heads": list(predictions.heads),
        "rows": [
            {
                "id": predictions.ids[row],
                "texts": (known or {}).get(predictions.ids[row], ()),
                "label": _word(predictions, float(predictions.labels[row])),
                "said": [(head, *_said(predictions, head, row)) for head in predictions.heads],
            }
            for row in found
        ],
    }


def _said(predictions: TaskPredictions, head: str, row: int) -> tuple[str, str, bool | None]:
    """A head's prediction in words, how it did over its seeds, and whether it is right; None for a score."""
    task, found = predictions.task, predictions.heads[head]
    miss, word = float(found.miss[row]), _word(predictions, float(found.said[row]))
    if not task.classes:
        return word, f"off by {number(miss * (task.high - task.low), digits=2)}", None
    right = bool(found.said[row] == predictions.labels[row])
    return word, f"{round((1 - miss) * found.seeds)} of {found.seeds} right", right


def _word(predictions: TaskPredictions, value: float) -> str:
    """A label or prediction in words."""
    classes = predictions.task.classes
    return classes[int(value)] if classes else number(value, digits=2)


_EPOCH = re.compile(r"(?P<phase>\S+) epoch (?P<epoch>\d+): (?P<what>.+)", re.DOTALL)


def _fault_sections(results: Results) -> list[Section]:
    """Cells that failed, diverged or collapsed; then events, with the epochs they happened in."""
    faults: dict[tuple[str, ...], list[int]] = {}
    for each in results.faults:
        key = (each.head, each.status, each.phases[0] or NOTHING, "yes" if each.counts else "no", each.reason)
        faults.setdefault(key, []).append(each.seed)
    events: dict[tuple[str, str, str, str], list[int]] = {}
    for head, seed, event in results.events:
        found = _EPOCH.fullmatch(event)
        phase, what = (found["phase"], found["what"]) if found else (NOTHING, event)
        events.setdefault((head, str(seed), phase, what), []).extend([int(found["epoch"])] if found else [])
    rows = [(head, ranges(seeds), *rest) for (head, *rest), seeds in faults.items()]
    what = [(head, seed, phase, ranges(epochs), what) for (head, seed, phase, what), epochs in events.items()]
    header = ("head", "seeds", "status", "from phase", "in the means", "reason")
    parts = (
        ("Cells that failed, diverged or collapsed", header, rows),
        ("During training", ("head", "seed", "phase", "epochs", "what"), what),
    )  # fmt: skip
    return [_plain(title, header, each) for title, header, each in parts if each]


def _plain(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Section:
    return Section(title, [Block(header, [Row(row) for row in rows], ("left",) * len(header))])


def _facts(parts: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """What each field is in the cells that say so; with counts where they do not agree."""
    found = []
    for name in dict.fromkeys(name for part in parts for name in part):
        counts = Counter(part[name] for part in parts if part.get(name))
        if counts:
            many = len(counts) > 1
            found.append((name, [f"{value} ({count} cells)" if many else value for value, count in counts.items()]))
    return found


def _surroundings(record: Record) -> dict[str, str]:
    """Encoder, code and machine of a cell."""
    environment = {**record.environment, **record.environment.get("packages", {}), "packages": ""}
    return {
        "encoder": str(record.encoder.get("name", "")),
        "encoder parameters": _thousands(record.parameters.get("encoder")),
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
    memory = [each.peak_memory_bytes / 2**30 for each in records if each.peak_memory_bytes]
    ends = dict.fromkeys(f"{each:.1f}" for each in (min(memory), max(memory))) if memory else ()
    return [("peak memory of a cell", [" to ".join(ends) + " GiB"])] if ends else []


def _folder_name(record: Record) -> str:
    """The data's name without its folder's place: a page is passed on, and says by sha256 what the data are."""
    return Path(str(record.data.get("name") or "")).name


def _thousands(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


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
        counts = (_thousands(sizes.get(part)) or NOTHING for part in ("head", "trunk", "branches"))
        rows.append(
            (head, config, *counts, str(own.get("source", NOTHING))[:12], ranges(each.seed for each in records))
        )
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
    rows = [
        (
            each.head,
            str(each.seed),
            each.status,
            ", ".join(f"{phase.name} {phase.best_epoch}/{phase.epochs}" for phase in each.phases) or NOTHING,
            " ".join(phase.order_hash for phase in each.phases) or NOTHING,
            each.key,
            each.predictions_sha256[:16] or NOTHING,
        )
        for each in stored.records
    ]
    header = ("head", "seed", "status", "best epoch", "order of batches", "cell", "sha256 of predictions")
    return _plain("Cells", header, rows)
