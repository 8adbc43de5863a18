"""How time and memory grow with sentences, their length, heads and seeds: `python benchmarks/growth.py --out FOLDER`.

Every measurement is a process of its own, so that its peak is its own; imports and loading are not in its time. Writes
`growth.md`, `growth.csv` and `growth.png`. A slope of 1 on the doubly logarithmic axes is proportional growth.

sentences  n sentences of mixed lengths from strings into an empty feature store
length     64 sentences of n word pieces from word pieces to features
heads      `benchkit run`, first phase, n equal heads with one seed, the store empty at the start
seeds      the same, one head with n seeds
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

AXES = {
    "sentences": (1000, 3000, 10000, 30000, 100000),
    "length": (16, 32, 64, 128, 256, 512),
    "heads": (1, 2, 5, 10),
    "seeds": (1, 2, 5, 10),
}
TEN_HEADS = """
from dataclasses import replace
import benchkit_baseline
from benchkit import hookimpl

@hookimpl
def benchkit_heads():
    return [replace(benchkit_baseline.benchkit_heads()[0], name=f"copy{i}") for i in range(10)]
"""
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("growth"), help="folder for table and picture")
    parser.add_argument(
        "--encoder", default="demo", help="name or folder (default demo: 2 layers of 128, here with 512 positions)"
    )
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--largest", type=int, default=10**9, help="leave out what is larger, for a quick look")
    parser.add_argument("--child", nargs=2, metavar=("AXIS", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child[0], int(args.child[1]), args.encoder)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        encoder = longer_demo(Path(folder, "demo")) if args.encoder == "demo" else args.encoder
        for axis in args.only:
            for number in AXES[axis]:
                if number <= args.largest:
                    rows.append(child(axis, number, encoder))
                    print(f"{axis} {number:,}: {rows[-1]['seconds']:.2f} s, {rows[-1]['mb']:.0f} MB", file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "growth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (args.out / "growth.md").write_text(text := report(rows, args.encoder), encoding="utf-8")
    draw(rows, args.out / "growth.png")
    print(text)


def longer_demo(folder: Path) -> str:
    """The demo's encoder takes 128 word pieces; one of its size that takes 512."""
    from benchkit.api import load_encoder
    from benchkit.encoder import random_encoder, save_encoder

    demo = load_encoder("demo")
    pieces = demo.tokenizer.get_vocab()
    config = replace(demo.config, max_position_embeddings=512)
    save_encoder(random_encoder("demo", sorted(pieces, key=lambda piece: pieces[piece]), config, seed=0), folder)
    return str(folder)


