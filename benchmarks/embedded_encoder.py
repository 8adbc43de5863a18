"""What a pre-trained encoder's frozen features are worth: `python benchmarks/embedded_encoder.py ENCODER --data DIR`.

Three encoders: ENCODER, the same with random weights, and any other such as all-MiniLM-L6-v2 (`--against`). Each is
frozen, one head reads its features (`--preset frozen`: mean pooling, siamese), three seeds, the same batches. Random
weights are drawn from a seed of their own, so they are one encoder, not one a seed. Test, with the epoch chosen on
dev; paired bootstrap over seeds and examples.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchkit.analysis.statistics import Paired, paired_differences
from benchkit.core.plugins import load_plugins
from benchkit.encoder import load_encoder, random_encoder, save_encoder
from benchkit.store.cells import CellStore

FIELDS = ("layers=0,-1",)  # the embeddings and the last layer, however many there are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, help="a folder that benchkit pretrain wrote")
    parser.add_argument("--data", required=True, help="folder with the tasks' data, or demo")
    parser.add_argument("--against", nargs="*", default=[], help="other encoders, by name or folder")
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--set", nargs="*", default=[], dest="fields", help="more fields of the protocol")
    parser.add_argument("--out", type=Path, default=Path("results/runs/embedded"))
    args = parser.parse_args()
    encoders = {"random": str(randomised(args.encoder, args.out / "random-encoder")), "pre-trained": str(args.encoder)}
    encoders |= {Path(name).name: name for name in args.against}
    for name, encoder in encoders.items():
        run(encoder, args.out / name, args)
    found = {name: predictions(args.out / name) for name in encoders}
    print(table(found))
    for name in [each for each in encoders if each != "random"]:
        print(f"\n{name} − random, test:\n{verdict(found['random'], found[name])}")


def randomised(folder: Path, out: Path) -> Path:
    """An encoder of the same shape and vocabulary that has learnt nothing."""
    encoder = load_encoder(folder)
    pieces = encoder.tokenizer.get_vocab()
    vocab = sorted(pieces, key=pieces.__getitem__)
    fresh = random_encoder("random", vocab, encoder.config, seed=1)
    fresh.tokenizer = encoder.tokenizer
    save_encoder(fresh, out)
    return out


def run(encoder: str, out: Path, args: argparse.Namespace) -> None:
    fields = [part for field in (*FIELDS, *args.fields) for part in ("--set", field)]
    command = ["run", "--preset", "frozen", "--data", args.data, "--encoder", encoder, "--seeds", args.seeds]
    subprocess.run([sys.executable, "-m", "benchkit", *command, *fields, "--out", str(out)], check=True)


def predictions(out: Path) -> dict[int, pd.DataFrame]:
    """Test predictions by seed."""
    store = CellStore(out / "cells")
    records = [record for key in store.keys() if (record := store.load(key))]  # noqa: SIM118
    frames = {record.seed: store.predictions(record.key) for record in sorted(records, key=lambda each: each.seed)}
    return {seed: frame[frame["split"] == "test"] for seed, frame in frames.items()}


def table(found: dict[str, dict[int, pd.DataFrame]]) -> str:
    """Test metrics, mean and standard deviation over seeds."""
    tasks = load_plugins().tasks
    rows = {}
    for name, by_seed in found.items():
        rows[name] = {}
        for task in next(iter(by_seed.values()))["task"].unique():
            each = [frame[frame["task"] == task] for frame in by_seed.values()]
            scores = [tasks[task].metric.score(f["label"].to_numpy(), f["prediction"].to_numpy()) for f in each]
            rows[name][task] = f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1) if len(scores) > 1 else 0:.3f}"
    return pd.DataFrame(rows).T.to_markdown()


def verdict(a: dict[int, pd.DataFrame], b: dict[int, pd.DataFrame]) -> str:
    tasks, pairs = load_plugins().tasks, {}
    for task in next(iter(a.values()))["task"].unique():
        one, other = ([frame[frame["task"] == task].set_index("id") for frame in side.values()] for side in (a, b))
        ids = one[0].index
        stacked = [np.stack([frame.loc[ids, "prediction"].to_numpy(float) for frame in side]) for side in (one, other)]
        pairs[task] = Paired(one[0]["label"].to_numpy(float), *stacked, score=tasks[task].metric.score)
    rows = [
        {"task": name, "random": f"{each.a:.3f}", "it": f"{each.b:.3f}", "difference": f"{each.value:+.3f}",
         "95 %": f"{each.low:+.3f} to {each.high:+.3f}", "p": f"{each.p:.4f}"}
        for name, each in paired_differences(pairs).items()
    ]  # fmt: skip
    return pd.DataFrame(rows).to_markdown(index=False)


if __name__ == "__main__":
    main()
