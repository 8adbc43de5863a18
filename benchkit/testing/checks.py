"""The checks of a head's contract."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import inspect
import json
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchkit.core.features import Pooled, Tokens
from benchkit.core.head import Choice, HeadSpec, Range
from benchkit.core.settings import plain
from benchkit.core.task import TaskShape
from benchkit.testing.verdict import FEW, TASKS, Failed, Skipped, build, check, each_tensor, features, gap, run


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
    """One for this process, since it has to load torch; told to leave when this process does."""
    command = [sys.executable, "-m", "benchkit.testing.probe"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    atexit.register(server.communicate)  # closes its stdin, which ends it
    return server


_DRAWS = 6  # configs drawn from inside the search space, beside its ends and corners


@check
def described(spec: HeadSpec) -> None:
    """Has a summary, a frozen config, and defaults inside their search."""
    if not spec.summary.strip():
        raise Failed("it has no summary: one line in HeadSpec(name, summary, …)")
    if not (dataclasses.is_dataclass(spec.config) and spec.config.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise Failed(f"{spec.config.__name__} is not a frozen dataclass: write @dataclass(frozen=True)")
    defaults = spec.configure({})
    for field, search in _searched(spec):
        default = getattr(defaults, field.name)
        if isinstance(search, Range) and not search.low <= default <= search.high:
            raise Failed(f"the default of {field.name}, {default}, is not from {search.low} to {search.high}")
    for shape in TASKS if spec.loss else ():
        asked = spec.loss(defaults, shape) if spec.loss else ""
        if not (isinstance(asked, str) or callable(asked)):
            raise Failed(f"loss(config, shape) gave {asked!r} for {shape.name}, not a function, a loss's name or ''")


@check
def config(spec: HeadSpec) -> None:
    """Has a config that survives JSON and `--set`.

    A cell's config is stored as JSON and compared with what the user asks for.
    """
    for values in ({}, *_corners(spec)):
        given = spec.configure(values)
        as_json = plain(given)
        try:
            back = spec.configure(json.loads(json.dumps(as_json)))
        except TypeError as error:
            raise Failed(f"its config cannot be written as JSON: {error}") from error
        as_text = {name: str(value) for name, value in as_json.items() if not isinstance(value, list | None)}
        for where, again in (("JSON", back), ("--set", spec.configure({**as_json, **as_text}))):
            changed = [
                each.name
                for each in dataclasses.fields(given)
                if getattr(again, each.name) != getattr(given, each.name)
            ]
            if changed:
                raise Failed(f"{', '.join(changed)} comes back from {where} as something else")


@check
def search(spec: HeadSpec) -> None:
    """Works with every config that a search may draw.

    Both ends of every range and every choice, one at a time; all low and all high; and a few from inside.
    """
    for values in _samples(spec):
        head = build(spec, values, tasks=FEW).train()
        for shape in FEW:
            given = ", ".join(f"{name}={value}" for name, value in values.items())
            try:
                outputs = run(head, features(spec.reads, shape, 2), shape)
            except Failed as found:
                raise Failed(f"with {given}, {found}") from found
            if outputs.shape != (2, shape.out) or not torch.isfinite(outputs).all():
                raise Failed(f"with {given}, {shape.name} gave {tuple(outputs.shape)} or numbers that are not finite")


def _samples(spec: HeadSpec) -> Iterator[dict[str, Any]]:
    for field, search in _searched(spec):
        yield from ({field.name: value} for value in _ends(field, search))
    yield from _corners(spec)
    draw = random.Random(0)
    if any(True for _ in _searched(spec)):
        for _ in range(_DRAWS):
            yield {field.name: _draw(field, search, draw) for field, search in _searched(spec)}


def _corners(spec: HeadSpec) -> list[dict[str, Any]]:
    """All low and all high; first and last choices."""
    ends = {field.name: _ends(field, search) for field, search in _searched(spec)}
    return [{name: values[i] for name, values in ends.items()} for i in (0, -1)] if ends else []


def _searched(spec: HeadSpec) -> Iterator[tuple[dataclasses.Field[Any], Range | Choice]]:
    for field in dataclasses.fields(spec.config):
        if search := field.metadata.get("search"):
            yield field, search


def _ends(field: dataclasses.Field[Any], search: Range | Choice) -> tuple[Any, ...]:
    return search.values if isinstance(search, Choice) else (search.low, search.high)


def _draw(field: dataclasses.Field[Any], search: Range | Choice, draw: random.Random) -> Any:
    if isinstance(search, Choice):
        return draw.choice(search.values)
    place = draw.random()
    value = (
        search.low * (search.high / search.low) ** place
        if search.log
        else search.low + (search.high - search.low) * place
    )
    return round(value) if isinstance(field.default, int) else value


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
    for shape, time in _lengths(spec):
        _expect_shape(run(build(spec).eval(), features(spec.reads, shape, 1, time=time), shape), shape, 1)


def _lengths(spec: HeadSpec) -> Iterator[tuple[TaskShape, int]]:
    if issubclass(spec.reads, Tokens):
        yield from ((shape, 2) for shape in TASKS)
        yield from ((shape, 512) for shape in (TASKS[0], TASKS[6]))


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
            outputs = run(head, _scaled(spec, shape, size), shape)
            rounding = 1e-6 * max(abs(shape.low), abs(shape.high), 1)
            low, high = float(outputs.min()), float(outputs.max())
            if not (shape.low - rounding <= low and high <= shape.high + rounding):
                raise Failed(
                    f"{shape.name}: scores from {low:.4g} to {high:.4g} leave the label range, {shape.low:g} to "
                    f"{shape.high:g}; benchkit.nn.blocks.finish keeps them inside"
                )


def _scaled(spec: HeadSpec, shape: TaskShape, size: float) -> Pooled:
    return each_tensor(features(spec.reads, shape, 32), lambda tensor: tensor * size)


_BF16 = 0.1  # of the label range, or of the largest logit; bf16 keeps 8 bits


@check
def bf16(spec: HeadSpec) -> None:
    """Runs in bf16, under autocast and as a whole, near what it gives in fp32."""
    for shape in TASKS:
        head, given = build(spec).eval(), features(spec.reads, shape)
        exact = run(head, given, shape).detach()
        size = shape.high - shape.low if not shape.classes else max(1.0, float(exact.abs().max()))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = run(head, given, shape)
        mixed.float().square().sum().backward()  # type: ignore[no-untyped-call]
        if not all(each.grad.isfinite().all() for each in head.parameters() if each.grad is not None):
            raise Failed(f"{shape.name}: a gradient under autocast is not finite")
        try:
            whole = run(head.bfloat16(), each_tensor(given, torch.Tensor.bfloat16), shape)
        except Failed as found:
            raise Failed(f"with weights and features in bf16, {found}") from found
        for how, outputs in (("under autocast", mixed), ("with weights in bf16", whole)):
            if not (outputs.float() - exact).abs().max() <= _BF16 * size:
                raise Failed(f"{shape.name}: {how} the output is more than {_BF16 * size:.2g} away from fp32's")


@check
def compiles(spec: HeadSpec) -> None:
    """Gives the same under `torch.compile`.

    With the `eager` backend: it shows that TorchDynamo can trace the forward, or break it into graphs, without an error
    and without another result. It makes no machine code, so it needs no compiler and says nothing of speed.
    """
    head = build(spec).eval()
    for shape in FEW:
        given = features(spec.reads, shape)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about what it meets while it traces
            torch._dynamo.reset()  # each task is another graph, of which it keeps few
            compiled = cast("nn.Module", torch.compile(head, backend="eager"))
            if difference := gap(run(head, given, shape), run(compiled, given, shape)):
                raise Failed(f"{shape.name}: compiled, the output moves by {difference:.2g}")
