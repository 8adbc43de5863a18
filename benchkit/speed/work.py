"""The steps that are timed. A step is a round: one batch of every task, one after the other, as a run has them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchkit.encoder import Encoder
from benchkit.encoder.batch import Batch
from benchkit.encoder.fixed import arrange, batch_of, room
from benchkit.features import Pooled, Tokens
from benchkit.speed.captured import Captured
from benchkit.speed.ground import Ground
from benchkit.speed.inputs import Inputs, make_inputs
from benchkit.speed.request import Point
from benchkit.speed.timing import Mark, Run
from benchkit.store.features import FeatureSettings
from benchkit.store.memory import encode_table
from benchkit.store.table import FeatureTable
from benchkit.store.tokens import ResidentTokens
from benchkit.task import TaskShape
from benchkit.train.adamw import AdamW
from benchkit.train.evaluate import forward
from benchkit.train.readers import part_of

# So small that a hundred thousand steps on one batch leave weights, and with them the time of a step, as they were.
_RATE = 1e-9


@dataclass
class Stage:
    """A point with everything that its heads share."""

    ground: Ground
    point: Point
    inputs: Inputs
    encoder: Encoder
    tables: dict[FeatureSettings, FeatureTable] = field(default_factory=dict)
    moments: dict[int, Any] = field(default_factory=dict)
    compiled: dict[str, nn.Module] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)

    @staticmethod
    def of(ground: Ground, point: Point) -> Stage:
        inputs = make_inputs(ground.encoder, ground.shapes, point)
        return Stage(ground, point, inputs, _encoder(ground.encoder, point))

    def names(self) -> tuple[str, ...]:
        """What is compared: heads; for `encode` the kinds of features that they read."""
        if self.point.mode != "encode":
            return self.ground.plan.heads
        return tuple(self._kinds())

    def make(self, name: str) -> Run:
        """The step of one of `names`, built anew."""
        if self.point.mode == "encode":
            return self._encode(self._kinds()[name])
        head = self.compiled.get(name) or self.ground.head(name).to(self.ground.device)
        if self.point.compiled and name not in self.compiled:
            head.compile()
            self.compiled[name] = head  # compiling it again for each repetition would take longer than all the rest
        run = {"infer": self._infer, "train": self._train, "head": self._head}[self.point.mode](name, head)
        return Captured(run, self.ground.device, compiled=self.point.compiled) if self.point.graph else run

    def settings(self, name: str) -> FeatureSettings:
        """How the inputs of one of `names` are encoded."""
        return self._kinds()[name] if self.point.mode == "encode" else self.ground.settings(name, self.point.precision)

    def _kinds(self) -> dict[str, FeatureSettings]:
        found = (self.ground.settings(head, self.point.precision) for head in self.ground.plan.heads)
        return {settings.reads: settings for settings in found}

    def _encode(self, settings: FeatureSettings) -> Run:
        """As the feature store has its inputs encoded. The copy on the encoder's model is in the precision already."""
        reads = Tokens if settings.reads == "tokens" else Pooled

        def run(mark: Mark) -> None:
            chunks = self.encoder.encode_chunks(
                self.inputs.tokenized,
                reads=reads,
                pooling=settings.pooling,
                layers=settings.layers,
                precision="fp32",
            )
            for _ in chunks:
                pass

        return run

    def _infer(self, name: str, head: nn.Module) -> Run:
        head.eval()

        @torch.inference_mode()
        def run(mark: Mark) -> None:
            for shape in self.ground.shapes:
                mark("encoder")
                features = self._live(name, shape)
                mark("head")
                forward(head, features, shape, self.point.batch)

        return run

    def _live(self, name: str, shape: TaskShape) -> Pooled:
        spec, settings = self.ground.plugins.head(name), self.settings(name)
        rows = self.inputs.rows[shape.name]
        if self.point.graph:
            features = self.encoder.features_of(self._fixed(shape), spec.reads, settings.pooling, settings.layers)
            return part_of(features, 0, rows.shape)
        return self.encoder.features(self.inputs.tokenized, rows, spec.reads, settings.pooling, settings.layers)

    def _fixed(self, shape: TaskShape) -> Batch:
        """A task's inputs in tensors of fixed shape, on the device, as steps that are captured have them."""
        if shape.name not in self.batches:
            rows = self.inputs.rows[shape.name].flatten().numpy()
            size = room(self.inputs.tokenized.lengths.numpy()[rows], self.encoder.config.max_position_embeddings)
            fields = arrange(self.inputs.tokenized, rows[None], size)
            there = {each: torch.from_numpy(value[0]).to(self.ground.device) for each, value in fields.items()}
            self.batches[shape.name] = batch_of(there, size)
        return self.batches[shape.name]

    def _train(self, name: str, head: nn.Module) -> Run:
        """As `train.loop` does in the second phase. Heads share the encoder and the optimiser's moments of it."""
        losses, labels = self.ground.losses(name), self._labels()
        own = list(self.encoder.model.parameters())
        optimizer = AdamW([*own, *head.parameters()], weight_decay=0.01)
        optimizer.state.update(self.moments)
        device, autocast = self.ground.device.type, self.point.precision == "bf16"
        self.encoder.train()
        head.train()

        def run(mark: Mark) -> None:
            for shape in self.ground.shapes:
                mark("encoder")
                with torch.autocast(device, torch.bfloat16, enabled=autocast):
                    features = self._live(name, shape)
                mark("head")
                _when_reached(features, lambda: mark("encoder"))
                outputs = forward(head, features, shape, self.point.batch)
                loss = losses[shape.name](outputs, labels[shape.name], shape)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                mark("optimiser")
                optimizer.step(_RATE)
            self.moments.update((number, moments) for number, moments in optimizer.state.items() if number < len(own))

        return run

    def _head(self, name: str, head: nn.Module) -> Run:
        """As `train.loop` does in the first phase, from features in memory."""
        losses, labels, table = self.ground.losses(name), self._labels(), self._table(self.settings(name))
        optimizer = AdamW(head.parameters(), weight_decay=0.01)
        head.train()
        rows = {each: value.to(self.ground.device) for each, value in self.inputs.rows.items()}

        def gather(task: str) -> Pooled:
            if self.point.graph:
                return table.gather_fixed(rows[task], int(self.inputs.lengths(task).max()))
            return table.gather(self.inputs.rows[task])

        def run(mark: Mark) -> None:
            for shape in self.ground.shapes:
                outputs = forward(head, gather(shape.name), shape, self.point.batch)
                loss = losses[shape.name](outputs, labels[shape.name], shape)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step(_RATE)

        return run

    def _labels(self) -> Mapping[str, Tensor]:
        return {name: each.to(self.ground.device) for name, each in self.inputs.labels.items()}

    def _table(self, settings: FeatureSettings) -> FeatureTable:
        if settings not in self.tables:
            table, device = encode_table(self.encoder, self.inputs.tokenized, settings), self.ground.device
            if isinstance(table.tokens, ResidentTokens):
                tokens = ResidentTokens(
                    table.tokens.tokens.to(device), table.tokens.start.to(device), table.tokens.length
                )
                table = dataclasses.replace(table, tokens=tokens)
            self.tables[settings] = table.to(device)
        return self.tables[settings]


def _encoder(encoder: Encoder, point: Point) -> Encoder:
    """The encoder as the point needs it: a copy where it is trained, compiled, or computes in bf16 weights."""
    casts = point.precision == "bf16" and point.mode in ("infer", "encode")
    if not (casts or point.compiled or point.mode == "train"):
        return encoder
    model = copy.deepcopy(encoder.model)
    if casts:
        model = model.to(torch.bfloat16)
    if point.compiled:
        model.compile()
    return Encoder(encoder.name, model, encoder.tokenizer)


def _when_reached(features: Pooled, call: Any) -> None:
    """Call once the gradients of all features are there: the head's part of the way back is done."""
    tensors = [getattr(features, each.name) for each in dataclasses.fields(features)]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    if wanted:
        torch.autograd.graph.register_multi_grad_hook(wanted, lambda gradients: call(), mode="all")
