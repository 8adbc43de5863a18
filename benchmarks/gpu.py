"""What a GPU makes of benchkit: is it right there, and how fast? Called by `gpu.sh`, which sets up what it needs.

`python benchmarks/gpu.py FOLDER [--smoke] [--only NAMES]` writes `README.md`, `numbers.json` and `environment.json`
into FOLDER. Each part stands alone: one that fails, or takes too long, is a row with its error, and the exit code is 1.
With `--smoke`, or without a GPU, all run in small: a check that the script works, not a measurement. Data and weights
are made up; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_peers
import gpu_user
import torch
from gpu_setting import OutOfTime, Row, Setting, limited
from gpu_write import environment, write
from made_up import LENGTHS, SHAPES, config_of, make_encoder, make_head, make_work
from torch import Tensor, nn

from benchkit.core.features import Pooled
from benchkit.core.protocol import Phase
from benchkit.encoder import Encoder, Tokenized, resolve_precision
from benchkit.encoder.packing import compute, gather
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.training.cuda_graphs import make_steps
from benchkit.training.evaluation import PhaseContext
from benchkit.training.loop import State, train_phase
from benchkit.training.optimizer import AdamW
from benchkit.training.readers import LiveReader, StoredReader

STEPS, EPOCHS = 1068 + 1068 + 755, 25  # of its phase 2: steps an epoch at batch 8
# Nominal dense bf16 FLOP/s, by what a device's name contains.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "RTX 4090": 165e12}
# Seconds that a part may take at most; a part that takes longer is stopped, and leaves the rows it has.
LIMITS = {"correct": 60, "H1": 45, "H2": 60, "H3": 90, "H4": 120, "H56": 120}
WAYS = ("launched one by one", "CUDA graphs", "CUDA graphs, compiled")


def correct(setting: Setting) -> Iterator[Row]:
    """The device against the CPU's exact-length groups, fp32, dropout off, then bf16."""
    torch.backends.cuda.matmul.allow_tf32 = False
    _, tokenized = data(setting, 20)
    rows = torch.arange(min(60, len(tokenized)))
    results: list[tuple[Tensor, dict[str, Tensor]]] = []
    for device, padded in ((torch.device("cpu"), False), (setting.device, True)):
        encoder = make_encoder(config_of(setting.base), device)
        pooled, _ = compute(encoder.model, gather(tokenized, rows, device, padded), "mean", (2,), False)
        torch.autograd.backward(pooled.square().sum())
        grads = {name: p.grad.cpu() for name, p in encoder.model.named_parameters() if p.grad is not None}
        results.append((pooled.detach().cpu(), grads))
    (exact, expected), (found, grads) = results
    yield check("forward, fp32: largest error over largest value", relative(found, exact), 1e-4)
    yield check("gradients, fp32", max(relative(grads[name], expected[name]) for name in expected), 1e-2)
    chunks = list(encoder.encode_chunks([tokenized], layers=(2,), precision="bf16"))
    rough = torch.empty(len(tokenized), encoder.hidden)
    for chunk in chunks:
        rough[chunk.rows] = chunk.pooled
    worst = float(torch.cosine_similarity(rough[rows], exact).min())
    yield check("encoding, bf16: 1 - least cosine", 1 - worst, 1e-2)


def check(what: str, value: float, limit: float) -> Row:
    if not value <= limit:
        raise ArithmeticError(f"{what}: {value:.3g} is above {limit:g}")
    return {"what": what, "value": f"{value:.2g}", "target": f"≤ {limit:g}"}


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max().clamp_min(1e-6))


