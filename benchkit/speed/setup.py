"""What is timed: benchmark points, inputs of real lengths, a head's step on them, and what it computes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchkit.core.errors import UserError, unknown
from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import count
from benchkit.core.rng import generator
from benchkit.core.task import TaskShape
from benchkit.encoder import Encoder, Tokenized, resolve_precision
from benchkit.encoder.packing import Batch, arrange, batch_of, room
from benchkit.experiment.config import use_graphs
from benchkit.experiment.open_cell import Assembly
from benchkit.inspect.heads import Setup, width_of
from benchkit.inspect.trace import counting, encoder_macs, trace
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.store.table import FeatureTable, ResidentTokens
from benchkit.testing import make_features
from benchkit.training.cuda_graphs import GraphedStep, graph_pool, side_stream
from benchkit.training.evaluation import forward
from benchkit.training.optimizer import AdamW
from benchkit.training.readers import part_of

Mode = Literal["infer", "train", "head", "encode"]
MODES: tuple[Mode, ...] = ("infer", "train", "head", "encode")
MIXED = "mixed"


@dataclass(frozen=True)
class BenchmarkPoint:
    """One thing to time for every head.

    Attributes:
        mode: `infer`: word pieces to outputs; `train`: an optimiser step of encoder and head; `head`: an optimiser step
            of the head alone, on stored features; `encode`: word pieces to features.
        batch: examples of each task.
        length: word pieces of every sentence; `mixed`: of different lengths, as in real data.
        graph: the step is captured as a CUDA graph, on inputs of fixed shape, and replayed.
    """

    mode: Mode
    batch: int
    length: str
    precision: Literal["fp32", "bf16"]
    compiled: bool = False
    graph: bool = False

    def __str__(self) -> str:
        length = "mixed lengths" if self.length == MIXED else f"{self.length} word pieces"
        how = ", compiled" * self.compiled + ", CUDA graph" * self.graph
        return f"{self.mode}, batch {self.batch}, {length}, {self.precision}{how}"


def grid(
    modes: Sequence[str],
    batches: Sequence[str],
    lengths: Sequence[str],
    precisions: Sequence[str],
    device: torch.device,
    *,
    compiled: bool = False,
    graph: bool = False,
    longest: int,
) -> tuple[BenchmarkPoint, ...]:
    """All points, each once. Heads are trained on stored features in fp32, whatever the encoder computes in.

    Args:
        longest: word pieces that the encoder takes.

    Raises:
        UserError: a mode, precision, batch size or length that does not exist; a graph of what has none.
    """
    wanted = [_mode(name) for name in modes]
    if use_graphs(graph, device) and "encode" in wanted:
        raise UserError("--cuda-graph: encoding is no step that could be captured; leave out --mode encode")
    sizes = [_whole(text, "--batch-sizes", 1, None) for text in batches]
    for text in lengths:
        if text != MIXED:
            _whole(text, "--seq-lens", 3, longest, f", or {MIXED}")
    resolved = [resolve_precision(name, device) for name in precisions]
    points = (
        BenchmarkPoint(mode, size, length, "fp32" if mode == "head" else precision, compiled, graph)
        for mode, precision, length, size in itertools.product(
            sorted(wanted, key=MODES.index), resolved, lengths, sizes
        )
    )
    found = tuple(dict.fromkeys(points))
    if not found:
        raise UserError("nothing to time: name at least one mode, batch size, length and precision")
    return found


def _mode(name: str) -> Mode:
    for mode in MODES:
        if mode == name:
            return mode
    raise unknown("mode", name, MODES)


def _whole(text: str, option: str, low: int, high: int | None, more: str = "") -> int:
    if text.isdecimal() and low <= int(text) and (high is None or int(text) <= high):
        return int(text)
    limit = f"from {low} to {high}" if high else f"from {low} up"
    raise UserError(f"{option} takes whole numbers {limit}{more}, not {text!r}")


# Word pieces of a sentence in the report's data are near to log-normal: median 13, the 95th percentile at 28.
_MEDIAN, _SPREAD = 13.0, 0.46


@dataclass(frozen=True)
class Inputs:
    """One batch of every task.

    Attributes:
        rows: by task, (batch, segment) int64, into `tokenized`; no row twice.
        labels: by task, (batch,), int64 classes or float32 scores.
    """

    tokenized: Tokenized
    rows: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]

    @property
    def examples(self) -> int:
        return sum(len(rows) for rows in self.rows.values())

    @property
    def sentences(self) -> int:
        return len(self.tokenized)

    @property
    def tokens(self) -> int:
        """Word pieces, nothing padded."""
        return int(self.tokenized.offsets[-1])

    def lengths(self, task: str) -> Tensor:
        """(batch, segment) int64, in word pieces."""
        return self.tokenized.lengths[self.rows[task]]


def make_inputs(encoder: Encoder, shapes: Sequence[TaskShape], point: BenchmarkPoint) -> Inputs:
    """Sentences of the point's lengths, of random words between `[CLS]` and `[SEP]`."""
    random = generator(0, "speed", str(point.batch), point.length)
    ends = [point.batch * sum(shape.segments for shape in shapes[:i]) for i in range(len(shapes) + 1)]
    lengths = _lengths(point, ends[-1], encoder.config.max_position_embeddings, random)
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    vocab = encoder.tokenizer.get_vocab()
    words = torch.tensor(sorted(number for piece, number in vocab.items() if not piece.startswith("[")))
    ids = words[torch.randint(len(words), (int(offsets[-1]),), generator=random)].int()
    ids[offsets[:-1]], ids[offsets[1:] - 1] = vocab["[CLS]"], vocab["[SEP]"]
    rows = {
        shape.name: torch.arange(start, end).view(point.batch, shape.segments)
        for shape, start, end in zip(shapes, ends, ends[1:], strict=False)
    }
    labels = {shape.name: make_labels(shape, point.batch, random) for shape in shapes}
    return Inputs(Tokenized(ids, torch.zeros_like(ids, dtype=torch.uint8), offsets, 0), rows, labels)


