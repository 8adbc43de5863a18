"""Records and controls, arranged for tables: which numbers count, and what went wrong where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchkit.protocol import PHASES
from benchkit.task import SPLITS

if TYPE_CHECKING:
    from benchkit.controls import Control
    from benchkit.record import PhaseResult, Record, Status
    from benchkit.task import TaskSpec

MEAN = "mean"
"""The name that the mean over tasks has in place of a task."""

Seeds = Mapping[int, float]
"""One number a seed."""


@dataclass(frozen=True)
class Fault:
    """A cell that is not `ok`.

    Attributes:
        phases: those it spoils, in order: the phase it happened in and all that should have followed.
        reason: one line.
    """

    head: str
    seed: int
    status: Status
    phases: tuple[str, ...]
    reason: str

    @property
    def counts(self) -> bool:
        """Whether the numbers of the spoilt phases are in the means all the same. A collapsed head is a
        result; numbers of training that diverged depend on when it was stopped.
        """
        return self.status == "collapsed"


@dataclass(frozen=True)
class Results:
    """All that a table needs, in the order it is shown in.

    Attributes:
        metrics: name of the metric, by task.
        values: by (head, phase, task, split): the numbers that count.
        phase_results: by (head, phase): what the seeds that count left.
        parameters: of a head, by head.
        events: (head, seed, what happened on the way).
        beside: the same heads trained in vain, as controls, by what was done: `shuffled labels`, `random encoder`.
    """

    heads: tuple[str, ...]
    phases: tuple[str, ...]
    metrics: Mapping[str, str]
    values: Mapping[tuple[str, str, str, str], Seeds]
    phase_results: Mapping[tuple[str, str], Sequence[PhaseResult]]
    parameters: Mapping[str, int]
    controls: Sequence[Control]
    faults: Sequence[Fault]
    events: Sequence[tuple[str, int, str]]
    beside: Mapping[str, Results] = field(default_factory=dict)

    def seeds(self, head: str, phase: str, task: str, split: str) -> Seeds:
        """A number a seed; for the mean over tasks, of the seeds where every task has one."""
        if task != MEAN:
            return self.values.get((head, phase, task, split), {})
        columns = [self.seeds(head, phase, each, split) for each in self.metrics]
        common = [seed for seed in columns[0] if all(seed in column for column in columns)] if columns else []
        return {seed: sum(column[seed] for column in columns) / len(columns) for seed in common}

    def gap(self, head: str, phase: str, task: str, split: str) -> Seeds:
        """Train minus `split`, seed by seed."""
        train, other = self.seeds(head, phase, task, "train"), self.seeds(head, phase, task, split)
        return {seed: train[seed] - other[seed] for seed in train if seed in other}

    def splits(self, phase: str, task: str) -> list[str]:
        """The splits of a task (or of all, for the mean) that any head was scored on in a phase. If every
        head failed, those with a control, and if there is none, all.
        """
        if task == MEAN:
            each = [self.splits(phase, one) for one in self.metrics]
            return [split for split in SPLITS if each and all(split in one for one in each)]
        scored = {key[3] for key, seeds in self.values.items() if key[1:3] == (phase, task) and seeds}
        scored = scored or {control.split for control in self.controls if control.task == task} or set(SPLITS)
        return [split for split in SPLITS if split in scored]

    def seconds(self, head: str, phase: str) -> Seeds:
        """Training time, numbered by the order of the records."""
        return dict(enumerate(result.train_seconds for result in self.phase_results.get((head, phase), ())))

    def of(self, head: str, phase: str) -> list[Fault]:
        """The faults of a head that show in a phase."""
        return [fault for fault in self.faults if fault.head == head and phase in fault.phases]


def collect(
    records: Sequence[Record],
    controls: Sequence[Control],
    tasks: Mapping[str, TaskSpec],
    phases: Iterable[str] = (),
    beside: Mapping[str, Sequence[Record]] | None = None,
) -> Results:
    """Arrange finished cells. Heads come in the order of the records, tasks in that of `tasks`.

    Args:
        phases: those that were asked for; by default those that any record has. Without either there is one
            phase of no name, so that a head that failed at once still has its row.
        beside: records of the same heads trained in vain, by what was done.

    Raises:
        ValueError: two records are of the same head and seed: these are two comparisons, not one.
    """
    found = {result.name for record in records for result in record.phases}
    phases = tuple(phases) or tuple(name for name in PHASES if name in found) or ("",)
    values: dict[tuple[str, str, str, str], dict[int, float]] = {}
    phase_results: dict[tuple[str, str], list[PhaseResult]] = {}
    parameters: dict[str, int] = {}
    faults, seen = [], set()
    for record in records:
        if (record.head, record.seed) in seen:
            raise ValueError(f"two records of head {record.head!r} with seed {record.seed} in one comparison")
        seen.add((record.head, record.seed))
        fault = _fault(record, phases)
        faults += [fault] if fault else []
        if "head" in record.parameters:
            parameters.setdefault(record.head, record.parameters["head"])
        for result in record.phases:
            if fault and result.name in fault.phases and not fault.counts:
                continue
            phase_results.setdefault((record.head, result.name), []).append(result)
            for score in result.scores:
                key = (record.head, result.name, score.task, score.split)
                values.setdefault(key, {})[record.seed] = score.value
    return Results(
        heads=tuple(dict.fromkeys(record.head for record in records)),
        phases=phases,
        metrics={name: task.metric.name for name, task in tasks.items()},
        values=values,
        phase_results=phase_results,
        parameters=parameters,
        controls=controls,
        faults=faults,
        events=[
            (record.head, record.seed, event)
            for record in records
            for result in record.phases
            for event in result.events
        ],
        beside={name: collect(each, (), tasks, phases) for name, each in (beside or {}).items()},
    )


def _fault(record: Record, phases: Sequence[str]) -> Fault | None:
    """What went wrong with a record. An error that begins with a phase's name belongs to that phase;
    another to the last recorded phase, or where the cell failed, to the first that is missing.
    """
    if record.status == "ok":
        return None
    done = [result.name for result in record.phases if result.name in phases]
    missing = [name for name in phases if name not in done]
    named = [name for name in phases if name and record.error.startswith(name)]
    likely = [*missing[:1], *done[-1:]] if record.status == "failed" else [*done[-1:], *missing[:1]]
    spoilt = phases[phases.index([*named, *likely][0]) :]
    reason = " ".join(record.error.split()) or "no reason given"
    return Fault(record.head, record.seed, record.status, tuple(spoilt), reason)


def describe(faults: Iterable[Fault]) -> str:
    """`failed (seeds 0, 2): out of memory; diverged (seed 1): …`."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for fault in faults:
        seeds.setdefault((fault.status, fault.reason), []).append(fault.seed)
    return "; ".join(f"{status} ({name_seeds(group)}): {reason}" for (status, reason), group in seeds.items())


def name_seeds(seeds: Iterable[int]) -> str:
    """`seed 1`, `seeds 0, 2`."""
    names = [str(seed) for seed in sorted(seeds)]
    return f"seed{'s' if len(names) > 1 else ''} {', '.join(names)}"
