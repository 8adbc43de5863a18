"""What a speed measurement is asked for, and a row of its result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from typing import Literal

import torch

from benchkit.core.errors import UserError, unknown
from benchkit.encoder import resolve_precision
from benchkit.experiment.config import use_graphs
from benchkit.speed.machine import Memory

Mode = Literal["infer", "train", "head", "encode"]
MODES: tuple[Mode, ...] = ("infer", "train", "head", "encode")
MIXED = "mixed"


@dataclass(frozen=True)
class BenchmarkPoint:
    """One thing to time for every head.

    Attributes:
        mode: `infer`: word pieces to outputs; `train`: an optimiser step of encoder and head; `head`: an optimiser step
            of the head alone, on stored features; `encode`: word pieces to features.
        batch: examples of each task.
        length: word pieces of every sentence; `mixed`: of different lengths, as in real data.
        graph: the step is captured as a CUDA graph, on inputs of fixed shape, and replayed.
    """

    mode: Mode
    batch: int
    length: str
    precision: Literal["fp32", "bf16"]
    compiled: bool = False
    graph: bool = False

    def __str__(self) -> str:
        length = "mixed lengths" if self.length == MIXED else f"{self.length} word pieces"
        how = ", compiled" * self.compiled + ", CUDA graph" * self.graph
        return f"{self.mode}, batch {self.batch}, {length}, {self.precision}{how}"


@dataclass(frozen=True)
class Limits:
    """How long a head is timed at a point: at least so many iterations, and at least so long.

    Attributes:
        repeats: how often everything is built anew; the interval comes from their differences.
    """

    warmup: int = 10
    iterations: int = 10
    seconds: float = 10.0
    repeats: int = 8


def grid(
    modes: Sequence[str],
    batches: Sequence[str],
    lengths: Sequence[str],
    precisions: Sequence[str],
    device: torch.device,
    *,
    compiled: bool = False,
    graph: bool = False,
    longest: int,
) -> tuple[BenchmarkPoint, ...]:
    """All points, each once. Heads are trained on stored features in fp32, whatever the encoder computes in.

    Args:
        longest: word pieces that the encoder takes.

    Raises:
        UserError: a mode, precision, batch size or length that does not exist; a graph of what has none.
    """
    wanted = [_mode(name) for name in modes]
    if use_graphs(graph, device) and "encode" in wanted:
        raise UserError("--cuda-graph: encoding is no step that could be captured; leave out --mode encode")
    sizes = [_whole(text, "--batch-sizes", 1, None) for text in batches]
    for text in lengths:
        if text != MIXED:
            _whole(text, "--seq-lens", 3, longest, f", or {MIXED}")
    resolved = [resolve_precision(name, device) for name in precisions]
    points = (
        BenchmarkPoint(mode, size, length, "fp32" if mode == "head" else precision, compiled, graph)
        for mode, precision, length, size in itertools.product(
            sorted(wanted, key=MODES.index), resolved, lengths, sizes
        )
    )
    found = tuple(dict.fromkeys(points))
    if not found:
        raise UserError("nothing to time: name at least one mode, batch size, length and precision")
    return found


def _mode(name: str) -> Mode:
    for mode in MODES:
        if mode == name:
            return mode
    raise unknown("mode", name, MODES)


def _whole(text: str, option: str, low: int, high: int | None, more: str = "") -> int:
    if text.isdecimal() and low <= int(text) and (high is None or int(text) <= high):
        return int(text)
    limit = f"from {low} to {high}" if high else f"from {low} up"
    raise UserError(f"{option} takes whole numbers {limit}{more}, not {text!r}")


LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate, and where that of another run will be; both ends are NaN where nothing was repeated."""

    value: float
    low: float
    high: float


def repeatable(values: Sequence[float], family: int = 1) -> Interval:
    """The geometric mean of a positive quantity, one value a repetition, with the range of another run's.

    It is a prediction interval, not one for the mean: t times the spread times sqrt(2 / n), so that a second run of as
    many repetitions falls inside with 95 % (Hahn & Meeker 1991, section 4.7), its own chance included.

    Args:
        family: so many intervals are shown beside each other, and are to hold together (Bonferroni).
    """
    from scipy.special import stdtrit

    logs, count = [math.log(value) for value in values], len(values)
    middle = mean(logs)
    if count < 2:
        return Interval(math.exp(middle), math.nan, math.nan)
    quantile = float(stdtrit(count - 1, 1 - (1 - LEVEL) / 2 / family))
    reach = quantile * stdev(logs) * math.sqrt(2 / count)
    return Interval(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def ratio(base: Sequence[Sequence[float]], other: Sequence[Sequence[float]], family: int = 1) -> Interval:
    """How many times as long `other` takes as `base`.

    Both are mean times of a step by repetition and cycle. In one cycle A B … B A each head ran at the same time on
    average, so what drifts steadily is in both and leaves the ratio; the median over a repetition's cycles
    leaves out what came between once.
    """
    ratios = [
        median(late / early for early, late in zip(ours, theirs, strict=True))
        for ours, theirs in zip(base, other, strict=True)
    ]
    return repeatable(ratios, family)


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
    point: BenchmarkPoint
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