def make_labels(shape: TaskShape, count: int, random: torch.Generator) -> Tensor:
    """(count,) classes or scores."""
    if shape.classes:
        return torch.randint(shape.classes, (count,), generator=random)
    return shape.low + (shape.high - shape.low) * torch.rand(count, generator=random)


def _lengths(point: BenchmarkPoint, count: int, longest: int, random: torch.Generator) -> Tensor:
    if point.length != MIXED:
        return torch.full((count,), int(point.length))
    drawn = _MEDIAN * (_SPREAD * torch.randn(count, generator=random)).exp()
    return drawn.round().long().clamp(3, longest)


Mark = Callable[[str], None]
Run = Callable[[Mark], None]
"""One step; calls its argument with the name of each part as it begins."""


# So small that a hundred thousand steps on one batch leave weights, and with them the time of a step, as they were.
_RATE = 1e-9


@dataclass
class PreparedBenchmark:
    """A point with everything that its heads share."""

    setup: Setup
    point: BenchmarkPoint
    inputs: Inputs
    encoder: Encoder
    tables: dict[FeatureSettings, FeatureTable] = field(default_factory=dict)
    moments: dict[int, Any] = field(default_factory=dict)
    compiled: dict[str, nn.Module] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)

    @staticmethod
    def of(setup: Setup, point: BenchmarkPoint) -> PreparedBenchmark:
        inputs = make_inputs(setup.encoder, setup.shapes, point)
        return PreparedBenchmark(setup, point, inputs, _encoder(setup.encoder, point))

    def names(self) -> tuple[str, ...]:
        """What is compared: heads; for `encode` the kinds of features that they read."""
        if self.point.mode != "encode":
            return self.setup.plan.heads
        return tuple(self._kinds())

    def make(self, name: str) -> Run:
        """The step of one of `names`, built anew."""
        if self.point.mode == "encode":
            return self._encode(self._kinds()[name])
        head = self.compiled.get(name) or self.assembly(name).build().to(self.setup.device)
        if self.point.compiled and name not in self.compiled:
            head.compile()
            self.compiled[name] = head  # compiling it again for each repetition would take longer than all the rest
        run = {"infer": self._infer, "train": self._train, "head": self._head}[self.point.mode](name, head)
        return Captured(run, self.setup.device, compiled=self.point.compiled) if self.point.graph else run

    def assembly(self, head: str) -> Assembly:
        return self.setup.assembly(head, self.point.precision)

    def settings(self, name: str) -> FeatureSettings:
        """How the inputs of one of `names` are encoded."""
        return self._kinds()[name] if self.point.mode == "encode" else self.assembly(name).features

    def _kinds(self) -> dict[str, FeatureSettings]:
        found = (self.setup.assembly(head, self.point.precision).features for head in self.setup.plan.heads)
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
            for shape in self.setup.shapes:
                mark("encoder")
                features = self._live(name, shape)
                mark("head")
                forward(head, features, shape, self.point.batch)

        return run

    def _live(self, name: str, shape: TaskShape) -> Pooled:
        spec, settings = self.setup.plugins.head(name), self.settings(name)
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
            there = {each: torch.from_numpy(value[0]).to(self.setup.device) for each, value in fields.items()}
            self.batches[shape.name] = batch_of(there, size)
        return self.batches[shape.name]

    def _train(self, name: str, head: nn.Module) -> Run:
        """As `train.loop` does in the second phase. Heads share the encoder and the optimiser's moments of it."""
        losses, labels = self.assembly(name).losses(), self._labels()
        own = list(self.encoder.model.parameters())
        optimizer = AdamW([*own, *head.parameters()], weight_decay=0.01)
        optimizer.state.update(self.moments)
        device, autocast = self.setup.device.type, self.point.precision == "bf16"
        self.encoder.train()
        head.train()

        def run(mark: Mark) -> None:
            for shape in self.setup.shapes:
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
        losses, labels, table = self.assembly(name).losses(), self._labels(), self._table(self.settings(name))
        optimizer = AdamW(head.parameters(), weight_decay=0.01)
        head.train()
        rows = {each: value.to(self.setup.device) for each, value in self.inputs.rows.items()}

        def gather(task: str) -> Pooled:
            if self.point.graph:
                return table.gather_fixed(rows[task], int(self.inputs.lengths(task).max()))
            return table.gather(self.inputs.rows[task])

        def run(mark: Mark) -> None:
            for shape in self.setup.shapes:
                outputs = forward(head, gather(shape.name), shape, self.point.batch)
                loss = losses[shape.name](outputs, labels[shape.name], shape)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step(_RATE)

        return run

    def _labels(self) -> Mapping[str, Tensor]:
        return {name: each.to(self.setup.device) for name, each in self.inputs.labels.items()}

    def _table(self, settings: FeatureSettings) -> FeatureTable:
        if settings not in self.tables:
            table, device = encode_table(self.encoder, self.inputs.tokenized, settings), self.setup.device
            if isinstance(table.tokens, ResidentTokens):
                tokens = ResidentTokens(
                    table.tokens.tokens.to(device), table.tokens.start.to(device), table.tokens.length
                )
                table = dataclasses.replace(table, tokens=tokens)
            self.tables[settings] = table.to(device)
        return self.tables[settings]


