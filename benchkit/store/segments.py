"""Segments: what one chunk of encoding left on disk. Immutable, named after the sha256 of their bytes.

A segment is a safetensors file that also names the store it belongs to, so that one that was truncated,
changed, renamed, or copied from elsewhere is not taken for what was asked.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchkit.store.atomic import write_atomic

DIGEST_BYTES = 16
_DTYPES = {torch.uint8: "U8", torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16"}
_ORDER = (torch.int64, torch.float32, torch.bfloat16, torch.uint8)  # wide to narrow keeps each tensor aligned


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
    """Names an input, a sentence or a joint pair; where one text ends and the next begins is part of it."""
    framed = "\0".join([*map(str, map(len, texts)), *texts]).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(framed, digest_size=DIGEST_BYTES).digest()


def write_segment(
    folder: Path, key: str, digests: Iterable[bytes], pooled: Tensor, tokens: Tensor | None, lengths: Tensor
) -> Path:
    """Append a segment to the store `key` in `folder`.

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
    blocks = safetensors_blocks(tensors, {"store": key})
    sha = hashlib.sha256()
    for block in blocks:
        sha.update(block)
    path = folder / f"{sha.hexdigest()}.safetensors"

    def write(file: BinaryIO) -> None:
        for block in blocks:
            file.write(block)

    write_atomic(path, write)
    return path


def open_segment(path: Path, key: str, *, verify: bool = True) -> Segment:
    """Map a segment.

    Args:
        verify: also compare the sha256 of the whole file with its name.

    Raises:
        BadSegment: it is not what its name or `key` says.
        OSError: it cannot be read.
    """
    if verify:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != path.stem:
                raise BadSegment("its content is not what its name says")
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("store") != key:
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


def safetensors_blocks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[memoryview]:
    """The bytes of a safetensors file, tensors by reference: hashed and written without a copy."""
    if sys.byteorder != "little":
        raise RuntimeError("safetensors files are little-endian, this machine is not")
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    blocks, end = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: _ORDER.index(item[1].dtype)):
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        start, end = end, end + flat.numel()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        blocks.append(flat.numpy().data)
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *blocks]
