"""What is to be timed: a grid of points, and how long each is looked at."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from benchkit.encoder import resolve_precision
from benchkit.errors import UserError, unknown
from benchkit.runner.request import use_graphs

Mode = Literal["infer", "train", "head", "encode"]
MODES: tuple[Mode, ...] = ("infer", "train", "head", "encode")
MIXED = "mixed"


@dataclass(frozen=True)
class Point:
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
) -> tuple[Point, ...]:
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
        Point(mode, size, length, "fp32" if mode == "head" else precision, compiled, graph)
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
