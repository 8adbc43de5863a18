"""Every installed head keeps the contract, whoever it comes from; the built-in ones have the report's shapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from benchkit.core.features import Pooled
from benchkit.core.head import HeadSpec
from benchkit.core.plugins import load_plugins
from benchkit.core.rng import global_stream
from benchkit.core.task import TaskShape
from benchkit.testing import HeadContract
from benchkit.testing.contract import features

HEADS = load_plugins().heads
# As the report's tasks are, and one it has not.
SHAPES = (
    TaskShape("unseen_class", 1, 5),
    TaskShape("unseen_pair_class", 2, 2),
    TaskShape("unseen_score", 1, 0, -1.0, 1.0),
    TaskShape("unseen_pair_score", 2, 0, 0.0, 5.0),
)

every_head = pytest.mark.parametrize("spec", HEADS.values(), ids=HEADS.keys())


@every_head
class TestInstalledHeads(HeadContract):
    """Registered means tested."""


def build(spec: HeadSpec, hidden: int = 8, seed: int = 0, **values: Any) -> nn.Module:
    with global_stream(seed, "init"):
        return spec.build(spec.configure(values), hidden, SHAPES, layers=3)


def branch(head: nn.Module, task: str) -> nn.Module:
    branches = head.branches
    assert isinstance(branches, nn.ModuleDict)
    return branches[task]


def test_the_built_in_heads_are_here() -> None:
    assert {"baseline", "recurrent", "cnn"} <= set(HEADS)


@every_head
def test_every_option_has_a_help_text_and_there_is_one_to_search(spec: HeadSpec) -> None:
    fields = dataclasses.fields(spec.config)
    assert any(field.metadata.get("search") for field in fields)
    assert [field.name for field in fields if not field.metadata.get("help")] == []


@every_head
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_task_trains_no_other_tasks_branch(spec: HeadSpec, shape: TaskShape) -> None:
    """Ours name their branches after the task; a stranger's head may share as it likes."""
    head = build(spec, 48).eval()
    head(features(spec.reads, shape, 16), shape.name).square().sum().backward()
    touched = {name for name, each in head.named_parameters() if each.grad is not None and each.grad.any()}
    others = {other.name for other in SHAPES if other != shape}
    assert not {name for name in touched if others & set(name.split("."))}


def test_the_baselines_trunk_has_the_reports_307200_weights() -> None:
    head = build(HEADS["baseline"], 768)
    assert isinstance(head.trunk, nn.Module)
    assert sum(each.numel() for each in head.trunk.parameters()) == 307_200


def test_the_baselines_branches_are_the_reports() -> None:
    head = build(HEADS["baseline"], 768)
    sizes = {}
    for shape in SHAPES:
        last = branch(head, shape.name)
        assert isinstance(last, nn.Linear)
        sizes[shape.name] = (last.in_features, last.out_features)
    assert sizes["unseen_class"] == (400, 5)
    assert sizes["unseen_pair_class"] == (800, 2)
    assert sizes["unseen_pair_score"] == (400, 13)


def test_the_baseline_scores_a_pair_by_its_cosine() -> None:
    head, shape = build(HEADS["baseline"]).eval(), SHAPES[3]
    same = torch.randn(4, 1, 8).expand(4, 2, 8)
    torch.testing.assert_close(head(Pooled(same), shape.name), torch.full((4, 1), 5.0))


def test_the_recurrent_head_reads_eight_embeddings_with_sixteen_units_a_direction() -> None:
    head = build(HEADS["recurrent"], 768)
    (convolution,) = [each for each in head.modules() if isinstance(each, nn.Conv1d)]
    assert (convolution.in_channels, convolution.out_channels, convolution.kernel_size) == (1, 8, (3,))
    reader = head.readers["unseen_pair_score"]  # type: ignore[index]
    assert isinstance(reader, nn.LSTM)
    assert (reader.input_size, reader.hidden_size, reader.bidirectional) == (768, 16, True)
    last = branch(head, "unseen_pair_score")
    assert isinstance(last, nn.Linear)
    assert (last.in_features, last.out_features) == (64, 1)
    assert branch(head, "unseen_class").in_features == 8 * 768
    assert branch(head, "unseen_pair_class").in_features == 2 * 8 * 768


@pytest.mark.parametrize(("cell", "kind"), [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
def test_the_recurrent_heads_cell_is_an_option(cell: str, kind: type[nn.Module]) -> None:
    head = build(HEADS["recurrent"], cell=cell)
    assert {type(each) for each in head.modules() if isinstance(each, nn.RNNBase)} == {kind}


def test_the_recurrent_head_reads_its_channels_in_order() -> None:
    spec, shape = HEADS["recurrent"], SHAPES[3]
    head, given = build(spec).eval(), features(spec.reads, shape, hidden=8)
    before = head(given, shape.name)
    convolution = next(each for each in head.modules() if isinstance(each, nn.Conv1d))
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.copy_(parameter.flip(0))
    assert not torch.allclose(before, head(given, shape.name))


def test_the_cnn_head_has_the_reports_filters() -> None:
    head = build(HEADS["cnn"], 768)
    trunk = head.trunk
    assert isinstance(trunk, nn.Module)
    (shared,) = [each for each in trunk.modules() if isinstance(each, nn.Conv1d)]
    assert (shared.in_channels, shared.out_channels, shared.kernel_size) == (1, 8, (3,))
    for name in ("unseen_class", "unseen_pair_score"):
        parts = list(branch(head, name).modules())
        (second,) = [each for each in parts if isinstance(each, nn.Conv1d)]
        (pool,) = [each for each in parts if isinstance(each, nn.MaxPool1d)]
        assert (second.in_channels, second.out_channels, second.kernel_size) == (8, 16, (3,))
        assert pool.kernel_size == 2
        assert any(isinstance(each, nn.BatchNorm1d) for each in parts)
        assert any(isinstance(each, nn.Dropout) and each.p == 0.3 for each in parts)
    last = branch(head, "unseen_pair_class")
    assert isinstance(last, nn.Linear)
    assert last.in_features == 2 * 8 * 768


@pytest.mark.parametrize("name", ["baseline", "recurrent", "cnn"])
def test_dropout_is_the_reports(name: str) -> None:
    assert HEADS[name].configure({}).dropout == 0.3
    assert {each.p for each in build(HEADS[name]).modules() if isinstance(each, nn.Dropout)} == {0.3}
    assert {each.p for each in build(HEADS[name], dropout=0.1).modules() if isinstance(each, nn.Dropout)} == {0.1}
