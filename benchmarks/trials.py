"""What storing features saves a search: `python benchmarks/trials.py ENCODER [--out FILE]`, with $BENCHKIT_DATA set.

The seconds of a trial of `benchkit tune` after the first, for each head on the report's training data, against the
same trial where nothing is stored:

encoded anew  benchkit, which encodes each batch when it is needed (`benchkit run --no-feature-cache`): measured once,
              with baseline; the other heads' own time is added to the rest
padded loop   each batch anew, padded, by transformers in fp32, as scripts do it: a few batches of each task and split,
              multiplied by how many there would be

One CPU thread a trial; a trial scores dev, never test.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import pandas as pd
from peers import machine
from phases import Phase1, loop_seconds

HEADS = ("baseline", "recurrent", "cnn")


def protocol(encoder: Path, epochs: int) -> list[str]:
    """The report's training data and a shorter dev, as in `results/tune-all-MiniLM-L6-v2`; of test next to nothing."""
    data = str(Path(os.environ["BENCHKIT_DATA"], "benchmark"))
    fields = [
        f"pretrain.epochs={epochs}",
        "quora.dev_size=4000",
        *(f"{t}.test_size=64" for t in ("sst", "quora", "sts")),
    ]
    named = ["--preset", "paper", "--data", data, "--encoder", str(encoder), "--phases", "pretrain", "--jobs", "1"]
    return [*named, *(part for field in fields for part in ("--set", field))]


def trial_seconds(head: str, trials: int, options: list[str], out: Path) -> float:
    """Median of all trials but the first."""
    extra = ["--head", head, "--trials", str(trials), "--pruner", "none", "--final-seeds", "0", "--out", str(out)]
    benchkit("tune", [*extra, *options], out.parent)
    (file,) = out.rglob("trials.csv")
    return float(median(pd.read_csv(file)["seconds"][1:]))


def anew_seconds(options: list[str], out: Path) -> float:
    """Training and evaluation of one cell of baseline."""
    extra = ["--heads", "baseline", "--seeds", "1", "--no-feature-cache", "--out", str(out)]
    benchkit("run", [*extra, *options], out.parent)
    (file,) = out.glob("cells/*/record.json")
    return sum(
        float(each["train_seconds"] + each["eval_seconds"]) for each in json.loads(file.read_text("utf-8"))["phases"]
    )


def benchkit(command: str, options: list[str], work: Path) -> None:
    environment = {**os.environ, "BENCHKIT_CACHE": str(work / "cache")}
    subprocess.run([sys.executable, "-m", "benchkit", command, *options], env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, help="a folder")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5, help="batches of each task and split in the padded loop")
    parser.add_argument("--out", type=Path, help="also write the table here")
    args = parser.parse_args()
    options = protocol(args.encoder, args.epochs)
    with tempfile.TemporaryDirectory() as name:
        stored = {head: trial_seconds(head, args.trials, options, Path(name, head)) for head in HEADS}
        anew = anew_seconds(options, Path(name, "anew")) - stored["baseline"]
    phase = Phase1(args.encoder, 1, epochs=args.epochs, fields=("quora.dev_size=4000",))
    loop = loop_seconds(phase, args.steps) - stored["baseline"]
    lines = [
        f"{machine()}; {args.epochs} epochs; {args.trials - 1} trials a head, medians\n",
        "| head | a trial, features stored | encoded anew | ratio | padded loop | ratio |",
        "|:--|--:|--:|--:|--:|--:|",
        *(
            f"| {head} | {own:.1f} s | {own + anew:,.0f} s | {(own + anew) / own:,.0f} "
            f"| {own + loop:,.0f} s | {(own + loop) / own:,.0f} |"
            for head, own in stored.items()
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
