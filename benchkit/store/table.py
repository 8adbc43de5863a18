"""Feature tables: features of a list of inputs, gathered batch by batch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchkit.core.features import Pooled
from benchkit.encoder.encoder import as_features
from benchkit.store.files import write_atomic


@dataclass(frozen=True)
class MappedTokens:
    """Tokens that stay on disk; a gather copies what it needs.

    Attributes:
        parts: one for each segment, (piece, hidden), float32 or bfloat16.
        part: (row), int64: the part that holds the row.
        start: (row), int64: the row's first piece in its part.
        length: (row), int64.
    """

    parts: Sequence[Tensor]
    part: Tensor
    start: Tensor
    length: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens of all rows: what `resident` takes."""
        return int(self.length.sum()) * self.parts[0].shape[1] * self.parts[0].element_size()

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of `rows` (row): (row, time, hidden), float32, zero in the padding; and their mask (row, time)."""
        rows = rows.cpu()
        tokens, mask = _padding(self.length[rows], self.parts[0])
        self._copy(rows, tokens.flatten(0, 1), torch.arange(len(rows)) * mask.shape[1])
        return tokens.float(), mask

    def packed(self, rows: Tensor) -> Tensor:
        """Tokens of `rows` (row), concatenated without padding: (piece, hidden), float32."""
        rows = rows.cpu()
        ends = self.length[rows].cumsum(0)
        found = self.parts[0].new_empty((int(ends[-1]) if len(rows) else 0, self.parts[0].shape[1]))
        self._copy(rows, found, ends - self.length[rows])
        return found.float()

    def _copy(self, rows: Tensor, into: Tensor, places: Tensor) -> None:
        """Copy the tokens of `rows` to `into` (piece, hidden). Those of a row start at its place."""
        numbers = [each.tolist() for each in (places, self.part[rows], self.start[rows], self.length[rows])]
        raw = _bits(into).numpy()
        parts = {part: _bits(self.parts[part]).numpy() for part in set(numbers[1])}
        for place, part, start, n in zip(*numbers, strict=True):  # slices of NumPy arrays cost a third of torch's
            raw[place : place + n] = parts[part][start : start + n]

    def resident(self, device: torch.device) -> ResidentTokens:
        """All rows in the memory of `device`, copied one after the other."""
        total, width = int(self.length.sum()), self.parts[0].shape[1]
        tokens = torch.empty((total, width), dtype=self.parts[0].dtype, device=device)
        start = self.length.cumsum(0) - self.length
        for i, part in enumerate(self.parts):
            (rows,) = torch.nonzero(self.part == i, as_tuple=True)
            pieces = _ranges(self.start[rows], self.length[rows])
            tokens[_ranges(start[rows], self.length[rows]).to(device)] = part[pieces].to(device)
        return ResidentTokens(tokens, start.to(device), self.length)


@dataclass(frozen=True)
class ResidentTokens:
    """Tokens in one tensor in the memory of a device.

    Attributes:
        tokens: (piece, hidden), float32 or bfloat16.
        start: (row), int64, on the same device.
        length: (row), int64, on the CPU, so the longest of a batch is known without waiting for the device.
    """

    tokens: Tensor
    start: Tensor
    length: Tensor

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Like `MappedTokens.gather`, but on the device of the tokens."""
        tokens, mask = _padding(self.length[rows.cpu()], self.tokens)
        steps = torch.arange(mask.shape[1], device=mask.device)
        pieces = self.start[rows.to(self.start.device), None] + steps
        tokens[mask] = self.tokens[pieces[mask]]
        return tokens.float(), mask

    def packed(self, rows: Tensor) -> Tensor:
        """Like `MappedTokens.packed`, but on the device of the tokens."""
        rows = rows.cpu()
        pieces = _ranges(self.start.cpu()[rows], self.length[rows])
        return self.tokens[pieces.to(self.tokens.device)].float()

    def gather_fixed(self, rows: Tensor, time: int) -> tuple[Tensor, Tensor]:
        """Like `gather`, for `rows` on the device, padded to `time` (no row is longer). Does not synchronise."""
        steps = torch.arange(time, device=rows.device)
        mask = steps < self.length_there[rows, None]
        pieces = (self.start[rows, None] + steps).clamp(max=len(self.tokens) - 1)
        return self.tokens[pieces].float().masked_fill(~mask[..., None], 0.0), mask

    @cached_property
    def length_there(self) -> Tensor:
        """`length` on the device."""
        return self.length.to(self.start.device)


