"""Copies a search's tables here, with what made them: `python results/publish_tune.py OUT NAME "COMMAND" ["REMARK" …]`.

Writes `results/NAME/`: `README.md`, `best-of-k.csv` and `.png`, and for each head its trials, importances, comparison,
best config and history.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
KEPT = ("trials.csv", "importances.csv", "comparison.csv", "best.toml", "history.png", "importances.png")


def main(out: Path, name: str, command: str, remarks: list[str]) -> None:
    folder = HERE / name
    studies = sorted(path.parent for path in out.glob("*/trials.csv"))
    for study in studies:
        (folder / study.name).mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            if (study / file).exists():
                shutil.copyfile(study / file, folder / study.name / file)
        best = folder / study.name / "best.toml"
        if data := os.environ.get("BENCHKIT_DATA"):  # a place on this machine is nobody else's
            best.write_text(best.read_text("utf-8").replace(data, "$BENCHKIT_DATA"), "utf-8")
    for file in ("best-of-k.csv", "best-of-k.png"):
        shutil.copyfile(out / file, folder / file)
    lines = [f"# {name}\n", f"```console\n{command}\n```\n", *(f"- {remark}" for remark in remarks), ""]
    lines += ["## Equal budget: expected best on dev of k trials\n", best_of_k(folder / "best-of-k.csv"), ""]
    lines += ["![Best of k](best-of-k.png)\n", "## What the trials cost\n", costs(studies), ""]
    for study in studies:
        lines += [f"## {study.name}\n", *sections(folder / study.name)]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def best_of_k(file: Path) -> str:
    frame = pd.read_csv(file)
    chosen = frame[frame["k"].isin([1, 2, 5, 10, 20, 50])]
    shown = chosen.assign(
        best=[f"{mean:.3f} ± {std:.3f}" for mean, std in zip(chosen["expected_best"], chosen["std"], strict=True)]
    )
    return shown.pivot_table(index="head", columns="k", values="best", aggfunc="first").fillna("").to_markdown()


def costs(studies: list[Path]) -> str:
    """Seconds of training and dev evaluation: features were stored before the first trial."""
    rows = []
    for study in studies:
        trials = pd.read_csv(study / "trials.csv")
        counts = trials["state"].value_counts()
        whole = trials.loc[trials["state"] == "complete", "seconds"]
        rows.append(
            {
                "head": study.name,
                **{state: int(counts.get(state, 0)) for state in ("complete", "pruned", "fail")},
                "seconds of a complete trial, median": round(whole.median(), 1),
                "of all trials": round(trials["seconds"].sum()),
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False)


def sections(folder: Path) -> list[str]:
    parts = []
    if (folder / "comparison.csv").exists():
        compared = pd.read_csv(folder / "comparison.csv")
        columns = ["task", "default", "tuned", "difference", "ci_low", "ci_high", "p", "n_seeds"]
        split = compared["split"][0]
        parts += [f"Default against tuned on {split}, fresh seeds, paired over seeds and examples:\n"]
        parts += [compared[columns].to_markdown(index=False, floatfmt=".4f"), ""]
    if (folder / "importances.csv").exists():
        shares = pd.read_csv(folder / "importances.csv")
        parts += ["What mattered (fANOVA, share of the variance on dev):\n"]
        parts += [shares.to_markdown(index=False, floatfmt=".2f"), "", "![Importances](importances.png)", ""]
    return [*parts, "![History](history.png)", ""]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