def child(axis: str, number: int, encoder: str) -> Row:
    command = [sys.executable, __file__, "--child", axis, str(number), "--encoder", encoder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(axis: str, number: int, encoder: str) -> Row:
    """Seconds, and the process's peak beyond what it held before."""
    work = {"sentences": sentences, "length": length, "heads": heads, "seeds": seeds}[axis]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCHKIT_CACHE"] = str(Path(folder, "cache"))
        ready = work(number, encoder, Path(folder))
        before, begun = peak(), time.perf_counter()
        ready()
        seconds = time.perf_counter() - begun
    return {"axis": axis, "n": number, "seconds": seconds, "mb": peak(), "mb_before": before}


def peak() -> float:
    """MB resident at most so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def sentences(number: int, encoder: str, folder: Path) -> Callable[[], Any]:
    import torch

    from benchkit.api import load_encoder
    from benchkit.store.features import FeatureSettings, FeatureStore

    torch.set_num_threads(1)
    loaded, random = load_encoder(encoder), np.random.default_rng(0)
    vocab = loaded.tokenizer.get_vocab()
    words = [piece for piece in vocab if piece.isalpha()]
    counts = random.lognormal(2.4, 0.46, number).round().clip(2, 60).astype(int)
    # The number at the end makes them distinct: what is named twice is encoded once.
    inputs = [(f"{' '.join(random.choice(words, count))} {i}",) for i, count in enumerate(counts)]
    return lambda: FeatureStore(folder / "cache").table(loaded, inputs, FeatureSettings(pooling="mean"))


def length(number: int, encoder: str, folder: Path) -> Callable[[], Any]:
    import torch

    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.config import Request
    from benchkit.inspect.heads import Setup
    from benchkit.speed.setup import BenchmarkPoint, PreparedBenchmark

    torch.set_num_threads(1)
    setup = Setup.open(Request(heads=("baseline",), tasks=("sst",), encoder=encoder), load_plugins())
    run = PreparedBenchmark.of(setup, BenchmarkPoint("encode", 64, str(number), "fp32")).make("pooled")
    return lambda: [run(lambda part: None) for _ in range(3)]


def heads(number: int, encoder: str, folder: Path) -> Callable[[], Any]:
    file = folder / "ten_heads.py"
    file.write_text(TEN_HEADS)
    return first_phase([f"copy{i}" for i in range(number)], 1, encoder, folder, [file])


def seeds(number: int, encoder: str, folder: Path) -> Callable[[], Any]:
    return first_phase(["baseline"], number, encoder, folder, [])


def first_phase(names: list[str], count: int, encoder: str, folder: Path, files: list[Path]) -> Callable[[], Any]:
    from benchkit import api

    settings = {"pretrain.epochs": 3}
    return lambda: api.run(
        names, head_files=files, seeds=count, encoder=encoder, phases="pretrain", settings=settings, out=folder / "out"
    )


def slope(rows: list[Row], key: str) -> float:
    """Of a line through the logarithms, by least squares."""
    return float(np.polyfit(*(np.log([row[name] for row in rows]) for name in ("n", key)), 1)[0])


def report(rows: list[Row], encoder: str) -> str:
    lines = ["# How cost grows\n", "```console\npython benchmarks/growth.py --out results/growth\n```\n"]
    lines.append(f"Encoder {Path(encoder).name}, one thread; peak memory of a process of its own.\n")
    lines.append("![Time and memory against sentences, length, heads and seeds](growth.png)\n")
    lines += ["| axis | n | s | MB at most | MB before |", "|---|---:|---:|---:|---:|"]
    lines += [f"| {r['axis']} | {r['n']:,} | {r['seconds']:.2f} | {r['mb']:.0f} | {r['mb_before']:.0f} |" for r in rows]
    lines += ["", "| axis | slope of time | slope at the end | slope of memory |", "|---|---:|---:|---:|"]
    for axis, part in by_axis(rows).items():
        if len(part) > 1:
            shown = (slope(part, "seconds"), slope(part[-2:], "seconds"), slope(part, "mb"))
            lines.append(f"| {axis} | " + " | ".join(f"{value:.2f}" for value in shown) + " |")
    return "\n".join(lines) + "\n"


def by_axis(rows: list[Row]) -> dict[str, list[Row]]:
    return {axis: [row for row in rows if row["axis"] == axis] for axis in dict.fromkeys(row["axis"] for row in rows)}


def draw(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    parts = by_axis(rows)
    figure = Figure(figsize=(2.6 * len(parts) + 0.6, 4.6), layout="constrained")
    grid = figure.subplots(2, len(parts), squeeze=False, sharex="col", sharey="row")
    for column, (axis, part) in enumerate(parts.items()):
        for axes, key, label in zip(grid[:, column], ("seconds", "mb"), ("seconds", "MB at most"), strict=True):
            numbers, values = [row["n"] for row in part], [row[key] for row in part]
            axes.loglog(numbers, values, "o-", color="#0072B2", markersize=4)
            if len(part) > 1:
                proportional = [values[-1] * number / numbers[-1] for number in numbers]
                axes.loglog(numbers, proportional, color="#AAAAAA", linewidth=0.8, linestyle="dotted")
                axes.set_title(f"slope {slope(part, key):.2f}", fontsize=8, loc="right")
            axes.set_xticks(numbers, [f"{number // 1000}k" if number >= 1000 else str(number) for number in numbers])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(color="#E5E5E5", linewidth=0.6)
            axes.set_ylim(min(row[key] for row in rows) / 1.6, max(row[key] for row in rows) * 1.6)
            axes.spines[["top", "right"]].set_visible(False)
            if not column:
                axes.set_ylabel(label)
        grid[0, column].set_title(axis, fontweight="bold", fontsize=10, loc="left")
        grid[1, column].set_xlabel("n")
    figure.supxlabel("dotted: in proportion", fontsize=8, x=0.99, ha="right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
