"""What benchmarks run on where no data is at hand: encoders with random weights, sentences of random word pieces.

Speed depends on how many word pieces a sentence has, not on which: lengths are drawn from log-normals fitted to the
train splits of SST, Quora and STS with bert-base-uncased's word pieces.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from benchkit.core.plugins import load_plugins
from benchkit.core.protocol import Phase
from benchkit.core.rng import global_stream
from benchkit.encoder import BertConfig, Encoder, MiniBert, Tokenized
from benchkit.encoder.tokenizer import SPECIAL, wordpiece
from benchkit.training.batches import Corpus, Order, Part
from benchkit.training.evaluation import PhaseContext

# Mean and standard deviation of the logarithm of word pieces a sentence, [CLS] and [SEP] apart.
LENGTHS = {"sst": (3.04, 0.54), "quora": (2.50, 0.43), "sts": (2.41, 0.49)}
# Layers, hidden size, attention heads.
SHAPES = {"base": (12, 768, 12), "6x384": (6, 384, 12), "tiny": (2, 64, 2)}


def config_of(shape: str) -> BertConfig:
    layers, hidden, heads = SHAPES[shape]
    return BertConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=4 * hidden
    )


def make_encoder(config: BertConfig, device: torch.device) -> Encoder:
    """BERT's initial weights; a vocabulary of special pieces alone, since its texts are word pieces already."""
    model = MiniBert(config, pooler=False)
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(0.0, config.initializer_range, generator=random)
        elif name.endswith("bias"):
            parameter.data.zero_()
    return Encoder("random", model.eval(), wordpiece(SPECIAL, "benchmark")).to(device)


def make_head(name: str, work: PhaseContext, hidden: int) -> nn.Module:
    spec = load_plugins().head(name)
    with global_stream(0, "init"):
        return spec.build(spec.configure({}), hidden, tuple(work.shapes.values())).to(work.device)


def make_work(
    sizes: Mapping[str, Mapping[str, int]], phase: str, settings: Phase, sampling: str, device: torch.device
) -> tuple[PhaseContext, Tokenized]:
    """The three tasks with random rows and labels: `sizes` by task and split; each row has sentences of its own."""
    plugins, random = load_plugins(), torch.Generator().manual_seed(0)
    tasks = {name: plugins.task(name) for name in LENGTHS}
    parts, lengths, first = {}, [], 0
    for name, task in tasks.items():
        for split, rows in sizes[name].items():
            count = rows * len(task.texts)
            drawn = torch.empty(count).log_normal_(*LENGTHS[name], generator=random)
            lengths.append(drawn.round().long().clamp(1, 126) + 2)
            classes = len(task.classes)
            scores = task.low + (task.high - task.low) * torch.rand(rows, generator=random)
            labels = torch.randint(classes, (rows,), generator=random) if classes else scores
            where = torch.arange(first, first + count).view(rows, -1)
            parts[name, split] = Part(where, labels, tuple(map(str, range(rows))))
            first += count
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(lengths).cumsum(0)])
    ids = torch.randint(1000, 30000, (int(offsets[-1]),), generator=random, dtype=torch.int32)
    train = {name: splits["train"] for name, splits in sizes.items()}
    work = PhaseContext(
        phase=phase,
        settings=settings,
        tasks=tasks,
        shapes={name: task.shape() for name, task in tasks.items()},
        losses={name: next(iter(task.losses.values())) for name, task in tasks.items()},
        constant_losses=dict.fromkeys(tasks, 1e9),  # random labels: nothing is to be learnt, and that is no divergence
        corpus=Corpus((), parts),
        order=Order(train, settings.batch_size, sampling, 0, phase, settings.epochs, settings.step),
        seed=0,
        device=device,
    )
    return work, Tokenized(ids, torch.zeros(len(ids), dtype=torch.uint8), offsets, 0)