def encoding(setting: Setting) -> Iterator[Row]:
    """H1: BERT-base from stored word pieces to pooled vectors in memory."""
    _, tokenized = data(setting)
    encoder = make_encoder(config_of(setting.base), setting.device)
    precision = resolve_precision("auto", setting.device)
    settings = FeatureSettings(pooling="mean", precision=precision)
    seconds = setting.seconds(lambda: encode_table(encoder, tokenized, settings))
    work = flops(setting.base, tokenized)
    yield {"what": f"encode, {precision}, sentences/s", "value": f"{len(tokenized) / seconds:,.0f}", "target": ""}
    yield {"what": "real word pieces/s", "value": f"{int(tokenized.offsets[-1]) / seconds:,.0f}", "target": ""}
    yield {"what": "TFLOP/s over real word pieces", "value": f"{work / seconds / 1e12:.2f}", "target": ""}
    name = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else ""
    for peak in (value for part, value in PEAKS.items() if part in name):
        yield {"what": "share of nominal bf16 peak", "value": f"{work / seconds / peak:.1%}", "target": "40 % (55 %)"}
        break
    if setting.smoke:
        return
    size = 8192
    matrix = torch.randn(size, size, device=setting.device, dtype=torch.bfloat16)
    best = 2 * size**3 / setting.seconds(lambda: matrix @ matrix)
    share = work / seconds / best
    yield {
        "what": f"share of a {size}³ bf16 product's {best / 1e12:.2f} TFLOP/s",
        "value": f"{share:.1%}",
        "target": "",
    }


def flops(shape: str, tokenized: Tokenized) -> float:
    """Multiplications and additions of all real word pieces, attention included, embeddings and norms not."""
    layers, hidden, _ = SHAPES[shape]
    total, squares = float(tokenized.offsets[-1]), float(tokenized.lengths.double().square().sum())
    return layers * (24 * hidden**2 * total + 4 * hidden * squares)


def strings(setting: Setting) -> Iterator[Row]:
    """H2: the demo's texts through an encoder's whole path, against sentence-transformers where it is installed."""
    yield from gpu_peers.sentence_transformers(setting)


def search(setting: Setting) -> Iterator[Row]:
    """H4: `benchkit tune`, then what a trial's training alone takes: no graph, no study, no store."""
    yield from gpu_user.search(setting)
    table, work = encoded(setting)
    trials = 2 if setting.smoke else 3

    def train() -> None:
        modules = nn.ModuleDict({"head": make_head("baseline", work, table.width)})
        train_phase(work, modules, StoredReader(table), State("pretrain"), lambda state: None)

    seconds = setting.seconds(train, trials - 1)
    yield {"what": "a trial's training loop alone, in memory", "value": f"{seconds:.2f} s", "target": ""}


