"""An encoder: tokenizer and miniBERT together, from texts to features."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from benchkit.core.errors import UserError
from benchkit.core.features import POOLINGS, Layers, Pooled, Tokens
from benchkit.encoder.bert import BertConfig, MiniBert
from benchkit.encoder.packing import Batch, Inputs, compute, gather
from benchkit.encoder.tokenizer import Tokenized, tokenize

Precision = Literal["fp32", "bf16"]


def resolve_precision(requested: str, device: torch.device | str) -> Precision:
    """`auto` is bf16 where the hardware multiplies bf16 natively, and fp32 elsewhere.

    Native is: AMX or AVX512-BF16 on a CPU, compute capability 8.0 on CUDA. Asking for bf16 where it is emulated
    is allowed: slower than fp32, but it gives the numbers.

    Raises:
        UserError: not one of auto, fp32, bf16.
    """
    if requested == "auto":
        device, native = torch.device(device), False
        if device.type == "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0)
        elif device.type == "cpu":
            # Private, and absent on some platforms and releases; there it is not known to be native.
            names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
            native = any(probe() for name in names if (probe := getattr(torch.cpu, name, None)))
        return "bf16" if native else "fp32"
    if requested not in ("fp32", "bf16"):
        raise UserError(f"precision is one of auto, fp32, bf16, not {requested!r}")
    return "bf16" if requested == "bf16" else "fp32"


# Word pieces in one pass through the trunk. On a CPU: enough for full GEMM speed (measured; flat from 512 up), little
# enough that activations stay in the cache. On a GPU: enough to fill it.
CPU_PACK, GPU_PACK = 1024, 65536
# Word pieces in one chunk when their vectors are kept: about 400 MB at hidden 384, 800 MB at 768.
CHUNK_TOKENS = 262144

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class EncodedChunk:
    """Some of the inputs, encoded; on the CPU.

    Attributes:
        batch: which batch of inputs, counted from 0.
        rows: (k,) int64, which of its inputs.
        pooled: (k, width) float32.
        tokens: (total, width) float32, the rows' word pieces end to end, or None when not asked for.
        lengths: (k,) int64, word pieces a row.
    """

    batch: int
    rows: Tensor
    pooled: Tensor
    tokens: Tensor | None
    lengths: Tensor


def stream(
    model: MiniBert, batches: Iterable[Inputs], pooling: str, layers: tuple[int, ...], tokens: bool, chunk: int
) -> Iterator[EncodedChunk]:
    """All inputs of each batch, longest first (so that a lack of memory shows at once), at most `chunk` at a time."""
    device = next(model.parameters()).device
    on_cpu = device.type == "cpu"

    def start(number: int, tokenized: Inputs, rows: Tensor, lengths: Tensor) -> Callable[[], EncodedChunk]:
        """Encode a chunk; on a GPU, ask for it. Returns what waits for it."""

        @torch.inference_mode()
        def encode(rows: Tensor) -> tuple[Tensor, Tensor | None]:
            return compute(model, gather(tokenized, rows, device, not on_cpu), pooling, layers, tokens)

        packs = [rows[pack] for pack in _cut(lengths, len(lengths), CPU_PACK if on_cpu else GPU_PACK)]
        with _map_over_cores(on_cpu) as map_over_cores:
            parts = list(zip(*map_over_cores(encode, packs), strict=True))
        finish = fetch([torch.cat(each) for each in parts[: 1 + tokens]])

        def chunk() -> EncodedChunk:
            pooled, *pieces = finish()
            return EncodedChunk(number, rows, pooled, pieces[0] if pieces else None, lengths)

        return chunk

    def started() -> Iterator[Callable[[], EncodedChunk]]:
        for number, tokenized in enumerate(batches):
            order = tokenized.lengths.argsort(descending=True, stable=True)
            lengths = tokenized.lengths[order]
            for part in _cut(lengths, chunk, CHUNK_TOKENS if tokens else int(lengths.sum())):
                yield start(number, tokenized, order[part], lengths[part])

    yield from (finish() for finish in started()) if on_cpu else pipelined(started())


def fetch(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Copy to the CPU without waiting; returns what waits for it. The copies may take part in training."""
    if not tensors[0].is_cuda:
        return lambda: [each.cpu().clone() for each in tensors]
    found = [torch.empty_like(each, device="cpu", pin_memory=True) for each in tensors]
    for source, into in zip(tensors, found, strict=True):
        into.copy_(source, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(tensors[0].device))

    def wait() -> list[Tensor]:
        done.synchronize()
        return [each.clone() for each in found]

    return wait


