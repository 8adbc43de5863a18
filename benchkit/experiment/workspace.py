"""What a process has loaded: plugins, encoders, data and features, shared by the cells that it runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch

from benchkit.core.errors import UserError, one_line, unknown
from benchkit.core.plugins import Plugins
from benchkit.core.protocol import Protocol
from benchkit.core.task import SPLITS, TaskSpec
from benchkit.data import Split, load_data, subsample
from benchkit.data.splits import SHUFFLED, shuffle_labels
from benchkit.encoder import Encoder, Tokenized, load_encoder
from benchkit.encoder.checkpoint import model_folder, untrained
from benchkit.hub.encoders import fetched_encoders, fetched_folder
from benchkit.store.features import FeatureSettings, FeatureStore
from benchkit.store.table import FeatureTable
from benchkit.training.batches import Corpus, build_corpus

RANDOM = "random:"
"""Before an encoder's name: the same architecture with untrained weights."""

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")  # what can be a repository's name


def open_encoder(name: str, plugins: Plugins) -> Encoder:
    """A plugin's encoder by name, a folder, a folder's name inside `$BENCHKIT_WEIGHTS`, or the id of a fetched one;
    untrained after `random:`.

    Raises:
        UserError: there is no such thing, or the checkpoint is not usable.
    """
    if name.startswith(RANDOM):
        return untrained(open_encoder(name.removeprefix(RANDOM), plugins))
    if name in plugins.encoders:
        return _made(name, plugins)
    folder = find_folder(name)
    if folder is None:
        fetch = f"; if it is on Hugging Face: benchkit encoders fetch {name}" if _ID.fullmatch(name) else ""
        if "/" in name or os.sep in name:
            raise UserError(
                f"no encoder at {name}: give a folder with config.json, model.safetensors and vocab.txt{fetch}"
            )
        known = [*plugins.encoders, *(folder.name for folder in weights_folders()), *fetched_encoders()]
        raise UserError(
            f"{unknown('encoder', name, known)}; or give a folder with config.json, model.safetensors and "
            f"vocab.txt{fetch}"
        )
    return load_encoder(folder)


def _made(name: str, plugins: Plugins) -> Encoder:
    """What a plugin's `load` makes, or one line that says whose it is and why it does not."""
    whose = f"encoder {name!r} of {plugins.owners['encoder', name]}"
    try:
        encoder = plugins.encoders[name].load()
    except UserError as error:
        raise UserError(f"{whose}: {error}") from error
    except Exception as error:  # a stranger's plugin may raise anything
        raise UserError(f"{whose} cannot be loaded: {one_line(error)}") from error
    if not isinstance(encoder, Encoder):
        raise UserError(f"{whose}: load() returned {encoder!r:.60}, not an Encoder (see benchkit.encoder.load_encoder)")
    return encoder


def find_folder(name: str) -> Path | None:
    """The folder that an encoder name stands for, or None."""
    weights = os.environ.get("BENCHKIT_WEIGHTS")
    places = [Path(name).expanduser(), *([Path(weights) / name] if weights else [])]
    found = next((place.resolve() for place in places if place.is_dir()), None)
    return found or fetched_folder(name)


def weights_folders() -> list[Path]:
    """The folders in `$BENCHKIT_WEIGHTS` that `load_encoder` takes for an encoder's."""
    weights = os.environ.get("BENCHKIT_WEIGHTS")
    if not weights or not Path(weights).is_dir():
        return []
    folders = sorted(each for each in Path(weights).iterdir() if each.is_dir())
    return [each for each in folders if (model_folder(each) / "config.json").is_file()]


_T = TypeVar("_T")
Data = Mapping[str, Mapping[str, Split]]


