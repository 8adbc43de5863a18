"""The checks of a head's contract, in the order in which failures should be fixed."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import json
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from benchkit.core.errors import one_line
from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import HeadSpec, Range
from benchkit.core.rng import global_stream
from benchkit.core.settings import plain
from benchkit.core.task import TaskShape
from benchkit.testing.contract import (
    FEW,
    HIDDEN,
    LAYERS,
    TASKS,
    Failed,
    Skipped,
    build,
    check,
    corners,
    each_tensor,
    expect_same,
    features,
    outputs_of,
    prefixed,
    run,
    samples,
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
    from benchkit.testing.probe import ask  # here, since `python -m` imports this package first

    found = ask(spec.cls.__module__, file, (*sys.path, str(Path(file).parent)))
    if found:
        raise Failed(f"importing {spec.cls.__module__} {', '.join(found)}")


@dataclass(frozen=True)
class _Everything(Tokens, Layers):
    """All levels of features at once, which no head gets outside this check."""


@check
@torch.no_grad()
def reads(spec: HeadSpec) -> None:
    """Reads no more of the features than it declares.

    It must run on exactly the features that `HeadSpec.reads` names, and give the same output if more are available.
    """
    head, declared = build(spec).eval(), spec.reads.__name__
    for shape in TASKS:
        given = features(spec.reads, shape)
        with prefixed(f"given the {declared} that it declares, "):
            outputs = run(head, given, shape)
        levels = (features(Tokens, shape), features(Layers, shape), given)
        everything = _Everything(**{name: value for level in levels for name, value in vars(level).items()})
        more = f"where it could read more than the {declared} that it declares"
        expect_same(shape, outputs, run(head, everything, shape), more)


@check
def shapes(spec: HeadSpec) -> None:
    """Gives (batch, out) for every kind of task, a batch of 1 included.

    It is run at two widths, in training and in eval mode. A head that reads `Tokens` also gets the shortest text (2
    word pieces, the `[CLS]` and `[SEP]` of an empty one) and the longest (512).
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
        with prefixed(f"with {shape.name} as its only task: "):
            _expect_shape(run(build(spec, tasks=[shape]), features(spec.reads, shape), shape), shape, 3)


@check
@torch.no_grad()
def scores(spec: HeadSpec) -> None:
    """Keeps a regression's scores inside the task's label range.

    This is also checked with features a hundred times smaller and larger than usual.
    """
    head = build(spec).eval()
    for shape in (shape for shape in TASKS if not shape.classes):
        for size in (0.01, 1.0, 100.0):
            given = each_tensor(features(spec.reads, shape, 32), functools.partial(torch.mul, other=size))
            outputs = run(head, given, shape)
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
            alone = run(head, _only(given, i), shape)
            expect_same(shape, together[i : i + 1], alone, "with the others in its batch")


def _only(given: Pooled, example: int) -> Pooled:
    return each_tensor(given, lambda tensor: tensor[example : example + 1], mask=True)


@check
@torch.no_grad()
def padding(spec: HeadSpec) -> None:
    """Ignores padding and how much there is of it.

    Each example is run in a batch, padded with zeros, and alone, cut to its own length. The outputs are compared.
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
            more = f"with {12 - own} positions of padding"
            expect_same(shape, run(head, short, shape), run(head, given, shape), more)


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
        expect_same(shape, outputs, run(head, swapped, shape), "when the sentences change places")


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


@check
def reaches(spec: HeadSpec) -> None:
    """Passes gradients on to the encoder, from every task."""
    head = build(spec).eval()
    for shape in TASKS:
        given = each_tensor(features(spec.reads, shape), Tensor.requires_grad_)
        outputs = run(head, given, shape)
        leaves = [value for name, value in vars(given).items() if name != "mask"]
        if not outputs.requires_grad:
            raise Failed(f"{shape.name}: the output has no gradient; is something detached, or under no_grad?")
        grads = torch.autograd.grad(outputs.square().sum(), leaves, allow_unused=True)
        if not any(grad.any() for grad in grads if grad is not None):  # type: ignore[redundant-expr]
            raise Failed(f"{shape.name}: no gradient reaches the features, so no encoder could be fine-tuned")


@check
def gradients(spec: HeadSpec) -> None:
    """Trains every parameter by some task.

    The weights are perturbed a little first. Otherwise a gate that starts at zero would block the gradients behind it.
    """
    idle = {name for name, each in build(spec).named_parameters() if each.requires_grad}
    names = sorted(idle.difference(*(_trained(spec, shape) for shape in TASKS)))
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise Failed(f"no task gives a gradient to {', '.join(names[:3])}{more}")


@check
def trunk(spec: HeadSpec) -> None:
    """Shares its trunk among all tasks.

    The module that `HeadSpec.trunk` names is counted as shared, so every task must train it.
    """
    if not spec.trunk:
        return
    module = getattr(build(spec), spec.trunk, None)
    if not isinstance(module, nn.Module):
        raise Failed(f"it has no module {spec.trunk!r}: name its trunk in HeadSpec(trunk=…), or give trunk=''")
    if not list(module.parameters()):
        return
    for shape in TASKS:
        if not any(name.startswith(f"{spec.trunk}.") for name in _trained(spec, shape)):
            raise Failed(f"{shape.name} gives the trunk {spec.trunk!r} no gradient")


def _trained(spec: HeadSpec, shape: TaskShape) -> set[str]:
    """Names of the parameters that one task gives a gradient."""
    head = build(spec).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in head.parameters():
            each.add_(torch.randn(each.shape, generator=noise), alpha=0.02)
    outputs = run(head, features(spec.reads, shape, 16), shape)
    if outputs.requires_grad:
        outputs.square().sum().backward()  # type: ignore[no-untyped-call]
    return {name for name, each in head.named_parameters() if each.grad is not None and each.grad.any()}


@check
def seed(spec: HeadSpec) -> None:
    """Draws weights and dropout from torch's global generator alone.

    A cell's seed sets this generator. If a head used its own generator, NumPy's or Python's, its numbers could not be
    reproduced. If it seeded torch's generator, all seeds would give the same numbers.
    """
    before = _other_generators()
    first, same, other = (list(_draws(spec, each)) for each in (0, 0, 1))
    if before != _other_generators():
        raise Failed("building or running it draws from NumPy's or Python's global generator")
    for what, (one, _), (two, _) in zip(("initial weights", "outputs in training"), first, same, strict=True):
        if len(one) != len(two) or not all(map(torch.equal, one, two)):
            raise Failed(f"{what} differ from run to run with one seed: does it draw from a generator of its own?")
    for what, (_, one_state), (_, two_state) in zip(("building it", "forward"), first, other, strict=True):
        if torch.equal(one_state, two_state):
            raise Failed(f"{what} seeds torch's global generator, which would make every seed the same")
    head, given, outputs = build(spec).eval(), features(spec.reads, TASKS[0]), []
    for each in (0, 1):
        with global_stream(each, "eval"), torch.no_grad():
            outputs.append(head(given, TASKS[0].name))
    if not torch.equal(*outputs):
        raise Failed("outputs are random in eval mode: is dropout told about self.training?")


def _draws(spec: HeadSpec, seed: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The random draws for a seed and the state of torch's generator after them: for the weights, then for a training
    step.
    """
    with global_stream(seed, "init"):
        head = spec.build(spec.configure({}), HIDDEN, TASKS, LAYERS)
        yield list(head.state_dict().values()), torch.get_rng_state()
    head = build(spec).train()
    with global_stream(seed, "dropout"), torch.no_grad():
        yield [head(features(spec.reads, shape), shape.name) for shape in TASKS], torch.get_rng_state()


