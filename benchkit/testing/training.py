"""Checks of what training relies on: gradients, seeds, weights that can be stored."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchkit.head import HeadSpec
from benchkit.rng import global_stream
from benchkit.task import TaskShape
from benchkit.testing.samples import HIDDEN, LAYERS, TASKS, build, features, run
from benchkit.testing.verdict import Failed, check, one_line


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
