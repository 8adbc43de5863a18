"""Steps of a few fixed shapes: their inputs lie at fixed places of the device, so a GPU can replay them as graphs.

All batches of an epoch are laid out beforehand and sent in one piece; a step then begins with one small copy on the
device, and the Python, the launches and the transfers of a plain step are gone. The losses are those of `PlainSteps`
but for rounding and for which numbers dropout draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchkit.train.adamw import AdamW
from benchkit.train.deck import Deck, Shape, deal, gathered
from benchkit.train.early import Movement, roomy
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
        work.log("features are not in the device's memory as a whole: steps are taken one by one, no CUDA graphs")
    if source is None:
        return PlainSteps(work, modules, reader, optimizer)
    return FixedSteps(work, modules, source, optimizer)


@dataclass
class FixedSteps:
    """Steps by shape; with CUDA graphs each shape is a program that is captured once and replayed ever after."""

    work: Work
    modules: nn.ModuleDict
    source: Source
    optimizer: AdamW

    def __post_init__(self) -> None:
        work = self.work
        self.programs: dict[Shape, Program] = {}
        self.refused: set[str] = set()
        self.pool = pool(work.device) if work.graphs else None
        live = self.source if isinstance(self.source, LiveSource) else None
        self.movement = Movement(self.optimizer, live.halves if live else None)
        # Who clips must see all gradients first.
        if live and work.early and not work.settings.clip and roomy(self.optimizer.parameters, work.device):
            self.movement.layer_by_layer(live.reader.encoder.model, work.device)

    def close(self) -> None:
        self.programs.clear()
        self.movement.close()

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
                if not bool(torch.isfinite(result[: len(shape.tasks)]).all()):
                    break
        self.optimizer.lr = rates[done - 1]
        return gathered(hands, done, self.work)

    def _program(self, deck: Deck) -> Program:
        """A step of one shape: from its row of inputs to a row of `Hand.results`.

        It knows nothing of this object, or both would be kept until Python looks for cycles, and graphs with them.
        """
        shape, work, source, movement, head = deck.shape, self.work, self.source, self.movement, self.modules["head"]
        batches = list(zip(shape.batches, shape.segments, strict=True))

        def step(row: Tensor) -> Tensor:
            inputs = deck.open(row)
            with torch.autocast(work.device.type, torch.bfloat16, enabled=work.autocast):
                features = source.features(inputs.fields, shape.size, batches)
            movement.rate = inputs.rate
            results = descend(work, head, movement, shape.tasks, features, inputs.labels, inputs.rate, movement.settle)
            losses = [loss.flatten() for _, _, loss in results]
            return torch.cat([*losses, *(outputs.flatten() for outputs, _, _ in results)])

        # A compiled step is made in its first run, and is itself only from the second on.
        return Program(step, deck.width, work.device, self.pool, 1 + work.compiled, _once(work.log, self.refused))


def _once(log: Callable[[str], None], refused: set[str]) -> Callable[[str], None]:
    """Says why a step cannot be captured; each reason once, not for every shape."""

    def refuse(why: str) -> None:
        if why not in refused:
            log(f"no CUDA graph of a step: {why}; it is launched kernel by kernel")
        refused.add(why)

    return refuse
