"""`step = "round"`: the same batches, one pass of the encoder and one optimiser step for all tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers.training import TASKS, Live, equal, from_disk, make_modules, make_work, on_disk, train, weights
from torch import Tensor, nn

from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.protocol import Phase
from benchkit.encoder import BertConfig, Encoder, random_encoder
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.training.evaluation import PhaseContext
from benchkit.training.optimizer import AdamW
from benchkit.training.readers import StoredReader, gather_together
from benchkit.training.steps import take_step

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
TEXTS = [" ".join("abcdefghij"[i % 7 : 3 + i % 8]) + " a" * (i * i % 17) for i in range(12)]
ROWS = (torch.tensor([[0], [3], [3]]), torch.tensor([[1, 11], [5, 0]]), torch.tensor([[7, 7]]))


def in_rounds(**settings: Any) -> tuple[PhaseContext, Tensor]:
    context, vectors = make_work(step="round", **settings)
    return dataclasses.replace(context, order=dataclasses.replace(context.order, step="round")), vectors


def gradients(modules: nn.Module) -> dict[str, Tensor]:
    return {name: each.grad.clone() for name, each in modules.named_parameters() if each.grad is not None}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return random_encoder("tiny", VOCAB, BertConfig(len(VOCAB), 32, 3, 4, 64, 64), seed=0)


def test_the_gradient_of_a_round_is_the_sum_of_its_batches() -> None:
    context, vectors = in_rounds(sampling="round_robin")
    batches = list(context.order.epoch(1))[:3]
    assert {task for task, _ in batches} == set(TASKS)
    together, summed = make_modules(0.0, encoder=True).eval(), make_modules(0.0, encoder=True).eval()
    reader = Live(vectors, together["encoder"])
    results = take_step(context, together, reader, AdamW(together.parameters(), 0.0), batches, 0.0)
    total: dict[str, Tensor] = {}
    for batch, (outputs, labels, loss) in zip(batches, results, strict=True):
        optimizer = AdamW(summed.parameters(), 0.0)
        (alone,) = take_step(context, summed, Live(vectors, summed["encoder"]), optimizer, [batch], 0.0)
        torch.testing.assert_close(alone[0], outputs)
        torch.testing.assert_close(alone[2], loss)
        assert torch.equal(alone[1], labels)
        for name, value in gradients(summed).items():
            total[name] = total.get(name, torch.zeros_like(value)) + value
    torch.testing.assert_close(gradients(together), total)


def test_the_encoder_runs_once_a_round() -> None:
    context, vectors = in_rounds(epochs=1)
    modules = make_modules(encoder=True)
    calls: list[int] = []
    modules["encoder"].register_forward_hook(lambda module, given, output: calls.append(1))
    train(context, vectors, modules)
    assert len(calls) == context.order.steps() + 1  # and once for dev


@pytest.mark.parametrize("sampling", ["proportional", "round_robin", "annealed"])
def test_rounds_are_of_the_same_batches(sampling: str) -> None:
    (one, vectors), (other, _) = make_work(sampling=sampling), in_rounds(sampling=sampling)
    assert one.order.steps() == one.order.batches() == other.order.batches()
    assert other.order.steps() == -(-one.order.steps() // 3)
    batches = list(other.order.epoch(2))
    rounds = list(other.order.rounds(batches))
    assert len(rounds) == other.order.steps()
    assert [batch for together in rounds for batch in together] == batches
    first, second = train(one, vectors, make_modules()), train(other, vectors, make_modules())
    assert first.order_hash == second.order_hash
    assert not equal(first.weights, second.weights), "another method"


def test_rounds_resume_to_the_last_bit_and_follow_the_schedule() -> None:
    context, vectors = in_rounds(schedule="linear", learning_rate=0.1, clip=1.0)
    saved: list[bytes] = []
    whole = make_modules(encoder=True)
    train(context, vectors, whole, on_epoch=lambda state: saved.append(on_disk(state)))
    resumed = make_modules(encoder=True)
    train(context, vectors, resumed, from_disk(saved[1]))
    assert equal(weights(whole), weights(resumed))
    steps = 4 * context.order.steps()
    assert from_disk(saved[-1]).optimizer["lr"] == pytest.approx(0.1 / steps)


@pytest.mark.parametrize("reads", ["pooled", "tokens", "layers"])
def test_features_of_a_round_are_those_of_its_batches(encoder: Encoder, reads: str) -> None:
    layers = (0, 1, 3) if reads == "layers" else (-1,)
    settings = FeatureSettings(pooling="mean", layers=layers, reads="tokens" if reads == "tokens" else "pooled")
    table = encode_table(encoder, encoder.tokenize([(text,) for text in TEXTS]), settings)
    reader = StoredReader(dataclasses.replace(table, layers=3 if reads == "layers" else 0))
    kind = {"pooled": Pooled, "tokens": Tokens, "layers": Layers}[reads]
    for rows, features in zip(ROWS, gather_together(reader, ROWS), strict=True):
        alone = reader.gather(rows)
        assert type(features) is type(alone) is kind
        assert torch.equal(features.pooled, alone.pooled)
        if isinstance(features, Layers) and isinstance(alone, Layers):
            assert torch.equal(features.layers, alone.layers)
        if isinstance(features, Tokens) and isinstance(alone, Tokens):
            time = alone.mask.shape[-1]
            assert torch.equal(features.tokens[:, :, :time], alone.tokens)
            assert torch.equal(features.mask[:, :, :time], alone.mask)
            assert not features.mask[:, :, time:].any(), "padded to the longest of the round"


def test_a_step_is_of_a_task_unless_said() -> None:
    assert Phase().step == "task"
