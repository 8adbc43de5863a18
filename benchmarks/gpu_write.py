"""What `gpu.py` leaves in its folder: where it was measured, the numbers, and the tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch
from gpu_setting import Row, Setting, machine

TABLES = {"correct": "Correctness", "H1": "H1", "H2": "H2", "H3": "H3", "H4": "H4", "H56": "H5 and H6"}


def environment(setting: Setting) -> Row:
    cards = machine()  # before CUDA starts here
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    names = ("torch", "numpy", "tokenizers", "transformers", "sentence-transformers", "accelerate", "optuna", "triton")
    found: dict[str, str] = {}
    for each in metadata.distributions():  # in the order of the path: the first is what is imported
        found.setdefault((each.metadata["Name"] or "").lower(), each.version)
    result: Row = {
        "commit": os.environ.get("COMMIT") or commit,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: found.get(name, "not installed") for name in names},
        "smoke": setting.smoke,
        "device": setting.device.type,
    }
    if setting.device.type == "cuda":
        properties = torch.cuda.get_device_properties(setting.device)
        result["gpu"] = {"name": properties.name, "bytes": properties.total_memory, "cuda": torch.version.cuda}
        result |= cards
    return result


def write(folder: Path, around: Row, numbers: dict[str, Row]) -> None:
    (folder / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    where = around.get("gpu", {}).get("name", "CPU")
    lines = [f"# {where}{', in small: a check of the script, no measurement' if around['smoke'] else ''}\n"]
    lines.append(f"torch {around['versions']['torch']}, commit `{around['commit'][:12]}`; targets: reach (stretch).")
    if not around.get("alone", True):
        lines.append("**Other processes were on the GPU**: see environment.json.")
    for name, part in numbers.items():
        lines += [f"\n## {TABLES[name]}\n", f"{part['seconds']:.0f} s in all.\n"]
        lines += ["| what | value | target |", "|---|---:|---:|"]
        lines += [f"| {row['what']} | {row['value']} | {row['target']} |" for row in part["rows"]]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