def _other_generators() -> str:
    return repr((np.random.get_state(legacy=False), random.getstate()))  # noqa: NPY002 - the one that may not be used


@check
def state(spec: HeadSpec) -> None:
    """Keeps all that it learns in its `state_dict`.

    The weights are saved to a file, as in a stopped run, and loaded into a head with other initial weights.
    """
    first, second = build(spec, seed=0), build(spec, seed=1)
    for _ in outputs_of(first.train(), spec, batch=8):
        pass  # moves running statistics, where there are any
    file = io.BytesIO()
    try:
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
    except Exception as error:
        raise Failed(f"its state_dict does not survive a file: {one_line(error)}") from error
    for shape, given, outputs in outputs_of(first.eval(), spec):
        if not torch.equal(outputs, run(second.eval(), given, shape)):
            raise Failed(f"{shape.name}: a head with the same state_dict gives something else")


@check
def config(spec: HeadSpec) -> None:
    """Has a config that survives JSON and `--set`.

    A cell's config is stored as JSON and compared with what the user asks for.
    """
    for values in ({}, *corners(spec)):
        given = spec.configure(values)
        as_json = plain(given)
        try:
            back = spec.configure(json.loads(json.dumps(as_json)))
        except TypeError as error:
            raise Failed(f"its config cannot be written as JSON: {error}") from error
        as_text = {name: str(value) for name, value in as_json.items() if not isinstance(value, list | None)}
        for where, again in (("JSON", back), ("--set", spec.configure({**as_json, **as_text}))):
            names = [field.name for field in dataclasses.fields(given)]
            changed = [name for name in names if getattr(again, name) != getattr(given, name)]
            if changed:
                raise Failed(f"{', '.join(changed)} comes back from {where} as something else")


@check
def search(spec: HeadSpec) -> None:
    """Works with every config that a search may draw.

    Tried are both ends of every range and every choice, one at a time; all low and all high; and a few from inside.
    """
    for values in samples(spec):
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        head = build(spec, values, tasks=FEW).train()
        with prefixed(f"with {given}, "):
            for shape, _, outputs in outputs_of(head, spec, FEW, 2):
                _expect_shape(outputs, shape, 2)


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
        with prefixed("with weights and features in bf16, "):
            whole = run(head.bfloat16(), each_tensor(given, Tensor.bfloat16), shape)
        for how, outputs in (("under autocast", mixed), ("with weights in bf16", whole)):
            if not (outputs.float() - exact).abs().max() <= _BF16 * size:
                raise Failed(f"{shape.name}: {how} the output is more than {_BF16 * size:.2g} away from fp32's")


@check
def compiles(spec: HeadSpec) -> None:
    """Gives the same under `torch.compile`.

    The `eager` backend is used. The check shows that TorchDynamo can trace the forward, or break it into graphs,
    without an error or a changed result. No machine code is made, so it needs no compiler and says nothing about speed.
    """
    head = build(spec).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about what it meets while it traces
        for shape, given, outputs in outputs_of(head, spec, FEW):
            torch._dynamo.reset()  # each task is another graph, of which it keeps few
            compiled = cast("nn.Module", torch.compile(head, backend="eager"))
            expect_same(shape, outputs, run(compiled, given, shape), "when it is compiled")