def _encoder(encoder: Encoder, point: BenchmarkPoint) -> Encoder:
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


class Captured:
    """A `Run` without parts: what a graph is made of cannot be told apart while it is replayed.

    Raises:
        UserError: the step waits for the device somewhere, or does something else that no graph can hold.
    """

    def __init__(self, run: Run, device: torch.device, *, compiled: bool = False) -> None:
        def step(row: torch.Tensor) -> torch.Tensor:
            run(lambda name: None)
            return row

        self.refused: list[str] = []
        self.device, self.row = device, torch.zeros(1, dtype=torch.int32, device=device)
        # A compiled step is made in its first run, and is itself only from the second on.
        warmups = 1 + compiled
        self.program = GraphedStep(step, 1, device, graph_pool(device), warmups, self.refused.append)
        for _ in range(warmups + 1):
            self.run()

    def __call__(self, mark: Mark) -> None:
        self.run()

    def run(self) -> None:
        with side_stream(self.device):
            self.program.run(self.row)
        if self.refused:
            raise UserError(f"no CUDA graph can be made of it: {self.refused[0]}")


@dataclass(frozen=True)
class Work:
    """What a step does.

    Attributes:
        examples, sentences, tokens: a pair is two sentences; tokens are word pieces, nothing padded.
        flops: needed for it, 2 a multiply-accumulate; what an implementation does on padding or twice is not in it.
        macs: of one example in one forward, encoder (where it takes part) and head, mean over the tasks.
        unknown: operations that could not be counted.
    """

    examples: int
    sentences: int
    tokens: int
    flops: int
    macs: float
    parameters: int
    unknown: tuple[str, ...] = ()


