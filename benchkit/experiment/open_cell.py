"""A cell with everything that it needs loaded: the one way from a resolved cell to a head, its features and its steps.

Runs, dry runs, searches, speed measurements, predictions and `heads show` all assemble a head by `Assembly`, and all
that train it open its cell by `OpenCell`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchkit.core.errors import UserError, one_line
from benchkit.core.features import Layers, Tokens
from benchkit.core.head import HeadSpec, count
from benchkit.core.protocol import Phase, Protocol
from benchkit.core.rng import global_stream
from benchkit.core.task import Loss, TaskShape, TaskSpec
from benchkit.encoder import Encoder
from benchkit.encoder.bert import LowRank, TopLayers
from benchkit.encoder.packing import Inputs, LowerStates
from benchkit.experiment.cell import Cell, losses_of
from benchkit.experiment.environment import check_memory
from benchkit.experiment.workspace import Workspace
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.store.table import FeatureTable
from benchkit.training.batches import Corpus, Order
from benchkit.training.constants import constant_loss
from benchkit.training.evaluation import PhaseContext, Reader
from benchkit.training.readers import LiveReader, StoredReader


@dataclass(frozen=True)
class Assembly:
    """A head for the tasks of a protocol, on the features of an encoder.

    Attributes:
        shapes: of the tasks, in their order.
        features: how the head's inputs are encoded where the encoder is frozen.
    """

    spec: HeadSpec
    config: Any
    protocol: Protocol
    tasks: tuple[TaskSpec, ...]
    shapes: tuple[TaskShape, ...]
    features: FeatureSettings
    encoder: Encoder

    @staticmethod
    def of(
        spec: HeadSpec,
        config: Any,
        protocol: Protocol,
        tasks: Sequence[TaskSpec],
        encoder: Encoder,
        precision: str = "fp32",
        device: torch.device | str = "cpu",
    ) -> Assembly:
        """Resolve how a head is put on an encoder.

        Raises:
            UserError: the head reads layers, or the protocol pools in a way, that the encoder does not have.
        """
        apart = issubclass(spec.reads, Layers)
        settings = FeatureSettings(
            reads="layers" if apart else "tokens" if issubclass(spec.reads, Tokens) else "pooled",
            pooling=protocol.pooling,
            layers=tuple(range(encoder.config.num_hidden_layers + 1)) if apart else tuple(protocol.layers),
            max_length=protocol.max_length,
            precision="bf16" if precision == "bf16" else "fp32",
            device="cuda" if torch.device(device).type == "cuda" else "cpu",
        )
        try:
            encoder.check(settings.pooling, settings.layers)
        except UserError as error:
            raise UserError(f"head {spec.name!r} reads every layer: {error}" if apart else str(error)) from error
        return Assembly(spec, config, protocol, tuple(tasks), protocol.shapes(tasks), settings, encoder)

    @staticmethod
    def of_cell(cell: Cell, workspace: Workspace, encoder: Encoder | None = None) -> Assembly:
        """The head of a cell; `encoder` in place of the workspace's."""
        spec, execution = workspace.plugins.head(cell.head), cell.execution
        return Assembly.of(
            spec,
            spec.configure(cell.config),
            cell.protocol,
            workspace.tasks(cell.protocol),
            encoder or workspace.encoder(cell.encoder),
            execution.precision,
            execution.device,
        )

    def build(self, seed: int = 0) -> nn.Module:
        """The head with the initial weights of a seed, on the current default device."""
        side_by_side = 1 if self.features.apart else len(self.features.layers)
        with global_stream(seed, "init"):
            return self.spec.build(
                self.config, self.encoder.hidden * side_by_side, self.shapes, len(self.features.layers)
            )

    def check_build(self) -> None:
        """Find impossible sizes before anything is encoded; on the meta device nothing is allocated.

        Raises:
            UserError: the head cannot be built with its config, or has more parameters than this machine could hold.
        """
        name, config = self.spec.name, self.config
        try:
            with torch.device("meta"):
                parameters = count(self.build())
        except Exception as error:  # a stranger's head may raise anything
            raise UserError(f"head {name!r} cannot be built with {config}: {one_line(error)}") from error
        check_memory(parameters, f"head {name!r} with {config}")

    def stored_features(self) -> list[FeatureSettings]:
        """What the phases of the protocol read from the feature store."""
        phases = {name: self.protocol.phase(name) for name in self.protocol.phases if self.is_untouched(name)}
        return [
            self.lower_features(phase) if phase.trains_encoder else self.features
            for phase in phases.values()
            if phase.trains_top or not phase.trains_encoder
        ]

    def lower_features(self, phase: Phase) -> FeatureSettings:
        """How states below the lowest trained layer are stored: its input, and lower ones that the head reads."""
        layers = self.encoder.config.num_hidden_layers
        base = layers - phase.top(layers)
        read = self.encoder.check(self.features.pooling, self.features.layers)
        lower = tuple(sorted({layer for layer in read if layer < base} | {base}))
        return dataclasses.replace(self.features, reads="tokens", pooling="cls", layers=lower)

    def is_untouched(self, phase: str) -> bool:
        """Whether what this phase leaves frozen is still as it was loaded."""
        depth = self._depth(self.protocol.phase(phase))
        earlier = self.protocol.phases[: self.protocol.phases.index(phase)]
        return all(self._depth(self.protocol.phase(name)) <= depth for name in earlier)

    def _depth(self, phase: Phase) -> int:
        """How far down a phase trains: 0 for the head alone, one more than the layers for the embeddings too."""
        layers = self.encoder.config.num_hidden_layers
        return layers + 1 if phase.trains == "all" else phase.top(layers)

    def losses(self, phase: str = "") -> dict[str, Loss]:
        """By task, what the head is trained with, in a phase where one is named."""
        found = losses_of(self.spec, self.config, self.tasks, self.protocol, phase)
        return {name: loss for name, (_, loss) in found.items()}

    def check_phases(self) -> None:
        """Refuse phases that this encoder cannot be trained by, or whose training the head would not see.

        Raises:
            UserError: too many layers, or layers above all that the head reads.
        """
        layers = self.encoder.config.num_hidden_layers
        highest = max(self.encoder.check(self.features.pooling, self.features.layers))
        pairs = list(zip(self.tasks, self.shapes, strict=True))
        for name in self.protocol.phases:
            phase = self.protocol.phase(name)
            try:
                top = phase.top(layers)
            except UserError as error:
                raise UserError(f"{name}.{error}") from error
            if phase.ranking and all(task.ranks(shape) is None for task, shape in pairs):
                raise UserError(
                    f"{name}.ranking needs a pair task that is encoded apart and says which labels mean the same; "
                    f"none of {', '.join(self.protocol.tasks)} does"
                )
            if phase.trains_top and highest <= layers - top:
                raise UserError(
                    f"{name}.trains = {phase.trains!r} trains layers above {layers - top}, but head {self.spec.name!r} "
                    f"reads none above {highest}: set layers, or train more"
                )


