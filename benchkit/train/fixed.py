"""Steps of a few fixed shapes: their inputs lie at fixed places of the device, so a GPU can replay them as graphs.

All batches of an epoch are laid out beforehand and sent in one piece; a step then begins with one small copy on the
device, and the Python, the launches and the transfers of a plain step are gone. The losses are those of `PlainSteps`
but for rounding and for which numbers dropout draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchkit.train.adamw import AdamW
from benchkit.train.deck import Deck, Shape, deal, gathered
from benchkit.train.early import Movement
from benchkit.train.evaluate import Reader
from benchkit.train.graph import Program, aside, pool
from benchkit.train.order import Batch
from benchkit.train.readers import LiveReader
from benchkit.train.sources import LiveSource, Source, source_of
from benchkit.train.steps import LOOK, PlainSteps, Steps, Trained, descend
from benchkit.train.work import Work
from benchkit.turns import pause, settle

# Steps between turns: a replay takes the host a tenth of what a step does that is launched kernel by kernel.
_TURN = 32


def make_steps(work: Work, modules: nn.ModuleDict, reader: Reader, optimizer: AdamW) -> Steps:
    """How the steps of a phase are taken: fixed where that is asked for and the features allow it."""
    if work.compiled and isinstance(reader, LiveReader) and reader.grad:
        reader.encoder.model.compile_layers()
    source = source_of(reader, autocast=work.autocast) if work.fixed else None
    if work.fixed and source is None:
        work.log("features are not in the device's memory as a whole: no CUDA graphs")
    if source is None:
        return PlainSteps(work, modules, reader, optimizer)
    return FixedSteps(work, modules, source, optimizer)


@dataclass
class FixedSteps:
    """Steps by shape; on a GPU each shape is a program that is captured once and replayed ever after."""

    work: Work
    modules: nn.ModuleDict
    source: Source
    optimizer: AdamW

    def __post_init__(self) -> None:
        self.programs: dict[Shape, Program] = {}
        self.pool = pool(self.work.device)
        live = self.source if isinstance(self.source, LiveSource) else None
        self.movement = Movement(self.optimizer, live.halves if live else None)
        if live and self.work.early and not self.work.settings.clip:  # who clips must see all gradients first
            self.movement.layer_by_layer(live.reader.encoder.model, self.work.device)

    def epoch(self, rounds: Sequence[Sequence[Batch]], rates: Sequence[float]) -> dict[str, Trained]:
        with aside(self.work.device), self.movement.epoch():
            return self._epoch(rounds, rates)

    def _epoch(self, rounds: Sequence[Sequence[Batch]], rates: Sequence[float]) -> dict[str, Trained]:
        shapes, hands = deal(rounds, rates, self.work, self.source)
        for shape, hand in hands.items():
            if shape not in self.programs:
                self.programs[shape] = self._program(hand.deck)
        inputs = {shape: iter(hand.inputs.unbind()) for shape, hand in hands.items()}
        into = {shape: iter(hand.results.unbind()) for shape, hand in hands.items()}
        done = 0
        for done, shape in enumerate(shapes, start=1):
            if done % _TURN == 0:
                pause()
            result = next(into[shape])
            result.copy_(self.programs[shape].run(next(inputs[shape])))
            if (done - 1) % LOOK == 0:
                settle()
                if not bool(torch.isfinite(result).all()):
                    break
        self.optimizer.lr = rates[done - 1]
        return gathered(hands, done, self.work)

    def _program(self, deck: Deck) -> Program:
        """A step of one shape: from its row of inputs to outputs and losses, one after the other."""
        shape, work, source = deck.shape, self.work, self.source
        batches = list(zip(shape.batches, shape.segments, strict=True))

        def step(row: Tensor) -> Tensor:
            inputs = deck.open(row)
            with torch.autocast(work.device.type, torch.bfloat16, enabled=work.autocast):
                features = source.features(inputs.fields, shape.size, batches)
            head, movement = self.modules["head"], self.movement
            movement.rate = inputs.rate
            results = descend(work, head, movement, shape.tasks, features, inputs.labels, inputs.rate, movement.settle)
            return torch.cat([part.flatten() for outputs, _, loss in results for part in (outputs, loss)])

        # A compiled step is made in its first run, and is itself only from the second on.
        return Program(step, deck.width, work.device, self.pool, 1 + work.compiled, work.log)
