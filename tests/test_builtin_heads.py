"""Every installed head keeps the contract, whoever it comes from; the built-in ones have the report's shapes."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchkit.features import Pooled, Tokens
from benchkit.head import Choice, HeadSpec, Range
from benchkit.plugins import load_plugins
from benchkit.rng import global_stream
from benchkit.settings import plain
from benchkit.task import TaskShape

HEADS = load_plugins().heads
HIDDEN = [8, 768]
# Names that no head can have been written for: both kinds of task, one sentence, a pair apart, a pair as one input.
SHAPES = (
    TaskShape("unseen_class", 1, 5),
    TaskShape("unseen_pair_class", 2, 2),
    TaskShape("unseen_score", 1, 0, -1.0, 1.0),
    TaskShape("unseen_pair_score", 2, 0, 0.0, 5.0),
)

every_head = pytest.mark.parametrize("spec", HEADS.values(), ids=HEADS.keys())
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
every_hidden = pytest.mark.parametrize("hidden", HIDDEN)


def build(spec: HeadSpec, hidden: int = 8, seed: int = 0, **values: Any) -> nn.Module:
    with global_stream(seed, "init"):
        return spec.build(spec.configure(values), hidden, SHAPES)


def features(spec: HeadSpec, shape: TaskShape, batch: int = 3, hidden: int = 8, time: int = 5) -> Pooled:
    random = torch.Generator().manual_seed(batch)
    pooled = torch.randn(batch, shape.segments, hidden, generator=random)
    if not issubclass(spec.reads, Tokens):
        return Pooled(pooled)
    tokens = torch.randn(batch, shape.segments, time, hidden, generator=random)
    lengths = torch.randint(2, time + 1, (batch, shape.segments, 1), generator=random)
    mask = torch.arange(time) < lengths
    return Tokens(pooled, tokens * mask.unsqueeze(-1), mask)


def rows(given: Pooled, chosen: slice) -> Pooled:
    parts = {field.name: getattr(given, field.name)[chosen] for field in dataclasses.fields(given)}
    return type(given)(**parts)


def branch(head: nn.Module, task: str) -> nn.Module:
    branches = head.branches
    assert isinstance(branches, nn.ModuleDict)
    return branches[task]


def test_the_built_in_heads_are_here() -> None:
    assert {"baseline", "recurrent", "cnn"} <= set(HEADS)


@every_head
@every_shape
@every_hidden
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_outputs_have_the_tasks_shape(
    spec: HeadSpec, shape: TaskShape, hidden: int, batch: int, training: bool
) -> None:
    head = build(spec, hidden).train(training)
    outputs = head(features(spec, shape, batch, hidden), shape.name)
    assert outputs.shape == (batch, shape.out)
    assert outputs.dtype == torch.float32
    assert outputs.isfinite().all()


@every_head
@pytest.mark.parametrize("shape", SHAPES[2:], ids=lambda shape: shape.name)
def test_scores_lie_in_the_label_range(spec: HeadSpec, shape: TaskShape) -> None:
    head = build(spec).eval()
    for size in (0.0, 1.0, 100.0):
        given = features(spec, shape, 32)
        scaled = dataclasses.replace(given, pooled=given.pooled * size)
        outputs = head(scaled, shape.name)
        rounding = 1e-6 * (shape.high - shape.low)
        assert outputs.min() >= shape.low - rounding
        assert outputs.max() <= shape.high + rounding


@every_head
def test_every_parameter_is_trained_by_some_task(spec: HeadSpec) -> None:
    head = build(spec).eval()
    for shape in SHAPES:
        outputs: Tensor = head(features(spec, shape, 16), shape.name)
        outputs.square().sum().backward()  # type: ignore[no-untyped-call]
    idle = [name for name, each in head.named_parameters() if each.grad is None or not each.grad.any()]
    assert not idle


@every_head
@every_shape
def test_a_task_trains_the_trunk_and_no_other_tasks_branch(spec: HeadSpec, shape: TaskShape) -> None:
    head = build(spec).eval()
    head(features(spec, shape, 16), shape.name).square().sum().backward()
    touched = {name for name, each in head.named_parameters() if each.grad is not None and each.grad.any()}
    others = {other.name for other in SHAPES if other != shape}
    assert not {name for name in touched if others & set(name.split("."))}
    assert not spec.trunk or any(name.startswith(f"{spec.trunk}.") for name in touched)


@every_head
@every_shape
def test_an_examples_output_does_not_depend_on_its_batch(spec: HeadSpec, shape: TaskShape) -> None:
    head = build(spec).eval()
    given = features(spec, shape, 6)
    together = head(given, shape.name)
    apart = torch.cat([head(rows(given, slice(i, i + 1)), shape.name) for i in range(6)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@every_head
@every_shape
def test_an_output_depends_on_every_segment(spec: HeadSpec, shape: TaskShape) -> None:
    head = build(spec).eval()
    given = features(spec, shape)
    for segment in range(shape.segments):
        changed = {field.name: getattr(given, field.name).clone() for field in dataclasses.fields(given)}
        for name, value in changed.items():
            if name != "mask":
                value[:, segment] = value[:, segment].flip(-1)
        assert not torch.allclose(head(given, shape.name), head(type(given)(**changed), shape.name))


@every_head
@every_shape
def test_a_head_leaves_its_features_alone(spec: HeadSpec, shape: TaskShape) -> None:
    given = features(spec, shape)
    kept = given.pooled.clone()
    build(spec).train()(given, shape.name)
    assert torch.equal(given.pooled, kept), "stored features are shared by all heads"


@every_head
@every_shape
def test_gradients_reach_the_encoder(spec: HeadSpec, shape: TaskShape) -> None:
    given = features(spec, shape)
    leaves = [getattr(given, f.name).requires_grad_() for f in dataclasses.fields(given) if f.name != "mask"]
    build(spec).eval()(given, shape.name).square().sum().backward()
    assert any(leaf.grad is not None and leaf.grad.any() for leaf in leaves)


@every_head
@every_shape
def test_weights_survive_a_file(spec: HeadSpec, shape: TaskShape) -> None:
    first, second = build(spec, seed=0), build(spec, seed=1)
    first.train()(features(spec, shape, 8), shape.name)  # moves running statistics, where there are any
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    given = features(spec, shape)
    assert torch.equal(first.eval()(given, shape.name), second.eval()(given, shape.name))


@every_head
def test_initial_weights_are_a_function_of_the_seed(spec: HeadSpec) -> None:
    first, same, other = (build(spec, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every_head
def test_a_training_step_is_a_function_of_the_seed(spec: HeadSpec) -> None:
    outputs = []
    for _ in range(2):
        head = build(spec).train()
        with global_stream(0, "dropout"):
            outputs.append(head(features(spec, SHAPES[0]), SHAPES[0].name))
    assert torch.equal(*outputs)


@every_head
def test_a_config_survives_json(spec: HeadSpec) -> None:
    config = spec.configure({})
    assert spec.configure(json.loads(json.dumps(plain(config)))) == config
    as_text = {name: str(value) for name, value in plain(config).items() if not isinstance(value, list)}
    assert spec.configure(as_text) == config


@every_head
def test_a_spec_says_what_its_options_are(spec: HeadSpec) -> None:
    assert spec.summary
    assert not spec.trunk or isinstance(getattr(build(spec), spec.trunk), nn.Module)
    assert dataclasses.fields(spec.config), "a head without options cannot be searched"
    for field in dataclasses.fields(spec.config):
        assert field.metadata.get("help"), f"{spec.name}.{field.name} has no help"
        search = field.metadata.get("search")
        default = getattr(spec.configure({}), field.name)
        assert not isinstance(search, Range) or search.low <= default <= search.high
        assert not isinstance(search, Choice) or default in search.values


def extremes() -> list[Any]:
    found = []
    for spec in HEADS.values():
        for field in dataclasses.fields(spec.config):
            search = field.metadata.get("search")
            values = search.values if isinstance(search, Choice) else (search.low, search.high) if search else ()
            found += [pytest.param(spec, field.name, each, id=f"{spec.name}.{field.name}={each}") for each in values]
    return found


@pytest.mark.parametrize(("spec", "name", "value"), extremes())
def test_the_ends_of_every_search_work(spec: HeadSpec, name: str, value: Any) -> None:
    head = build(spec, hidden=16, **{name: value}).train()
    for shape in SHAPES:
        outputs = head(features(spec, shape, 2, hidden=16), shape.name)
        assert outputs.shape == (2, shape.out)
        assert outputs.isfinite().all()


@every_head
def test_one_task_alone_is_enough(spec: HeadSpec) -> None:
    for shape in SHAPES:
        head = spec.build(spec.configure({}), 8, [shape])
        assert head(features(spec, shape), shape.name).shape == (3, shape.out)


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
    head, given = build(spec).eval(), features(spec, shape)
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
