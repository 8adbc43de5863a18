"""What a GPU's time goes to, by torch's profiler: `python benchmarks/profile_gpu.py [--only encode step head]`.

encode  80,824 sentences through BERT-base, in bf16
step    a step of phase 2, BERT-base, batch 8, a task or summed: launched one by one, as CUDA graphs, and compiled
head    a step of phase 1 on stored features of width 768, batch 64, launched one by one and as CUDA graphs

Wall time of a step, kernels and device time a step, and what takes the most of it. On a CPU all in small, without the
profile: a check of the script.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu import WAYS, live, rounds
from gpu_setting import ROWS, Setting
from made_up import config_of, make_encoder, make_head, make_work
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchkit.core.protocol import Phase
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.store.table import FeatureTable, Report
from benchkit.training.cuda_graphs import make_steps
from benchkit.training.optimizer import AdamW
from benchkit.training.readers import StoredReader

SHOWN = 12
Part = tuple[str, Callable[[], Any], int]
"""A name, what is to be done, and how many steps that is."""


def encode(setting: Setting) -> Iterator[Part]:
    _, tokenized = make_work(setting.rows, "pretrain", Phase(), "proportional", setting.device)
    encoder = make_encoder(config_of(setting.base), setting.device)
    settings = FeatureSettings(pooling="mean", precision="fp32" if setting.smoke else "bf16")
    yield "encode", lambda: encode_table(encoder, tokenized, settings), 1


def step(setting: Setting) -> Iterator[Part]:
    for kind in ("task", "round"):
        for way in WAYS:
            context, tokenized = rounds(setting, kind)
            fixed, graphs = way != WAYS[0], way != WAYS[0] and not setting.smoke
            compiled = graphs and "compiled" in way
            context = dataclasses.replace(context, fixed=fixed, graphs=graphs, compiled=compiled)
            encoder = make_encoder(config_of(setting.base), setting.device)
            modules = nn.ModuleDict({"head": make_head("baseline", context, encoder.hidden), "encoder": encoder.model})
            steps = make_steps(context, modules.train(), live(encoder, tokenized), AdamW(modules.parameters(), 0.01))
            together = list(context.order.rounds(list(context.order.epoch(1))))
            rates = [1e-6] * len(together)
            yield f"step = {kind!r}, {way}", lambda: steps.epoch(together, rates), len(together)  # noqa: B023


def head(setting: Setting) -> Iterator[Part]:
    rows = {name: {"train": splits["train"] // (100 if setting.smoke else 1)} for name, splits in ROWS.items()}
    for name in ("baseline", "recurrent", "cnn", "siamese"):
        for graphs in (False, True):
            context, tokenized = make_work(rows, "pretrain", Phase(), "proportional", setting.device)
            context = dataclasses.replace(context, fixed=graphs, graphs=graphs and not setting.smoke)
            table = FeatureTable(torch.randn(len(tokenized), 768, device=setting.device), None, Report(0, 0, 0.0))
            modules = nn.ModuleDict({"head": make_head(name, context, 768)}).train()
            steps = make_steps(context, modules, StoredReader(table), AdamW(modules.parameters(), 0.01))
            together = list(context.order.rounds(list(context.order.epoch(1))))
            rates, how = [1e-4] * len(together), "CUDA graphs" if graphs else "launched one by one"
            yield f"{name}, {how}", lambda: steps.epoch(together, rates), len(together)  # noqa: B023


PARTS = {"encode": encode, "step": step, "head": head}


def look(setting: Setting, name: str, call: Callable[[], Any], count: int) -> None:
    for _ in range(3):  # captured and compiled by then
        setting.wait()
        began = time.perf_counter()
        call()
        setting.wait()
        wall = time.perf_counter() - began
    print(f"{name}: {1e3 * wall / count:.3f} ms", flush=True)
    if setting.device.type == "cpu":
        return
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        setting.wait()
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    device, kernels = (sum(getattr(each, of) for each in events) for of in ("self_device_time_total", "count"))
    print(f"    {kernels / count:.0f} kernels, {device / count / 1e3:.3f} ms of the device")
    for each in events[:SHOWN]:
        spent = each.self_device_time_total / count / 1e3
        print(f"    {spent:9.4f} ms, {each.count / count:6.1f} times  {each.key[:90]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    setting = Setting(smoke=False)
    for part in parser.parse_args().only:
        for name, call, count in PARTS[part](setting):
            look(setting, name, call, count)


if __name__ == "__main__":
    main()
