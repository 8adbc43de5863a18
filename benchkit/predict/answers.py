"""What a model says of one example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """The answer to one sentence or pair.

    Attributes:
        value: class index, or a regression's score in the task's label range.
        label: class name; "" for a regression.
        probabilities: by class name, in label order; empty for a regression.
    """

    texts: tuple[str, ...]
    value: float
    label: str = ""
    probabilities: Mapping[str, float] | None = None

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready; `names` are those of the texts. Numbers as short as float32 can be told apart by."""
        texts = dict(zip(names, self.texts, strict=True))
        if self.probabilities is None:
            return {**texts, "score": short(self.value)}
        shares = {name: short(share) for name, share in self.probabilities.items()}
        return {**texts, "prediction": self.label, "label": int(self.value), "probabilities": shares}


def answer(texts: tuple[str, ...], row: Tensor, classes: Sequence[str]) -> Answer:
    """From one row of `Model.outputs`."""
    if not classes:
        return Answer(texts, float(row[0]))
    best = int(row.argmax())
    return Answer(texts, best, classes[best], dict(zip(classes, row.tolist(), strict=True)))


def short(number: float) -> float:
    """The float64 with the fewest digits that is the same float32."""
    import numpy as np

    return float(str(np.float32(number)))