def pipelined(started: Iterator[Callable[[], A]]) -> Iterator[A]:
    """Results in order, each waited for only when the next has been started."""
    waiting: Callable[[], A] | None = None
    for finish in started:
        if waiting is not None:
            yield waiting()
        waiting = finish
    if waiting is not None:
        yield waiting()


def _cut(lengths: Tensor, rows: int, tokens: int) -> Iterator[slice]:
    """Neighbouring slices of at most that many rows and word pieces (but never less than one row)."""
    ends = lengths.cumsum(0)
    start, done = 0, 0
    while start < len(lengths):
        fit = int(torch.searchsorted(ends, done + tokens, right=True))
        stop = max(start + 1, min(start + rows, fit))
        yield slice(start, stop)
        start, done = stop, int(ends[stop - 1])


@contextmanager
def _map_over_cores(parallel: bool) -> Iterator[Callable[[Callable[[A], B], Sequence[A]], Iterator[B]]]:
    """A `map` with one Python thread a core, each computing alone.

    Splitting every small operation over all cores instead waits for the slower half a hundred times a pass (measured:
    1.2 times slower on two cores). The results are the same, and in the same order.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not parallel:
        yield map
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)
            # The setting is a thread's own, but new threads copy the last one made.
            torch.set_num_threads(threads)


class Encoder:
    """A BERT with its tokenizer.

    Attributes:
        model: float32, also when it computes in bf16.
        notes: what a user should know about this checkpoint, one line each.
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
        """A copy with the same weights, for training."""
        return Encoder(self.name, copy.deepcopy(self.model), self.tokenizer, self.notes)

    def train(self) -> Encoder:
        self.model.train()
        return self

    def eval(self) -> Encoder:
        self.model.eval()
        return self

    @property
    def fingerprint(self) -> str:
        """sha256 over the current weights, the config and the tokenizer. Equal hashes mean equal numbers.

        It is computed at each access (0.1 s per 100 MB), so that a trained encoder is never mistaken for the original.
        torch does not report every change: fused optimisers do not update a parameter's version.
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

        Inputs are cut to `max_length` word pieces, or to the model's positions if these are fewer.

        Raises:
            UserError: an input is not a tuple of one or two strings, a pair for a model with one segment only, or
                `max_length` leaves no room for text.
        """
        if self.config.type_vocab_size < 2 and any(len(texts) == 2 for texts in inputs):
            raise UserError(f"encoder {self.name!r} knows one segment only, so no joint pairs")
        return tokenize(self.tokenizer, inputs, min(max_length, self.config.max_position_embeddings))

    def features(
        self,
        tokenized: Inputs,
        rows: Tensor,
        reads: type[Pooled] = Pooled,
        pooling: str = "mean",
        layers: tuple[int, ...] = (-1,),
        weights: Mapping[str, Tensor] | None = None,
    ) -> Pooled:
        """Live features, with gradients and, in `train()`, dropout.

        Args:
            rows: (batch, segment) int64, which of the inputs.
            layers: their vectors are concatenated, so the result's `hidden` is the model's times the number of layers.
                If `reads` is `Layers`, they are kept apart.
            weights: in place of the model's own of these names.

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
        pooled, pieces = compute(self.model, batch, pooling, numbers, want_tokens, weights)
        back = back.to(self.device)
        tokens = None if pieces is None else (batch.layout.pad(pieces)[back], batch.layout.mask[back])
        return as_features(rows.shape, pooled[back], tokens, len(numbers) if issubclass(reads, Layers) else 0)

    def features_of(
        self,
        batch: Batch,
        reads: type[Pooled] = Pooled,
        pooling: str = "mean",
        layers: tuple[int, ...] = (-1,),
        weights: Mapping[str, Tensor] | None = None,
    ) -> Pooled:
        """Like `features`, for a batch that is already laid out: its rows become (row, 1).

        Args:
            weights: in place of the model's own of these names.
        """
        numbers = self.check(pooling, layers)
        pooled, pieces = compute(self.model, batch, pooling, numbers, issubclass(reads, Tokens), weights)
        tokens = None if pieces is None else (batch.layout.pad(pieces), batch.layout.mask)
        return as_features((len(pooled), 1), pooled, tokens, len(numbers) if issubclass(reads, Layers) else 0)

    def encode_chunks(
        self,
        batches: Iterable[Inputs],
        *,
        reads: type[Pooled] = Pooled,
        pooling: str = "mean",
        layers: tuple[int, ...] = (-1,),
        precision: str = "auto",
        chunk: int = 16384,
    ) -> Iterator[EncodedChunk]:
        """Encode all inputs once, the longest of a batch first, without gradients and dropout.

        On a GPU, the next batch is requested while one is being computed, so the device does not wait.
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
        """Encode texts as (n, width) float32 on the CPU, width = hidden * len(layers); a repeated text is computed
        once.

        Raises:
            UserError: `texts` is a single string or contains something other than strings, or the pooling, a layer or
                the precision does not exist.
        """
        if isinstance(texts, str):
            raise UserError("encode takes a list of texts, not one text; write encode([text])")
        self.check(pooling, layers)
        places: dict[str, int] = {}
        rows = [places.setdefault(text, len(places)) for text in texts]
        tokenized = self.tokenize([(text,) for text in places], max_length)
        result = torch.empty(len(places), self.hidden * len(layers))
        for chunk in self.encode_chunks([tokenized], pooling=pooling, layers=layers, precision=precision):
            result[chunk.rows] = chunk.pooled
        return result if len(places) == len(texts) else result[torch.tensor(rows)]

    def check(self, pooling: str, layers: Sequence[int]) -> tuple[int, ...]:
        """Check pooling and layers; return the layers counted from 0 (the embeddings).

        Raises:
            UserError: this encoder does not have the pooling or one of the layers.
        """
        last = self.config.num_hidden_layers
        if not layers:
            raise UserError("layers is empty; name at least one, such as -1 for the last")
        for layer in layers:
            if not -last - 1 <= layer <= last:
                raise UserError(f"layer {layer} does not exist; this encoder has 0 (embeddings) to {last} (last)")
        numbers = tuple(layer % (last + 1) for layer in layers)
        if pooling not in POOLINGS:
            raise UserError(f"pooling is one of {', '.join(POOLINGS)}, not {pooling!r}")
        if pooling == "pooler" and self.model.pooler is None:
            raise UserError("pooling 'pooler' needs pooler weights, and this checkpoint has none; use cls or mean")
        if pooling == "pooler" and numbers != (last,):
            raise UserError("pooling 'pooler' reads the last layer only; use layers (-1,)")
        return numbers


