"""What a head is made of: layers, shapes, parameters and FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchkit.core.errors import UserError, one_line
from benchkit.core.features import Layers
from benchkit.core.head import HeadSpec, parameter_counts
from benchkit.core.rng import global_stream
from benchkit.core.task import TaskShape
from benchkit.inspect.trace import Call, Trace, trace
from benchkit.testing.contract import features


@dataclass(frozen=True)
class Probe:
    """Sizes of a batch of features; no `layer` where the head does not read them apart. `batch` and `time` are primes,
    to be told apart from anything else.
    """

    segment: int
    hidden: int
    layer: int
    batch: int = 3
    time: int = 7


def name_axes(shapes: Sequence[Sequence[int]], probes: Sequence[Probe]) -> tuple[str, ...]:
    """Names of a tensor's axes, from its shape under several probes; an axis without a name is its size.

    An axis is called after what it changes with: `batch`, `time`, `hidden`, or products such as `batch·segment`.
    `segment` is the second axis of a batch, and `layer` the one before the last, where they have the probe's sizes.
    """
    if len({len(shape) for shape in shapes}) > 1:
        return tuple(map(str, shapes[0]))
    names = [_name(sizes, probes) for sizes in zip(*shapes, strict=True)]
    if len(names) > 2 and names[0] == "batch" and shapes[0][1] == probes[0].segment:
        names[1] = "segment"
    layer = len(names) - 2
    if layer > 0 and shapes[0][layer] == probes[0].layer and names[layer - 1] in ("segment", "batch·segment"):
        names[layer] = "layer"
    return tuple(names)


def _name(sizes: Sequence[int], probes: Sequence[Probe]) -> str:
    first, varies = sizes[0], len({*sizes}) > 1
    if not varies:
        return str(first)
    pairs = list(zip(sizes, probes, strict=True))
    for name in _KNOWN:
        if all(size == prod(getattr(probe, axis) for axis in name.split("·")) for size, probe in pairs):
            return name
    # Of a pooled or convolved `hidden` the size is known; of a sentence's length it is not.
    if first != sizes[1]:
        offset = first - probes[0].time
        return f"time{offset:+d}".replace("-", "−") if all(size - p.time == offset for size, p in pairs) else "varies"
    return str(first)


_KNOWN = (
    *("batch", "time", "hidden", "batch·segment", "batch·time", "batch·segment·time"),
    *("segment·time", "segment·hidden", "layer·hidden"),
)


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
        trunk_macs: of these, in the trunk; `uncounted`: operators that are not in them.
    """

    task: TaskShape
    layers: tuple[Layer, ...]
    ends: tuple[int, ...]
    parameters: int
    macs: int | None
    trunk_macs: int
    uncounted: tuple[str, ...]


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

    @property
    def widest(self) -> Branch:
        """A branch of a pair if there is one: its axes are named best."""
        return max(self.branches, key=lambda branch: branch.task.segments)


def structure(spec: HeadSpec, config: Any, width: int, tasks: Sequence[TaskShape], layers: int = 1) -> Structure:
    """Build a head and run it on a few made-up examples of every task, in eval mode.

    Raises:
        UserError: it cannot be built, raises, or returns something of the wrong shape.
    """
    head = _build(spec, config, width, tasks, layers)
    wider = _attempt(lambda: _build(spec, config, 2 * width, tasks, layers))
    sizes = {name: parameter.numel() for name, parameter in head.named_parameters()}
    runs = [_Run(spec, head, wider, width, layers, task) for task in tasks]
    trunk = {name for name in sizes if spec.trunk and name.startswith(f"{spec.trunk}.")}
    alone = [run.used.difference(trunk, *(other.used for other in runs if other is not run)) for run in runs]
    every = frozenset[str]().union(*(run.used for run in runs))
    branches = tuple(
        run.branch(sizes, sum(sizes[name] for name in names)) for run, names in zip(runs, alone, strict=True)
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


class _Run:
    """What a head did for one task, under one or several probes; the first is the one that is shown."""

    def __init__(
        self, spec: HeadSpec, head: nn.Module, wider: nn.Module | None, width: int, layers: int, task: TaskShape
    ) -> None:
        self.spec, self.task = spec, task
        probe = Probe(task.segments, width, layers if issubclass(spec.reads, Layers) else 0)
        self.probes, self.traces = [probe], [self._checked(head, probe)]
        first = self.traces[0]
        longer = replace(probe, batch=5, time=11)
        for module, other in ((head, longer), (wider, replace(longer, hidden=2 * width))):
            seen = _attempt(partial(self._trace, module, other)) if module else None
            # A head that does something else for other sizes: its axes keep their sizes for names.
            if seen is None or [call.kind for call in seen.calls] != [call.kind for call in first.calls]:
                break
            self.probes.append(other)
            self.traces.append(seen)
        with torch.no_grad():
            self.example = _attempt(partial(self._trace, head, replace(probe, batch=1, time=LENGTH)))
        self.used = _reached(head, first)

    def _trace(self, head: nn.Module, probe: Probe) -> Trace:
        sizes = {"time": probe.time, "hidden": probe.hidden, "layers": probe.layer}
        given = features(self.spec.reads, self.task, probe.batch, **sizes)
        return trace(head, given, self.task.name, self.spec.trunk)

    def _checked(self, head: nn.Module, probe: Probe) -> Trace:
        name, task = self.spec.name, self.task.name
        try:
            seen = self._trace(head, probe)
        except Exception as error:  # a stranger's head may raise anything
            raise UserError(f"head {name!r} fails on task {task!r}: {one_line(error)}") from error
        got, wanted = getattr(seen.output, "shape", type(seen.output).__name__), (probe.batch, self.task.out)
        if got != wanted:
            got = got if isinstance(got, str) else tuple(got)
            raise UserError(f"head {name!r} returns {got} for {probe.batch} examples of {task!r}, not {wanted}")
        return seen

    def branch(self, sizes: dict[str, int], parameters: int) -> Branch:
        one, calls = self.example, zip(*(seen.calls for seen in self.traces), strict=True)
        same = one is not None and len(one.calls) == len(self.traces[0].calls)
        work = [call.macs for call in one.calls] if one and same else [0] * len(self.traces[0].calls)
        return Branch(
            task=self.task,
            layers=tuple(self._layer(each, macs, sizes) for each, macs in zip(calls, work, strict=True)),
            ends=self.traces[0].ends,
            parameters=parameters,
            macs=one.macs if one else None,
            trunk_macs=one.trunk_macs if one else 0,
            uncounted=one.unknown if one else (),
        )

    def _layer(self, calls: Sequence[Call], macs: int, sizes: dict[str, int]) -> Layer:
        call, trunk = calls[0], self.spec.trunk
        over = name_axes([each.before for each in calls], self.probes)[call.over] if call.over is not None else ""
        return Layer(
            path=call.path,
            kind=call.kind,
            detail=f"over {over}" if over else call.detail,
            inputs=call.inputs,
            shape=name_axes([each.shape for each in calls], self.probes),
            parameters=sum(sizes[name] for name in call.parameters),
            trunk=bool(trunk) and f"{call.path}.".startswith(f"{trunk}."),
            keeps_shape=call.before == call.shape,
            is_function=call.is_function,
            macs=macs,
        )


def _build(spec: HeadSpec, config: Any, width: int, tasks: Sequence[TaskShape], layers: int) -> nn.Module:
    try:
        with global_stream(0, "init"):
            return spec.build(config, width, tasks, layers).eval()
    except Exception as error:  # a stranger's head may raise anything
        raise UserError(f"head {spec.name!r} cannot be built with {config}: {one_line(error)}") from error


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
