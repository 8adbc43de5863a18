"""Checks of what a head declares, and of what it makes of its inputs."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import HeadSpec, Range
from benchkit.core.task import TaskShape
from benchkit.testing.verdict import (
    TASKS,
    Failed,
    Skipped,
    build,
    check,
    each_tensor,
    features,
    gap,
    outputs_of,
    run,
    searched,
)


@check
def described(spec: HeadSpec) -> None:
    """Has a summary, a frozen config, and defaults inside their search."""
    if not spec.summary.strip():
        raise Failed("it has no summary: one line in HeadSpec(name, summary, …)")
    if not (dataclasses.is_dataclass(spec.config) and spec.config.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise Failed(f"{spec.config.__name__} is not a frozen dataclass: write @dataclass(frozen=True)")
    defaults = spec.configure({})
    for field, search in searched(spec).items():
        default = getattr(defaults, field)
        if isinstance(search, Range) and not search.low <= default <= search.high:
            raise Failed(f"the default of {field}, {default}, is not from {search.low} to {search.high}")
    for shape in TASKS if spec.loss else ():
        asked = spec.loss(defaults, shape) if spec.loss else ""
        if not (isinstance(asked, str) or callable(asked)):
            raise Failed(f"loss(config, shape) gave {asked!r} for {shape.name}, not a function, a loss's name or ''")


@check
def imports(spec: HeadSpec) -> None:
    """Does nothing at import but define things.

    The module of the head's class is imported in a fresh process. It may not print, start a thread or a process, use
    the network, write files, draw from or seed a global generator, change torch's settings, set up logging, or work for
    more than a second. What libraries do when the module imports them is not held against it, unless they change a
    generator or torch's settings.
    """
    try:
        file = inspect.getsourcefile(spec.cls)
    except (TypeError, OSError):
        file = None
    if file is None or spec.cls.__module__ == "__main__":
        raise Skipped("its class was not imported from a file")
    found = _examine(spec.cls.__module__, file, (*sys.path, str(Path(file).parent)))
    if found:
        raise Failed(f"importing {spec.cls.__module__} {', '.join(found)}")


@functools.cache
def _examine(module: str, file: str, path: tuple[str, ...]) -> list[str]:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps({"module": module, "file": file, "path": path}), file=server.stdin, flush=True)
    answer = server.stdout.readline()
    if not answer:
        raise Failed(f"could not be tried: python -m benchkit.testing.probe ended with code {server.wait()}")
    found: list[str] = json.loads(answer)
    return found


@functools.cache
def _server() -> subprocess.Popen[str]:
    """One for this process, since it has to load torch; it ends with this process."""
    command = [sys.executable, "-m", "benchkit.testing.probe"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    atexit.register(server.communicate)  # closes its stdin, which ends it
    return server


@dataclass(frozen=True)
class _Everything(Tokens, Layers):
    """All levels of features at once, as no head is ever given them."""


@check
@torch.no_grad()
def reads(spec: HeadSpec) -> None:
    """Reads no more of the features than it declares.

    It must run on exactly what `HeadSpec.reads` names, and give the same where more can be read.
    """
    head, declared = build(spec).eval(), spec.reads.__name__
    for shape in TASKS:
        given = features(spec.reads, shape)
        try:
            outputs = run(head, given, shape)
        except Failed as found:
            raise Failed(f"given the {declared} that it declares, {found}") from found
        levels = (features(Tokens, shape), features(Layers, shape), given)
        everything = _Everything(**{name: value for level in levels for name, value in vars(level).items()})
        if gap(outputs, run(head, everything, shape)):
            raise Failed(f"{shape.name}: it declares {declared}, and gives something else where it could read more")


@check
def shapes(spec: HeadSpec) -> None:
    """Gives (batch, out) for every kind of task, a batch of 1 included.

    At two widths, in training and in eval mode. A head that reads `Tokens` also meets the shortest text, 2 word pieces
    (`[CLS]` and `[SEP]` of an empty one), and the longest, 512.
    """
    for hidden, layers in ((48, 3), (384, 7)):
        head = build(spec, hidden=hidden, layers=layers)
        for training in (True, False):
            head.train(training)
            for shape in TASKS:
                for batch in (1, 7):
                    given = features(spec.reads, shape, batch, hidden=hidden, layers=layers)
                    _expect_shape(run(head, given, shape), shape, batch)
    if issubclass(spec.reads, Tokens):
        for shape, time in (*((shape, 2) for shape in TASKS), (TASKS[0], 512), (TASKS[6], 512)):
            _expect_shape(run(build(spec).eval(), features(spec.reads, shape, 1, time=time), shape), shape, 1)


def _expect_shape(outputs: Tensor, shape: TaskShape, batch: int) -> None:
    if outputs.shape != (batch, shape.out):
        raise Failed(f"{shape.name}: gave {tuple(outputs.shape)}, not ({batch}, {shape.out})")
    if not outputs.is_floating_point():
        raise Failed(f"{shape.name}: gave {outputs.dtype}, not floating-point numbers")
    if not outputs.isfinite().all():
        raise Failed(f"{shape.name}: gave a number that is not finite")


@check
def alone(spec: HeadSpec) -> None:
    """Works for each task alone, without the others."""
    for shape in TASKS:
        try:
            _expect_shape(run(build(spec, tasks=[shape]), features(spec.reads, shape), shape), shape, 3)
        except Failed as found:
            raise Failed(f"with {shape.name} as its only task: {found}") from found


@check
@torch.no_grad()
def scores(spec: HeadSpec) -> None:
    """Keeps a regression's scores inside the task's label range.

    With features a hundred times as small and as large as usual, too.
    """
    head = build(spec).eval()
    for shape in (shape for shape in TASKS if not shape.classes):
        for size in (0.01, 1.0, 100.0):
            outputs = run(
                head, each_tensor(features(spec.reads, shape, 32), functools.partial(torch.mul, other=size)), shape
            )
            rounding = 1e-6 * max(abs(shape.low), abs(shape.high), 1)
            low, high = float(outputs.min()), float(outputs.max())
            if not (shape.low - rounding <= low and high <= shape.high + rounding):
                raise Failed(
                    f"{shape.name}: scores from {low:.4g} to {high:.4g} leave the label range, {shape.low:g} to "
                    f"{shape.high:g}; benchkit.nn.blocks.finish keeps them inside"
                )


@check
@torch.no_grad()
def company(spec: HeadSpec) -> None:
    """Gives an example the same output in any batch (eval mode)."""
    head = build(spec).eval()
    for shape, given, together in outputs_of(head, spec, batch=6):
        for i in range(len(together)):
            if difference := gap(together[i : i + 1], run(head, _only(given, i), shape)):
                raise Failed(
                    f"{shape.name}: the output of an example moves by {difference:.2g} with the others in its batch"
                )


def _only(given: Pooled, example: int) -> Pooled:
    return each_tensor(given, lambda tensor: tensor[example : example + 1], mask=True)


@check
@torch.no_grad()
def padding(spec: HeadSpec) -> None:
    """Ignores padding and how much there is of it.

    Compares each example as it stands in a batch, its word pieces followed by zeros, with itself cut to its own length.
    """
    if not issubclass(spec.reads, Tokens):
        raise Skipped(f"it reads {spec.reads.__name__}, which has no padding")
    head = build(spec).eval()
    for shape in TASKS:
        for i in range(6):
            given = _only(features(spec.reads, shape, 6, time=12), i)
            assert isinstance(given, Tokens)
            own = int(given.mask.sum(-1).max())
            short = Tokens(given.pooled, given.tokens[:, :, :own], given.mask[:, :, :own])
            if difference := gap(run(head, short, shape), run(head, given, shape)):
                raise Failed(f"{shape.name}: an output moves by {difference:.2g} with {12 - own} positions of padding")


@check
@torch.no_grad()
def segments(spec: HeadSpec) -> None:
    """Depends on every sentence of an example."""
    head = build(spec).eval()
    for shape, given, outputs in outputs_of(head, spec):
        for segment in range(shape.segments):
            altered = each_tensor(given, functools.partial(_flipped, segment=segment))
            if torch.equal(outputs, run(head, altered, shape)):
                which = ("first ", "second ")[segment] if shape.segments == 2 else ""
                raise Failed(f"{shape.name}: the output does not depend on the {which}sentence")


def _flipped(tensor: Tensor, segment: int) -> Tensor:
    changed = tensor.clone()
    changed[:, segment] = tensor[:, segment].flip(-1)
    return changed


@check
@torch.no_grad()
def symmetric(spec: HeadSpec) -> None:
    """Gives a pair the same output either way round, if declared."""
    if not spec.symmetric:
        raise Skipped("it does not declare HeadSpec(symmetric=True)")
    head = build(spec).eval()
    for shape, given, outputs in outputs_of(head, spec, [shape for shape in TASKS if shape.segments == 2], 6):
        swapped = each_tensor(given, lambda tensor: tensor.flip(1), mask=True)
        if difference := gap(outputs, run(head, swapped, shape)):
            raise Failed(f"{shape.name}: the output moves by {difference:.2g} when the sentences change places")


@check
def untouched(spec: HeadSpec) -> None:
    """Leaves its features as they were.

    Stored features are shared by all heads and epochs.
    """
    head = build(spec).train()
    for shape, given, _ in outputs_of(head, spec):
        for name, before in vars(features(spec.reads, shape)).items():
            if not torch.equal(getattr(given, name), before):
                raise Failed(f"{shape.name}: forward changed features.{name} in place")