@dataclass
class Workspace:
    """Loads on first use and keeps; `log` gets one line for whatever a user should know."""

    plugins: Plugins
    cache: Path
    log: Callable[[str], None]
    progress: Callable[[int, int], None] | None = None
    _kept: dict[Any, Any] = field(default_factory=dict)
    _resident: WeakValueDictionary[Any, FeatureTable] = field(default_factory=WeakValueDictionary)
    _latest: FeatureTable | None = None

    def encoder(self, name: str) -> Encoder:
        """The encoder as loaded; whoever trains it takes a copy."""
        return self.once(("encoder", name), lambda: open_encoder(name, self.plugins))

    def fingerprint(self, name: str) -> str:
        """Of the encoder: it stays as loaded, so one computation will do."""
        return self.once(("fingerprint", name), lambda: self.encoder(name).fingerprint)

    def tasks(self, protocol: Protocol) -> list[TaskSpec]:
        if not protocol.tasks:
            raise UserError(f"no task was named (known: {', '.join(self.plugins.tasks)})")
        tasks = [self.plugins.task(name) for name in dict.fromkeys(protocol.tasks)]
        for task in tasks:
            loss = protocol.options(task.name).loss
            if loss and loss not in task.losses:
                raise unknown(f"loss of {task.name}", loss, task.losses)
        return tasks

    def data(self, source: str, protocol: Protocol) -> Data:
        """Splits by task, at the protocol's sizes; of a source `shuffled:…`, train's labels are shuffled."""
        if source.startswith(SHUFFLED):
            whole, seed = self.data(source.removeprefix(SHUFFLED), protocol), protocol.subsample_seed
            return self.once(("shuffled", id(whole), seed), lambda: _shuffled(whole, seed))
        tasks = self.tasks(protocol)
        sizes = {(t.name, s): getattr(protocol.options(t.name), f"{s}_size") for t in tasks for s in SPLITS}
        return self.once(
            ("data", source, protocol.subsample_seed, *sizes.items()),
            lambda: {
                name: {
                    each: subsample(
                        split,
                        sizes[name, each],
                        protocol.subsample_seed,
                        self.plugins.tasks[name].kind == "classification",
                    )
                    for each, split in splits.items()
                }
                for name, splits in load_data(source, tasks).items()
            },
        )

    def corpus(self, source: str, protocol: Protocol) -> Corpus:
        data, tasks = self.data(source, protocol), self.tasks(protocol)
        joint = frozenset(task.name for task in tasks if protocol.joint(task.name))
        return self.once(("corpus", id(data), joint), lambda: build_corpus(data, tasks, joint=joint))

    def tokenized(self, encoder: str, corpus: Corpus, max_length: int) -> Tokenized:
        return self.once(
            ("tokenized", encoder, id(corpus), max_length),
            lambda: self.encoder(encoder).tokenize(corpus.inputs, max_length),
        )

    def table(self, encoder: str, corpus: Corpus, settings: FeatureSettings) -> FeatureTable:
        """Stored features of the whole corpus, encoded now as far as they are missing."""
        return self.once(
            ("table", encoder, id(corpus), settings),
            lambda: FeatureStore(self.cache, log=self.log).table(
                self.encoder(encoder).to(settings.device),
                corpus.inputs,
                settings,
                fingerprint=self.fingerprint(encoder),
                progress=self.progress,
            ),
        )

    def resident(self, encoder: str, corpus: Corpus, settings: FeatureSettings, device: torch.device) -> FeatureTable:
        """`table` in the memory of a device, one copy for all cells that read it.

        It lasts as long as it is read, the latest until another is asked for: all kinds of features that a run reads
        one after the other might be more than a GPU holds.
        """
        table = self.table(encoder, corpus, settings)
        found = self._resident.get((id(table), device))
        if found is None:
            self._latest = None  # makes room
            found = self._resident[id(table), device] = table.to(device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # other streams read it too
        if device.type == "cuda":
            found.record_stream(torch.cuda.current_stream(device))
        self._latest = found
        return found

    def missing(self, encoder: str, corpus: Corpus, settings: FeatureSettings) -> int:
        """How many inputs `table` would have to encode."""
        store = FeatureStore(self.cache, log=self.log)
        return store.missing(self.encoder(encoder), corpus.inputs, settings, self.fingerprint(encoder))

    def once(self, key: Any, make: Callable[[], _T]) -> _T:
        """`make()`, the first time; what it gave, ever after."""
        if key not in self._kept:
            made = make()  # which may let another cell have its turn, and that one make the same
            self._kept.setdefault(key, made)
        kept: _T = self._kept[key]
        return kept


def _shuffled(data: Data, seed: int) -> Data:
    return {
        task: {name: shuffle_labels(split, seed) if name == "train" else split for name, split in splits.items()}
        for task, splits in data.items()
    }
