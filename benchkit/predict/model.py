"""A finished cell as a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchkit.core.errors import UserError, unknown
from benchkit.core.head import HeadSpec
from benchkit.core.plugins import Plugins
from benchkit.core.protocol import Protocol
from benchkit.core.record import Record
from benchkit.core.task import TaskShape
from benchkit.encoder import Encoder
from benchkit.experiment.environment import threads
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.workspace import open_encoder
from benchkit.store.cells import CellStore
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.store.table import FeatureTable
from benchkit.training.evaluation import forward


@dataclass(frozen=True)
class Prediction:
    """What a model says of one sentence or pair.

    Attributes:
        value: class index, or a regression's score in the task's label range.
        label: class name; "" for a regression.
        probabilities: by class name, in label order; None for a regression.
    """

    texts: tuple[str, ...]
    value: float
    label: str = ""
    probabilities: Mapping[str, float] | None = None

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready; `names` are those of the texts. Numbers are as short as keeps float32 values distinct."""
        texts = dict(zip(names, self.texts, strict=True))
        if self.probabilities is None:
            return {**texts, "score": short(self.value)}
        shares = {name: short(share) for name, share in self.probabilities.items()}
        return {**texts, "prediction": self.label, "label": int(self.value), "probabilities": shares}


def short(number: float) -> float:
    """The float64 with the fewest digits that is the same float32."""
    return float(str(np.float32(number)))


Texts = tuple[str, ...]

# Matrix products of a few rows are summed in another order than those of many, so their last bits differ (measured on
# x86: below four rows in the encoder, and below eight, or no multiple of eight, in heads). A few empty sentences keep
# the encoder's batches above that, and repeated rows the head's: one sentence then gets the number it gets among many.
_FILLERS = (("",),) * 7
_MULTIPLE = 64
_BATCH = 512  # as many as when a run is scored


@dataclass(frozen=True)
class InputFormat:
    """What inputs of a task look like, and what is predicted for them.

    Attributes:
        shape: with one segment for a pair that is encoded as one input.
        texts: names of the text columns; two for pairs.
        classes: class names in label order; empty for a regression.
        aliases: other names of a column, as in `TaskSpec`.
    """

    shape: TaskShape
    texts: tuple[str, ...]
    classes: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """One head with the weights of one seed, on the encoder it was trained on.

    Attributes:
        name: such as `cnn seed 0`.
        tasks: the inputs of each, by name.
        settings: how texts become features.
        tuned: whether the last phase trained the encoder; it then stays in float32, under autocast where it was trained
            so.
        threads: CPU threads of the head, as when it was trained.
        notes: what a user should know, a line each.
    """

    name: str
    encoder: Encoder
    head: nn.Module
    tasks: Mapping[str, InputFormat]
    settings: FeatureSettings
    tuned: bool = False
    threads: int = 1
    notes: tuple[str, ...] = ()

    def predict(self, task: str, examples: Sequence[str | Texts]) -> list[Prediction]:
        """Predictions for sentences, or for pairs as tuples of two texts, in that order.

        Raises:
            UserError: the model was not trained on such a task, or an example is not of its kind.
        """
        return predict([self], task, examples)

    def format(self, task: str) -> InputFormat:
        if task not in self.tasks:
            raise unknown("task", task, self.tasks)
        return self.tasks[task]

    def table(self, inputs: Sequence[Texts]) -> FeatureTable:
        """The features of distinct inputs, in memory; row i is input i."""
        settings, device = self.settings, self.encoder.device
        half = self.tuned and settings.precision == "bf16"
        if self.tuned:
            settings = dataclasses.replace(settings, precision="fp32")
        tokenized = self.encoder.tokenize([*inputs, *_FILLERS], settings.max_length)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return encode_table(self.encoder, tokenized, settings).to(device)

    @torch.no_grad()
    def outputs(self, task: str, table: FeatureTable, rows: Tensor) -> Tensor:
        """Probabilities (n, classes) or scores (n, 1), float32, of rows (n, segment) of a table."""
        shape, count = self.format(task).shape, len(rows)
        whole = torch.cat([rows, rows[:1].expand(-count % _MULTIPLE, -1)])
        with threads(self.threads):
            parts = [forward(self.head, table.gather(part), shape, len(part)) for part in torch.split(whole, _BATCH)]
        values = torch.cat(parts)[:count].cpu()
        return values.softmax(dim=1) if shape.classes else values


