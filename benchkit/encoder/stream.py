"""Many inputs through a frozen trunk, as fast as the device allows, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from benchkit.encoder.batch import compute, gather
from benchkit.encoder.model import MiniBert
from benchkit.encoder.tokenizer import Tokenized

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
    model: MiniBert, batches: Iterable[Tokenized], pooling: str, layers: tuple[int, ...], tokens: bool, chunk: int
) -> Iterator[EncodedChunk]:
    """All inputs of each batch, longest first (so that a lack of memory shows at once), at most `chunk` at a time."""
    device = next(model.parameters()).device
    on_cpu = device.type == "cpu"

    def start(number: int, tokenized: Tokenized, rows: Tensor, lengths: Tensor) -> Callable[[], EncodedChunk]:
        """Encode a chunk; on a GPU, ask for it. Returns what waits for it."""

        @torch.inference_mode()
        def encode(rows: Tensor) -> tuple[Tensor, Tensor | None]:
            return compute(model, gather(tokenized, rows, device, not on_cpu), pooling, layers, tokens)

        packs = [rows[pack] for pack in _cut(lengths, None, CPU_PACK if on_cpu else GPU_PACK)]
        with _map_over_cores(on_cpu) as map_over_cores:
            pooled, pieces = zip(*map_over_cores(encode, packs), strict=True)
        finish = fetch(torch.cat(pooled), torch.cat(pieces) if tokens else None)
        return lambda: EncodedChunk(number, rows, *finish(), lengths)

    def started() -> Iterator[Callable[[], EncodedChunk]]:
        for number, tokenized in enumerate(batches):
            order = tokenized.lengths.argsort(descending=True, stable=True)
            lengths = tokenized.lengths[order]
            for part in _cut(lengths, chunk, CHUNK_TOKENS if tokens else None):
                yield start(number, tokenized, order[part], lengths[part])

    yield from (finish() for finish in started()) if on_cpu else one_ahead(started())


def fetch(pooled: Tensor, pieces: Tensor | None) -> Callable[[], tuple[Tensor, Tensor | None]]:
    """Copy to the CPU without waiting; returns what waits for it. The copies may take part in training."""
    if not pooled.is_cuda:
        return lambda: (pooled.cpu().clone(), None if pieces is None else pieces.cpu().clone())
    found = [
        None if each is None else torch.empty_like(each, device="cpu", pin_memory=True) for each in (pooled, pieces)
    ]
    for source, into in zip((pooled, pieces), found, strict=True):
        if source is not None and into is not None:
            into.copy_(source, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(pooled.device))

    def wait() -> tuple[Tensor, Tensor | None]:
        done.synchronize()
        first, second = (None if each is None else each.clone() for each in found)
        assert first is not None
        return first, second

    return wait


def one_ahead(started: Iterator[Callable[[], A]]) -> Iterator[A]:
    """Results in order, each waited for only when the next has been started."""
    waiting: Callable[[], A] | None = None
    for finish in started:
        if waiting is not None:
            yield waiting()
        waiting = finish
    if waiting is not None:
        yield waiting()


def _cut(lengths: Tensor, rows: int | None, tokens: int | None) -> Iterator[slice]:
    """Neighbouring slices of at most that many rows and word pieces (but never less than one row)."""
    ends = lengths.cumsum(0)
    start, done = 0, 0
    while start < len(lengths):
        stop = len(lengths) if rows is None else min(start + rows, len(lengths))
        if tokens is not None:
            fit = int(torch.searchsorted(ends, done + tokens, right=True))
            stop = max(start + 1, min(stop, fit))
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
