"""Checks of what a head does with its inputs, and of its training."""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import HeadSpec
from benchkit.core.rng import global_stream
from benchkit.core.task import TaskShape
from benchkit.testing.verdict import (
    HIDDEN,
    LAYERS,
    PAIRS,
    TASKS,
    Failed,
    Skipped,
    build,
    check,
    each_tensor,
    features,
    gap,
    one_line,
    run,
)


@dataclass(frozen=True)
class _Everything(Tokens, Layers):
    """All levels of features at once, as no head is ever given them."""


@check
@torch.no_grad()
def reads(spec: HeadSpec) -> None:
    """Reads no more of the features than it declares.

    It must run on exactly what `HeadSpec.reads` names, and give the same where more is to be had.
    """
    head = build(spec).eval()
    declared = spec.reads.__name__
    for shape in TASKS:
        given = features(spec.reads, shape)
        try:
            outputs = run(head, given, shape)
        except Failed as found:
            raise Failed(f"given the {declared} that it declares, {found}") from found
        if gap(outputs, run(head, _with_everything(given, shape), shape)):
            raise Failed(f"{shape.name}: it declares {declared}, and gives something else where it could read more")


def _with_everything(given: Pooled, shape: TaskShape) -> Pooled:
    more = {
        field.name: getattr(features(kind, shape), field.name)
        for kind in (Tokens, Layers)
        for field in dataclasses.fields(kind)
    }
    own = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    return _Everything(**{**more, **own})


@check
def untouched(spec: HeadSpec) -> None:
    """Leaves its features as they were.

    Stored features are shared by all heads and epochs.
    """
    head = build(spec).train()
    for shape in TASKS:
        given = features(spec.reads, shape)
        kept = each_tensor(given, torch.clone, mask=True)
        run(head, given, shape)
        for field in dataclasses.fields(given):
            if not torch.equal(getattr(given, field.name), getattr(kept, field.name)):
                raise Failed(f"{shape.name}: forward changed features.{field.name} in place")


@check
@torch.no_grad()
def company(spec: HeadSpec) -> None:
    """Gives an example the same output in any batch (eval mode)."""
    head = build(spec).eval()
    for shape in TASKS:
        given = features(spec.reads, shape, 6)
        together = run(head, given, shape)
        for i in range(len(together)):
            apart = run(head, _only(given, i), shape)
            if difference := gap(together[i : i + 1], apart):
                raise Failed(
                    f"{shape.name}: the output of an example moves by {difference:.2g} with the others in its batch"
                )


def _only(given: Pooled, example: int) -> Pooled:
    return each_tensor(given, lambda tensor: tensor[example : example + 1], mask=True)


@check
@torch.no_grad()
def padding(spec: HeadSpec) -> None:
    """Ignores padding and how much there is of it.

    Each example as it stands in a batch, its word pieces followed by zeros, against itself cut to its own length.
    """
    if not issubclass(spec.reads, Tokens):
        raise Skipped(f"it reads {spec.reads.__name__}, which has no padding")
    head = build(spec).eval()
    for shape in TASKS:
        given = features(spec.reads, shape, 6, time=12)
        assert isinstance(given, Tokens)
        for i in range(6):
            own = int(given.mask[i].sum(-1).max())
            short, long = (run(head, _cut(given, i, time), shape) for time in (own, 12))
            if difference := gap(short, long):
                raise Failed(f"{shape.name}: an output moves by {difference:.2g} with {12 - own} positions of padding")


def _cut(given: Tokens, example: int, time: int) -> Tokens:
    row = slice(example, example + 1)
    return Tokens(given.pooled[row], given.tokens[row, :, :time], given.mask[row, :, :time])


@check
@torch.no_grad()
def segments(spec: HeadSpec) -> None:
    """Depends on every sentence of an example."""
    head = build(spec).eval()
    for shape in TASKS:
        given = features(spec.reads, shape)
        outputs = run(head, given, shape)
        for segment in range(shape.segments):
            if torch.allclose(outputs, run(head, _altered(given, segment), shape), rtol=0, atol=0):
                which = ("first ", "second ")[segment] if shape.segments == 2 else ""
                raise Failed(f"{shape.name}: the output does not depend on the {which}sentence")


