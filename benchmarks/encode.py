"""Whole processes that encode from strings, loading included: `python benchmarks/encode.py FOLDER`.

Against the same opponents as `peers.py`, which compares encoding alone. Each measurement is a process of its own; the
methods take turns (A B C, C B A, ...), so that whatever else the machine does falls on all of them. Ratios are
medians over rounds of time / our time in the same round.

whole: the process from start to end, import and load included. warm: encoding alone, after 64 texts.
Texts are those of the tasks' dev splits in BENCHKIT_DATA, in random order, else made ones of like lengths.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import MAX_LENGTH, ours, plain_loop, read_texts, sentence_transformers

METHODS = ("benchkit", "sentence-transformers", "padded loop")


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
    texts, source = read_texts(args.limit)
    report = [describe(args, source), compare(args, texts)]
    print("\n".join(report))
    if args.out:
        args.out.write_text("\n".join(report) + "\n", encoding="utf-8")


def child(args: argparse.Namespace) -> None:
    texts = json.loads(args.texts.read_text(encoding="utf-8"))
    start = time.perf_counter()
    if args.child == "benchkit":
        peer = ours(args.folder, args.precision)
    else:
        peer = sentence_transformers(args.folder) if args.child == "sentence-transformers" else plain_loop(args.folder)
    peer.encode(texts[:64])
    loaded, cpu = time.perf_counter(), time.process_time()
    vectors = peer.encode(texts)
    result: dict[str, Any] = {
        "load": loaded - start,
        "warm": time.perf_counter() - loaded,
        "warm_cpu": time.process_time() - cpu,
    }
    result |= {"rows": len(vectors), "precision": peer.precision, "probe": [float(x) for x in vectors[0][:8]]}
    print(json.dumps(result))


def compare(args: argparse.Namespace, texts: list[str]) -> str:
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.json")
        path.write_text(json.dumps(texts), encoding="utf-8")
        for number in range(args.rounds):
            order = METHODS if number % 2 == 0 else METHODS[::-1]
            rounds.append({method: measure(args, method, path) for method in order})
    check(rounds[0])
    lines = [f"\n{len(texts)} distinct sentences\n"]
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
