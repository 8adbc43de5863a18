"""A BERT with its tokenizer: texts or word pieces in, features out."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from benchkit.encoder.batch import Batch, compute, gather
from benchkit.encoder.config import BertConfig
from benchkit.encoder.model import MiniBert
from benchkit.encoder.pooling import check_pooling, resolve_layers
from benchkit.encoder.precision import resolve_precision
from benchkit.encoder.stream import EncodedChunk, stream
from benchkit.encoder.tokenizer import Tokenized, tokenize
from benchkit.errors import UserError
from benchkit.features import Layers, Pooled, Tokens


class Encoder:
    """A BERT with its tokenizer.

    Attributes:
        model: float32, also when it computes in bf16.
        notes: what a user should know of this checkpoint, a line each.
    """

    def __init__(self, name: str, model: MiniBert, tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        self.name, self.model, self.tokenizer, self.notes = name, model, tokenizer, notes

    @property
    def config(self) -> BertConfig:
        return self.model.config

    @property
    def hidden(self) -> int:
        return self.config.hidden_size

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def device(self) -> torch.device:
        return self.model.word.weight.device

    def to(self, device: torch.device | str) -> Encoder:
        self.model.to(device)
        return self

    def copy(self) -> Encoder:
        """Another one with the same weights, to be trained."""
        return Encoder(self.name, copy.deepcopy(self.model), self.tokenizer, self.notes)

    def train(self) -> Encoder:
        self.model.train()
        return self

    def eval(self) -> Encoder:
        self.model.eval()
        return self

    @property
    def fingerprint(self) -> str:
        """sha256 over the present weights, the config and the tokenizer: equal means the same numbers.

        Computed at each access (0.1 s per 100 MB), so that a trained encoder is never taken for the original: torch
        does not tell of every change (fused optimisers leave a parameter's version as it was).
        """
        tokenizer = json.loads(self.tokenizer.to_str())
        for setting in ("truncation", "padding"):  # of the last call, not of the tokenizer
            tokenizer.pop(setting, None)
        digest = hashlib.sha256(json.dumps([asdict(self.config), tokenizer], sort_keys=True).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy())
        return digest.hexdigest()

    def tokenize(self, inputs: Sequence[tuple[str, ...]], max_length: int = 512) -> Tokenized:
        """Sentences (1-tuples) and joint pairs (2-tuples, `[CLS] a [SEP] b [SEP]`) as packed word pieces.

        Inputs are cut to `max_length` word pieces, or to the model's positions where these are fewer.

        Raises:
            UserError: an input is not a tuple of one or two strings, a pair for a model with one segment only, or
                `max_length` leaves no room for text.
        """
        if self.config.type_vocab_size < 2 and any(len(texts) == 2 for texts in inputs):
            raise UserError(f"encoder {self.name!r} knows one segment only, so no joint pairs")
        return tokenize(self.tokenizer, inputs, min(max_length, self.config.max_position_embeddings))

    def features(
        self,
        tokenized: Tokenized,
        rows: Tensor,
        reads: type[Pooled] = Pooled,
        pooling: str = "mean",
        layers: tuple[int, ...] = (-1,),
    ) -> Pooled:
        """Live features, with gradients and, in `train()`, dropout.

        Args:
            rows: (batch, segment) int64, which of the inputs.
            layers: put side by side, so hidden of the result is the model's times their number; kept apart where
                `reads` is `Layers`.

        Returns:
            `reads`, float32, on the model's device. Outside `train()` an input named twice is computed once.
        """
        numbers = self.check(pooling, layers)
        flat, inverse = rows.cpu().flatten(), None
        if not self.model.training:
            flat, inverse = torch.unique(flat, return_inverse=True)
        order = tokenized.lengths[flat].argsort(stable=True)
        back = order.argsort() if inverse is None else order.argsort()[inverse]
        batch = gather(tokenized, flat[order], self.device, padded=self.device.type != "cpu")
        want_tokens = issubclass(reads, Tokens)
        pooled, pieces = compute(self.model, batch, pooling, numbers, want_tokens)
        back = back.to(self.device)
        tokens = None if pieces is None else (batch.layout.pad(pieces)[back], batch.layout.mask[back])
        return _as_read(reads, rows.shape, pooled[back], tokens, len(numbers))

    def features_of(
        self,
        batch: Batch,
        reads: type[Pooled] = Pooled,
        pooling: str = "mean",
        layers: tuple[int, ...] = (-1,),
        weights: Mapping[str, Tensor] | None = None,
    ) -> Pooled:
        """As `features`, of a batch that is laid out already: its rows become (row, 1).

        Args:
            weights: in place of the model's own of these names.
        """
        numbers = self.check(pooling, layers)
        pooled, pieces = compute(self.model, batch, pooling, numbers, issubclass(reads, Tokens), weights)
        tokens = None if pieces is None else (batch.layout.pad(pieces), batch.layout.mask)
        return _as_read(reads, (len(pooled), 1), pooled, tokens, len(numbers))

    def encode_chunks(
        self,
        tokenized: Tokenized,
        *,
        reads: type[Pooled] = Pooled,
        pooling: str = "mean",
        layers: tuple[int, ...] = (-1,),
        precision: str = "auto",
        chunk: int = 16384,
    ) -> Iterator[EncodedChunk]:
        """All inputs, each once, longest first; without gradients and without dropout."""
        yield from self.encode_batches(
            [tokenized], reads=reads, pooling=pooling, layers=layers, precision=precision, chunk=chunk
        )

    def encode_batches(
        self,
        batches: Iterable[Tokenized],
        *,
        reads: type[Pooled] = Pooled,
        pooling: str = "mean",
        layers: tuple[int, ...] = (-1,),
        precision: str = "auto",
        chunk: int = 16384,
    ) -> Iterator[EncodedChunk]:
        """As `encode_chunks`, one batch of inputs after the other; a GPU does not wait in between.

        A batch is asked for while the one before it is computed on a GPU.
        """
        numbers = self.check(pooling, layers)
        was_training = self.model.training
        model = self.model
        if resolve_precision(precision, self.device) == "bf16":
            model = _in_bf16(model)
        model.eval()
        try:
            yield from stream(model, batches, pooling, numbers, issubclass(reads, Tokens), chunk)
        finally:
            self.model.train(was_training)

    def encode(
        self,
        texts: Sequence[str],
        pooling: str = "mean",
        layers: tuple[int, ...] = (-1,),
        precision: str = "auto",
        max_length: int = 512,
    ) -> Tensor:
        """(n, width) float32 on the CPU, width = hidden * len(layers); a text named twice is computed once.

        Raises:
            UserError: `texts` is one string or holds something else than strings; a pooling, layer or precision
                that does not exist.
        """
        if isinstance(texts, str):
            raise UserError("encode takes a list of texts, not one text; write encode([text])")
        self.check(pooling, layers)
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        tokenized = self.tokenize([(text,) for text in places], max_length)
        result = torch.empty(len(places), self.hidden * len(layers))
        for chunk in self.encode_chunks(tokenized, pooling=pooling, layers=layers, precision=precision):
            result[chunk.rows] = chunk.pooled
        if len(places) == len(texts):
            return result
        return result[torch.tensor([places[text] for text in texts])]

    def check(self, pooling: str, layers: Sequence[int]) -> tuple[int, ...]:
        """The layers counted from 0, the embeddings.

        Raises:
            UserError: a layer or a pooling that this encoder does not have.
        """
        numbers = resolve_layers(layers, self.config.num_hidden_layers)
        check_pooling(pooling, numbers, self.model)
        return numbers


def _as_read(
    reads: type[Pooled], shape: Sequence[int], pooled: Tensor, tokens: tuple[Tensor, Tensor] | None, layers: int
) -> Pooled:
    """Vectors (row, width), and tokens with their mask (row, time, …), as `reads`; rows become `shape`."""
    pooled = pooled.view(*shape, -1)
    if issubclass(reads, Layers):
        return Layers.split(pooled, layers)
    if tokens is None:
        return Pooled(pooled)
    pieces, mask = tokens
    return Tokens(pooled, pieces.view(*shape, *pieces.shape[1:]), mask.view(*shape, -1))


def _in_bf16(model: MiniBert) -> MiniBert:
    """A copy with weights in bf16; they are not copied in float32 first."""
    rounded: dict[int, Any] = {
        id(each): nn.Parameter(each.detach().to(torch.bfloat16), requires_grad=False) for each in model.parameters()
    }
    return copy.deepcopy(model, rounded)
