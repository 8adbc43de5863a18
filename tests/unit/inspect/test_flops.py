"""Multiply-accumulates are those that one counts by hand: every built-in head, recurrence, attention, the encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from benchkit.core.features import Pooled
from benchkit.core.head import HeadSpec
from benchkit.core.plugins import load_plugins
from benchkit.core.task import TaskShape
from benchkit.encoder import BertConfig, Encoder, random_encoder
from benchkit.encoder.tokenizer import SPECIAL
from benchkit.inspect.structure import structure
from benchkit.inspect.trace import counting, encoder_macs, trace
from benchkit.testing.contract import features

HEADS = load_plugins().heads
TASKS = (TaskShape("sst", 1, 5), TaskShape("quora", 2, 2), TaskShape("sts", 2, 0, 0.0, 5.0))
H, TIME, LAYERS = 64, 7, 3  # hidden size, word pieces a sentence, layers


def mlp(width: int, task: TaskShape) -> int:
    """The branch of most heads: of a pair it sees [u; v; |u−v|; u*v] and the cosine, which goes to the output too."""
    if task.segments == 1:
        return width * 512 + 512 * task.out
    return (4 * width + 1) * 512 + 512 * task.out + task.out


def cnn(task: TaskShape) -> int:
    convolution = 8 * 3 * H
    if task.name == "quora":
        return 2 * convolution + 2 * 8 * H * 2
    return task.segments * (convolution + 16 * 8 * 3 * H + 16 * H // 2 * 64 + 64 * (5 if task.name == "sst" else 13))


def recurrent(task: TaskShape) -> int:
    convolution = 8 * 3 * H * task.segments
    if task.classes:
        return convolution + task.segments * 8 * H * task.out
    return convolution + 2 * 8 * 2 * (4 * 16 * (H + 16)) + 64


def baseline(task: TaskShape) -> int:
    return task.segments * (H * 400 + 400 * (13 if task.name == "sts" else task.out))


BY_HAND: dict[str, Callable[[TaskShape], int]] = {
    "baseline": baseline,
    "recurrent": recurrent,
    "cnn": cnn,
    "siamese": lambda task: mlp(H, task),
    "attention": lambda task: task.segments * (TIME * H * 2 + 2 * TIME * H) + mlp(2 * H, task),
    "token-cnn": lambda task: task.segments * TIME * (H * 128 + (1 + 2 + 3) * 128 * 128) + mlp(384, task),
    "token-rnn": lambda task: task.segments * TIME * 2 * (3 * 128 * (H + 128)) + mlp(256, task),
    "layer-mix": lambda task: task.segments * 3 * LAYERS * H + mlp(3 * H, task),
}
TRUNKS = {"baseline": H * 400, "recurrent": 8 * 3 * H, "cnn": 8 * 3 * H}


@pytest.mark.parametrize("name", sorted(HEADS))
def test_every_head_takes_what_one_counts_by_hand(name: str) -> None:
    spec = HEADS[name]
    head = spec.build(spec.configure({}), H, TASKS, LAYERS).eval()
    for task in TASKS:
        given = features(spec.reads, task, 1, time=TIME, hidden=H, layers=LAYERS)
        found = trace(head, given, task.name, spec.trunk)
        assert (found.macs, found.unknown) == (BY_HAND[name](task), ())
        assert found.trunk_macs == task.segments * TRUNKS.get(name, found.trunk_macs // task.segments)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrence_is_counted_forth_and_back(kind: type[nn.LSTM | nn.GRU | nn.RNN], gates: int) -> None:
    layer = kind(10, 6, batch_first=True, bidirectional=True)
    given = torch.randn(3, 5, 10, requires_grad=True)
    forth = 3 * 5 * 2 * gates * 6 * (10 + 6)
    with torch.no_grad(), counting() as counter:
        layer(given)
    assert (counter.macs, dict(counter.unknown)) == (forth, {})
    with counting() as counter:
        layer(given)[0].sum().backward()
    # Back through the initial state there is nothing to multiply, and whether that is left out depends on the kernel.
    assert 3 * forth - 3 * 2 * gates * 6 * 6 * 2 <= counter.macs <= 3 * forth
    assert dict(counter.unknown) == {}


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_counted_forth_and_back(groups: int) -> None:
    layer, given = nn.Conv1d(6, 4, 3, groups=groups), torch.randn(2, 6, 10, requires_grad=True)
    with counting() as counter:
        layer(given).sum().backward()
    assert counter.macs == 3 * (2 * 8 * 4 * (6 // groups) * 3)
    assert dict(counter.unknown) == {}


def test_packed_sentences_have_no_padding_to_count() -> None:
    layer, lengths = nn.LSTM(10, 6, batch_first=True), torch.tensor([5, 2, 4])
    packed = pack_padded_sequence(torch.randn(3, 5, 10), lengths, batch_first=True, enforce_sorted=False)
    with torch.no_grad(), counting() as counter:
        layer(packed)
    assert counter.macs == 11 * 4 * 6 * (10 + 6)


SENTENCES = torch.randn(2, 5, 8)
CASES: dict[str, tuple[Callable[[], object], int]] = {
    "Linear": (lambda: nn.Linear(8, 3)(SENTENCES), 2 * 5 * 8 * 3),
    "Conv1d": (lambda: nn.Conv1d(5, 4, 3, padding=1)(SENTENCES), 2 * 8 * 4 * 5 * 3),
    "grouped": (lambda: nn.Conv1d(6, 4, 3, groups=2)(torch.randn(1, 6, 10)), 8 * 4 * 3 * 3),
    "transposed": (lambda: nn.ConvTranspose1d(5, 4, 3)(SENTENCES), 2 * 8 * 5 * 4 * 3),
    "attention": (
        lambda: F.scaled_dot_product_attention(SENTENCES[:, None], SENTENCES[:, None], SENTENCES[:, None]),
        2 * 2 * 5 * 5 * 8,
    ),
    "heads": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True).eval()(*[SENTENCES] * 3),
        2 * (5 * 4 * 8 * 8 + 2 * 5 * 5 * 8),
    ),
    "addmv": (lambda: torch.addmv(torch.ones(5), SENTENCES[0], torch.ones(8)), 5 * 8),
    "addbmm": (lambda: torch.addbmm(torch.ones(5, 5), SENTENCES, SENTENCES.mT), 2 * 5 * 8 * 5),
    "dot": (lambda: torch.dot(torch.ones(8), torch.ones(8)), 8),
    "einsum": (lambda: torch.einsum("bth,h->bt", SENTENCES, torch.ones(8)), 2 * 5 * 8),
    "vector": (lambda: SENTENCES @ torch.ones(8), 2 * 5 * 8),
    "cheap": (lambda: F.layer_norm(SENTENCES, (8,)).softmax(-1).amax(1).sigmoid().cumsum(0), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_take_what_one_counts_by_hand(name: str) -> None:
    work, macs = CASES[name]
    with torch.no_grad(), counting() as counter:
        work()
    assert (counter.macs, dict(counter.unknown)) == (macs, {})


@dataclass(frozen=True)
class Config:
    pass


class Distances(nn.Module):
    """Uses a function that nobody has counted."""

    def __init__(self, config: Config, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(5, hidden))

    def forward(self, features: Pooled, task: str) -> Tensor:
        return torch.cdist(features.pooled[:, 0], self.places)


def test_what_cannot_be_counted_is_named() -> None:
    spec = HeadSpec("distances", "", Distances, Config)
    (branch,) = structure(spec, Config(), H, TASKS[:1]).branches
    assert branch.uncounted == ("_cdist_forward",)


def test_layers_of_a_head_sum_up_to_it() -> None:
    spec = HEADS["attention"]
    for branch in structure(spec, spec.configure({}), H, TASKS).branches:
        assert branch.macs is not None
        assert sum(layer.macs for layer in branch.layers) == branch.macs > 0


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    vocab = [*SPECIAL, *(f"w{i}" for i in range(20))]
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    return random_encoder("tiny", vocab, config, seed=0)


@pytest.mark.parametrize(
    ("pooling", "layers"), [("mean", (-1,)), ("cls", (-1,)), ("pooler", (-1,)), ("mean", (0, 2)), ("cls", (1,))]
)
def test_the_encoder_s_formula_is_what_it_computes(encoder: Encoder, pooling: str, layers: tuple[int, ...]) -> None:
    tokenized = encoder.tokenize([(" ".join(["w1"] * count),) for count in (1, 4, 4, 9)])
    rows = torch.arange(4)[:, None]
    with torch.no_grad(), counting() as counter:
        encoder.features(tokenized, rows, pooling=pooling, layers=layers)
    first_only = pooling in ("cls", "pooler")
    formula = encoder_macs(
        encoder.config,
        tokenized.lengths.tolist(),
        top=max(encoder.check(pooling, layers)),
        first_only=first_only,
        pooler=pooling == "pooler",
    )
    assert (counter.macs, dict(counter.unknown)) == (formula, {})


def test_training_the_encoder_takes_three_times_as_much(encoder: Encoder) -> None:
    tokenized = encoder.tokenize([("w1 w2 w3",), ("w4",)])
    with counting() as counter:
        encoder.features(tokenized, torch.arange(2)[:, None]).pooled.square().sum().backward()  # type: ignore[no-untyped-call]
    assert counter.macs == 3 * encoder_macs(encoder.config, tokenized.lengths.tolist())
    encoder.model.zero_grad()