def as_features(shape: Sequence[int], pooled: Tensor, tokens: tuple[Tensor, Tensor] | None, layers: int = 0) -> Pooled:
    """Arrange rows of vectors as features of shape (batch, segment).

    Args:
        pooled: (row, width).
        tokens: (row, time, width) and their mask (row, time), for `Tokens`.
        layers: number of layers whose vectors are concatenated in `pooled`. They are split into `Layers`; 0 means no
            split.
    """
    pooled = pooled.view(*shape, pooled.shape[-1])
    if layers:
        return Layers.split(pooled, layers)
    if tokens is None:
        return Pooled(pooled)
    pieces, mask = tokens
    return Tokens(pooled, pieces.view(*shape, *pieces.shape[1:]), mask.view(*shape, mask.shape[1]))


def _in_bf16(model: MiniBert) -> MiniBert:
    """A copy with weights in bf16, made without a copy in float32."""
    rounded: dict[int, Any] = {
        id(each): nn.Parameter(each.detach().to(torch.bfloat16), requires_grad=False) for each in model.parameters()
    }
    return copy.deepcopy(model, rounded)


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder that can be selected by name.

    Attributes:
        name: what `--encoder` takes.
        summary: one line for lists.
        load: returns the encoder; called only when it is used.
    """

    name: str
    summary: str
    load: Callable[[], Encoder]
