"""Scores and per-example predictions of a head whose weights were chosen on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from benchkit.record import Score
from benchkit.task import SPLITS, TaskSpec
from benchkit.train.evaluate import Evaluation, Reader, collapsed, evaluate
from benchkit.train.loop import State
from benchkit.train.work import Work


@dataclass(frozen=True)
class Exploration:
    """What trying a cell out showed, on dev.

    Attributes:
        states: one for each phase, its weights dropped.
        parameters: see `parameter_counts`.
    """

    states: tuple[State, ...]
    parameters: Mapping[str, int]


@dataclass
class Predictions:
    """One row an example of dev and test, as columns.

    Attributes:
        label: None where the split is unlabelled.
        prediction: class index, or score in the label range.
        score: probability of the predicted class; a regression's prediction.
    """

    task: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    id: list[str] = field(default_factory=list)
    label: list[float | None] = field(default_factory=list)
    prediction: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)

    def columns(self) -> dict[str, list[Any]]:
        return dict(vars(self))

    def add(self, task: str, split: str, ids: Sequence[str], labels: Sequence[float | None], found: Evaluation) -> None:
        self.task += [task] * len(ids)
        self.split += [split] * len(ids)
        self.id += ids
        self.label += labels
        self.prediction += found.predictions.astype(float).tolist()
        self.score += found.scores.tolist()

    def collapse(self, task: TaskSpec) -> str:
        """Why the task's dev predictions are worthless, or ""."""
        rows = zip(self.task, self.split, self.prediction, strict=True)
        return collapsed(np.array([value for name, split, value in rows if (name, split) == (task.name, "dev")]), task)


def score_splits(work: Work, head: nn.Module, reader: Reader) -> tuple[tuple[Score, ...], Predictions]:
    """Score every split; test is looked at here and nowhere else, once a phase."""
    scores, predictions = [], Predictions()
    for split in SPLITS:
        if split not in work.corpus.splits():
            continue
        snapshot = reader.snapshot(work.corpus.rows(split))
        for name, task in work.tasks.items():
            part = work.corpus.parts.get((name, split))
            if part is None:
                continue
            found = evaluate(head, snapshot, part, task, work.shapes[name], work.losses[name])
            if part.labels is not None:
                scores.append(Score(name, split, task.metric.name, found.value, found.loss, len(part)))
            if split != "train":
                labels = [None] * len(part) if part.labels is None else part.labels.double().tolist()
                predictions.add(name, split, part.ids, labels, found)
    return tuple(scores), predictions