_FEW = 2  # examples; one is too few for batch normalisation


def count_work(prepared: PreparedBenchmark, name: str) -> Work:
    """Raises: whatever the head raises."""
    point, inputs, mode = prepared.point, prepared.inputs, prepared.point.mode
    encoder = _encoder_counts(prepared, name) if mode != "head" else 0
    forth, whole, unknown = _head(prepared, name) if mode != "encode" else (0, 0, ())
    head = count(prepared.assembly(name).build()) if mode != "encode" else 0
    # The way back takes two products for each of the way there: gradients of what went in, and of the weights.
    macs = encoder * (3 if mode == "train" else 1) + (forth if mode == "infer" else whole)
    return Work(
        examples=inputs.examples,
        sentences=inputs.sentences,
        tokens=inputs.tokens,
        flops=2 * macs,
        macs=(encoder + forth) / (point.batch * len(prepared.setup.shapes)),
        parameters=head + (prepared.setup.encoder.parameters if mode != "head" else 0),
        unknown=unknown,
    )


def _encoder_counts(prepared: PreparedBenchmark, name: str) -> int:
    settings, encoder = prepared.settings(name), prepared.setup.encoder
    layers = encoder.check(settings.pooling, settings.layers)
    pooler = settings.pooling == "pooler"
    first_only = settings.reads != "tokens" and (pooler or settings.pooling == "cls")
    lengths = prepared.inputs.tokenized.lengths.tolist()
    return encoder_macs(encoder.config, lengths, top=max(layers), first_only=first_only, pooler=pooler)


def _head(prepared: PreparedBenchmark, name: str) -> tuple[int, int, tuple[str, ...]]:
    """Multiply-accumulates of a round, forth alone and forth and back, and what could not be counted.

    Where all sentences have one length, a few examples are counted and stand for all.
    """
    setup, batch = prepared.setup, prepared.point.batch
    assembly = prepared.assembly(name)
    spec, layers, head = assembly.spec, len(assembly.features.layers), assembly.build()
    losses, random = assembly.losses(), generator(0, "speed", "counts")
    forth = whole = 0
    unknown: set[str] = set()
    for shape in setup.shapes:
        few = batch if prepared.point.length == MIXED and issubclass(spec.reads, Tokens) else min(batch, _FEW)
        lengths = prepared.inputs.lengths(shape.name)[:few]
        features = make_features(spec.reads, lengths, width_of(assembly), layers)
        with torch.no_grad():
            macs = trace(head.eval(), features, shape.name)
        forth += macs.macs * batch // few
        unknown.update(macs.unknown)
        if prepared.point.mode == "infer":
            continue
        if prepared.point.mode == "train":
            _ask_for_gradients(features)
        head.train(batch > 1)
        with counting() as counter:
            loss = losses[shape.name](forward(head, features, shape, few), make_labels(shape, few, random), shape)
            loss.backward()  # type: ignore[no-untyped-call]
        whole += counter.macs * batch // few
        unknown.update(counter.unknown)
    return forth, whole, tuple(sorted(unknown))


def _ask_for_gradients(features: Pooled) -> None:
    features.pooled.requires_grad_()
    if isinstance(features, Tokens):
        features.tokens.requires_grad_()
    if isinstance(features, Layers):
        features.layers.requires_grad_()
