"""The cell store: a folder for each cell, finished when its `record.json` is there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from benchkit.errors import UserError
from benchkit.record import Record
from benchkit.store.atomic import write_atomic, writing
from benchkit.store.checkpoints import load_checkpoint, save_checkpoint
from benchkit.store.locks import locked
from benchkit.store.predictions import from_parquet, to_parquet

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor

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
        try:
            return self._read(key)
        except (OSError, ValueError):
            pass
        # Perhaps it is just being replaced: look again when nobody writes. Where nobody can, nobody does.
        try:
            with self._saving(key):
                return self._read(key)
        except (OSError, ValueError, UserError) as error:
            self._log(f"cell {self.root / key} is not usable, so it counts as not run: {error}")
            return None

    def save(
        self,
        record: Record,
        predictions: Mapping[str, Sequence[Any]],
        weights: Mapping[str, Tensor],
        encoder: Mapping[str, Tensor] | None = None,
    ) -> Record:
        """Store a finished cell, its record last, and drop its checkpoint; a failed one keeps it.

        Args:
            predictions: columns of equal length, see `benchkit.store.predictions`.
            encoder: weights of the encoder that was trained along, where they are to be kept.

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
                self._save_tensors(key, "encoder", encoder)
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
            return from_parquet(path.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; run the cell again") from error

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

    def _save_tensors(self, key: str, name: str, weights: Mapping[str, Tensor]) -> None:
        tensors = {name: each.detach().cpu().contiguous() for name, each in weights.items()}
        content = to_safetensors(tensors, {"cell": key, "format": "pt"})
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
        """Keep the state of a running cell; see `benchkit.store.checkpoints`."""
        save_checkpoint(self._path(key, "checkpoint.pt"), state)

    def load_checkpoint(self, key: str, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state of a cell that was interrupted; None if there is none, or no sound one."""
        return load_checkpoint(self._path(key, "checkpoint.pt"), self._log, device)

    def lock(
        self, key: str, *, wait: bool = True, on_wait: Callable[[], None] | None = None
    ) -> AbstractContextManager[bool]:
        """Hold a cell while it runs; see `benchkit.store.locks.locked`."""
        return locked(self._path(key, "lock"), wait=wait, on_wait=on_wait)

    def _saving(self, key: str) -> AbstractContextManager[bool]:
        """Held for moments; apart from `lock`, whose holder is the one that saves."""
        return locked(self._path(key, "saving.lock"), wait=True)

    def _read(self, key: str) -> Record:
        data = json.loads(self._path(key, "record.json").read_bytes())
        if not isinstance(data, dict):
            raise ValueError("record.json holds no record")
        record = Record.from_dict(data)
        if record.key != key:
            raise ValueError(f"record.json is of the cell {record.key}")
        sha = hashlib.sha256(self._path(key, "predictions.parquet").read_bytes()).hexdigest()
        if sha != record.predictions_sha256:
            raise ValueError("predictions.parquet is not the one the record was written with")
        return record

    def _path(self, key: str, name: str) -> Path:
        return self.root / key / name
