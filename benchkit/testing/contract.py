"""What the checks of a head's contract are made of: verdicts, and heads and features to try.

`benchkit.testing.checks` has the checks themselves.
"""

from __future__ import annotations

import dataclasses
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchkit.core.errors import one_line
from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import Choice, HeadSpec, Range
from benchkit.core.rng import global_stream
from benchkit.core.task import TaskShape


class Failed(AssertionError):
    """Raised by a check's function: the head breaks the contract, and how."""


class Skipped(Exception):
    """Raised by a check's function: it does not concern this head, and why."""


@dataclass(frozen=True)
class Verdict:
    """What one check says of one head.

    Attributes:
        check: the check's name.
        description: what the check asks for, one line.
        reason: how the head fails, or why the check was skipped; "" if all is well.
        raised: what the head's own code raised, on one line; "" if nothing.
    """

    check: str
    description: str
    status: Literal["ok", "failed", "skipped"]
    reason: str = ""
    raised: str = ""


@dataclass(frozen=True)
class Check:
    """One clause of the contract: `check(spec)` gives a verdict and raises nothing.

    Attributes:
        function: `function(spec)` returns where the head keeps the clause, and raises `Failed` or `Skipped` elsewhere.
            Anything else that the head's code raises is a failure too.
    """

    name: str
    description: str
    function: Callable[[HeadSpec], None]

    def __call__(self, spec: HeadSpec) -> Verdict:
        try:
            self.function(spec)
        except Skipped as found:
            return Verdict(self.name, self.description, "skipped", str(found))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's head may raise anything
            cause: BaseException = error
            while isinstance(cause, Failed) and cause.__cause__ is not None:
                cause = cause.__cause__
            reason = str(error) if isinstance(error, Failed) else one_line(error)
            raised = "" if isinstance(cause, Failed) else one_line(cause)
            return Verdict(self.name, self.description, "failed", reason, raised)
        return Verdict(self.name, self.description, "ok")


CHECKS: list[Check] = []
"""Every check, in the order in which a head should be mended."""


def check(function: Callable[[HeadSpec], None]) -> Check:
    """Adds a check named like the function and described by the first line of its docstring."""
    lines = (inspect.getdoc(function) or "").splitlines()
    CHECKS.append(Check(function.__name__, lines[0].rstrip("."), function))
    return CHECKS[-1]


HIDDEN = 48
"""Width of the checks' features: small, and like an encoder's a multiple of any usual number of attention heads."""

LAYERS = 3
"""Layers of the checks' `Layers`: as few as the demo encoder has, the embeddings included."""

TASKS = (
    TaskShape("unseen_class", 1, 5),
    TaskShape("unseen_binary", 1, 2),
    TaskShape("unseen-intents", 1, 77),
    TaskShape("unseen_score", 1, 0, -1.0, 1.0),
    TaskShape("unseen_pair_binary", 2, 2),
    TaskShape("unseen_pair_class", 2, 3),
    TaskShape("unseen_pair_score", 2, 0, 0.0, 5.0),
    TaskShape("unseen-joint-score", 1, 0, 10.0, 20.0),
)
"""Classification and regression of a sentence, of a pair encoded apart, and of a pair encoded as one input. Their names
and label ranges are new to every head; some have a hyphen, as names may."""

FEW = (TASKS[0], TASKS[3], TASKS[5], TASKS[6])
"""One task of each kind, for what takes long."""


def build(
    spec: HeadSpec,
    values: Mapping[str, Any] | None = None,
    *,
    tasks: Sequence[TaskShape] = TASKS,
    hidden: int = HIDDEN,
    layers: int = LAYERS,
    seed: int = 0,
) -> nn.Module:
    """A head with the default config, `values` over it, and initial weights drawn for `seed`.

    Raises:
        Failed: the config is refused or the head's constructor raises.
    """
    given = ", ".join(f"{name}={value}" for name, value in (values or {}).items()) or "the default config"
    try:
        with global_stream(seed, "init"):
            head = spec.build(spec.configure(values or {}), hidden, tasks, layers)
    except (Exception, SystemExit) as error:
        raise Failed(f"building it with {given} raised {one_line(error)}") from error
    if not isinstance(head, nn.Module):
        raise Failed(f"building it gives a {type(head).__name__}, not an nn.Module")
    return head


