"""What a reader must know beside the numbers, and why a cell was run again."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchkit.analysis.results import name_seeds
from benchkit.core.identity import Parts, changes, shown, tell
from benchkit.core.record import Record

if TYPE_CHECKING:
    from benchkit.analysis.results import Results


# Below this many seeds a standard deviation is itself a guess.
_FEW = 10
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
    lines = _faults(results) + _in_vain(results)
    lines += _uneven(results)
    lines += _spread(results, intervals)
    lines += _splits(results)
    return lines + _events(results)


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


def in_short(vain: str) -> str:
    """`shuffled` for `shuffled labels`: what stands in a table's narrow column."""
    return vain.partition(" ")[0]


def _in_vain(results: Results) -> list[str]:
    """What heads trained in vain are there for, and what went wrong with them."""
    lines = [
        line.replace(f"! {head},", f"! {head}, {in_short(name)},", 1)
        for name, vain in results.beside.items()
        for head in vain.heads
        for line in _faults(vain)
        if line.startswith(f"! {head},")
    ]
    why = {
        "shuffled labels": "shuffled: trained on shuffled labels, so its score is its architecture's, not learnt",
        "random encoder": "random: on an encoder with random weights, which tells words apart and knows none",
    }
    found = [why[name] for name in results.beside if name in why]
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
            "± beside a mean is the standard deviation over seeds; 95 % CI is the t-interval of the mean over seeds, "
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
