"""Steps of fixed shapes give what plain steps give; on a GPU also when they are captured and replayed."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import SHAPES, make_modules, make_work, weights
from torch import Tensor, nn

from benchkit.core.features import Pooled, Tokens
from benchkit.core.rng import global_stream
from benchkit.encoder import BertConfig, Encoder, random_encoder
from benchkit.encoder.packing import batch_of, bucket_size, pack, widths
from benchkit.encoder.tokenizer import Tokenized
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.store.table import FeatureTable, Report
from benchkit.training.cuda_graphs import FixedSteps, make_steps
from benchkit.training.evaluation import PhaseContext
from benchkit.training.loop import State, train_phase
from benchkit.training.readers import LiveReader, ShadowWeights, StoredReader

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
QUIET = BertConfig(len(VOCAB), 32, 2, 4, 64, 64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
GPU = torch.cuda.is_available()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not GPU, reason="needs CUDA"))]


def stored(context: PhaseContext, vectors: Tensor, device: str) -> StoredReader:
    return StoredReader(FeatureTable(vectors.to(device), None, Report(0, len(vectors), 0.0)))


def on(context: PhaseContext, device: str, **changes: Any) -> PhaseContext:
    """The same work there; steps of fixed shape are captured where that can be done."""
    graphs = {"graphs": changes.get("fixed", False)}
    return dataclasses.replace(context, device=torch.device(device), **{**graphs, **changes})


def curve(state: State) -> list[tuple[Any, ...]]:
    return [(each["epoch"], each["task"], each["split"]) for each in state.curve]


def values(state: State, name: str) -> Tensor:
    return torch.tensor([each[name] for each in state.curve])


def assert_same(plain: State, fixed: State, tolerance: float) -> None:
    assert plain.order_hash == fixed.order_hash
    assert curve(plain) == curve(fixed)
    torch.testing.assert_close(values(fixed, "loss"), values(plain, "loss"), atol=tolerance, rtol=tolerance)
    # A key's bias changes no attention: its gradient is rounding, of which AdamW makes steps as large as any other.
    for name, value in ((name, each) for name, each in plain.weights.items() if not name.endswith("qkv.bias")):
        torch.testing.assert_close(fixed.weights[name], value, atol=20 * tolerance, rtol=20 * tolerance)


def both_ways(context: PhaseContext, vectors: Tensor, device: str, dropout: float) -> tuple[State, State]:
    """A first phase by plain steps, and by steps of fixed shape."""
    plain, fixed = (
        train_phase(
            on(context, device, fixed=fixed),
            make_modules(dropout).to(device),
            stored(context, vectors, device),
            State("pretrain"),
            lambda s: None,
        )
        for fixed in (False, True)
    )
    return plain, fixed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", ["task", "round"])
@pytest.mark.parametrize("sampling", ["proportional", "round_robin", "annealed"])
def test_heads_on_stored_features(sampling: str, step: str, device: str) -> None:
    context, vectors = make_work(sampling=sampling, step=step, clip=0.5, schedule="linear", warmup=0.1)
    context = on(dataclasses.replace(context, order=dataclasses.replace(context.order, step=step)), device)
    assert_same(*both_ways(context, vectors, device, 0.0), 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_draws_the_same_numbers_for_pooled_features(device: str) -> None:
    """Nothing else draws, and in the same order: so even with dropout the numbers are those of plain steps."""
    context, vectors = make_work()
    assert_same(*both_ways(context, vectors, device, 0.3), 1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reads", [Pooled, Tokens])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("step", ["task", "round"])
def test_the_whole_encoder(step: str, pooling: str, reads: type[Pooled], device: str) -> None:
    context, _ = make_work(step=step, epochs=2, batch_size=4, learning_rate=1e-4)
    context = dataclasses.replace(context, phase="finetune", order=dataclasses.replace(context.order, step=step))
    found = []
    for fixed in (False, True):
        encoder = random_encoder("tiny", VOCAB, QUIET, seed=0).to(device)
        with global_stream(0, "init"):
            modules = nn.ModuleDict({"head": Reads(reads), "encoder": encoder.model}).to(device)
        reader = live(encoder, FeatureSettings("tokens" if reads is Tokens else "pooled", pooling), reads)
        state = train_phase(on(context, device, fixed=fixed), modules, reader, State("finetune"), lambda s: None)
        found.append(dataclasses.replace(state, weights=weights(modules)))
    assert_same(found[0], found[1], 1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_whole_encoder_in_bf16(compiled: bool, clip: float, device: str) -> None:
    """Near plain autocast: rounding differs where sums are taken in another order, and nowhere else."""
    if compiled and not GPU:
        pytest.skip("compiles for a GPU: needs CUDA")
    context, _ = make_work(epochs=2, batch_size=8, learning_rate=1e-5, clip=clip)
    context = dataclasses.replace(context, phase="finetune", autocast=True)
    found = []
    for fixed in (False, True):
        encoder = random_encoder("tiny", VOCAB, QUIET, seed=0).to(device)
        with global_stream(0, "init"):
            modules = nn.ModuleDict({"head": Reads(Pooled), "encoder": encoder.model}).to(device)
        reader = live(encoder, FeatureSettings("pooled", "mean"), Pooled)
        here = on(context, device, fixed=fixed, compiled=compiled and fixed)
        found.append(train_phase(here, modules, reader, State("finetune"), lambda s: None))
        assert {each.dtype for each in encoder.model.parameters()} == {torch.float32}
    plain, fixed_ = (values(state, "loss") for state in found)
    torch.testing.assert_close(fixed_, plain, atol=0.005, rtol=0.005)


def test_gradients_of_copies_are_those_of_autocast() -> None:
    found = []
    for halves in (False, True):
        encoder = random_encoder("tiny", VOCAB, QUIET, seed=0)
        rows = np.arange(3)[None]
        size = bucket_size(np.array([9, 4, 30]), 64)
        tokenized = of_lengths([9, 4, 30])
        fields = {name: torch.from_numpy(each[0]) for name, each in pack(tokenized, rows, size).items()}
        copies = ShadowWeights(encoder.model) if halves else None
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder.features_of(batch_of(fields, size), weights=copies.weights() if copies else None)
        torch.autograd.backward(features.pooled.square().sum())
        if copies:
            copies.collect_gradients()
        found.append({name: each.grad for name, each in encoder.model.named_parameters() if each.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


class Reads(nn.Module):
    """A linear of what it reads; of tokens, of their mean."""

    def __init__(self, reads: type[Pooled]) -> None:
        super().__init__()
        self.reads = reads
        self.branches = nn.ModuleDict({s.name: nn.Linear(32 * s.segments, s.out) for s in SHAPES.values()})

    def forward(self, features: Pooled, task: str) -> Tensor:
        vectors = features.pooled
        if isinstance(features, Tokens):
            assert (features.tokens[~features.mask] == 0).all() or features.tokens.is_cuda
            vectors = features.tokens.sum(2) / features.mask.sum(2, keepdim=True)
        raw: Tensor = self.branches[task](vectors.flatten(1))
        return raw if SHAPES[task].classes else SHAPES[task].stretch(raw.sigmoid())


def live(encoder: Encoder, settings: FeatureSettings, reads: type[Pooled]) -> LiveReader:
    tokenized = of_lengths(torch.randint(2, 30, (300,), generator=torch.Generator().manual_seed(1)).tolist())

    def table(rows: Tensor) -> FeatureTable:
        return encode_table(encoder.eval(), tokenized.select(rows), settings).to(encoder.device)

    return LiveReader(encoder, tokenized, settings, reads, True, table)


def of_lengths(lengths: list[int]) -> Tokenized:
    ends = torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.randint(len(VOCAB), (int(ends[-1]),), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    segments = torch.cat([(torch.arange(each) >= (each + 1) // 2).byte() for each in lengths])
    return Tokenized(ids, segments, ends, 0)


@pytest.mark.parametrize("lengths", [[1], [7] * 5, [40, 1, 2, 2, 17, 9, 9, 3], [64, 1, 63]])
def test_a_batch_with_room_to_spare_has_the_same_features(lengths: list[int]) -> None:
    encoder = random_encoder("tiny", VOCAB, QUIET, seed=0).train()
    tokenized, rows = of_lengths(lengths), np.arange(len(lengths))[None]
    size = bucket_size(np.array(lengths), 64)
    assert size.total >= sum(lengths)
    assert 64 >= size.time >= max(lengths)
    fields = {name: torch.from_numpy(each[0]) for name, each in pack(tokenized, rows, size).items()}
    assert {name: len(each) for name, each in fields.items()} == widths(size)
    found = encoder.features_of(batch_of(fields, size), Tokens)
    plain = encoder.features(tokenized, torch.arange(len(lengths))[:, None], Tokens)
    assert isinstance(found, Tokens)
    assert isinstance(plain, Tokens)
    torch.testing.assert_close(found.pooled, plain.pooled, atol=1e-5, rtol=1e-5)
    longest = max(lengths)
    assert torch.equal(found.mask[:, :, :longest], plain.mask)
    assert not found.mask[:, :, longest:].any()
    torch.testing.assert_close(found.tokens[:, :, :longest], plain.tokens, atol=1e-5, rtol=1e-5)


def test_stored_tokens_are_padded_to_the_room() -> None:
    encoder = random_encoder("tiny", VOCAB, QUIET, seed=0)
    table = encode_table(encoder, of_lengths([3, 9, 5, 30]), FeatureSettings("tokens", "mean"))
    rows = torch.tensor([[1, 0], [2, 1]])
    plain, fixed = table.gather(rows), table.gather_fixed(rows, 16)
    assert isinstance(plain, Tokens)
    assert isinstance(fixed, Tokens)
    assert torch.equal(fixed.tokens[:, :, :9], plain.tokens)
    assert not fixed.tokens[:, :, 9:].any()
    assert torch.equal(fixed.mask.sum(2), plain.mask.sum(2))


def test_training_that_leaves_the_rails_is_named() -> None:
    context, vectors = make_work(learning_rate=1e30, epochs=3)
    modules = make_modules(0.0)
    state = train_phase(
        on(context, "cpu", fixed=True), modules, stored(context, vectors, "cpu"), State("p"), lambda s: None
    )
    assert "the loss of" in state.diverged
    assert state.epoch < 3 or "nan" in state.diverged or "inf" in state.diverged


def test_features_on_disk_take_plain_steps_and_it_is_said() -> None:
    context, _ = make_work()
    said: list[str] = []
    encoder = random_encoder("tiny", VOCAB, QUIET, seed=0)
    reader = LiveReader(encoder, of_lengths([3]), FeatureSettings(), Pooled, False, None)  # type: ignore[arg-type]
    steps = make_steps(on(context, "cpu", fixed=True, log=said.append), make_modules(), reader, None)  # type: ignore[arg-type]
    assert not isinstance(steps, FixedSteps)
    assert "no CUDA graphs" in said[0]


def test_an_output_that_is_infinite_ends_nothing() -> None:
    """A head may rule a class out; only losses tell of training that has left the rails."""
    found = []
    for fixed in (False, True):
        context, vectors = make_work(epochs=2)
        modules = make_modules(0.0)
        plain = modules["head"].forward

        def ruled_out(features: Pooled, task: str, plain: Any = plain) -> Tensor:
            outputs: Tensor = plain(features, task)
            out = outputs.shape[1] > 2
            return torch.cat([outputs[:, :-1], outputs[:, -1:] - 1e9 * float("inf")], 1) if out else outputs

        modules["head"].forward = ruled_out
        context = on(context, "cpu", fixed=fixed)
        labels = {key: part.labels for key, part in context.corpus.parts.items()}
        for (task, _), each in labels.items():
            if each is not None and SHAPES[task].classes and SHAPES[task].classes > 2:
                each.clamp_(max=SHAPES[task].classes - 2)
        found.append(train_phase(context, modules, stored(context, vectors, "cpu"), State("pretrain"), lambda s: None))
    assert not found[1].diverged
    assert curve(found[0]) == curve(found[1])


def test_nothing_outlives_a_phase() -> None:
    """Hooks, graphs and what they know of would be a gigabyte a cell."""
    context, _ = make_work(epochs=1, batch_size=8)
    encoder = random_encoder("tiny", VOCAB, QUIET, seed=0)
    with global_stream(0, "init"):
        modules = nn.ModuleDict({"head": Reads(Pooled), "encoder": encoder.model})
    reader = live(encoder, FeatureSettings("pooled", "cls"), Pooled)
    here = on(context, "cpu", fixed=True, autocast=True)
    train_phase(here, modules, reader, State("finetune"), lambda s: None)
    parameter = weakref.ref(next(encoder.model.parameters()))
    gc.disable()
    try:
        del modules, encoder, reader, here
        assert parameter() is None
    finally:
        gc.enable()
