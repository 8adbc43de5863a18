"""What a head is made of: layers, shapes, parameters and FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchkit.core.errors import UserError
from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import HeadSpec, parameter_counts
from benchkit.core.rng import global_stream
from benchkit.core.task import TaskShape
from benchkit.inspect.trace import Call, Macs, Trace, head_macs, trace


@dataclass(frozen=True)
class Probe:
    """Sizes of a batch of features; no `layers` where the head does not read them apart. `batch` and `time` are primes,
    to be told apart from anything else.
    """

    segments: int
    hidden: int
    layers: int
    batch: int = 3
    time: int = 7

    def features(self, reads: type[Pooled]) -> Pooled:
        """Random features, the same each time, with sentences of different lengths."""
        random = torch.Generator().manual_seed(0)
        lengths = torch.randint(2, self.time + 1, (self.batch, self.segments), generator=random)
        lengths[0] = self.time
        return make_features(reads, lengths, self.hidden, self.layers)


def make_features(reads: type[Pooled], lengths: Tensor, width: int, layers: int) -> Pooled:
    """Random features of sentences with these lengths, (batch, segment), the same each time."""
    random = torch.Generator().manual_seed(0)
    if issubclass(reads, Layers):
        return Layers.split(torch.randn(*lengths.shape, layers * width, generator=random), layers)
    pooled = torch.randn(*lengths.shape, width, generator=random)
    if not issubclass(reads, Tokens):
        return Pooled(pooled)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
    tokens = torch.randn(*mask.shape, width, generator=random)
    return Tokens(pooled, tokens * mask.unsqueeze(-1), mask)


def name_axes(shapes: Sequence[Sequence[int]], probes: Sequence[Probe]) -> tuple[str, ...]:
    """Names of a tensor's axes, from its shape under several probes; an axis without a name is its size.

    An axis is called after what it changes with: `batch`, `time`, `hidden`, or products such as `batch·segment`.
    `segment` is the second axis of a batch, and `layer` the one before the last, where they have the probe's sizes.
    """
    if len({len(shape) for shape in shapes}) > 1:
        return tuple(map(str, shapes[0]))
    names = [_name(sizes, probes) for sizes in zip(*shapes, strict=True)]
    if len(names) > 2 and names[0] == "batch" and shapes[0][1] == probes[0].segments:
        names[1] = "segment"
    layer = len(names) - 2
    if layer > 0 and shapes[0][layer] == probes[0].layers and names[layer - 1] in ("segment", "batch·segment"):
        names[layer] = "layer"
    return tuple(names)


def _name(sizes: Sequence[int], probes: Sequence[Probe]) -> str:
    first, varies = sizes[0], len({*sizes}) > 1
    if not varies:
        return str(first)
    pairs = list(zip(sizes, probes, strict=True))
    for name, known in _KNOWN.items():
        if all(size == known(probe) for size, probe in pairs):
            return name
    # Of a pooled or convolved `hidden` the size is known; of a sentence's length it is not.
    if first != sizes[1]:
        offset = first - probes[0].time
        return f"time{offset:+d}".replace("-", "−") if all(size - p.time == offset for size, p in pairs) else "varies"
    return str(first)


_KNOWN: dict[str, Callable[[Probe], int]] = {
    "batch": lambda probe: probe.batch,
    "time": lambda probe: probe.time,
    "hidden": lambda probe: probe.hidden,
    "batch·segment": lambda probe: probe.batch * probe.segments,
    "batch·time": lambda probe: probe.batch * probe.time,
    "batch·segment·time": lambda probe: probe.batch * probe.segments * probe.time,
    "segment·time": lambda probe: probe.segments * probe.time,
    "segment·hidden": lambda probe: probe.segments * probe.hidden,
    "layer·hidden": lambda probe: probe.layers * probe.hidden,
}


_T = TypeVar("_T")

LENGTH = 32
"""Word pieces of a sentence for which the work of a head is counted."""


@dataclass(frozen=True)
class Layer:
    """A layer or function of a head, or a tensor of the features.

    Attributes:
        path: where in the head it is; the parameters that a function uses.
        inputs: numbers of the layers of the same branch whose results it takes.
        shape: names or sizes of the axes of its result.
        parameters: how many it uses.
        trunk: whether it is in the part that the spec calls the trunk.
        keeps_shape: whether its result has the shape of what it was given.
        is_function: whether it is no module of the head.
        macs: multiply-accumulates for one example with sentences of `LENGTH` word pieces.
    """

    path: str
    kind: str
    detail: str
    inputs: tuple[int, ...]
    shape: tuple[str, ...]
    parameters: int
    trunk: bool
    keeps_shape: bool
    is_function: bool
    macs: int

    @property
    def is_feature(self) -> bool:
        """Whether it is a tensor of the features."""
        return not self.inputs and not self.path and not self.parameters


@dataclass(frozen=True)
class Branch:
    """What happens for one task, from the features on.

    Attributes:
        ends: numbers of the layers that the output is made from.
        parameters: those that this task alone uses.
        macs: for one example with sentences of `LENGTH` word pieces; None for a head that takes no single example.
    """

    task: TaskShape
    layers: tuple[Layer, ...]
    ends: tuple[int, ...]
    parameters: int
    macs: Macs | None


@dataclass(frozen=True)
class Structure:
    """A head, looked through.

    Attributes:
        width: of the feature vectors.
        shared: so many layers at the start of every branch are the same ones.
        parameters: as in records: `head`, `trunk`, `branches`.
        common: parameters that several tasks use, the trunk's included.
        idle: parameters that no task uses.
    """

    head: str
    width: int
    branches: tuple[Branch, ...]
    shared: int
    parameters: dict[str, int]
    common: int
    idle: int


def structure(spec: HeadSpec, config: Any, width: int, tasks: Sequence[TaskShape], layers: int = 1) -> Structure:
    """Build a head and run it on a few made-up examples of every task, in eval mode.

    Raises:
        UserError: it cannot be built, raises, or returns something of the wrong shape.
    """
    head = _build(spec, config, width, tasks, layers)
    wider = _attempt(lambda: _build(spec, config, 2 * width, tasks, layers))
    sizes = {name: parameter.numel() for name, parameter in head.named_parameters()}
    runs = [_Run.of(spec, head, wider, _probe(spec, shape, width, layers), shape) for shape in tasks]
    trunk = {name for name in sizes if spec.trunk and name.startswith(f"{spec.trunk}.")}
    used = [run.used for run in runs]
    alone = [used[i].difference(trunk, *used[:i], *used[i + 1 :]) for i in range(len(used))]
    every = frozenset[str]().union(*used)
    branches = tuple(
        Branch(run.task, run.layers(spec, sizes), run.traces[0].ends, sum(sizes[name] for name in names), run.macs)
        for run, names in zip(runs, alone, strict=True)
    )
    return Structure(
        head=spec.name,
        width=width,
        branches=branches,
        shared=_shared([branch.layers for branch in branches]),
        parameters=parameter_counts(head, spec.trunk),
        common=sum(sizes[name] for name in every.difference(*alone)),
        idle=sum(size for name, size in sizes.items() if name not in every),
    )


@dataclass(frozen=True)
class _Run:
    """What a head did for one task, under one or several probes; the first is the one that is shown."""

    task: TaskShape
    probes: tuple[Probe, ...]
    traces: tuple[Trace, ...]
    used: frozenset[str]
    work: tuple[int, ...]
    macs: Macs | None

    @staticmethod
    def of(spec: HeadSpec, head: nn.Module, wider: nn.Module | None, probe: Probe, task: TaskShape) -> _Run:
        first = _trace(spec, head, probe, task)
        probes, traces = [probe], [first]
        longer = replace(probe, batch=5, time=11)
        for module, other in ((head, longer), (wider, replace(longer, hidden=2 * probe.hidden))):
            seen = _attempt(partial(trace, module, other.features(spec.reads), task.name)) if module else None
            # A head that does something else for other sizes: its axes keep their sizes for names.
            if seen is None or [call.kind for call in seen.calls] != [call.kind for call in first.calls]:
                break
            probes.append(other)
            traces.append(seen)
        one = replace(probe, batch=1, time=LENGTH)
        seen = _attempt(partial(trace, head, one.features(spec.reads), task.name))
        same = seen is not None and len(seen.calls) == len(first.calls)
        work = tuple(call.macs for call in seen.calls) if seen and same else (0,) * len(first.calls)
        macs = _attempt(partial(head_macs, head, one.features(spec.reads), task.name, spec.trunk))
        return _Run(task, tuple(probes), tuple(traces), _reached(head, first), work, macs)

    def layers(self, spec: HeadSpec, sizes: dict[str, int]) -> tuple[Layer, ...]:
        return tuple(
            self._layer(calls, macs, spec, sizes)
            for calls, macs in zip(zip(*(seen.calls for seen in self.traces), strict=True), self.work, strict=True)
        )

    def _layer(self, calls: Sequence[Call], macs: int, spec: HeadSpec, sizes: dict[str, int]) -> Layer:
        call = calls[0]
        detail = call.detail
        if call.over is not None:
            detail = f"over {name_axes([each.before for each in calls], self.probes)[call.over]}"
        return Layer(
            path=call.path,
            kind=call.kind,
            detail=detail,
            inputs=call.inputs,
            shape=name_axes([each.shape for each in calls], self.probes),
            parameters=sum(sizes[name] for name in call.parameters),
            trunk=bool(spec.trunk) and f"{call.path}.".startswith(f"{spec.trunk}."),
            keeps_shape=call.before == call.shape,
            is_function=call.is_function,
            macs=macs,
        )


def _build(spec: HeadSpec, config: Any, width: int, tasks: Sequence[TaskShape], layers: int) -> nn.Module:
    try:
        with global_stream(0, "init"):
            return spec.build(config, width, tasks, layers).eval()
    except Exception as error:  # a stranger's head may raise anything
        raise UserError(f"head {spec.name!r} cannot be built with {config}: {_line(error)}") from error


def _probe(spec: HeadSpec, task: TaskShape, width: int, layers: int) -> Probe:
    return Probe(task.segments, width, layers if issubclass(spec.reads, Layers) else 0)


def _trace(spec: HeadSpec, head: nn.Module, probe: Probe, task: TaskShape) -> Trace:
    try:
        seen = trace(head, probe.features(spec.reads), task.name)
    except Exception as error:  # a stranger's head may raise anything
        raise UserError(f"head {spec.name!r} fails on task {task.name!r}: {_line(error)}") from error
    got, wanted = getattr(seen.output, "shape", type(seen.output).__name__), (probe.batch, task.out)
    if got != wanted:
        got = got if isinstance(got, str) else tuple(got)
        raise UserError(f"head {spec.name!r} returns {got} for {probe.batch} examples of {task.name!r}, not {wanted}")
    return seen


def _reached(head: nn.Module, seen: Trace) -> frozenset[str]:
    """Names of the parameters that the output depends on, by way of its gradient."""
    every: dict[str, Tensor] = dict(head.named_parameters())
    named = {name: parameter for name, parameter in every.items() if parameter.requires_grad}
    if not (named and seen.output.requires_grad):
        return frozenset()
    # None where there is no way from a parameter to the output, which torch's own types do not tell.
    gradients: Sequence[Tensor | None] = torch.autograd.grad(seen.output.sum(), list(named.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(named, gradients, strict=True) if gradient is not None)


def _shared(branches: Sequence[Sequence[Layer]]) -> int:
    """How many layers, the features included, all branches begin with; for one branch, up to the trunk's end."""
    first = branches[0]
    if len(branches) == 1:
        last = max((place for place, layer in enumerate(first) if layer.trunk), default=-1)
        return max(last + 1, sum(layer.is_feature for layer in first))
    same = 0
    for layers in zip(*branches, strict=False):
        if len({(layer.path, layer.kind, layer.detail, layer.inputs) for layer in layers}) > 1:
            break
        same += 1
    return same


def _attempt(make: Callable[[], _T]) -> _T | None:
    """What can be done without: a head may refuse other sizes than the ones it will meet."""
    try:
        return make()
    except Exception:  # noqa: BLE001 - a stranger's head may raise anything
        return None


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
