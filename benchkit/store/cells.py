"""Finished cells: records, predictions, weights, and the checkpoints of cells that run."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from benchkit.core.errors import UserError
from benchkit.core.record import Record
from benchkit.core.settings import read_json
from benchkit.store.files import locked, write_atomic, writing

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor


_WORD = pa.dictionary(pa.int8(), pa.string())
SCHEMA = pa.schema(
    [
        ("task", _WORD),
        ("split", _WORD),
        ("id", pa.string()),
        ("label", pa.float64()),  # null where the example has none
        ("prediction", pa.float64()),
        ("score", pa.float64()),
    ]
)


def to_parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """The columns of `SCHEMA`, of equal length, as a file; equal values give equal bytes.

    Raises:
        ValueError: other columns, or of unequal length.
    """
    if set(columns) != set(SCHEMA.names):
        raise ValueError(f"predictions have the columns {SCHEMA.names}, not {sorted(columns)}")
    # A NaN label is a missing one; a NaN prediction is what a diverged cell predicts, and stays.
    arrays = [pa.array(columns[field.name], field.type, from_pandas=field.name == "label") for field in SCHEMA]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


_SEAL = b"benchkit checkpoint 1\n"
_START = len(_SEAL) + 32  # bytes before the state: the seal, and the sha256 of the state


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, atomically; not synced: only a machine that dies may lose them.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    import torch

    buffer = io.BytesIO()
    buffer.write(bytes(_START))  # for the seal
    torch.save(dict(state), buffer)
    content = buffer.getbuffer()
    content[:_START] = _SEAL + hashlib.sha256(content[_START:]).digest()
    write_atomic(path, content, durable=False)


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
    import torch

    if content[:_START] != _SEAL + hashlib.sha256(content[_START:]).digest():
        log(f"{path} is damaged: starting over")
        return None
    state = torch.load(io.BytesIO(content[_START:]), map_location=device, weights_only=True)
    assert isinstance(state, dict)
    return state


_LOG = logging.getLogger("benchkit")


class CellStore:
    """Cells under `root/<key>/`: record.json, predictions.parquet, weights.safetensors, checkpoint.pt; and
    encoder.safetensors, where a fine-tuned encoder was kept.

    Processes may share a store. What is damaged counts as absent; `log` gets a line for it.
    """

    def __init__(self, root: Path, log: Callable[[str], None] = _LOG.warning) -> None:
        self.root = root
        self._log = log

    def keys(self) -> list[str]:
        """Keys of the cells with a record, sound or not."""
        return sorted(path.parent.name for path in self.root.glob("*/record.json"))

    def load(self, key: str) -> Record | None:
        """The record of a finished cell whose record and predictions are whole; else None."""
        if not self._path(key, "record.json").exists():
            return None
        # A cell that is not whole is perhaps just being replaced: look again when nobody writes.
        problem: Exception | None = None
        for context in (nullcontext(), self._saving(key)):
            try:
                with context:
                    return self._read(key)
            except (OSError, ValueError, UserError) as error:
                problem = error
        self._log(f"cell {self.root / key} is not usable, so it counts as not run: {problem}")
        return None

    def save(
        self,
        record: Record,
        predictions: Mapping[str, Sequence[Any]],
        weights: Mapping[str, Tensor],
        encoder: Mapping[str, Tensor] | None = None,
        kept: str = "all",
    ) -> Record:
        """Store a finished cell, its record last, and drop its checkpoint; a failed one keeps it.

        Args:
            predictions: columns of equal length, see `benchkit.store.cells`.
            encoder: weights of the encoder that was trained along, where they are to be kept.
            kept: `best` where `drop_encoder` may delete them once there are better ones.

        Returns:
            The record as stored, with the sha256 of the predictions in it.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        key = record.key
        table = to_parquet(predictions)
        record = dataclasses.replace(record, predictions_sha256=hashlib.sha256(table).hexdigest())
        text = json.dumps(record.to_dict(), indent=1) + "\n"
        with self._saving(key):
            self._save_tensors(key, "weights", weights)
            if encoder is not None:
                self._save_tensors(key, "encoder", encoder, kept=kept)
            write_atomic(self._path(key, "predictions.parquet"), table)
            write_atomic(self._path(key, "record.json"), text.encode())
            if record.status != "failed":
                with writing(self.root / key):
                    self._path(key, "checkpoint.pt").unlink(missing_ok=True)
        return record

    def note(self, key: str, error: BaseException) -> Path:
        """Keep the traceback of a cell that failed, in its `error.txt`, whose path is returned."""
        path = self._path(key, "error.txt")
        write_atomic(path, "".join(traceback.format_exception(error)).encode("utf-8", "replace"), durable=False)
        return path

    def predictions(self, key: str) -> pd.DataFrame:
        """The predictions of a finished cell, a row for each example and split.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        path = self._path(key, "predictions.parquet")
        try:
            table = pq.read_table(io.BytesIO(path.read_bytes()))
            if table.schema.names != SCHEMA.names:
                raise ValueError(f"columns {table.schema.names}, expected {SCHEMA.names}")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; run the cell again") from error
        frame: pd.DataFrame = table.to_pandas()
        return frame

    def weights(self, key: str) -> dict[str, Tensor]:
        """The weights of a finished cell, on the CPU.

        Raises:
            UserError: there are none, they cannot be read, or they are another cell's.
        """
        return self._tensors(key, "weights")

    def has_encoder(self, key: str) -> bool:
        """Whether the cell's fine-tuned encoder was kept."""
        return self._path(key, "encoder.safetensors").is_file()

    def encoder_weights(self, key: str) -> dict[str, Tensor]:
        """The weights of the encoder that a cell trained along, on the CPU; raises as `weights` does."""
        return self._tensors(key, "encoder")

    def drop_encoder(self, key: str) -> None:
        """Delete a cell's encoder that was kept only as long as it was the best; one that was asked for stays."""
        path = self._path(key, "encoder.safetensors")
        with contextlib.suppress(OSError, SafetensorError):
            with safe_open(path, framework="pt") as file:
                replaceable = (file.metadata() or {}).get("kept") == "best"
            if replaceable:
                path.unlink()

    def _save_tensors(self, key: str, name: str, weights: Mapping[str, Tensor], **notes: str) -> None:
        from safetensors.torch import save as to_safetensors

        tensors = {name: each.detach().cpu().contiguous() for name, each in weights.items()}
        content = to_safetensors(tensors, {"cell": key, "format": "pt", **notes})
        write_atomic(self._path(key, f"{name}.safetensors"), content)

    def _tensors(self, key: str, name: str) -> dict[str, Tensor]:
        path = self._path(key, f"{name}.safetensors")
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("cell") != key:
                    raise UserError(f"{path} holds the weights of another cell; run the cell again")
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot read {path}: {error}; run the cell again") from error

    def save_checkpoint(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep the state of a running cell; see `benchkit.store.cells`."""
        save_checkpoint(self._path(key, "checkpoint.pt"), state)

    def load_checkpoint(self, key: str, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state of a cell that was interrupted; None if there is none, or no sound one."""
        return load_checkpoint(self._path(key, "checkpoint.pt"), self._log, device)

    def lock(
        self, key: str, *, wait: bool = True, on_wait: Callable[[], None] | None = None
    ) -> AbstractContextManager[bool]:
        """Hold a cell while it runs; see `benchkit.store.files.locked`."""
        return locked(self._path(key, "lock"), wait=wait, on_wait=on_wait)

    def _saving(self, key: str) -> AbstractContextManager[bool]:
        """Held for moments; apart from `lock`, whose holder is the one that saves."""
        return locked(self._path(key, "saving.lock"), wait=True)

    def _read(self, key: str) -> Record:
        record = Record.from_dict(read_json(self._path(key, "record.json")))
        if record.key != key:
            raise ValueError(f"record.json is of the cell {record.key}")
        sha = hashlib.sha256(self._path(key, "predictions.parquet").read_bytes()).hexdigest()
        if sha != record.predictions_sha256:
            raise ValueError("predictions.parquet is not the one the record was written with")
        return record

    def _path(self, key: str, name: str) -> Path:
        return self.root / key / name


RUNS = Path("results/runs")
"""Where `benchkit run` writes by default."""
_SHOWN = 6


def find_cell(text: str, out: Path | None = None) -> Path:
    """A cell's folder: given as such, or the beginning of a key under `out`, or else under all of `RUNS`.

    Raises:
        UserError: there is no such cell, there are several, or it has no record yet.
    """
    if not text.strip():
        raise UserError("a cell's name is empty: give its folder, or the beginning of its key")
    path = Path(text).expanduser()
    if path.name == "record.json":
        path = path.parent
    if path.is_dir():
        return _checked(path)
    root = out or RUNS
    if out is not None and not out.is_dir():
        raise UserError(f"no folder {out}: --out takes the folder of a run")
    folders = [each for each in sorted(root.glob("**/cells/*")) if each.name.startswith(text) and each.is_dir()]
    if not folders:
        raise UserError(f"no cell {text!r} in {root}: give a cell's folder, or the beginning of its key and --out DIR")
    if len(folders) > 1:
        raise UserError(
            f"{text!r} may be {_listed([str(each) for each in folders])}: give more of its key, or a folder"
        )
    return _checked(folders[0])


def open_record(folder: Path, log: Callable[[str], None]) -> Record:
    """The record of a cell's folder.

    Raises:
        UserError: it is damaged, or of a schema that this benchkit does not read; `log` is told which.
    """
    record = CellStore(folder.parent, log=log).load(folder.name)
    if record is None:
        raise UserError(f"the record in {folder} cannot be used; run the cell again")
    return record


def _checked(folder: Path) -> Path:
    folder = folder.resolve()
    if (folder / "record.json").is_file():
        return folder
    if (folder / "cells").is_dir():
        keys = [each.parent.name for each in sorted(folder.glob("cells/*/record.json"))]
        raise UserError(f"{folder} is the folder of a run; name one of its cells: {_listed(keys) or 'it has none'}")
    if any((folder / name).exists() for name in ("checkpoint.pt", "lock")):
        raise UserError(f"the cell in {folder} has no record yet: it runs, or it was stopped; the same run goes on")
    raise UserError(f"{folder} is no cell: it has no record.json")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
