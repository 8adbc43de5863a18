"""Copies a run's tables here, with what made them: `python results/publish.py RUN NAME "COMMAND" ["REMARK" …]`.

Writes `results/NAME/`: `README.md` (command, encoder, data, machine, times, the table), `summary.csv`, `curves.png`.
With `--evidence FILE` also what the run shows: FILE, which is Markdown, above all else, then a table of verdicts,
`verdicts.csv`, and `report.html`, without the data's texts; with `--repro` the report's numbers beside the run's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("command")
    parser.add_argument("remarks", nargs="*")
    parser.add_argument("--evidence", type=Path)
    parser.add_argument("--repro", action="store_true")
    args = parser.parse_args()
    folder = HERE / args.name
    folder.mkdir(exist_ok=True)
    for file in ("summary.csv", "curves.png"):
        shutil.copyfile(args.run / file, folder / file)
    records = [json.loads(path.read_text("utf-8")) for path in sorted((args.run / "cells").glob("*/record.json"))]
    lines = [f"# {args.name}\n"]
    if args.evidence:
        lines += [args.evidence.read_text("utf-8").strip(), ""]
    lines += [f"```console\n{args.command}\n```\n", *(f"- {line}" for line in [*facts(records), *args.remarks]), ""]
    lines += [(args.run / "table.md").read_text("utf-8").rstrip(), "", "![Training curves](curves.png)", ""]
    if args.evidence:
        lines += ["## Verdicts\n", *verdicts(args.run, folder), ""]
    if args.repro:
        shown = benchkit("repro", str(args.run)).rstrip()
        lines += ["## Beside the report's numbers\n", f"```text\n{shown}\n```", ""]
    (folder / "README.md").write_text("\n".join(lines), "utf-8")


def verdicts(run: Path, folder: Path) -> list[str]:
    page = ["--html", str(folder / "report.html"), "--no-texts"]
    text = benchkit("report", str(run), "--only", "verdicts", "--format", "markdown", *page)
    benchkit("report", str(run), "--only", "verdicts", "--format", "csv", "--out", str(folder / "verdicts.csv"))
    # Its first line names folders, which are nobody else's.
    return ["`benchkit report RUN`; the whole as [a page](report.html), to be opened from disk.\n",
            text.partition("\n")[2].strip()]  # fmt: skip


def benchkit(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "benchkit", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def facts(records: list[dict]) -> list[str]:  # type: ignore[type-arg]
    """What the reader of a table should know of how it came about, a line each."""
    one = records[0]
    environment, encoder = one["environment"], one["encoder"]
    shape = encoder["config"]
    seconds = sum(phase["train_seconds"] + phase["eval_seconds"] for each in records for phase in each["phases"])
    rows = {
        task: ", ".join(f"{split} {found['rows']:,}" for split, found in splits.items())
        for task, splits in one["data"]["splits"].items()
    }
    size = f"{shape['num_hidden_layers']}×{shape['hidden_size']}"
    lines = [f"encoder {encoder['name']}, {size}, {one['parameters']['encoder']:,} parameters"]
    lines += [f"fingerprint of the encoder `{encoder['fingerprint'][:16]}`"]
    lines += [f"{task}: {text} rows" for task, text in rows.items()]
    lines += [
        f"{environment['processor']}, {environment['threads']} thread a cell, {environment['precision']}, "
        f"torch {environment['packages']['torch']}",
        f"{len(records)} cells, {seconds:.0f} s of training and evaluation in all, encoding apart",
    ]
    return lines


if __name__ == "__main__":
    main()