def predict(models: Sequence[Model], task: str, examples: Sequence[str | Texts]) -> list[Prediction]:
    """Predictions by the mean of the models' probabilities, or scores; the models are one head's seeds.

    Models that share an encoder share its work.
    """
    format = models[0].format(task)
    texts = [_texts(each, format.texts, task, number) for number, each in enumerate(examples, start=1)]
    if not texts:
        return []
    inputs, rows = number_inputs(texts, format.shape.segments)
    tables: dict[int, FeatureTable] = {}
    total: Tensor | None = None
    for model in models:
        if id(model.encoder) not in tables:
            tables[id(model.encoder)] = model.table(inputs)
        values = model.outputs(task, tables[id(model.encoder)], rows)
        total = values if total is None else total + values
    assert total is not None
    mean, classes = total / len(models), format.classes
    if not classes:
        return [Prediction(each, float(row[0])) for each, row in zip(texts, mean, strict=True)]
    best = mean.argmax(dim=1).tolist()
    return [
        Prediction(each, at, classes[at], dict(zip(classes, row, strict=True)))
        for each, at, row in zip(texts, best, mean.tolist(), strict=True)
    ]


def _texts(example: str | Texts, names: Sequence[str], task: str, number: int) -> Texts:
    """An example as a tuple of as many texts as the task has."""
    texts = (example,) if isinstance(example, str) else tuple(example)
    wanted = len(names)
    if len(texts) != wanted or not all(isinstance(text, str) for text in texts):
        kind = "a text" if wanted == 1 else f"a tuple of {wanted} texts ({', '.join(names)})"
        raise UserError(f"example {number} of task {task!r} must be {kind}, not {example!r:.80}")
    return texts


def number_inputs(texts: Sequence[Texts], segments: int) -> tuple[list[Texts], Tensor]:
    """Distinct inputs of the encoder, and each example's (n, segment) among them."""
    index: dict[Texts, int] = {}
    parts = [[each] if segments == 1 else [(text,) for text in each] for each in texts]
    rows = [[index.setdefault(each, len(index)) for each in part] for part in parts]
    return list(index), torch.tensor(rows, dtype=torch.int64)


USABLE = ("ok", "collapsed")
_SHOWN = 4


def open_run(run: Path, log: Callable[[str], None]) -> CellStore:
    """The cells of a folder that `benchkit run --out` wrote.

    Raises:
        UserError: there are none.
    """
    store = CellStore(run / "cells", log=log)
    if not store.keys():
        inside = sorted(each.parent for each in run.glob("*/cells") if run.is_dir())
        hint = f"; did you mean {inside[0]}?" if inside else "; give the folder that benchkit run --out wrote"
        raise UserError(f"no finished cells in {run}{hint}")
    return store


def one(store: CellStore, head: str, seed: int | None, key: str) -> Record:
    """A cell by the beginning of its key; or of a head, by seed; without a seed the one that is best on dev.

    Raises:
        UserError: there is no such cell, it has no usable weights, or several kinds of the head are there.
    """
    if key:
        known = store.keys()
        keys = [each for each in known if each.startswith(key)]
        if len(keys) > 1:
            raise UserError(f"--cell {key} is the beginning of {len(keys)} keys: {', '.join(keys[:_SHOWN])}")
        if not keys or (record := store.load(keys[0])) is None:
            raise unknown("cell", key, known)
        return _usable(record)
    records = of_head(store, head)
    if seed is not None:
        seeds = {record.seed: record for record in records}
        if seed not in seeds:
            raise unknown("seed", str(seed), map(str, seeds))
        return _usable(seeds[seed])
    return max((record for record in records if record.status in USABLE), key=lambda each: each.dev_mean)


def of_head(store: CellStore, head: str) -> list[Record]:
    """All cells of a head, by seed; at least one of them usable.

    Raises:
        UserError: no cell of the head, none that is usable, or cells that differ by more than their seeds.
    """
    keys = store.keys()
    records = [record for key in keys if (record := store.load(key))]
    if not head:
        raise UserError(f"name a head with --head: {', '.join(sorted({record.head for record in records}))}")
    found = sorted((each for each in records if each.head == head), key=lambda each: each.seed)
    if not found:
        raise unknown(f"head in {store.root.parent}", head, {record.head for record in records})
    kinds = {_kind(record): record.key for record in found}
    if len(kinds) > 1:
        such = ", ".join(list(kinds.values())[:_SHOWN]) + (", …" if len(kinds) > _SHOWN else "")
        raise UserError(
            f"{store.root.parent} holds cells of {head} that differ in settings, data or code: "
            f"name one with --cell KEY, such as {such}"
        )
    if not any(record.status in USABLE for record in found):
        _usable(found[0])
    return found


