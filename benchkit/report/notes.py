"""What a reader must know to believe a table: what ± is, what is missing, what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchkit.report.results import name_seeds

if TYPE_CHECKING:
    from benchkit.report.results import Results

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
    lines = _faults(results)
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
