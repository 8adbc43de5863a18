"""The record of a finished cell: frozen, JSON-ready, with the provenance of every number.

It also lists the fields in which the identities of two cells differ.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchkit.core.settings import parse

SCHEMA = 1

Status = Literal["ok", "collapsed", "diverged", "failed"]
FailureKind = Literal["diverged", "collapsed", "out_of_memory", "head", "input", "worker", "timeout", "unknown"]


@dataclass(frozen=True)
class Score:
    """One number: a metric of one task on one split, with the checkpoint chosen on dev."""

    task: str
    split: str
    metric: str
    value: float
    loss: float
    n: int


@dataclass(frozen=True)
class CurvePoint:
    """One task and split after one epoch. For `train` these are running means over the epoch, dropout on."""

    phase: str
    epoch: int
    task: str
    split: str
    metric: str
    value: float
    loss: float


@dataclass(frozen=True)
class Cosine:
    """How far the gradients of two tasks agree on their shared weights, after one epoch.

    Attributes:
        part: `trunk` (all weights of the head that both tasks use) or `encoder`.
        value: cosine of the two tasks' gradients; if negative, a step for one task works against the other.
    """

    epoch: int
    part: str
    a: str
    b: str
    value: float


@dataclass(frozen=True)
class PhaseResult:
    """One phase of training.

    Attributes:
        best_epoch: 1-based epoch whose weights were kept, by the mean of the dev metrics.
        order_hash: hash over the order of all (task, example) seen; equal for heads that saw the same batches.
        train_seconds, eval_seconds: wall-clock of optimisation and of evaluation, summed over interrupted runs.
        interference: one value for each pair of tasks after each epoch; None if it was not measured.
        events: events of training, such as a task whose predictions were all one class after an epoch.
    """

    name: str
    epochs: int
    best_epoch: int
    steps: int
    batch_size: int
    order_hash: str
    train_seconds: float
    eval_seconds: float
    scores: tuple[Score, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    events: tuple[str, ...] = ()
    interference: tuple[Cosine, ...] | None = None

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> PhaseResult:
        """Inverse of `dataclasses.asdict`.

        Raises:
            ValueError: the data is not a phase's result.
        """
        result: PhaseResult = parse(PhaseResult, data)
        return result


@dataclass(frozen=True)
class Failure:
    """Why a cell has no number, or only a meaningless one.

    Attributes:
        kind: `diverged` and `collapsed` are outcomes of training. `out_of_memory`, `head` (an exception of the head's
            code), `input` (a `UserError`), `worker` (its process ended) and `timeout` ended the cell early. `unknown`
            occurs in older records.
        phase: the phase in which it happened; "" before the first one.
        message: one line.
    """

    kind: FailureKind
    phase: str
    message: str


@dataclass(frozen=True)
class Record:
    """One cell, (head config, protocol, encoder, data, seed), and its results.

    Attributes:
        key: hash of `identity`.
        identity: everything that can change the numbers, by part (head, protocol, encoder, data, seed, engine …).
        parameters: counts for `head`, `trunk`, `branches` and `encoder`.
        environment: versions, device, threads, git state: they help to explain a number, but no request asks for them.
        sources: for each part of the identity that has a `source`, a short hash of each of its files, so that a message
            can name the file that changed; empty in older records.
        failure: why the cell is not `ok`.
    """

    key: str
    head: str
    seed: int
    status: Status
    identity: Mapping[str, Any]
    parameters: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    encoder: Mapping[str, Any] = field(default_factory=dict)
    phases: tuple[PhaseResult, ...] = ()
    failure: Failure | None = None
    peak_memory_bytes: int = 0
    predictions_sha256: str = ""
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def error(self) -> str:
        """Why the cell is not `ok`, in one line; "" if it is."""
        return self.failure.message if self.failure else ""

    @property
    def dev_mean(self) -> float:
        """The mean of the dev metrics by which the last phase's best epoch was chosen; -inf if there are none."""
        values = [score.value for score in self.phases[-1].scores if score.split == "dev"] if self.phases else []
        return sum(values) / len(values) if values else -math.inf

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Record:
        """Inverse of `to_dict`.

        Raises:
            ValueError: the data has another schema or is not a record.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"not a record: {type(data).__name__}")
        if data.get("schema") != SCHEMA:
            raise ValueError(f"record of schema {data.get('schema')}, this benchkit reads {SCHEMA}")
        if "phases" not in data:
            raise ValueError("not a record: it lacks phases")
        values = dict(data)
        if error := values.pop("error", ""):  # a record from before failures had a kind
            values["failure"] = {"kind": "unknown", "phase": "", "message": error}
        try:
            record: Record = parse(Record, values)
        except ValueError as error:
            raise ValueError(f"not a record: {error}") from error
        return record


ABSENT = "absent"
_DIGITS = 12  # of a hash, where one has to be shown


@dataclass(frozen=True)
class Parts:
    """An identity, and names for the contents that it holds as hashes.

    Attributes:
        sources: see `Record.sources`.
        splits: by `task.split`, the meaning of a data digest, such as `8,544 rows of sst/train.tsv`.
        encoder: the encoder's name.
    """

    identity: Mapping[str, Any]
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    encoder: str = ""


@dataclass(frozen=True)
class Change:
    """One field that differs; a value is `ABSENT` if that side does not have the field."""

    path: tuple[str, ...]
    a: Any
    b: Any

    @property
    def field(self) -> str:
        """`protocol.pretrain.learning_rate`."""
        return ".".join(self.path)


def parts_of(record: Record) -> Parts:
    splits = {  # `sst/train.tsv` of a source that also says how it was read and which rows were drawn
        f"{task}.{name}": f"{split['rows']:,} rows of {re.split(r' [(]|;', split['source'])[0]}"
        for task, each in record.data.get("splits", {}).items()
        for name, split in each.items()
    }
    return Parts(record.identity, record.sources, splits, record.encoder.get("name", ""))


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """The fields that two identities do not share, in the order of the parts."""
    found = list(_walk((), _by_name(a), _by_name(b)))
    names = [change for change in found if change.path == ("head", "name")]
    # Two heads share no config that could be compared.
    return [*names, *(change for change in found if change.path[0] != "head")] if names else found


def differences(a: Parts, b: Parts) -> list[str]:
    """The differences of B from A, one line each."""
    return [describe(change, a, b) for change in changes(a.identity, b.identity)]


def nearest(parts: Parts, records: Iterable[Record]) -> Record | None:
    """Of the records with the same head and seed, the one that differs in the fewest fields."""
    head, seed = parts.identity.get("head", {}).get("name"), parts.identity.get("seed")
    alike = [record for record in records if (record.head, record.seed) == (head, seed)]
    return min(alike, key=lambda record: len(changes(record.identity, parts.identity)), default=None)


def describe(change: Change, a: Parts, b: Parts) -> str:
    """One line: `protocol.pretrain.epochs: 10 → 5`, `source of head: my_head.py changed`."""
    if change.path[-1] == "source":
        whose = f"task {change.path[1]}" if change.path[0] == "tasks" else change.path[0]
        return f"source of {whose}: {_files(change, a, b)}"
    if change.path == ("encoder",):
        return f"encoder: {_encoder(a)} → {_encoder(b)}"
    if change.path[0] == "data" and len(change.path) == 3:
        return f"{change.field}: {_data(change, a, b)}"
    values = [change.a, change.b]
    if change.path[0] == "tasks" and len(change.path) == 2:  # a whole task, whose fields say nothing here
        values = [each if each == ABSENT or ABSENT not in values else "there" for each in values]
    return f"{change.field}: {' → '.join(map(shown, values))}"


def shown(value: Any) -> str:
    """A value of an identity as a user would write it. A sha256 is shortened."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={shown(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ",".join(map(shown, value)) or "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text[:_DIGITS] if re.fullmatch("[0-9a-f]{64}", text) else text


