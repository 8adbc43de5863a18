"""Copies a run's tables here, with what made them: `python results/publish.py RUN NAME "COMMAND" ["REMARK" …]`.

Writes `results/NAME/`: `README.md` (command, encoder, data, machine, times, the table), `summary.csv`, `curves.png`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(run: Path, name: str, command: str, remarks: list[str]) -> None:
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    for file in ("summary.csv", "curves.png"):
        shutil.copyfile(run / file, folder / file)
    records = [json.loads(path.read_text("utf-8")) for path in sorted((run / "cells").glob("*/record.json"))]
    table = (run / "table.md").read_text("utf-8")
    lines = [f"# {name}\n", f"```console\n{command}\n```\n", *(f"- {line}" for line in [*facts(records), *remarks])]
    text = "\n".join([*lines, "", table.rstrip(), "", "![Training curves](curves.png)", ""])
    (folder / "README.md").write_text(text, "utf-8")


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
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
