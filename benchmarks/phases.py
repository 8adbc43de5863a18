"""The first phase of the report as benchkit runs it, and as a loop that encodes every batch anew."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchkit.core.features import Pooled
from benchkit.core.plugins import load_plugins
from benchkit.experiment.config import Request, resolve
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.workspace import Workspace

# Rows of the report's splits, by task.
_SIZES = {"sst": (8544, 1101, 2210), "quora": (8544, 4544, 40431), "sts": (6041, 864, 1726)}


@dataclass(frozen=True)
class Phase1:
    """The report's first phase: `baseline`, ten epochs at batch 64, dev after each; 1 / `share` of its rows.

    Attributes:
        fields: more of the protocol, such as `quora.dev_size=4000`.
    """

    encoder: Path
    share: int
    epochs: int = 10
    fields: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        folder = os.environ.get("BENCHKIT_DATA")
        return str(Path(folder, "benchmark")) if folder else "demo"

    @property
    def settings(self) -> tuple[str, ...]:
        """Hardly any test rows: the loop that it is compared with does not look at test."""
        sizes = (
            f"{task}.{split}_size={max(8, rows[place] // self.share) if split != 'test' else 8}"
            for task, rows in _SIZES.items()
            for split, place in (("train", 0), ("dev", 1), ("test", 2))
        )
        return (*sizes, f"pretrain.epochs={self.epochs}", *self.fields)

    @property
    def options(self) -> list[str]:
        named = ["--preset", "paper", "--data", self.data, "--encoder", str(self.encoder), "--phases", "pretrain"]
        return [*named, "--jobs", "1", *(part for setting in self.settings for part in ("--set", setting))]


def first_phase(phase: Phase1, context: Path) -> float:
    """Seconds of `benchkit run`, from its start to its end, with an empty store."""
    return _benchkit("run", ["--heads", "baseline", "--seeds", "1", *phase.options], context)


def search(phase: Phase1, trials: int, context: Path) -> float:
    """Seconds of `benchkit tune`, with an empty store; the final comparison with one seed is in it."""
    options = ["--head", "baseline", "--trials", str(trials), "--final-seeds", "1", "--pruner", "none"]
    return _benchkit("tune", [*options, *phase.options], context)


def _benchkit(command: str, options: list[str], context: Path) -> float:
    begun = time.perf_counter()
    arguments = [sys.executable, "-m", "benchkit", command, *options, "--out", str(context / "out")]
    environment = {**os.environ, "BENCHKIT_CACHE": str(context / "cache")}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchkit {command} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - begun


def loop_seconds(phase: Phase1, steps: int) -> float:
    """What the phase would take if each batch were encoded anew, padded, by transformers in fp32.

    Measured: `steps` batches of each task, trained on and scored as dev, at the sizes that benchkit has; then times how
    many word pieces, padding included, all batches would have to these batches': what a batch takes is decided by its
    longest sentence. The data, the head and its loss are benchkit's own.
    """
    from transformers import BertModel

    plugins = load_plugins()
    request = Request(heads=("baseline",), preset="paper", phases=("pretrain",), data=phase.data,
                      encoder=str(phase.encoder), settings=phase.settings, device="cpu")  # fmt: skip
    plan = resolve(request, plugins)
    workspace, settings = Workspace(plugins, phase.encoder, lambda line: None), plan.protocol.phase("pretrain")
    tasks, corpus = workspace.tasks(plan.protocol), workspace.corpus(plan.data, plan.protocol)
    encoder = workspace.encoder(plan.encoder)
    tokenized = encoder.tokenize(corpus.inputs, plan.protocol.max_length)
    model = BertModel.from_pretrained(phase.encoder).float().eval()
    spec = plugins.head("baseline")
    assembly = Assembly.of(spec, plan.configs["baseline"], plan.protocol, tasks, encoder)
    head, shapes = assembly.build(), {shape.name: shape for shape in assembly.shapes}
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate)

    @torch.no_grad()
    def features(rows: Tensor) -> Pooled:
        ids = [tokenized.ids[tokenized.offsets[i] : tokenized.offsets[i + 1]].long() for i in rows.flatten().tolist()]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        mask = (torch.arange(padded.shape[1]) < tokenized.lengths[rows.flatten(), None]).long()
        return Pooled(model(padded, attention_mask=mask).last_hidden_state[:, 0].view(*rows.shape, -1))

    def step(task: str, examples: Tensor) -> None:
        part = corpus.parts[task, "train"]
        assert part.labels is not None
        loss = next(iter(plugins.tasks[task].losses.values()))
        optimizer.zero_grad()
        outputs = head(features(part.rows[examples]), task)
        loss(outputs, part.labels[examples], shapes[task]).backward()
        optimizer.step()

    def pieces(rows: Tensor, batches: Sequence[Tensor]) -> int:
        return sum(int(tokenized.lengths[rows[each]].max()) * rows[each].numel() for each in batches)

    seconds = 0.0
    for task in tasks:
        train, dev = corpus.parts[task.name, "train"].rows, corpus.parts[task.name, "dev"].rows
        batches = _batches(len(train), settings.batch_size)
        step(task.name, batches[0][:8])
        spent = _seconds([partial(step, task.name, each) for each in batches[:steps]])
        seconds += spent * pieces(train, batches) / pieces(train, batches[:steps])
        batches = _batches(len(dev), settings.batch_size)
        spent = _seconds([partial(features, dev[each]) for each in batches[:steps]])
        seconds += spent * pieces(dev, batches) / pieces(dev, batches[:steps])
    return settings.epochs * seconds


def _batches(size: int, batch: int) -> list[Tensor]:
    """Random ones, as an epoch has them."""
    return list(torch.randperm(size, generator=torch.Generator().manual_seed(0)).split(batch))


def _seconds(calls: Sequence[Callable[[], object]]) -> float:
    begun = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - begun
