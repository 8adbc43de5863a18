"""Records of cells that ended, well or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from benchkit.encoder import Encoder
from benchkit.errors import UserError
from benchkit.record import PhaseResult, Record, Status
from benchkit.runner.cell import Cell
from benchkit.runner.environment import environment, peak_memory
from benchkit.runner.workspace import Data
from benchkit.store.cells import CellStore


def result_of(cell: Cell, store: CellStore) -> Record | None:
    """The record of a cell that need not run.

    One that does not answer all that is asked is run again, and so is one whose encoder is to be kept and was not.
    """
    done = store.load(cell.key)
    if not cell.answered(done) or (cell.keeps_encoder and not store.has_encoder(cell.key)):
        return None
    return done


def finished(
    cell: Cell,
    data: Data,
    encoder: Encoder,
    parameters: dict[str, int],
    phases: Sequence[PhaseResult],
    *,
    diverged: str,
    collapses: Sequence[str],
) -> Record:
    """The record of a cell that ran to its end, or until its training diverged."""
    error = diverged or "; ".join(collapses)
    status: Status = "diverged" if diverged else "collapsed" if error else "ok"
    return Record(
        key=cell.key,
        head=cell.head,
        seed=cell.seed,
        status=status,
        identity=cell.identity,
        sources=cell.sources,
        parameters=parameters,
        environment=environment(cell.execution),
        data={"name": cell.data, "splits": splits_of(data)},
        encoder={
            "name": encoder.name,
            "fingerprint": cell.identity["encoder"],  # its weights may have been trained since
            "notes": list(encoder.notes),
            "config": dataclasses.asdict(encoder.config),
        },
        phases=tuple(phases),
        error=error,
        peak_memory_bytes=peak_memory(torch.device(cell.execution.device)),
    )


def failed(cell: Cell, error: Exception) -> Record:
    """The record of a cell that could not be run, with the reason in one line."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        text = out_of_memory(cell)
    elif not isinstance(error, UserError):
        text = f"head {cell.head!r} raised {type(error).__name__}: {text}"
    return Record(
        key=cell.key,
        head=cell.head,
        seed=cell.seed,
        status="failed",
        identity=cell.identity,
        sources=cell.sources,
        environment=environment(cell.execution),
        error=text,
    )


def out_of_memory(cell: Cell) -> str:
    """What to say when memory ran out: names the batch sizes."""
    sizes = ", ".join(f"{name}.batch_size={cell.protocol.phase(name).batch_size}" for name in cell.protocol.phases)
    return f"out of memory on {cell.execution.device} with {sizes}; --set a smaller one (it is never shrunk for you)"


def splits_of(data: Data) -> dict[str, Any]:
    """Rows, source, sha256 of the file and broken rows of each split, by task."""
    return {
        task: {
            name: {"rows": len(s), "source": s.source, "sha256": s.sha256, "broken": len(s.broken)}
            for name, s in splits.items()
        }
        for task, splits in data.items()
    }
