"""A trained head on its encoder: texts in, answers out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchkit.encoder import Encoder
from benchkit.errors import UserError, unknown
from benchkit.features import Pooled
from benchkit.predict.answers import Answer, answer
from benchkit.runner.threads import threads
from benchkit.store.features import FeatureSettings
from benchkit.store.memory import encode_table
from benchkit.store.table import FeatureTable
from benchkit.task import TaskShape
from benchkit.train.evaluate import forward

Texts = tuple[str, ...]

# Matrix products of a few rows are summed in another order than those of many, so their last bits differ (measured on
# x86: below four rows in the encoder, and below eight, or no multiple of eight, in heads). A few empty sentences keep
# the encoder's batches above that, and repeated rows the head's: one sentence then gets the number it gets among many.
_FILLERS = (("",),) * 7
_MULTIPLE = 64
_BATCH = 512  # as many as when a run is scored


@dataclass(frozen=True)
class Question:
    """What predicting needs to know of a task.

    Attributes:
        texts: names of the text columns; two for pairs.
        classes: class names in label order; empty for a regression.
        aliases: other names of a column, as in `TaskSpec`.
    """

    shape: TaskShape
    texts: tuple[str, ...]
    classes: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """One head with the weights of one seed, on the encoder it was trained on.

    Attributes:
        name: such as `cnn seed 0`.
        questions: by task.
        settings: how texts become features.
        joint: whether a pair is encoded as one input.
        tuned: whether the encoder was trained along; it then stays in float32, under autocast where it was trained so.
        threads: CPU threads of the head, as when it was trained.
        notes: what a user should know, a line each.
    """

    name: str
    encoder: Encoder
    head: nn.Module
    questions: Mapping[str, Question]
    settings: FeatureSettings
    joint: bool = False
    tuned: bool = False
    threads: int = 1
    notes: tuple[str, ...] = ()

    def predict(self, task: str, examples: Sequence[str | Texts]) -> list[Answer]:
        """Answers for sentences, or for pairs as tuples of two texts, in that order.

        Raises:
            UserError: the model was not trained on such a task, or an example is not of its kind.
        """
        return predict([self], task, examples)

    def question(self, task: str) -> Question:
        if task not in self.questions:
            raise unknown("task", task, self.questions)
        return self.questions[task]

    def table(self, inputs: Sequence[Texts]) -> FeatureTable:
        """The features of distinct inputs, in memory; row i is input i."""
        settings, device = self.settings, self.encoder.device
        half = self.tuned and settings.precision == "bf16"
        if self.tuned:
            settings = dataclasses.replace(settings, precision="fp32")
        tokenized = self.encoder.tokenize([*inputs, *_FILLERS], settings.max_length)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return encode_table(self.encoder, tokenized, settings).to(device)

    @torch.no_grad()
    def outputs(self, task: str, table: FeatureTable, rows: Tensor) -> Tensor:
        """Probabilities (n, classes) or scores (n, 1), float32, of rows (n, segment) of a table."""
        shape, count = self.question(task).shape, len(rows)
        whole = torch.cat([rows, rows[:1].expand(-count % _MULTIPLE, -1)])
        with threads(self.threads):
            parts = [self._head(shape, table.gather(part)) for part in torch.split(whole, _BATCH)]
        values = torch.cat(parts)[:count].cpu()
        return values.softmax(dim=1) if shape.classes else values

    def _head(self, shape: TaskShape, features: Pooled) -> Tensor:
        return forward(self.head, features, shape, len(features.pooled))


def predict(models: Sequence[Model], task: str, examples: Sequence[str | Texts]) -> list[Answer]:
    """Answers by the mean of the models' probabilities, or scores; the models are one head's seeds.

    Models that share an encoder share its work.
    """
    question = models[0].question(task)
    texts = [_texts(each, question, task, number) for number, each in enumerate(examples, start=1)]
    if not texts:
        return []
    inputs, rows = number_inputs(texts, models[0].joint)
    tables: dict[int, FeatureTable] = {}
    total: Tensor | None = None
    for model in models:
        if id(model.encoder) not in tables:
            tables[id(model.encoder)] = model.table(inputs)
        values = model.outputs(task, tables[id(model.encoder)], rows)
        total = values if total is None else total + values
    assert total is not None
    return [answer(each, row, question.classes) for each, row in zip(texts, total / len(models), strict=True)]


def _texts(example: str | Texts, question: Question, task: str, number: int) -> Texts:
    """An example as a tuple of as many texts as the task has."""
    texts = (example,) if isinstance(example, str) else tuple(example)
    wanted = len(question.texts)
    if len(texts) != wanted or not all(isinstance(text, str) for text in texts):
        kind = "a text" if wanted == 1 else f"a tuple of {wanted} texts ({', '.join(question.texts)})"
        raise UserError(f"example {number} of task {task!r} must be {kind}, not {example!r:.80}")
    return texts


def number_inputs(texts: Sequence[Texts], joint: bool) -> tuple[list[Texts], Tensor]:
    """Distinct inputs of the encoder, and each example's (n, segment) among them."""
    index: dict[Texts, int] = {}
    parts = [[each] if joint else [(text,) for text in each] for each in texts]
    rows = [[index.setdefault(each, len(index)) for each in part] for part in parts]
    return list(index), torch.tensor(rows, dtype=torch.int64)