def _padding(length: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros (row, time, hidden) of the type of `like`, and the mask (row, time) of `length` (row)."""
    time = int(length.max()) if len(length) else 0
    mask = torch.arange(time) < length[:, None]
    return like.new_zeros((len(length), time, like.shape[1])), mask.to(like.device)


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as integers for bfloat16, which NumPy does not have."""
    return tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor


def _ranges(start: Tensor, length: Tensor) -> Tensor:
    """start[0], start[0] + 1, … (length[0] of them), start[1], …"""
    first = length.cumsum(0) - length
    return torch.arange(int(length.sum())) + torch.repeat_interleave(start - first, length)


DIGEST_BYTES = 16


class BadSegment(Exception):
    """A segment that must not be served; the message says why."""


@dataclass(frozen=True)
class Segment:
    """A verified segment; its tensors are views of the mapped file, read from disk when they are touched.

    Attributes:
        digests: one for each input, `DIGEST_BYTES` long.
        pooled: (input, hidden), float32.
        offsets: (input + 1), int64: input i owns `tokens[offsets[i]:offsets[i + 1]]`; None without tokens.
        tokens: (piece, hidden), float32 or bfloat16; None without tokens.
    """

    path: Path
    digests: list[bytes]
    pooled: Tensor
    offsets: Tensor | None
    tokens: Tensor | None


def digest(texts: tuple[str, ...]) -> bytes:
    """Hash that names an input, a sentence or a joint pair. It depends on where each text ends."""
    framed = "\0".join([*map(str, map(len, texts)), *texts]).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(framed, digest_size=DIGEST_BYTES).digest()


def write_segment(
    folder: Path, digests: Iterable[bytes], pooled: Tensor, tokens: Tensor | None, lengths: Tensor
) -> Path:
    """Append a segment to the store in `folder`, whose name is the store's key.

    Args:
        pooled: (input, hidden), float32.
        tokens: (piece, hidden), float32 or bfloat16, or None.
        lengths: (input), int64: word pieces of each input.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    names = torch.from_numpy(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES).copy())
    tensors = {"digests": names, "pooled": pooled}
    if tokens is not None:
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
        offsets[1:] = lengths.cumsum(0)
        tensors |= {"offsets": offsets, "tokens": tokens}
    content = save(tensors, {"store": folder.name})
    path = folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
    write_atomic(path, content)
    return path


def open_segment(path: Path, *, verify: bool = True) -> Segment:
    """Map a segment.

    Args:
        verify: also compare the sha256 of the whole file with its name.

    Raises:
        BadSegment: the content does not match its name, or the segment belongs to another store.
        OSError: it cannot be read.
    """
    if verify:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != path.stem:
                raise BadSegment("its content is not what its name says")
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("store") != path.parent.name:
                raise BadSegment("it belongs to another store")
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise BadSegment(f"not a safetensors file: {error}") from error
    if not {"digests", "pooled"} <= names:
        raise BadSegment("it holds no features")
    raw = tensors["digests"].numpy().tobytes()
    digests = [raw[i : i + DIGEST_BYTES] for i in range(0, len(raw), DIGEST_BYTES)]
    return Segment(path, digests, tensors["pooled"], tensors.get("offsets"), tensors.get("tokens"))


@dataclass(frozen=True)
class Report:
    """How a table was made: the number of distinct inputs that were stored already, and that were encoded."""

    reused: int
    encoded: int
    seconds: float


@dataclass(frozen=True)
class FeatureTable:
    """Row i holds the features of input i.

    Attributes:
        pooled: (row, hidden), float32, in memory.
        tokens: the word pieces of each row; None where only pooled features were asked for.
        layers: number of layers whose vectors a row of `pooled` holds, to be kept apart; 0 if it is one vector.
    """

    pooled: Tensor
    tokens: MappedTokens | ResidentTokens | None
    report: Report
    layers: int = 0

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def width(self) -> int:
        return self.pooled.shape[1]

    def gather(self, rows: Tensor) -> Pooled:
        """The features of `rows` (batch, segment), int64, on the device of `pooled`.

        `Tokens` if the table holds them, padded to the longest input of the batch; `Layers` if it keeps them apart.
        """
        return self._gather(rows, self.tokens.gather if self.tokens else None)

    def gather_fixed(self, rows: Tensor, time: int) -> Pooled:
        """Like `gather`, for `rows` (batch, segment) on the device of `pooled`, with tokens padded to `time`.

        Only for a table whose tokens, if it has any, are `resident`.
        """
        assert not isinstance(self.tokens, MappedTokens)
        return self._gather(rows, partial(self.tokens.gather_fixed, time=time) if self.tokens else None)

    def _gather(self, rows: Tensor, gather: Callable[[Tensor], tuple[Tensor, Tensor]] | None) -> Pooled:
        flat = rows.reshape(-1)
        pooled = self.pooled.index_select(0, flat.to(self.pooled.device))
        if gather is None or self.layers:
            return as_features(rows.shape, pooled, None, self.layers)
        tokens, mask = gather(flat)
        return as_features(rows.shape, pooled, (tokens.to(pooled.device), mask.to(pooled.device)))

    def to(self, device: torch.device | str) -> FeatureTable:
        """The table on `device`; tokens of more than half of a GPU's free memory stay on disk."""
        device = torch.device(device)
        tokens = self.tokens
        if isinstance(tokens, MappedTokens) and device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if len(self) and tokens.nbytes < free // 2:
                tokens = tokens.resident(device)
        return dataclasses.replace(self, pooled=self.pooled.to(device), tokens=tokens)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Like `Tensor.record_stream`, for all tensors in a GPU's memory.

        Their memory is reused only after `stream` has finished the work that was queued on it.
        """
        tensors = [self.pooled]
        if isinstance(self.tokens, ResidentTokens):
            tensors += [self.tokens.tokens, self.tokens.start, self.tokens.length_there]
        for each in tensors:
            if each.is_cuda:
                each.record_stream(stream)


def assemble(
    digests: Sequence[bytes], segments: Sequence[Segment], width: int, report: Report, layers: int = 0
) -> FeatureTable:
    """A table whose row i is the input with digest `digests[i]`, taken from `segments`.

    The table has tokens if the segments have them. An input in several segments is taken from the last one.
    """
    place = {name: i for i, name in enumerate(name for segment in segments for name in segment.digests)}
    places = torch.tensor([place[name] for name in digests], dtype=torch.int64)
    ends = torch.tensor([len(segment.digests) for segment in segments], dtype=torch.int64).cumsum(0)
    part = torch.searchsorted(ends, places, right=True)
    local = places - torch.cat([ends.new_zeros(1), ends])[part]
    pooled = torch.empty((len(digests), width))
    start, length = torch.zeros_like(local), torch.zeros_like(local)
    for i, segment in enumerate(segments):
        (rows,) = torch.nonzero(part == i, as_tuple=True)
        pooled.index_copy_(0, rows, segment.pooled[local[rows]])
        if segment.offsets is not None:
            start[rows] = segment.offsets[local[rows]]
            length[rows] = segment.offsets[local[rows] + 1] - start[rows]
    parts = [segment.tokens for segment in segments if segment.tokens is not None]
    tokens = MappedTokens(parts, part, start, length) if parts else None
    return FeatureTable(pooled, tokens, report, layers)