def _usable(record: Record) -> Record:
    if record.status not in USABLE:
        raise UserError(
            f"cell {record.key} ({record.head} seed {record.seed}) {record.status}, so it has no weights to predict "
            f"with: {record.error}"
        )
    return record


def _kind(record: Record) -> str:
    """All of a cell's identity but the seed."""
    return json.dumps({**record.identity, "seed": None}, sort_keys=True)


@dataclass
class Loader:
    """Opens the cells of one run; cells with a frozen encoder share it.

    Attributes:
        encoder: where the encoder is, if not where its name leads.
    """

    store: CellStore
    plugins: Plugins
    device: torch.device
    encoder: str = ""
    _encoders: dict[str, Encoder] = field(default_factory=dict)

    def load(self, record: Record) -> Model:
        """The head as it was after its last phase, on the encoder as it was then.

        Raises:
            UserError: the head's plugin or the encoder is not here, or either is not what the cell was made with.
        """
        identity = record.identity
        tasks = []
        for each in identity["tasks"]:
            task = self.plugins.task(each["name"])
            if list(task.classes) != each["classes"] or [task.low, task.high] != each["range"]:
                raise UserError(f"task {task.name!r} has other classes, or another range, than when the cell was run")
            tasks.append(task)
        protocol = Protocol.from_identity(identity)
        spec = self.plugins.head(record.head)
        config, execution = spec.configure(identity["head"]["config"]), identity["execution"]
        encoder = self._tuned(record) if protocol.trains_encoder else self._frozen(record)
        assembly = Assembly.of(spec, config, protocol, tasks, encoder, execution["precision"], self.device)
        return Model(
            name=f"{record.head} seed {record.seed}",
            encoder=encoder,
            head=restore_head(assembly, self.store.weights(record.key)).to(self.device).eval(),
            tasks={
                task.name: InputFormat(shape, task.texts, task.classes, dict(task.aliases))
                for task, shape in zip(tasks, assembly.shapes, strict=True)
            },
            settings=assembly.features,
            tuned=protocol.phase(protocol.phases[-1]).trains_encoder,
            threads=execution["threads"],
            notes=tuple(_notes(record, spec)),
        )

    def _frozen(self, record: Record) -> Encoder:
        """The encoder that the cell was trained on, in `eval()`."""
        name = self.encoder or record.encoder["name"]
        if name not in self._encoders:
            try:
                self._encoders[name] = open_encoder(name, self.plugins).to(self.device).eval()
            except UserError as error:
                advice = "" if self.encoder else "; say where it is with --encoder DIR, or in BENCHKIT_WEIGHTS"
                raise UserError(f"the run's encoder cannot be opened: {error}{advice}") from error
        encoder = self._encoders[name]
        if encoder.fingerprint != record.identity["encoder"]:
            raise UserError(
                f"encoder {name} is not the one that {record.head} seed {record.seed} was trained on, though it has "
                "its name: give that one with --encoder DIR"
            )
        return encoder

    def _tuned(self, record: Record) -> Encoder:
        """A copy of that encoder with the weights that the cell gave it."""
        if not self.store.has_encoder(record.key):
            raise UserError(
                f"{record.head} seed {record.seed} trained its encoder along, and that was not kept: leave out --seed "
                "for the seed that is best on dev, or give the same benchkit run command again with "
                "--keep-encoder all, which trains these cells anew"
            )
        encoder = self._frozen(record).copy()
        encoder.model.load_state_dict(self.store.encoder_weights(record.key))
        return encoder


def restore_head(assembly: Assembly, weights: Mapping[str, Tensor]) -> nn.Module:
    """A head with stored weights.

    Raises:
        UserError: they do not fit the head as its plugin has it now, or are not finite.
    """
    assembly.check_build()
    head, name = assembly.build(), assembly.spec.name
    try:
        head.load_state_dict({key.removeprefix("head."): value for key, value in weights.items()})
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"the weights do not fit head {name!r} as its plugin has it now: {reason}") from error
    if not all(bool(value.isfinite().all()) for value in head.state_dict().values()):
        raise UserError(f"the weights of head {name!r} hold NaN or infinity: nothing can be predicted with them")
    return head


def _notes(record: Record, spec: HeadSpec) -> list[str]:
    notes = []
    if spec.source() != record.identity["head"]["source"]:
        notes.append(f"the source of head {spec.name!r} has changed since {record.key} was run: its numbers may differ")
    if record.status == "collapsed":
        notes.append(f"{record.head} seed {record.seed} collapsed in training: {record.error}")
    return notes
