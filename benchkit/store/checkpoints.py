"""Training states on disk, sealed with the sha256 of their content."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from benchkit.store.atomic import write_atomic

_SEAL = b"benchkit checkpoint 1\n"
_SHA_BYTES = 32


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, atomically; not synced: only a machine that dies may lose them.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getbuffer()

    def write(file: BinaryIO) -> None:
        file.write(_SEAL + hashlib.sha256(content).digest())
        file.write(content)

    write_atomic(path, write, durable=False)


def load_checkpoint(
    path: Path, log: Callable[[str], None], device: torch.device | str = "cpu"
) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote; None if there is nothing, or nothing sound, which `log` is told."""
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        log(f"cannot read {path} ({error.strerror}): starting over")
        return None
    start = len(_SEAL) + _SHA_BYTES
    if content[:start] != _SEAL + hashlib.sha256(content[start:]).digest():
        log(f"{path} is damaged: starting over")
        return None
    state = torch.load(io.BytesIO(content[start:]), map_location=device, weights_only=True)
    assert isinstance(state, dict)
    return state
