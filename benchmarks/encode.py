"""Encoding from strings, against sentence-transformers and a plain padded loop: `python benchmarks/encode.py FOLDER`.

Each measurement is a process of its own; the methods take turns (A B C, C B A, ...), so that whatever else the
machine does falls on all of them. Ratios are medians over rounds of time / our time in the same round.

whole: the process from start to end, import and load included. warm: encoding alone, after 64 texts.
Texts are those of the tasks' dev splits in BENCHKIT_DATA, in random order, else made ones of like lengths.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.metadata
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_LENGTH = 256  # what sentence-transformers uses for all-MiniLM-L6-v2
METHODS = ("benchkit", "sentence-transformers", "padded loop")
Encode = Callable[[list[str]], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="encoder folder, with what sentence-transformers needs")
    parser.add_argument("--limit", type=int, default=6000, help="sentences (default 6000)")
    parser.add_argument("--rounds", type=int, default=4, help="times each method runs (default 4)")
    parser.add_argument("--precision", default="auto", help="of benchkit; the others run their fp32 defaults")
    parser.add_argument("--out", type=Path, help="also write the tables here")
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    raw, source = read_texts(args.limit)
    report = [describe(args, source)]
    for title, texts in (("as they come", raw), ("distinct only", list(dict.fromkeys(raw)))):
        report.append(compare(args, title, texts))
    print("\n".join(report))
    if args.out:
        args.out.write_text("\n".join(report) + "\n", encoding="utf-8")


def read_texts(limit: int) -> tuple[list[str], str]:
    data, stream = os.environ.get("BENCHKIT_DATA"), random.Random(0)
    if not data:
        # Quora's and SST's word counts are close to log-normal.
        words = ["time", "people", "what", "good", "unbelievable", "movie", "the", "of", "algorithm", "is", "India"]
        counts = [min(60, max(3, round(stream.lognormvariate(2.3, 0.45)))) for _ in range(limit)]
        return [" ".join(stream.choices(words, k=count)) for count in counts], "made up (BENCHKIT_DATA is not set)"
    texts = []
    for path in sorted(Path(data, "benchmark").glob("*/dev.tsv.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                texts += [value for name, value in row.items() if name.startswith("sentence")]
    stream.shuffle(texts)
    return texts[:limit], "dev splits of sst, sts and quora"


def child(args: argparse.Namespace) -> None:
    texts = json.loads(args.texts.read_text(encoding="utf-8"))
    start = time.perf_counter()
    make = {"benchkit": ours, "sentence-transformers": theirs, "padded loop": padded_loop}[args.child]
    encode, precision = make(args.folder, args.precision)
    encode(texts[:64])
    loaded, cpu = time.perf_counter(), time.process_time()
    vectors = encode(texts)
    result: dict[str, Any] = {
        "load": loaded - start,
        "warm": time.perf_counter() - loaded,
        "warm_cpu": time.process_time() - cpu,
    }
    result |= {"rows": len(vectors), "precision": precision, "probe": [float(x) for x in vectors[0][:8]]}
    print(json.dumps(result))


def ours(folder: Path, precision: str) -> tuple[Encode, str]:
    from benchkit.encoder import load_encoder, resolve_precision

    encoder = load_encoder(folder)
    resolved = resolve_precision(precision, encoder.device)
    return lambda texts: encoder.encode(texts, precision=resolved, max_length=MAX_LENGTH), resolved


def theirs(folder: Path, _: str) -> tuple[Encode, str]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = MAX_LENGTH
    return lambda texts: model.encode(texts, show_progress_bar=False), "fp32"


def padded_loop(folder: Path, _: str) -> tuple[Encode, str]:
    import torch
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder)
    model.train(False)

    @torch.no_grad()
    def encode(texts: list[str]) -> Any:
        parts = []
        for start in range(0, len(texts), 64):
            batch = tokenizer(
                texts[start : start + 64], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            )
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            parts.append((states * mask).sum(1) / mask.sum(1))
        return torch.cat(parts)

    return encode, "fp32"


def compare(args: argparse.Namespace, title: str, texts: list[str]) -> str:
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.json")
        path.write_text(json.dumps(texts), encoding="utf-8")
        for number in range(args.rounds):
            order = METHODS if number % 2 == 0 else METHODS[::-1]
            rounds.append({method: measure(args, method, path) for method in order})
    check(rounds[0])
    repeats = len(texts) - len(set(texts))
    lines = [f"\n## {title}: {len(texts)} sentences, {repeats} of them repeats ({repeats / len(texts):.0%})\n"]
    columns = ["whole s", "CPU s", "warm s", "warm CPU s", "sentences/s", "× whole", "× warm", "× warm CPU"]
    lines += ["| method | precision | " + " | ".join(columns) + " |", "|---|---|" + "---:|" * len(columns)]
    for method in METHODS:
        whole, cpu, warm, warm_cpu = (median(rounds, method, key) for key in ("whole", "cpu", "warm", "warm_cpu"))
        ratios = (
            statistics.median(each[method][key] / each["benchkit"][key] for each in rounds)
            for key in ("whole", "warm", "warm_cpu")
        )
        lines.append(
            f"| {method} | {rounds[0][method]['precision']} | {whole:.1f} | {cpu:.1f} | {warm:.1f} | {warm_cpu:.1f} "
            f"| {len(texts) / warm:.0f} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |"
        )
    return "\n".join(lines)


def measure(args: argparse.Namespace, method: str, texts: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, str(args.folder), "--child", method, "--texts", str(texts)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [*command, "--precision", args.precision],
        check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    whole, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) | {"whole": whole, "cpu": cpu}
    print(f"{method}: whole {whole:.1f} s, warm {result['warm']:.1f} s", file=sys.stderr)
    return result


def check(results: dict[str, dict[str, Any]]) -> None:
    """All methods computed the same thing, up to length: sentence-transformers may normalise."""
    reference = results["padded loop"]["probe"]
    for method, result in results.items():
        scale = result["probe"][0] / reference[0]
        if any(abs(a - scale * b) > 0.02 * abs(scale) for a, b in zip(result["probe"], reference, strict=True)):
            raise SystemExit(f"{method} computes something else: {result['probe']} against {reference}")


def median(rounds: list[dict[str, dict[str, Any]]], method: str, key: str) -> float:
    return float(statistics.median(each[method][key] for each in rounds))


def describe(args: argparse.Namespace, source: str) -> str:
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "sentence-transformers")
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return (
        f"# Encoding from strings, {args.folder.name}\n\n{machine}; {', '.join(versions)}; texts: {source}; "
        f"{args.rounds} rounds, medians, × is time over benchkit's in the same round; at most {MAX_LENGTH} word pieces."
    )


if __name__ == "__main__":
    main()