def _altered(given: Pooled, segment: int) -> Pooled:
    def alter(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed[:, segment] = changed[:, segment].flip(-1)
        return changed

    return each_tensor(given, alter)


@check
@torch.no_grad()
def symmetric(spec: HeadSpec) -> None:
    """Gives a pair the same output either way round, if declared."""
    if not spec.symmetric:
        raise Skipped("it does not declare HeadSpec(symmetric=True)")
    head = build(spec).eval()
    for shape in PAIRS:
        given = features(spec.reads, shape, 6)
        if difference := gap(run(head, given, shape), run(head, _swapped(given), shape)):
            raise Failed(f"{shape.name}: the output moves by {difference:.2g} when the sentences change places")


def _swapped(given: Pooled) -> Pooled:
    return each_tensor(given, lambda tensor: tensor.flip(1), mask=True)


@check
def reaches(spec: HeadSpec) -> None:
    """Passes gradients on to the encoder, from every task."""
    head = build(spec).eval()
    for shape in TASKS:
        given = each_tensor(features(spec.reads, shape), lambda tensor: tensor.requires_grad_())
        outputs = run(head, given, shape)
        leaves = [getattr(given, field.name) for field in dataclasses.fields(given) if field.name != "mask"]
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
    for shape in TASKS:
        idle -= _trained(spec, shape)
    if idle:
        raise Failed(f"no task gives a gradient to {_listed(sorted(idle))}")


@check
def trunk(spec: HeadSpec) -> None:
    """Shares its trunk among all tasks.

    What `HeadSpec.trunk` names is counted as shared, so every task must train it.
    """
    if not spec.trunk:
        return
    if not isinstance(getattr(build(spec), spec.trunk, None), nn.Module):
        raise Failed(f"it has no module {spec.trunk!r}: name its trunk in HeadSpec(trunk=…), or give trunk=''")
    inside = f"{spec.trunk}."
    if not any(name.startswith(inside) for name, _ in build(spec).named_parameters()):
        return
    for shape in TASKS:
        if not any(name.startswith(inside) for name in _trained(spec, shape)):
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


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@check
def seed(spec: HeadSpec) -> None:
    """Draws weights and dropout from torch's global generator alone.

    That generator is what a cell's seed sets; one of a head's own, NumPy's or Python's would make numbers that cannot
    be made again, and a head that seeds torch's own would make every seed the same.
    """
    before = _others()
    first, same, other = (list(_draws(spec, each)) for each in (0, 0, 1))
    if before != _others():
        raise Failed("building or running it draws from NumPy's or Python's global generator")
    for what, one, two in (("initial weights", first[0], same[0]), ("outputs in training", first[1], same[1])):
        if not _equal(one[0], two[0]):
            raise Failed(f"{what} differ from run to run with one seed: does it draw from a generator of its own?")
    for what, one, two in (("building it", first[0], other[0]), ("forward", first[1], other[1])):
        if torch.equal(one[1], two[1]):
            raise Failed(f"{what} seeds torch's global generator, which would make every seed the same")
    head, given = build(spec).eval(), features(spec.reads, TASKS[0])
    with torch.no_grad():
        if not torch.equal(*(_forward(head, given, each) for each in (0, 1))):
            raise Failed("outputs are random in eval mode: is dropout told about self.training?")


def _draws(spec: HeadSpec, seed: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """What is drawn for a seed, and torch's generator after it: for the weights, then for a step of training."""
    with global_stream(seed, "init"):
        head = spec.build(spec.configure({}), HIDDEN, TASKS, LAYERS)
        yield list(head.state_dict().values()), torch.get_rng_state()
    head = build(spec).train()
    with global_stream(seed, "dropout"), torch.no_grad():
        yield [head(features(spec.reads, shape), shape.name) for shape in TASKS], torch.get_rng_state()


def _forward(head: nn.Module, given: object, seed: int) -> Tensor:
    with global_stream(seed, "eval"):
        outputs: Tensor = head(given, TASKS[0].name)
        return outputs


def _others() -> str:
    return repr((np.random.get_state(legacy=False), random.getstate()))  # noqa: NPY002 - the one that may not be used


def _equal(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(torch.equal(*pair) for pair in zip(one, two, strict=True))


@check
def state(spec: HeadSpec) -> None:
    """Keeps all that it learns in its `state_dict`.

    Weights go through a file, as a stopped run's do, into a head that started from other ones.
    """
    first, second = build(spec, seed=0), build(spec, seed=1)
    for shape in TASKS:
        run(first.train(), features(spec.reads, shape, 8), shape)  # moves running statistics, where there are any
    try:
        second.load_state_dict(_through_a_file(first.state_dict()))
    except Exception as error:
        raise Failed(f"its state_dict does not survive a file: {one_line(error)}") from error
    for shape in TASKS:
        given = features(spec.reads, shape)
        with torch.no_grad():
            if not torch.equal(run(first.eval(), given, shape), run(second.eval(), given, shape)):
                raise Failed(f"{shape.name}: a head with the same state_dict gives something else")


def _through_a_file(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(weights, file)
    file.seek(0)
    loaded: dict[str, Tensor] = torch.load(file, weights_only=True)
    return loaded
