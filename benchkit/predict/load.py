"""From a finished cell to a model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchkit.encoder import Encoder
from benchkit.errors import UserError
from benchkit.head import HeadSpec
from benchkit.plugins import Plugins
from benchkit.predict.model import Model, Question
from benchkit.protocol import Protocol
from benchkit.record import Record
from benchkit.runner.encoders import open_encoder
from benchkit.runner.workspace import build_head, feature_settings
from benchkit.store.cells import CellStore


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
        protocol = _protocol(identity["protocol"])
        spec = self.plugins.head(record.head)
        questions = questions_of(identity["tasks"], protocol, self.plugins)
        tuned = "finetune" in protocol.phases
        encoder = self._tuned(record) if tuned else self._frozen(record)
        precision = identity["execution"]["precision"]
        settings = feature_settings(protocol, spec, encoder, precision, self.device)
        shapes = [question.shape for question in questions.values()]
        config = spec.configure(identity["head"]["config"])
        head = build_head(spec, config, encoder, settings, shapes)
        fill_head(head, self.store.weights(record.key), spec)
        return Model(
            name=f"{record.head} seed {record.seed}",
            encoder=encoder,
            head=head.to(self.device).eval(),
            questions=questions,
            settings=settings,
            joint=protocol.pair_input == "joint",
            tuned=tuned,
            threads=identity["execution"]["threads"],
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
                f"{record.head} seed {record.seed} trained its encoder along, and that was not kept: give the same "
                "benchkit run command again with --keep-encoder, which trains these cells anew"
            )
        encoder = copy.deepcopy(self._frozen(record))
        encoder.model.load_state_dict(self.store.encoder_weights(record.key))
        return encoder


def questions_of(tasks: Sequence[Mapping[str, Any]], protocol: Protocol, plugins: Plugins) -> dict[str, Question]:
    """What a record says of its tasks, with the names of their columns.

    Raises:
        UserError: a task's plugin is not here, or has changed its classes or range since.
    """
    questions = {}
    for each in tasks:
        task = plugins.task(each["name"])
        if list(task.classes) != each["classes"] or [task.low, task.high] != each["range"]:
            raise UserError(f"task {task.name!r} has other classes, or another range, than when the cell was run")
        shape = task.shape(joint=protocol.pair_input == "joint")
        questions[task.name] = Question(shape, task.texts, task.classes, dict(task.aliases))
    return questions


def fill_head(head: nn.Module, weights: Mapping[str, torch.Tensor], spec: HeadSpec) -> None:
    """Put stored weights into a head that was just built.

    Raises:
        UserError: they do not fit: the head's source has changed.
    """
    try:
        head.load_state_dict({name.removeprefix("head."): value for name, value in weights.items()})
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"the weights do not fit head {spec.name!r} as its plugin has it now: {reason}") from error


def _protocol(values: Mapping[str, Any]) -> Protocol:
    """What of a protocol decides how texts become features."""
    return Protocol(
        phases=tuple(values["phases"]),
        pooling=values["pooling"],
        layers=tuple(values["layers"]),
        pair_input=values["pair_input"],
        max_length=values["max_length"],
    )


def _notes(record: Record, spec: HeadSpec) -> list[str]:
    notes = []
    if spec.source() != record.identity["head"]["source"]:
        notes.append(f"the source of head {spec.name!r} has changed since {record.key} was run: its numbers may differ")
    if record.status == "collapsed":
        notes.append(f"{record.head} seed {record.seed} collapsed in training: {record.error}")
    return notes