def fine_tuning(setting: Setting) -> Iterator[Row]:
    """H5, H6: from rounds of three tasks at batch 8 to the report's whole phase 2, evaluation apart."""
    ours: dict[str, float] = {}
    failed: list[str] = []
    for step, target in (("task", "150 s (110 s)"), ("round", "60 s (45 s)")):
        together = 3 if step == "round" else 1
        named = {"task": "a step a task", "round": "summed step"}[step]
        for way in WAYS:
            try:
                seconds, memory = steps_by(setting, step, way)
            except Exception as error:  # noqa: BLE001  (the other ways are worth having)
                traceback.print_exc()
                failed.append(f"{named}, {way}: {type(error).__name__}")
                continue
            steps = -(-STEPS // together)
            ours[f"{named}, {way}"] = 1e3 * seconds / together
            yield {"what": f"{named}, {way}, ms", "value": f"{1e3 * seconds:.2f}", "target": ""}
            row = {"what": f"{named}, {way}: {EPOCHS} epochs of {steps} steps", "target": target}
            yield row | {"value": f"{EPOCHS * steps * seconds:,.0f} s"}
            if memory:
                yield {"what": f"{named}, {way}: most memory allocated", "value": f"{memory:.1f} GiB", "target": ""}
    work, tokenized = rounds(setting, "task")
    yield from gpu_peers.steps(work, tokenized, config_of(setting.base), list(work.order.epoch(1)), ours)
    if failed:
        raise RuntimeError("; ".join(failed))


def steps_by(setting: Setting, step: str, way: str) -> tuple[float, float]:
    """Seconds a step, least of a few epochs after two that make what is captured and compiled; GiB at most."""
    work, tokenized = rounds(setting, step)
    graphs = way != "launched one by one" and not setting.smoke
    fixed, compiled = way != WAYS[0], graphs and "compiled" in way
    work = dataclasses.replace(work, fixed=fixed, graphs=graphs, compiled=compiled)
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    encoder = make_encoder(config_of(setting.base), setting.device)
    modules = nn.ModuleDict({"head": make_head("baseline", work, encoder.hidden), "encoder": encoder.model}).train()
    steps = make_steps(work, modules, live(encoder, tokenized), AdamW(modules.parameters(), 0.01))
    together = list(work.order.rounds(list(work.order.epoch(1))))
    rates = [1e-6] * len(together)
    for _ in range(2 * graphs):
        steps.epoch(together, rates)
    seconds = setting.seconds(lambda: steps.epoch(together, rates), 3 if graphs else 1) / len(together)
    return seconds, torch.cuda.max_memory_allocated() / 2**30 if setting.device.type == "cuda" else 0.0


def rounds(setting: Setting, step: str) -> tuple[PhaseContext, Tokenized]:
    settings = Phase(epochs=1, batch_size=8, learning_rate=1e-6, step=step)
    sizes = {name: {"train": 8 * (4 if setting.smoke else 40)} for name in LENGTHS}
    work, tokenized = make_work(sizes, "finetune", settings, "round_robin", setting.device)
    return dataclasses.replace(work, autocast=resolve_precision("auto", setting.device) == "bf16"), tokenized


def data(setting: Setting, rows: int | None = None) -> tuple[PhaseContext, Tokenized]:
    sizes = {name: {"train": rows} for name in LENGTHS} if rows else setting.rows
    return make_work(sizes, "pretrain", Phase(epochs=2 if setting.smoke else 10), "proportional", setting.device)


def encoded(setting: Setting) -> tuple[Any, PhaseContext]:
    work, tokenized = data(setting)
    encoder = make_encoder(config_of(setting.base), setting.device)
    settings = FeatureSettings(pooling="cls", precision=resolve_precision("auto", setting.device))
    return encode_table(encoder, tokenized, settings).to(setting.device), work


def live(encoder: Encoder, tokenized: Tokenized) -> LiveReader:
    settings = FeatureSettings(pooling="cls")
    return LiveReader(
        encoder, tokenized, settings, Pooled, True, lambda rows: encode_table(encoder, tokenized.select(rows), settings)
    )


PARTS = {
    "correct": correct,
    "H1": encoding,
    "H3": gpu_user.frozen,
    "H56": fine_tuning,
    "H4": search,
    "H2": strings,
}


def chosen(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if wrong := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {wrong[0]}; there are {', '.join(PARTS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the tables go")
    parser.add_argument("--smoke", action="store_true", help="all parts in small")
    parser.add_argument("--only", type=chosen, default=list(PARTS), metavar="NAMES", help=f"some of {', '.join(PARTS)}")
    args = parser.parse_args()
    setting = Setting(args.smoke)
    args.folder.mkdir(parents=True, exist_ok=True)
    around, numbers, failures = environment(setting), {}, 0
    (args.folder / "environment.json").write_text(json.dumps(around, indent=2) + "\n", encoding="utf-8")
    for name in args.only:
        started, rows = time.perf_counter(), []
        try:
            with limited(LIMITS[name]):
                for row in PARTS[name](setting):
                    rows.append(row | {"target": "" if setting.smoke and name != "correct" else row["target"]})
                    print(f"{name:8}{row['what']:75}{row['value']:>14}  {rows[-1]['target']}", flush=True)
                    numbers[name] = {"rows": rows, "seconds": round(time.perf_counter() - started, 1)}
                    write(args.folder, around, numbers)  # after each row: a run that is cut short leaves what it has
        except (Exception, OutOfTime) as error:  # noqa: BLE001  (the other parts are worth having)
            traceback.print_exc()
            failures += 1
            why = f"{type(error).__name__}: {error}".replace("\n", " ").replace("|", "/")
            rows.append({"what": "FAILED", "value": why, "target": ""})
        numbers[name] = {"rows": rows, "seconds": round(time.perf_counter() - started, 1)}
        print(f"{name:8}took {numbers[name]['seconds']} s", flush=True)
        write(args.folder, around, numbers)
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    setting.scratch.cleanup()
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