def _walk(path: tuple[str, ...], a: Any, b: Any) -> Iterator[Change]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys((*a, *b)):
            yield from _walk((*path, name), a.get(name, ABSENT), b.get(name, ABSENT))
    elif a != b:
        yield Change(path, a, b)


def _by_name(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Tasks and phases by name rather than by number, with their order as a field of its own."""
    result = dict(identity)
    tasks = identity.get("tasks")
    if isinstance(tasks, list):
        result["tasks"] = {"order": [task["name"] for task in tasks], **_tables(tasks)}
    protocol = identity.get("protocol", {})
    phases = protocol.get("phases", ())
    if phases and all(isinstance(each, Mapping) for each in phases):
        result["protocol"] = {**protocol, "phases": [each["name"] for each in phases], **_tables(phases)}
    return result


def _tables(named: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["name"]: {key: value for key, value in each.items() if key != "name"} for each in named}


def _files(change: Change, a: Parts, b: Parts) -> str:
    """The files that changed, if both sides know theirs."""
    part = ".".join(change.path[:-1])
    old, new = a.sources.get(part), b.sources.get(part)
    if not old or not new:
        return "changed (an older record does not say which file)"
    found = [
        f"{name} {'is new' if name not in old else 'is gone' if name not in new else 'changed'}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]
    return ", ".join(found) or "the same files in another order"


def _encoder(parts: Parts) -> str:
    fingerprint = shown(parts.identity["encoder"])
    return f"{parts.encoder} ({fingerprint})" if parts.encoder else fingerprint


def _data(change: Change, a: Parts, b: Parts) -> str:
    name = ".".join(change.path[1:])
    old, new = a.splits.get(name, shown(change.a)), b.splits.get(name, shown(change.b))
    return f"{old} → {new}" if old != new else f"other content ({shown(change.a)} → {shown(change.b)}) in {new}"