@dataclass
class OpenCell:
    """One cell, loaded.

    Attributes:
        texts: of all splits: what features are made of, the same for every cell.
        corpus: of the splits that the cell may look at.
        encoder: a copy of its own where a phase trains it.
        head: with the seed's initial weights, until it is trained.
        log: told what a user should know, a line each.
        trained: what phases train, by phase, once it was asked for.
    """

    cell: Cell
    workspace: Workspace
    assembly: Assembly
    device: torch.device
    texts: Corpus
    corpus: Corpus
    encoder: Encoder
    head: nn.Module
    log: Callable[[str], None]
    trained: dict[str, nn.ModuleDict] = field(default_factory=dict)

    @staticmethod
    def of(cell: Cell, workspace: Workspace, log: Callable[[str], None] = lambda line: None) -> OpenCell:
        """Load a cell.

        Raises:
            UserError: the encoder has changed since the cell was planned; also what `Assembly.of` raises.
        """
        protocol, device = cell.protocol, torch.device(cell.execution.device)
        if workspace.fingerprint(cell.encoder) != cell.identity["encoder"]:
            raise UserError(f"encoder {cell.encoder} is not the one this cell was planned with: run the command again")
        encoder = workspace.encoder(cell.encoder).to(device)
        if protocol.trains_encoder:  # other cells of this process share it
            encoder = encoder.copy()
        assembly = Assembly.of_cell(cell, workspace, encoder)
        texts = workspace.corpus(cell.data, protocol)
        return OpenCell(
            cell=cell,
            workspace=workspace,
            assembly=assembly,
            device=device,
            texts=texts,
            corpus=texts.only(cell.splits),
            encoder=encoder,
            head=assembly.build(cell.seed).to(device),
            log=log,
        )

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        return {task.name: task for task in self.assembly.tasks}

    def order(self, phase: str) -> Order:
        """The order of a phase's batches."""
        protocol, settings = self.cell.protocol, self.cell.protocol.phase(phase)
        trained = zip(self.assembly.tasks, self.assembly.shapes, strict=True)
        names = [task.name for task, shape in trained if not settings.ranking_only or task.ranks(shape) is not None]
        sizes = {name: len(self.corpus.parts[name, "train"]) for name in names}
        return Order(
            sizes, settings.batch_size, protocol.sampling, self.cell.seed, phase, settings.epochs, settings.step
        )

    def context(self, phase: str) -> PhaseContext:
        """What the trainer of a phase is told."""
        cell, execution, settings = self.cell, self.cell.execution, self.cell.protocol.phase(phase)
        losses = self.assembly.losses(phase)
        return PhaseContext(
            phase=phase,
            settings=settings,
            tasks=self.tasks,
            shapes={shape.name: shape for shape in self.assembly.shapes},
            losses=losses,
            constant_losses={name: self._constant_loss(task, losses[name]) for name, task in self.tasks.items()},
            auxiliary=self.assembly.spec.auxiliary,
            corpus=self.corpus,
            order=self.order(phase),
            seed=cell.seed,
            device=self.device,
            autocast=settings.trains_encoder and execution.precision == "bf16",
            interference=cell.interference,
            fixed=execution.cuda_graph or execution.compiled,
            graphs=execution.cuda_graph,
            compiled=execution.compiled,
            log=self.log,
        )

    def modules(self, phase: str) -> nn.ModuleDict:
        """What a phase trains: `head`, and `encoder` as far as it is trained; the same object at each call."""
        if phase not in self.trained:
            encoder = self._trained_encoder(phase)
            self.trained[phase] = nn.ModuleDict(
                {"head": self.head} if encoder is None else {"head": self.head, "encoder": encoder}
            )
        return self.trained[phase]

    def _trained_encoder(self, phase: str) -> nn.Module | None:
        settings, model = self.cell.protocol.phase(phase), self.encoder.model
        if not settings.trains_encoder:
            return None
        if settings.rank:
            with global_stream(self.cell.seed, "lora", phase):
                return LowRank(model, settings.rank)
        return TopLayers(model, settings.top(len(model.layers))) if settings.trains_top else model

    def close_phase(self, phase: str) -> None:
        """After a phase has been trained and scored: low-rank changes become part of the encoder."""
        for module in self.modules(phase).values():
            if isinstance(module, LowRank):
                module.merge()

    def all_modules(self) -> nn.ModuleDict:
        """All that any phase of the cell changes."""
        tuned = self.cell.protocol.trains_encoder
        return nn.ModuleDict({"head": self.head, "encoder": self.encoder.model} if tuned else {"head": self.head})

    def reader(self, phase: str, only: Tensor | None = None) -> Reader:
        """Where a phase's features come from. What lies below its lowest trained layer is encoded once.

        The frozen part is stored on disk where no earlier phase has changed it, and kept in memory otherwise.

        Args:
            only: rows of the corpus that will be asked for, sorted: nothing else is encoded, and nothing stored.
        """
        settings, features = self.cell.protocol.phase(phase), self.assembly.features
        stored = self.cell.execution.feature_cache and (settings.trains_top or not settings.trains_encoder)
        self._freeze_below(settings)
        if stored and not settings.trains_encoder:
            table, place = self._encoded(phase, features, only)
            return StoredReader(table, place)
        inputs: Inputs = self.workspace.tokenized(self.cell.encoder, self.texts, self.cell.protocol.max_length)
        if stored:
            lower = self.assembly.lower_features(settings)
            table, place = self._encoded(phase, lower, only)
            assert table.tokens is not None
            rows = torch.arange(len(table)) if place is None else place
            inputs = LowerStates(table.tokens.packed, lower.layers, rows, inputs.lengths)
        # A fine-tuned encoder is scored as it is trained: weights in fp32, since rounding them to bf16 would undo most
        # of what small steps changed; the forward in bf16, under autocast.
        tuned, half = settings.trains_encoder, features.precision == "bf16"
        exact = dataclasses.replace(features, precision="fp32") if tuned else features

        adapter = self.modules(phase)["encoder"] if settings.rank else None
        low_rank = adapter if isinstance(adapter, LowRank) else None

        def make_table(rows: Tensor) -> FeatureTable:
            self.encoder.eval()
            autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=tuned and half)
            with autocast, low_rank.applied() if low_rank else nullcontext():
                return encode_table(self.encoder, inputs.select(rows), exact).to(self.device)

        weights = low_rank.weights if low_rank else None
        return LiveReader(self.encoder, inputs, features, self.assembly.spec.reads, tuned, make_table, weights)

    def _encoded(
        self, phase: str, settings: FeatureSettings, only: Tensor | None
    ) -> tuple[FeatureTable, Tensor | None]:
        """Features by the part of the encoder that a phase does not train; and where each row is, if not all are."""
        if only is None and self.assembly.is_untouched(phase):
            return self.workspace.resident(self.cell.encoder, self.texts, settings, self.device), None
        tokenized = self.workspace.tokenized(self.cell.encoder, self.texts, self.cell.protocol.max_length)
        self.encoder.eval()
        if only is None:
            return encode_table(self.encoder, tokenized, settings).to(self.device), None
        place = torch.full((len(tokenized),), -1, dtype=torch.int64)
        place[only] = torch.arange(len(only))
        return encode_table(self.encoder, tokenized.select(only), settings).to(self.device), place

    def _freeze_below(self, settings: Phase) -> None:
        model = self.encoder.model
        if self.cell.protocol.trains_encoder:  # else it is shared, and no optimiser sees it
            trained = settings.trains == "all"
            model.requires_grad_(trained)
            if settings.trains_top:
                TopLayers(model, settings.top(len(model.layers))).requires_grad_(True)
        self.encoder.eval()

    def _constant_loss(self, task: TaskSpec, loss: Loss) -> float:
        labels = self.corpus.parts[task.name, "train"].labels
        assert labels is not None
        return constant_loss(task, loss, labels.numpy())
