"""Checks of how a head trains: gradients, seeds, state, settings, precision, compilation."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import warnings
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchkit.core.head import Choice, HeadSpec, Range
from benchkit.core.rng import global_stream
from benchkit.core.settings import plain
from benchkit.core.task import TaskShape
from benchkit.testing.verdict import (
    FEW,
    HIDDEN,
    LAYERS,
    TASKS,
    Failed,
    build,
    check,
    each_tensor,
    features,
    gap,
    one_line,
    outputs_of,
    run,
    searched,
)


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

    Weights are moved a little first, so that a gate which starts at zero hides nothing behind it.
    """
    idle = {name for name, each in build(spec).named_parameters() if each.requires_grad}
    names = sorted(idle.difference(*(_trained(spec, shape) for shape in TASKS)))
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise Failed(f"no task gives a gradient to {', '.join(names[:3])}{more}")


@check
def trunk(spec: HeadSpec) -> None:
    """Shares its trunk among all tasks.

    What `HeadSpec.trunk` names is counted as shared, so every task must train it.
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

    That generator is what a cell's seed sets. With a generator of the head's own, or NumPy's or Python's, numbers could
    not be reproduced; a head that seeds torch's own would make every seed the same.
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
    """What is drawn for a seed, and torch's generator after it: for the weights, then for a step of training."""
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

    Weights go through a file, as a stopped run's do, into a head that started from other ones.
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
    for values in ({}, *_corners(spec)):
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


_DRAWS = 6  # configs drawn from inside the search space, beside its ends and corners


@check
def search(spec: HeadSpec) -> None:
    """Works with every config that a search may draw.

    Both ends of every range and every choice, one at a time; all low and all high; and a few from inside.
    """
    for values in _samples(spec):
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        head = build(spec, values, tasks=FEW).train()
        try:
            for shape, _, outputs in outputs_of(head, spec, FEW, 2):
                if outputs.shape != (2, shape.out) or not outputs.isfinite().all():
                    raise Failed(f"{shape.name} gave {tuple(outputs.shape)} or numbers that are not finite")
        except Failed as found:
            raise Failed(f"with {given}, {found}") from found


def _samples(spec: HeadSpec) -> Iterator[dict[str, Any]]:
    fields, draw, defaults = searched(spec), random.Random(0), spec.configure({})
    for name, space in fields.items():
        yield from ({name: value} for value in _ends(space))
    yield from _corners(spec)
    for _ in range(_DRAWS if fields else 0):
        yield {name: _draw(space, draw, type(getattr(defaults, name))) for name, space in fields.items()}


def _corners(spec: HeadSpec) -> list[dict[str, Any]]:
    """All low and all high; first and last choices."""
    ends = {name: _ends(space) for name, space in searched(spec).items()}
    return [{name: values[i] for name, values in ends.items()} for i in (0, -1)] if ends else []


def _ends(space: Range | Choice) -> tuple[Any, ...]:
    return space.values if isinstance(space, Choice) else (space.low, space.high)


def _draw(space: Range | Choice, draw: random.Random, kind: type) -> Any:
    if isinstance(space, Choice):
        return draw.choice(space.values)
    low, high, place = space.low, space.high, draw.random()
    value = low * (high / low) ** place if space.log else low + (high - low) * place
    return round(value) if kind is int else value


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
            whole = run(head.bfloat16(), each_tensor(given, Tensor.bfloat16), shape)
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
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about what it meets while it traces
        for shape, given, outputs in outputs_of(head, spec, FEW):
            torch._dynamo.reset()  # each task is another graph, of which it keeps few
            if difference := gap(outputs, run(cast("nn.Module", torch.compile(head, backend="eager")), given, shape)):
                raise Failed(f"{shape.name}: compiled, the output moves by {difference:.2g}")
