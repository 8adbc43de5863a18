"""The padded twin of the encoder, which is what ONNX holds, gives the numbers of the packed one, whatever the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchkit.core.plugins import Plugins, load_plugins
from benchkit.core.protocol import Protocol
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.workspace import open_encoder
from benchkit.predict.model import Model, Question, number_inputs
from benchkit.predict.onnx import TOLERANCE, Graph, feed

TEXTS = ["a film", "", "the boy is hiding a ball in the park at noon , and nobody saw it .", "good"]


def model(plugins: Plugins, head: str, **protocol: Any) -> Model:
    settled = Protocol(**protocol)
    joint, encoder, spec = settled.pair_input == "joint", open_encoder("demo", plugins).eval(), plugins.head(head)
    questions = {
        name: Question(task.shape(joint=joint), task.texts, task.classes) for name, task in plugins.tasks.items()
    }
    assembly = Assembly.of(spec, spec.configure({}), settled, list(plugins.tasks.values()), encoder)
    return Model(head, encoder, assembly.build().eval(), questions, assembly.features, joint)


@pytest.mark.parametrize(
    ("head", "protocol"),
    [
        ("baseline", {}),
        ("baseline", {"pooling": "mean", "layers": (0, -1)}),
        ("cnn", {"pooling": "max"}),
        ("recurrent", {"pooling": "pooler"}),
        ("baseline", {"pair_input": "joint"}),
        ("layer-mix", {"pooling": "mean"}),
        ("token-rnn", {}),
        ("token-cnn", {}),
        ("attention", {"pooling": "mean"}),
    ],
)
def test_padded_and_packed_agree(head: str, protocol: dict[str, Any]) -> None:
    found = model(load_plugins(), head, **protocol)
    for task in found.questions:
        graph = Graph(found, task).eval()
        others = [*TEXTS[1:], TEXTS[0]]
        examples = list(zip(TEXTS, others, strict=True)) if graph.pair else [(text,) for text in TEXTS]
        inputs, rows = number_inputs(examples, found.joint)
        wanted = found.outputs(task, found.table(inputs), rows)
        with torch.no_grad():
            got = graph(*feed(graph, TEXTS).values())
        assert float((got - wanted).abs().max()) < TOLERANCE / 10
