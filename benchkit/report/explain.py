"""The parts of a cell's key as text, and what sets two cells apart."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchkit.identity import Parts, changes, shown, tell
from benchkit.record import Record

_LABEL = 11  # columns
_DIGITS = 12
# What explains a number without being asked for; the rest of the environment is in the key too.
_AROUND = ("git", "python", "platform", "processor", "device")


def headline(record: Record) -> str:
    state = record.status if not record.error else f"{record.status}: {record.error}"
    return f"cell {record.key}: {record.head} seed {record.seed}, {state}"


def key_parts(record: Record, columns: int = 100) -> Iterator[str]:
    """What the key is a hash of, a part a paragraph, then what the cell was made by."""
    identity = record.identity
    for name, value in identity.items():
        yield from _paragraph(name, _part(name, value, record), columns)
    made = {name: record.environment[name] for name in _AROUND if record.environment.get(name)}
    yield from _paragraph("made by", [shown(made)], columns)


def differences(a: Parts, b: Parts) -> list[str]:
    """What sets B apart from A, a line each."""
    return [tell(change, a, b) for change in changes(a.identity, b.identity)]


def around(a: Record, b: Record) -> list[str]:
    """What is in no key but may explain a time, or a last bit."""
    pairs = ((name, a.environment.get(name, ""), b.environment.get(name, "")) for name in _AROUND)
    return [f"{name}: {old or 'unknown'} → {new or 'unknown'}" for name, old, new in pairs if old != new]


def _paragraph(label: str, lines: Sequence[str], columns: int) -> Iterator[str]:
    for number, line in enumerate(lines):
        start = f"  {label if not number else '':<{_LABEL}}"
        yield textwrap.fill(
            line, columns, initial_indent=start, subsequent_indent=" " * (len(start) + 2), break_on_hyphens=False
        )


def _part(name: str, value: Any, record: Record) -> list[str]:
    if name == "head":
        files = ", ".join(record.sources.get("head", {}))
        source = f"source {value['source'][:_DIGITS]}{f' ({files})' if files else ''}"
        return [f"{value['name']}: {shown(value['config'])}; {source}"]
    if name == "protocol":
        plain = {field: each for field, each in value.items() if not isinstance(each, Mapping)}
        tables = {field: each for field, each in value.items() if isinstance(each, Mapping)}
        return [shown(plain), *(f"{field}: {shown(each)}" for field, each in tables.items())]
    if name == "tasks":
        return [f"{task['name']}: {task['loss']}, {task['metric']}" for task in value]
    if name == "data":
        return list(_data(value, record))
    if name == "encoder":
        return [f"{record.encoder.get('name', '')} {str(value)[:_DIGITS]}".strip()]
    if name == "engine":
        return [shown({field: each[:_DIGITS] if field == "source" else each for field, each in value.items()})]
    return [shown(value)]


def _data(value: Mapping[str, Mapping[str, str]], record: Record) -> Iterator[str]:
    rows = record.data.get("splits", {})
    for task, splits in value.items():
        each = [
            f"{name} {rows[task][name]['rows']:,} rows" if task in rows else name + f" {digest[:_DIGITS]}"
            for name, digest in splits.items()
        ]
        yield f"{task}: {', '.join(each)}"
    if "name" in record.data:
        yield f"from {record.data['name']}"