def features(
    reads: type[Pooled], shape: TaskShape, batch: int = 3, *, time: int = 7, hidden: int = HIDDEN, layers: int = LAYERS
) -> Pooled:
    """Random features of exactly the level `reads`, the same at every call.

    Of `Tokens`, the first example fills all `time` word pieces; the others have from 2 to `time`, and zeros after them.
    """
    generator = torch.Generator().manual_seed(batch)
    lengths = torch.randint(2, time + 1, (batch, shape.segments), generator=generator)
    lengths[0] = time
    return make_features(reads, lengths, hidden, layers, batch)


def make_features(reads: type[Pooled], lengths: Tensor, hidden: int, layers: int, seed: int = 0) -> Pooled:
    """Random features of sentences with these lengths in word pieces, (batch, segment)."""
    generator = torch.Generator().manual_seed(seed)
    if issubclass(reads, Layers):
        return Layers.split(torch.randn(*lengths.shape, layers * hidden, generator=generator), layers)
    pooled = torch.randn(*lengths.shape, hidden, generator=generator)
    if not issubclass(reads, Tokens):
        return Pooled(pooled)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
    tokens = torch.randn(*mask.shape, hidden, generator=generator)
    return Tokens(pooled, tokens * mask.unsqueeze(-1), mask)


def run(head: nn.Module, given: Pooled, shape: TaskShape) -> Tensor:
    """The head's outputs, (batch, out) if it is right; dropout is drawn for seed 0.

    Raises:
        Failed: it raises, or returns something else than a tensor.
    """
    try:
        with global_stream(0, "dropout"):
            outputs = head(given, shape.name)
    except (Exception, SystemExit) as error:
        batch = len(given.pooled)
        raise Failed(f"{shape.name}: forward with a batch of {batch} raised {one_line(error)}") from error
    if not isinstance(outputs, Tensor):
        raise Failed(f"{shape.name}: forward returned a {type(outputs).__name__}, not a tensor")
    return outputs


@contextmanager
def prefixed(where: str) -> Iterator[None]:
    """Say under which condition a check failed."""
    try:
        yield
    except Failed as found:
        raise Failed(f"{where}{found}") from found


def outputs_of(
    head: nn.Module, spec: HeadSpec, tasks: Sequence[TaskShape] = TASKS, batch: int = 3
) -> Iterator[tuple[TaskShape, Pooled, Tensor]]:
    """Each task with random features and the head's outputs for them."""
    for shape in tasks:
        given = features(spec.reads, shape, batch)
        yield shape, given, run(head, given, shape)


def searched(spec: HeadSpec) -> dict[str, Range | Choice]:
    """The fields of a head's config that a search may change."""
    fields = dataclasses.fields(spec.config)
    return {field.name: field.metadata["search"] for field in fields if field.metadata.get("search")}


_DRAWS = 6  # configs drawn from inside the search space, beside its ends and corners


def samples(spec: HeadSpec) -> Iterator[dict[str, Any]]:
    fields, draw, defaults = searched(spec), random.Random(0), spec.configure({})
    for name, space in fields.items():
        yield from ({name: value} for value in _ends(space))
    yield from corners(spec)
    for _ in range(_DRAWS if fields else 0):
        yield {name: _draw(space, draw, type(getattr(defaults, name))) for name, space in fields.items()}


def corners(spec: HeadSpec) -> list[dict[str, Any]]:
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


def each_tensor(given: Pooled, change: Callable[[Tensor], Tensor], *, mask: bool = False) -> Pooled:
    """A copy of features with `change` made to each tensor; to the mask only where asked for."""
    changed = {name: change(each) if mask or name != "mask" else each for name, each in vars(given).items()}
    return type(given)(**changed)


def expect_same(shape: TaskShape, first: Tensor, second: Tensor, when: str) -> None:
    """Outputs of a task that may differ by fp32's rounding.

    Raises:
        Failed: they differ by more, and `when` they do.
    """
    if first.shape != second.shape:
        raise Failed(f"{shape.name}: outputs go from {tuple(first.shape)} to {tuple(second.shape)} {when}")
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        raise Failed(f"{shape.name}: the output moves by {float((first - second).abs().max()):.2g} {when}")
