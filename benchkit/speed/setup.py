"""Benchmark points, inputs of realistic lengths, the step of a head that is timed, and its work."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from benchkit.core.errors import UserError, unknown
from benchkit.core.features import Pooled, Tokens
from benchkit.core.head import count
from benchkit.core.rng import generator
from benchkit.core.task import TaskShape
from benchkit.encoder import Encoder, Tokenized, resolve_precision
from benchkit.encoder.packing import Batch, batch_of, bucket_size, pack
from benchkit.experiment.config import use_graphs
from benchkit.experiment.open_cell import Assembly
from benchkit.inspect.heads import Setup, width_of
from benchkit.inspect.trace import counting, encoder_macs, trace
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.store.table import FeatureTable, ResidentTokens
from benchkit.testing.contract import make_features
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
        graph: whether the step is captured as a CUDA graph, on inputs of fixed shape, and replayed.
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
) -> list[BenchmarkPoint]:
    """All points, without repetition. Heads are trained on stored features in fp32, whatever the encoder's precision.

    Args:
        longest: most word pieces that the encoder accepts.

    Raises:
        UserError: a mode, precision, batch size or length does not exist, or a graph is requested where there is none.
    """
    for name in modes:
        if name not in MODES:
            raise unknown("mode", name, MODES)
    if use_graphs(graph, device) and "encode" in modes:
        raise UserError("--cuda-graph: encoding is no step that could be captured; leave out --mode encode")
    sizes = [_whole(text, "--batch-sizes", 1, None) for text in batches]
    for text in lengths:
        if text != MIXED:
            _whole(text, "--seq-lens", 3, longest, f", or {MIXED}")
    resolved = [resolve_precision(name, device) for name in precisions]
    wanted = [mode for mode in MODES if mode in modes]
    points = dict.fromkeys(
        BenchmarkPoint(mode, size, length, "fp32" if mode == "head" else precision, compiled, graph)
        for mode, precision, length, size in itertools.product(wanted, resolved, lengths, sizes)
    )
    if not points:
        raise UserError("nothing to time: name at least one mode, batch size, length and precision")
    return list(points)


def _whole(text: str, option: str, low: int, high: int | None, more: str = "") -> int:
    if text.isdecimal() and low <= int(text) <= (high or math.inf):
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


def ignore(name: str) -> None:
    """The `Mark` of a step whose parts are not timed."""


# So small that a hundred thousand steps on one batch leave weights, and with them the time of a step, as they were.
_RATE = 1e-9


@dataclass
class PreparedBenchmark:
    """A point with everything that its heads share.

    Attributes:
        encoder: a copy if it is trained, compiled, or has bf16 weights.
        kinds: how the heads' inputs are encoded, by the kind of features that a head reads.
        moments: the optimiser's moments of the encoder's parameters.
    """

    setup: Setup
    point: BenchmarkPoint
    inputs: Inputs
    encoder: Encoder
    kinds: dict[str, FeatureSettings]
    tables: dict[FeatureSettings, FeatureTable] = field(default_factory=dict)
    moments: dict[int, Any] = field(default_factory=dict)
    compiled: dict[str, nn.Module] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)

    @staticmethod
    def of(setup: Setup, point: BenchmarkPoint) -> PreparedBenchmark:
        encoder, casts = setup.encoder, point.precision == "bf16" and point.mode in ("infer", "encode")
        if casts or point.compiled or point.mode == "train":
            encoder = encoder.copy()
        if casts:
            encoder.model.to(torch.bfloat16)
        if point.compiled:
            encoder.model.compile()
        if point.mode == "train":
            encoder.train()
        found = (setup.assembly(head, point.precision).features for head in setup.plan.heads)
        kinds: dict[str, FeatureSettings] = {settings.reads: settings for settings in found}
        return PreparedBenchmark(setup, point, make_inputs(setup.encoder, setup.shapes, point), encoder, kinds)

    def names(self) -> tuple[str, ...]:
        """The names that are compared: heads, or for `encode` the kinds of features that they read."""
        return tuple(self.kinds) if self.point.mode == "encode" else self.setup.plan.heads

    def assembly(self, head: str) -> Assembly:
        return self.setup.assembly(head, self.point.precision)

    def make(self, name: str) -> Run:
        """The step of one of `names`, built anew."""
        if self.point.mode == "encode":
            return partial(self._encode, self.kinds[name])
        head = self.compiled.get(name) or self.assembly(name).build().to(self.setup.device)
        if self.point.compiled and name not in self.compiled:
            head.compile()
            self.compiled[name] = head  # compiling it again for each repetition would take longer than all the rest
        run = self._step(name, head)
        return captured(run, self.setup.device, self.point.compiled) if self.point.graph else run

    def _encode(self, settings: FeatureSettings, mark: Mark) -> None:
        """Encode inputs as the feature store does. The copy of the encoder's model already has the right precision."""
        reads = Tokens if settings.reads == "tokens" else Pooled
        pooling, layers = settings.pooling, settings.layers
        for _ in self.encoder.encode_chunks(
            [self.inputs.tokenized], reads=reads, pooling=pooling, layers=layers, precision="fp32"
        ):
            pass

    def _step(self, name: str, head: nn.Module) -> Run:
        """One step on a batch of every task, as in `training.loop`.

        `infer` is a forward pass. `train` and `head` add a backward pass and an optimiser step. Heads share the encoder
        and its optimiser moments. `head` reads features from memory, so its step has no parts.
        """
        mode, device, batch = self.point.mode, self.setup.device, self.point.batch
        trains, tuned = mode != "infer", mode == "train"
        assembly = self.assembly(name)
        losses, labels = assembly.losses(), {task: y.to(device) for task, y in self.inputs.labels.items()}
        own = list(self.encoder.model.parameters()) if tuned else []
        optimizer = AdamW([*own, *head.parameters()], weight_decay=0.01)
        optimizer.state.update(self.moments)
        head.train(trains)
        read = self._stored(assembly.features) if mode == "head" else partial(self._live, assembly)

        @torch.inference_mode(not trains)
        def run(mark: Mark) -> None:
            mark = ignore if mode == "head" else mark
            for shape in self.setup.shapes:
                mark("encoder")
                with torch.autocast(device.type, torch.bfloat16, enabled=tuned and self.point.precision == "bf16"):
                    features = read(shape)
                mark("head")
                if tuned:  # the head's part of the backward pass ends once the gradients of all features are there
                    wanted = [tensor for tensor in _tensors(features) if tensor.requires_grad]
                    register_multi_grad_hook(wanted, lambda gradients: mark("encoder"), mode="all")
                outputs = forward(head, features, shape, batch)
                if trains:
                    loss = losses[shape.name](outputs, labels[shape.name], shape)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    mark("optimiser")
                    optimizer.step(_RATE)
            self.moments.update((number, moments) for number, moments in optimizer.state.items() if number < len(own))

        return run

    def _live(self, assembly: Assembly, shape: TaskShape) -> Pooled:
        reads, settings = assembly.spec.reads, assembly.features
        rows = self.inputs.rows[shape.name]
        if self.point.graph:
            features = self.encoder.features_of(self._fixed(shape), reads, settings.pooling, settings.layers)
            return part_of(features, 0, rows.shape)
        return self.encoder.features(self.inputs.tokenized, rows, reads, settings.pooling, settings.layers)

    def _fixed(self, shape: TaskShape) -> Batch:
        """A task's inputs in tensors of fixed shape on the device, as captured steps need them."""
        if shape.name not in self.batches:
            rows = self.inputs.rows[shape.name].flatten().numpy()
            size = bucket_size(self.inputs.tokenized.lengths.numpy()[rows], self.encoder.config.max_position_embeddings)
            fields = pack(self.inputs.tokenized, rows[None], size)
            there = {each: torch.from_numpy(value[0]).to(self.setup.device) for each, value in fields.items()}
            self.batches[shape.name] = batch_of(there, size)
        return self.batches[shape.name]

    def _stored(self, settings: FeatureSettings) -> Callable[[TaskShape], Pooled]:
        """Read a task's features from a table in memory. Heads that read the same kind share the table."""
        device = self.setup.device
        if settings not in self.tables:
            table = encode_table(self.encoder, self.inputs.tokenized, settings)
            if isinstance(held := table.tokens, ResidentTokens):
                moved = ResidentTokens(held.tokens.to(device), held.start.to(device), held.length)
                table = dataclasses.replace(table, tokens=moved)
            self.tables[settings] = table.to(device)
        table = self.tables[settings]
        if not self.point.graph:
            return lambda shape: table.gather(self.inputs.rows[shape.name])
        rows = {task: each.to(device) for task, each in self.inputs.rows.items()}
        return lambda shape: table.gather_fixed(rows[shape.name], int(self.inputs.lengths(shape.name).max()))


