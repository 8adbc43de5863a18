"""The heads that read word pieces or layers, and `siamese`: that each does what its name says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from benchkit.core.errors import UserError
from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import HeadSpec
from benchkit.core.plugins import load_plugins
from benchkit.core.rng import global_stream
from benchkit.core.task import TaskShape

HEADS = load_plugins().heads
HIDDEN, LAYERS, WIDTH = 16, 4, 8
CLASSES = TaskShape("classes", 1, 5)
PAIR = TaskShape("pair", 2, 2)
SCORE = TaskShape("score", 2, 0, 0.0, 5.0)
SHAPES = (CLASSES, PAIR, SCORE)

every_reader = pytest.mark.parametrize("name", ["attention", "token-cnn", "token-rnn"])
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
every_score = pytest.mark.parametrize("score", ["linear", "cosine", "scaled-cosine"])


def build(name: str, **values: Any) -> nn.Module:
    spec: HeadSpec = HEADS[name]
    small = {"width": WIDTH, "channels": WIDTH, "units": WIDTH, "linear": WIDTH}
    known = {field.name for field in dataclasses.fields(spec.config)}
    config = spec.configure({key: value for key, value in small.items() if key in known} | values)
    with global_stream(0, "init"):
        return spec.build(config, HIDDEN, SHAPES, LAYERS).eval()


def tokens(shape: TaskShape, lengths: tuple[int, ...] = (5, 3, 1, 6), padding: int = 0) -> Tokens:
    """As many examples as lengths; zeros beyond, `padding` pieces more than the longest needs."""
    random = torch.Generator().manual_seed(0)
    time = max(lengths) + padding
    values = torch.zeros(len(lengths), shape.segments, time, HIDDEN)
    mask = torch.zeros(values.shape[:3], dtype=torch.bool)
    for i, length in enumerate(lengths):
        values[i, :, :length] = torch.randn(shape.segments, length, HIDDEN, generator=random)
        mask[i, :, :length] = True
    return Tokens(values.mean(2), values, mask)


def branch(head: nn.Module, task: str) -> nn.Module:
    found = head.get_submodule(f"branches.{task}")
    assert isinstance(found, nn.Module)
    return found


@every_reader
@every_shape
def test_padding_and_its_length_are_ignored(name: str, shape: TaskShape) -> None:
    head = build(name)
    short, long = tokens(shape), tokens(shape, padding=7)
    expected = head(short, shape.name)
    torch.testing.assert_close(head(long, shape.name), expected)
    # Not even what lies there matters, as long as the mask says so.
    filled = dataclasses.replace(long, tokens=long.tokens.masked_fill(~long.mask.unsqueeze(-1), 1e3))
    torch.testing.assert_close(head(filled, shape.name), expected)


@every_reader
@every_shape
def test_a_long_neighbour_changes_nothing(name: str, shape: TaskShape) -> None:
    head = build(name)
    together = head(tokens(shape, (2, 9)), shape.name)
    torch.testing.assert_close(together[:1], head(tokens(shape, (2,)), shape.name))


@pytest.mark.parametrize(
    ("name", "options", "ordered"),
    [
        ("attention", {}, False),
        ("token-cnn", {"smallest": 1, "largest": 1}, False),
        ("token-cnn", {"smallest": 2, "largest": 2}, True),
        ("token-rnn", {}, True),
        ("token-rnn", {"read": "last"}, True),
    ],
)
def test_who_reads_the_order_of_word_pieces(name: str, options: dict[str, Any], ordered: bool) -> None:
    head, given = build(name, **options), tokens(CLASSES, (6,))
    flipped = dataclasses.replace(given, tokens=given.tokens.flip(2))
    same = torch.allclose(head(given, "classes"), head(flipped, "classes"), atol=1e-6)
    assert same is not ordered


def test_attention_pools_what_its_query_likes() -> None:
    head, given = build("attention", queries=1), tokens(CLASSES, (6,))
    pieces = head.get_submodule("trunk")(given.tokens[0, 0])
    query = head.get_parameter("queries.classes.weight")
    with torch.no_grad():
        query.zero_()
    torch.testing.assert_close(head(given, "classes"), branch(head, "classes")(pieces.mean(0)[None, None]))
    with torch.no_grad():
        query.copy_(1e4 * pieces[2])
    torch.testing.assert_close(head(given, "classes"), branch(head, "classes")(pieces[None, 2:3]))


def test_each_task_has_queries_of_its_own() -> None:
    head = build("attention", queries=3)
    shapes = [tuple(each.shape) for name, each in head.named_parameters() if name.startswith("queries.")]
    assert shapes == [(3, HIDDEN)] * 3


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_a_filter_keeps_its_best_place(size: int) -> None:
    head, given = build("token-cnn", smallest=size, largest=size), tokens(CLASSES, (7,))
    trunk = head.trunk
    assert isinstance(trunk, nn.Module)
    pieces = trunk.get_submodule("enter")(given.tokens[0, 0])
    before, after = (size - 1) // 2, size // 2
    around = torch.cat([pieces.new_zeros(before, WIDTH), pieces, pieces.new_zeros(after, WIDTH)])
    filters = trunk.get_submodule("filters.0")
    expected = torch.stack([filters(around[i : i + size].flatten()) for i in range(7)]).amax(0).relu()
    torch.testing.assert_close(trunk(given.tokens[0], given.mask[0])[0], expected)


def test_filters_have_each_size_between() -> None:
    weights = build("token-cnn", smallest=2, largest=4).state_dict()
    assert [weights[f"trunk.filters.{i}.weight"].shape[1] for i in range(3)] == [2 * WIDTH, 3 * WIDTH, 4 * WIDTH]
    with pytest.raises(UserError, match="'token-cnn': filters of sizes 5 to 3"):
        build("token-cnn", smallest=5)


@pytest.mark.parametrize(("cell", "kind"), [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
@pytest.mark.parametrize("read", ["max", "last"])
def test_a_recurrence_ends_where_the_sentence_does(cell: str, kind: type[nn.RNNBase], read: str) -> None:
    head, given = build("token-rnn", cell=cell, read=read), tokens(CLASSES, (3, 8))
    trunk = head.trunk
    assert isinstance(trunk, nn.Module)
    (cells,) = [each for each in trunk.modules() if isinstance(each, nn.RNNBase)]
    assert type(cells) is kind
    states, _ = cells(trunk.get_submodule("norm")(given.tokens[0, :, :3]))  # the first sentence without its padding
    expected = states.amax(1) if read == "max" else torch.cat([states[:, -1, :WIDTH], states[:, 0, WIDTH:]], 1)
    torch.testing.assert_close(trunk(given.tokens[:1, 0], given.mask[:1, 0]), expected)


def layers(shape: TaskShape, batch: int = 3) -> Layers:
    random = torch.Generator().manual_seed(0)
    return Layers.split(torch.randn(batch, shape.segments, LAYERS * HIDDEN, generator=random), LAYERS)


def test_a_mix_starts_as_the_mean_and_can_become_one_layer() -> None:
    head, given = build("layer-mix", mixes=1), layers(CLASSES)
    normal = nn.functional.layer_norm(given.layers, (HIDDEN,))
    torch.testing.assert_close(head(given, "classes"), branch(head, "classes")(normal.mean(2)))
    with torch.no_grad():
        head.get_parameter("mixes.classes.weights")[0, 1] = 100.0
    torch.testing.assert_close(head(given, "classes"), branch(head, "classes")(normal[:, :, 1]))


def test_several_mixes_start_near_layers_from_first_to_last() -> None:
    weights = build("layer-mix", mixes=3).get_parameter("mixes.pair.weights")
    assert weights.shape == (3, LAYERS)
    assert [weights[0].argmax().item(), weights[2].argmax().item()] == [0, LAYERS - 1]
    torch.testing.assert_close(weights[1], weights[1].flip(0))


def test_each_task_has_a_mix_of_its_own() -> None:
    head = build("layer-mix")
    head(layers(PAIR), "pair").square().sum().backward()
    moved = {name for name, each in head.named_parameters() if name.startswith("mixes.") and each.grad is not None}
    assert moved == {"mixes.pair.weights", "mixes.pair.scales"}


def test_a_loud_layer_weighs_no_more_than_others() -> None:
    head, given = build("layer-mix"), layers(CLASSES)
    factors = torch.tensor([1.0, 100.0, 0.1, 5.0])[:, None]
    louder = Layers(given.pooled, given.layers * factors)
    torch.testing.assert_close(head(louder, "classes"), head(given, "classes"), rtol=1e-3, atol=1e-3)


def pooled(shape: TaskShape, batch: int = 3) -> Pooled:
    return Pooled(torch.randn(batch, shape.segments, HIDDEN, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("symmetric", [False, True])
def test_siamese_sees_how_a_pair_differs(symmetric: bool) -> None:
    head, given = build("siamese", symmetric=symmetric), pooled(PAIR)
    u, v = head.trunk(given.pooled).unbind(1)  # type: ignore[operator]
    both = [u + v] if symmetric else [u, v]
    cosine = 4 * torch.cosine_similarity(u, v).unsqueeze(1) - 2
    seen = torch.cat([*both, (u - v).abs(), u * v, cosine], 1)
    straight = branch(head, "pair").get_submodule("cosine")
    torch.testing.assert_close(head(given, "pair"), branch(head, "pair").get_submodule("layers")(seen))
    nn.init.ones_(straight.weight)  # type: ignore[arg-type]
    expected = branch(head, "pair").get_submodule("layers")(seen) + cosine
    torch.testing.assert_close(head(given, "pair"), expected)
    turned = torch.allclose(head(given, "pair"), head(Pooled(given.pooled.flip(1)), "pair"), atol=1e-6)
    assert turned is symmetric
    assert branch(head, "classes").get_submodule("layers.1").weight.shape == (WIDTH, HIDDEN)


@every_score
@pytest.mark.parametrize("name", ["siamese", "baseline", "cnn"])
def test_a_pair_is_scored_as_asked(name: str, score: str) -> None:
    head, given = build(name, score=score), pooled(SCORE, 32)
    swapped = Pooled(given.pooled.flip(1))
    scores = head(given, "score")
    assert 0 <= scores.min() < scores.max() <= 5
    assert torch.allclose(scores, head(swapped, "score")) is (score != "linear")
    learned = [
        each for parameter, each in head.named_parameters() if parameter.endswith(("scale", "scaled.score.bias"))
    ]
    assert bool(learned) is (score == "scaled-cosine")


@pytest.mark.parametrize("name", ["siamese", "baseline", "cnn"])
def test_the_scaled_cosine_reaches_both_ends(name: str) -> None:
    head, given = build(name, score="scaled-cosine"), pooled(SCORE, 32)
    (scale,) = [each for parameter, each in head.named_parameters() if parameter.endswith("scale")]
    with torch.no_grad():
        scale.fill_(1e4)
    scores = head(given, "score")
    assert ((scores < 0.01) | (scores > 4.99)).float().mean() > 0.9


@pytest.mark.parametrize("name", ["siamese", "attention", "token-cnn", "token-rnn", "layer-mix"])
def test_a_loss_is_asked_for_on_regressions_only(name: str) -> None:
    spec = HEADS[name]
    assert spec.loss is not None
    assert spec.loss(spec.configure({}), SCORE) == ""
    config = spec.configure({"loss": "cosent"})
    assert [spec.loss(config, shape) for shape in SHAPES] == ["", "", "cosent"]
