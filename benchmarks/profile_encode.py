"""Where the time of encoding on a CPU goes: `python benchmarks/profile_encode.py [--out FILE]`.

By torch's profiler, one thread, BERT-base with random weights and FOLDER, in fp32 and (where the hardware has it) bf16:
how much of the time is matrix products, how fast these are, and how fast a processor's best product of any size is.
From these follows what encoding could gain if all but products cost nothing, and if all products ran at that best.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from peers import has_bf16, machine, plain_loop, read_texts
from targets import random_base
from torch.profiler import ProfilerActivity, profile

from benchkit.encoder import load_encoder
from benchkit.inspect.trace import encoder_macs
from benchkit.speed.measure import multiply_rate

PRODUCTS = ("addmm", "::mm", "bmm", "mkldnn_linear", "linear_pointwise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    weights = Path(os.environ.get("BENCHKIT_WEIGHTS", "."))
    parser.add_argument("--folder", type=Path, default=weights / "all-MiniLM-L6-v2", help="a real encoder of 6×384")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--out", type=Path, help="also write the table here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    texts, source = read_texts(args.texts)
    lines = [f"{machine()}; {len(texts)} texts: {source}\n"]
    lines.append(
        "| encoder | precision | s | products | GFLOP/s in products | best product | if products alone | at best |"
    )
    lines.append("|---|---|" + "---:|" * 6)
    with tempfile.TemporaryDirectory() as work:
        for name, folder in (
            ("BERT-base", random_base(args.folder, Path(work, "base"))),
            (args.folder.name, args.folder),
        ):
            precisions = ("fp32", "bf16")[: 1 + has_bf16()]
            lines += [*(row(name, folder, each, texts) for each in precisions), padding(name, folder, texts)]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def row(name: str, folder: Path, precision: str, texts: list[str]) -> str:
    encoder = load_encoder(folder)
    encoder.encode(texts[:32], precision=precision)
    began = time.perf_counter()
    encoder.encode(texts, precision=precision)
    seconds = time.perf_counter() - began
    with profile(activities=[ProfilerActivity.CPU]) as found:
        encoder.encode(texts, precision=precision)
    events = found.key_averages()
    total = sum(each.self_cpu_time_total for each in events)
    share = sum(each.self_cpu_time_total for each in events if any(part in each.key for part in PRODUCTS)) / total
    lengths = encoder.tokenize([(text,) for text in texts]).lengths.tolist()
    flops = 2 * encoder_macs(
        encoder.config, lengths, top=encoder.config.num_hidden_layers, first_only=False, pooler=False
    )
    rate, best = flops / (share * seconds), multiply_rate(torch.device("cpu"), precision, 3.0)
    alone, limit = share * seconds, flops / best
    return (
        f"| {name} | {precision} | {seconds:.2f} | {share:.0%} | {rate / 1e9:.0f} | {best / 1e9:.0f} GFLOP/s | "
        f"{alone:.2f} s | {limit:.2f} s |"
    )


def padding(name: str, folder: Path, texts: list[str]) -> str:
    """What the padded loop takes, and how many word pieces of its batches are padding."""
    loop, encoder = plain_loop(folder), load_encoder(folder)
    loop.encode(texts[:32])
    began = time.perf_counter()
    loop.encode(texts)
    seconds = time.perf_counter() - began
    lengths = encoder.tokenize([(text,) for text in texts]).lengths
    padded = sum(int(part.max()) * len(part) for part in lengths.split(64))
    empty = 1 - int(lengths.sum()) / padded
    what = f"{name}, transformers loop of 64 ({empty:.0%} of its word pieces are padding)"
    return f"| {what} | fp32 | {seconds:.2f} | | | | | |"


if __name__ == "__main__":
    main()