def _tensors(features: Pooled) -> list[Tensor]:
    """The tensors that a head passes gradients to: all of its features except the mask."""
    found = [getattr(features, each.name) for each in dataclasses.fields(features)]
    return [tensor for tensor in found if tensor.is_floating_point()]


def captured(run: Run, device: torch.device, compiled: bool) -> Run:
    """A step as replays of a CUDA graph. It has no parts, since parts of a replay cannot be timed.

    Raises:
        UserError: the step waits for the device or does something else that cannot be captured.
    """

    def step(row: Tensor) -> Tensor:
        run(ignore)
        return row

    refused: list[str] = []
    warmups = 1 + compiled  # a compiled step is made in its first run, and is itself only from the second on
    graphed = GraphedStep(step, 1, device, graph_pool(device), warmups, refused.append)
    row = torch.zeros(1, dtype=torch.int32, device=device)

    def replay(mark: Mark) -> None:
        with side_stream(device):
            graphed.run(row)
        if refused:
            raise UserError(f"no CUDA graph can be made of it: {refused[0]}")

    for _ in range(warmups + 1):
        replay(ignore)
    return replay


@dataclass(frozen=True)
class Work:
    """The work of one step.

    Attributes:
        examples, sentences, tokens: a pair is two sentences; tokens are word pieces, nothing padded.
        flops: operations that the step needs, 2 per multiply-accumulate; work on padding and repeated work are not
            counted.
        macs: multiply-accumulates of one example in a forward pass of head and encoder (if it takes part), mean over
            tasks.
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
    """Count the work of one step.

    Raises:
        Exception: any exception of the head.
    """
    setup, point, inputs = prepared.setup, prepared.point, prepared.inputs
    encoder = forth = whole = parameters = 0
    unknown: tuple[str, ...] = ()
    if point.mode != "head":
        settings = prepared.kinds[name] if point.mode == "encode" else prepared.assembly(name).features
        model, parameters = setup.encoder, setup.encoder.parameters
        top, pooler = max(model.check(settings.pooling, settings.layers)), settings.pooling == "pooler"
        first_only = settings.reads != "tokens" and settings.pooling in ("pooler", "cls")
        lengths = inputs.tokenized.lengths.tolist()
        encoder = encoder_macs(model.config, lengths, top=top, first_only=first_only, pooler=pooler)
    if point.mode != "encode":
        forth, whole, unknown = _head_macs(prepared, name)
        parameters += count(prepared.assembly(name).build())
    # The backward pass takes two products for each of the forward pass: gradients of the inputs, and of the weights.
    macs = encoder * (3 if point.mode == "train" else 1) + whole
    examples, tokens = point.batch * len(setup.shapes), int(inputs.tokenized.offsets[-1])
    return Work(examples, len(inputs.tokenized), tokens, 2 * macs, (encoder + forth) / examples, parameters, unknown)


def _head_macs(prepared: PreparedBenchmark, name: str) -> tuple[int, int, tuple[str, ...]]:
    """Multiply-accumulates of a forward pass on a batch of every task, those of the whole step, and uncounted
    operations.

    If all sentences have the same length, a few examples are counted and the result is scaled up.
    """
    point, assembly = prepared.point, prepared.assembly(name)
    reads, layers, head = assembly.spec.reads, len(assembly.features.layers), assembly.build()
    losses, random = assembly.losses(), generator(0, "speed", "counts")
    forth = whole = 0
    unknown: set[str] = set()
    for shape in prepared.setup.shapes:
        few = point.batch if point.length == MIXED and issubclass(reads, Tokens) else min(point.batch, _FEW)
        features = make_features(reads, prepared.inputs.lengths(shape.name)[:few], width_of(assembly), layers)
        with torch.no_grad():
            macs = trace(head.eval(), features, shape.name)
        forth += macs.macs * point.batch // few
        unknown.update(macs.unknown)
        if point.mode == "infer":
            continue
        for tensor in _tensors(features):
            tensor.requires_grad_(point.mode == "train")
        head.train(point.batch > 1)
        with counting() as counter:
            loss = losses[shape.name](forward(head, features, shape, few), make_labels(shape, few, random), shape)
            loss.backward()  # type: ignore[no-untyped-call]
        whole += counter.macs * point.batch // few
        unknown.update(counter.unknown)
    return forth, whole if point.mode != "infer" else forth, tuple(sorted(unknown))
