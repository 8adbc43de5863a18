"""A small learnable problem held in memory, real modules, and one call that trains them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchkit.core.features import Pooled
from benchkit.core.protocol import Phase
from benchkit.core.rng import global_stream
from benchkit.core.task import TaskSpec
from benchkit.nn.blocks import finish, joined
from benchkit.nn.losses import cross_entropy, mse
from benchkit.nn.metrics import accuracy, pearson
from benchkit.training.batches import Corpus, Order, Part
from benchkit.training.evaluation import PhaseContext
from benchkit.training.loop import State, train_phase

WIDTH = 8


TASKS = {
    "topic": TaskSpec("topic", "", ("a",), "label", accuracy, {"ce": cross_entropy}, (), ("x", "y", "z")),
    "match": TaskSpec("match", "", ("a", "b"), "label", accuracy, {"ce": cross_entropy}, (), ("no", "yes"), similar=1),
    "score": TaskSpec("score", "", ("a", "b"), "label", pearson, {"mse": mse}, (), (), 0.0, 5.0),
}


SHAPES = {name: task.shape() for name, task in TASKS.items()}


CONSTANT_LOSSES = {"topic": math.log(3), "match": math.log(2), "score": 0.05}


@dataclass
class Memory:
    """Features that do not change."""

    vectors: Tensor

    def gather(self, rows: Tensor) -> Pooled:
        return Pooled(self.vectors[rows])

    def snapshot(self, rows: Tensor) -> Memory:
        return self


@dataclass
class Live:
    """Features from an encoder that is trained along."""

    vectors: Tensor
    encoder: nn.Module

    def gather(self, rows: Tensor) -> Pooled:
        return Pooled(self.encoder(self.vectors[rows]))

    def snapshot(self, rows: Tensor) -> Memory:
        self.encoder.eval()
        with torch.no_grad():
            return Memory(self.encoder(self.vectors))


class Net(nn.Module):
    """A trunk and a linear a task; counts nothing, hides nothing."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.trunk = nn.Linear(WIDTH, 16)
        self.branches = nn.ModuleDict({s.name: nn.Linear(16 * s.segments, s.out) for s in SHAPES.values()})

    def forward(self, features: Pooled, task: str) -> Tensor:
        shared = self.dropout(torch.tanh(self.trunk(features.pooled)))
        return finish(self.branches[task](joined(shared)), SHAPES[task])


def make_corpus(sizes: dict[str, int]) -> tuple[Corpus, Tensor]:
    """Labels that a linear map of the features tells, for each task and split."""
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, WIDTH, generator=random)
    parts = {}
    for name, shape in SHAPES.items():
        answer = torch.randn(WIDTH * shape.segments, shape.out, generator=random)
        for split, size in (("train", sizes[name]), ("dev", 40)):
            rows = torch.randint(300, (size, shape.segments), generator=random)
            raw = vectors[rows].flatten(1) @ answer
            labels = raw.argmax(1) if shape.classes else shape.stretch(raw[:, 0].div(4).sigmoid())
            parts[name, split] = Part(rows, labels, tuple(map(str, range(size))))
    return Corpus(tuple((str(i),) for i in range(300)), parts), vectors


def make_work(
    tasks: tuple[str, ...] = tuple(TASKS), sampling: str = "proportional", **settings: Any
) -> tuple[PhaseContext, Tensor]:
    phase = Phase(**{"epochs": 4, "batch_size": 16, "learning_rate": 0.01, **settings})
    sizes = {"topic": 120, "match": 90, "score": 160}
    corpus, vectors = make_corpus(sizes)
    context = PhaseContext(
        phase="pretrain",
        settings=phase,
        tasks={name: TASKS[name] for name in tasks},
        shapes={name: SHAPES[name] for name in tasks},
        losses={name: next(iter(TASKS[name].losses.values())) for name in tasks},
        constant_losses=CONSTANT_LOSSES,
        corpus=corpus,
        order=Order({name: sizes[name] for name in tasks}, phase.batch_size, sampling, 0, "pretrain", phase.epochs),
        seed=0,
        device=torch.device("cpu"),
    )
    return context, vectors


def make_modules(dropout: float = 0.2, encoder: bool = False) -> nn.ModuleDict:
    with global_stream(0, "init"):
        modules = nn.ModuleDict({"head": Net(dropout)})
        if encoder:
            modules["encoder"] = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1))
        return modules


def train(
    context: PhaseContext,
    vectors: Tensor,
    modules: nn.ModuleDict,
    state: State | None = None,
    on_epoch: Callable[[State], None] = lambda state: None,
) -> State:
    reader = Live(vectors, modules["encoder"]) if "encoder" in modules else Memory(vectors)
    return train_phase(context, modules, reader, state or State(context.phase), on_epoch)


def weights(modules: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in modules.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def on_disk(state: State) -> bytes:
    file = io.BytesIO()
    torch.save(vars(state), file)
    return file.getvalue()


def from_disk(data: bytes) -> State:
    return State(**torch.load(io.BytesIO(data), weights_only=True))


def curve(state: State, task: str, split: str, what: str) -> list[float]:
    return [point[what] for point in state.curve if (point["task"], point["split"]) == (task, split)]
