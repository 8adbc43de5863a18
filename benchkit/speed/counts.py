"""What a step does, counted once on the CPU and not while it is timed."""

from __future__ import annotations

from benchkit.encoder import encoder_macs
from benchkit.features import Layers, Pooled, Tokens
from benchkit.flops import counting, head_macs
from benchkit.parameters import count
from benchkit.rng import generator
from benchkit.speed.inputs import make_features, make_labels
from benchkit.speed.request import MIXED
from benchkit.speed.row import Work
from benchkit.speed.work import Stage
from benchkit.train.evaluate import forward

_FEW = 2  # examples; one is too few for batch normalisation


def count_work(stage: Stage, name: str) -> Work:
    """Raises: whatever the head raises."""
    point, inputs, mode = stage.point, stage.inputs, stage.point.mode
    encoder = _encoder(stage, name) if mode != "head" else 0
    forth, whole, unknown = _head(stage, name) if mode != "encode" else (0, 0, ())
    head = count(stage.ground.head(name)) if mode != "encode" else 0
    # The way back takes two products for each of the way there: gradients of what went in, and of the weights.
    macs = encoder * (3 if mode == "train" else 1) + (forth if mode == "infer" else whole)
    return Work(
        examples=inputs.examples,
        sentences=inputs.sentences,
        tokens=inputs.tokens,
        flops=2 * macs,
        macs=(encoder + forth) / (point.batch * len(stage.ground.shapes)),
        parameters=head + (stage.ground.encoder.parameters if mode != "head" else 0),
        unknown=unknown,
    )


def _encoder(stage: Stage, name: str) -> int:
    settings, encoder = stage.settings(name), stage.ground.encoder
    layers = encoder.check(settings.pooling, settings.layers)
    pooler = settings.pooling == "pooler"
    first_only = settings.reads != "tokens" and (pooler or settings.pooling == "cls")
    lengths = stage.inputs.tokenized.lengths.tolist()
    return encoder_macs(encoder.config, lengths, top=max(layers), first_only=first_only, pooler=pooler)


def _head(stage: Stage, name: str) -> tuple[int, int, tuple[str, ...]]:
    """Multiply-accumulates of a round, forth alone and forth and back, and what could not be counted.

    Where all sentences have one length, a few examples are counted and stand for all.
    """
    ground, batch = stage.ground, stage.point.batch
    spec, settings, head = ground.plugins.head(name), stage.settings(name), ground.head(name)
    losses, random = ground.losses(name), generator(0, "speed", "counts")
    forth = whole = 0
    unknown: set[str] = set()
    for shape in ground.shapes:
        few = batch if stage.point.length == MIXED and issubclass(spec.reads, Tokens) else min(batch, _FEW)
        lengths = stage.inputs.lengths(shape.name)[:few]
        width = ground.encoder.hidden * (1 if settings.apart else len(settings.layers))
        features = make_features(spec.reads, lengths, width, len(settings.layers))
        macs = head_macs(head.eval(), features, shape.name)
        forth += macs.total * batch // few
        unknown.update(macs.unknown)
        if stage.point.mode == "infer":
            continue
        if stage.point.mode == "train":
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
