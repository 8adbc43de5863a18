"""One head at one point, as it is shown and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchkit.speed.compare import Interval
from benchkit.speed.machine import Memory
from benchkit.speed.request import Point


@dataclass(frozen=True)
class Latency:
    """Seconds of a step, over all that were timed; `step` is the mean with the range of another run's."""

    step: Interval
    p50: float
    p90: float
    p95: float
    p99: float
    stdev: float
    steps: int


@dataclass(frozen=True)
class Work:
    """What a step does.

    Attributes:
        examples, sentences, tokens: a pair is two sentences; tokens are word pieces, nothing padded.
        flops: needed for it, 2 a multiply-accumulate; what an implementation does on padding or twice is not in it.
        macs: of one example in one forward, encoder (where it takes part) and head, mean over the tasks.
        unknown: operations that could not be counted.
    """

    examples: int
    sentences: int
    tokens: int
    flops: int
    macs: float
    parameters: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A head (or, for `encode`, a kind of features) at a point. After an error nothing but `work` is known.

    Attributes:
        peak_share: FLOP/s over those of a large matrix product on the same device in the same precision.
        head_share: of a step's time, in the head and its loss, forth and back; None where there is nothing else.
        ratio: its time over that of the first in the table; None for the first.
        joules: a step; None where the driver does not tell.
    """

    name: str
    point: Point
    work: Work | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    peak_share: float | None = None
    head_share: float | None = None
    ratio: Interval | None = None
    joules: float | None = None
    error: str = ""

    @property
    def examples_per_second(self) -> float | None:
        return self.work.examples / self.latency.step.value if self.work and self.latency else None

    @property
    def sentences_per_second(self) -> float | None:
        return self.work.sentences / self.latency.step.value if self.work and self.latency else None

    @property
    def tokens_per_second(self) -> float | None:
        return self.work.tokens / self.latency.step.value if self.work and self.latency else None


@dataclass(frozen=True)
class Result:
    """A whole run.

    Attributes:
        peaks: FLOP/s of a large matrix product, by precision.
        notes: what a reader should know, such as that the machine was busy, a line each.
    """

    rows: tuple[Row, ...]
    peaks: Mapping[str, float]
    others: float | None
    notes: tuple[str, ...] = field(default=())
