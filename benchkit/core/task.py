"""Tasks as frozen data: what the texts are, what the label is, which loss and metric belong to it.

A task owns loss and metric; a head sees only the `TaskShape`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class TaskShape:
    """All that a head may know of a task.

    Attributes:
        name: what `forward(features, task)` will be called with.
        segments: vectors an example has: 1, or 2 for a pair encoded apart.
        classes: number of classes; 0 for a regression.
        low, high: the label range of a regression.
    """

    name: str
    segments: int
    classes: int
    low: float = 0.0
    high: float = 1.0

    @property
    def out(self) -> int:
        """Width of the head's output: one logit a class, or one score."""
        return self.classes or 1

    def stretch(self, unit: Tensor) -> Tensor:
        """Map values in [0, 1] to the label range [low, high]."""
        return self.low + (self.high - self.low) * unit


@dataclass(frozen=True)
class Example:
    """One row of data. `label` is a class index, a score, or None where the split is unlabelled."""

    id: str
    texts: tuple[str, ...]
    label: float | None


@dataclass(frozen=True)
class Metric:
    """A name and `score(labels (n,), predictions (n,)) -> float`, higher is better.

    Predictions are class indices or scores in the label range. Constant predictions must give a number
    (Pearson: 0.0), never NaN.
    """

    name: str
    score: Callable[[np.ndarray, np.ndarray], float]


Loss = Callable[["Tensor", "Tensor", TaskShape], "Tensor"]
"""`loss(outputs (batch, out), labels (batch,), shape) -> ()`, the mean over the batch, in fp32."""

DemoData = Callable[[int], Mapping[str, Sequence[Example]]]
"""`demo(seed) -> {"train": …, "dev": …, "test": …}`, synthetic data a task can make without any download."""

OwnData = Callable[[], Mapping[str, Sequence[Example]]]
"""`data() -> {"train": …, "dev": …, "test": …}`, real data that a task's plugin ships or knows where to find."""


@dataclass(frozen=True)
class TaskSpec:
    """One data set with its question.

    Attributes:
        texts: names of the text columns; two make it a sentence-pair task.
        label: name of the label column.
        classes: class names in label order; empty for a regression.
        low, high: label range of a regression.
        similar: the label from which on a pair's texts mean the same, for the ranking of pairs; None where none does.
        metric: what is reported and what dev chooses checkpoints by.
        losses: by name; the first is the default, `--set <task>.loss=<name>` picks another.
        files: where a data folder may keep it, patterns with `{split}`, first found wins.
        aliases: other names of a column (`{"label": ("sentiment",)}`), tried in order.
        demo: synthetic data for the `demo` data set, or None where the task has none.
        data: data of its own, used where a data folder has no file of the task; None where it has none.
    """

    name: str
    summary: str
    texts: tuple[str, ...]
    label: str
    metric: Metric
    losses: Mapping[str, Loss]
    files: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    similar: float | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    demo: DemoData | None = None
    data: OwnData | None = None

    @property
    def kind(self) -> Literal["classification", "regression"]:
        return "classification" if self.classes else "regression"

    def shape(self, *, joint: bool = False) -> TaskShape:
        """What the heads see; `joint` when the protocol encodes a pair as one input."""
        segments = 1 if joint else len(self.texts)
        return TaskShape(self.name, segments, len(self.classes), self.low, self.high)

    def ranks(self, shape: TaskShape) -> float | None:
        """The label from which on a pair is a positive one for the ranking of pairs; None where there is none."""
        return self.similar if shape.segments == 2 else None

    def check(self) -> None:
        """Find what could not be trained, so that a plugin is refused as a whole and not in the middle of a run.

        Raises:
            ValueError: what it is, in one line.
        """
        what = _flaw(self)
        if what:
            raise ValueError(f"task {self.name!r} {what}")


def _flaw(task: TaskSpec) -> str:
    """The first thing wrong with a spec, or ""."""
    if _is_text(task.texts) or len(task.texts) not in (1, 2):
        return f"reads one text column or two, as a tuple, not {task.texts!r}"
    if _is_text(task.classes) or len(task.classes) == 1:
        return f"has at least two classes, as a tuple, or none for a regression, not {task.classes!r}"
    if not task.classes and not task.low < task.high:
        return f"is a regression from a low to a higher high, not from {task.low} to {task.high}"
    if task.similar is not None and len(task.texts) != 2:
        return "says which labels mean that two texts are similar, but reads one text"
    if not task.losses:
        return "has no loss: benchkit.nn.losses has some"
    if _is_text(task.files) or not all("{split}" in pattern for pattern in task.files):
        return f"has file patterns, as a tuple, each with {{split}} in it, not {task.files!r}"
    if not (task.files or task.data or task.demo):
        return "has no rows: give it files, data or demo"
    return ""


def _is_text(value: object) -> bool:
    """`("text")` for `("text",)`: the commonest slip, which no type checker sees in an author's untyped file."""
    return isinstance(value, str)
