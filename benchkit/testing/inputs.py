"""Checks of what a head takes from its features."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from benchkit.features import Layers, Pooled, Tokens
from benchkit.head import HeadSpec
from benchkit.task import TaskShape
from benchkit.testing.samples import PAIRS, TASKS, build, each_tensor, features, gap, run
from benchkit.testing.verdict import Failed, Skipped, check


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
