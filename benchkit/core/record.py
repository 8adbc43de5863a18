"""What a finished cell leaves behind: frozen, JSON-ready, with the provenance of every number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
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
    """How far two tasks pull what they share in one direction, at the weights after one epoch.

    Attributes:
        part: `trunk`, all that the head shares between the two, or `encoder`.
        value: cosine of the two tasks' gradients; below 0, a step for the one undoes some of the other's.
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
        train_seconds, eval_seconds: wall-clock of optimisation and of evaluation, over all sittings of the cell.
        interference: of each pair of tasks after each epoch; None where it was not asked for.
        events: what happened on the way, such as a task whose predictions were all one class after an epoch.
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
    """Why a cell has no number, or none that is worth anything.

    Attributes:
        kind: `diverged` and `collapsed` are outcomes of training; `out_of_memory`, `head` (an exception of the head's
            code), `input` (a `UserError`), `worker` (its process ended) and `timeout` ended the cell before; `unknown`
            in older records.
        phase: the phase in which it happened; "" before the first one.
        message: one line.
    """

    kind: FailureKind
    phase: str
    message: str


@dataclass(frozen=True)
class Record:
    """One cell: (head config, protocol, encoder, data, seed) and what came of it.

    Attributes:
        key: hash of `identity`.
        identity: everything that can change the numbers, by part (head, protocol, encoder, data, seed, engine …).
        parameters: counts for `head`, `trunk`, `branches` and `encoder`.
        environment: versions, device, threads, git state: what explains a number but is not asked for.
        sources: by part of the identity that has a `source`, a short hash of each file it is made of, so that a change
            can be named; empty in older records.
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
        """What the last phase's best epoch was chosen by: the mean of its dev metrics; -inf without any."""
        values = [score.value for score in self.phases[-1].scores if score.split == "dev"] if self.phases else []
        return sum(values) / len(values) if values else -math.inf

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Record:
        """Inverse of `to_dict`.

        Raises:
            ValueError: the data is of another schema or not a record.
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
