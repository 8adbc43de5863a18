"""Two versions of benchkit side by side: is the new one slower anywhere?

    python benchmarks/against.py COMMIT [--repeats 5] [--limit 3] [--python OLD_PYTHON] [--out FILE]

Checks COMMIT out beside this tree and runs both through the command line alone, in turns (old, new, new, old), on the
demo's data with the embedded encoder. OLD_PYTHON is the interpreter of an environment that the old version is installed
in, where this one's does not do. Start-up and whole commands are CPU time; phases are the training seconds of their
records. Exit code 1 if a median ratio is more than `--limit` percent above 1 with its whole interval.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
HEADS = "baseline,cnn"
PHASES = ["--set", "pretrain.epochs=6", "--set", "finetune.epochs=1"]


@dataclass
class Version:
    """One version of benchkit, and what it took."""

    name: str
    tree: Path
    python: str
    work: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def call(self, *arguments: object, cache: str = "cache") -> float:
        """CPU seconds of a command."""
        paths = f"{self.tree}:{self.tree / 'plugins'}"
        environment = {
            **os.environ,
            "PYTHONPATH": paths,
            "BENCHKIT_CACHE": str(self.work / cache),
            "OMP_NUM_THREADS": "1",
        }
        before = _cpu_seconds()
        command = [self.python, "-m", "benchkit", *map(str, arguments)]
        subprocess.run(command, env=environment, cwd=self.work, check=True, capture_output=True)
        return _cpu_seconds() - before

    def run(self, out: str, cache: str = "cache") -> float:
        options = ["--heads", HEADS, "--seeds", "1", "--jobs", "1", "--out", self.work / out, *PHASES]
        return self.call("run", *options, cache=cache)

    def phase(self, out: str, place: int) -> float:
        """Training seconds of a phase, the cells of a run together."""
        records = [json.loads(path.read_text()) for path in sorted((self.work / out / "cells").glob("*/record.json"))]
        return sum(each["phases"][place]["train_seconds"] for each in records)

    def measure(self, repeat: int) -> None:
        fresh = self.run(f"fresh-{repeat}", cache=f"cache-{repeat}")
        stored = self.run(f"stored-{repeat}", cache=f"cache-{repeat}")
        found = {
            "--help": lambda: self.call("--help"),
            "report": lambda: self.call("report", self.work / f"stored-{repeat}"),
            "nothing left to run": lambda: self.run(f"stored-{repeat}", cache=f"cache-{repeat}"),
            "run": lambda: stored,
            "encode": lambda: fresh - stored,
            "phase 1": lambda: self.phase(f"stored-{repeat}", 0),
            "phase 2": lambda: self.phase(f"stored-{repeat}", 1),
        }
        for name, take in found.items():
            self._keep(name, take)

    def _keep(self, name: str, take: Callable[[], float]) -> None:
        self.seconds.setdefault(name, []).append(take())


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(old: Version, new: Version, limit: float) -> tuple[list[str], bool]:
    """A row a measurement; and whether one is slower beyond doubt."""
    lines = [f"| | {old.name}, s | {new.name}, s | new / old | range |", "|---|---:|---:|---:|---|"]
    slower = False
    for name, before in old.seconds.items():
        after = new.seconds[name]
        ratios = sorted(b / a for a, b in zip(before, after, strict=False))
        middle = statistics.median(ratios)
        slower |= middle > 1 + limit / 100 and ratios[0] > 1
        lines.append(
            f"| {name} | {statistics.median(before):.2f} | {statistics.median(after):.2f} | {middle:.3f} | "
            f"{ratios[0]:.2f} – {ratios[-1]:.2f} |"
        )
    return lines, slower


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=3.0)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git = ["git", "-C", str(HERE)]
        subprocess.run(
            [*git, "worktree", "add", "--detach", str(tree), options.commit], check=True, capture_output=True
        )
        try:
            versions = []
            for name, each, python in ((options.commit[:7], tree, options.python), ("this", HERE, sys.executable)):
                work = Path(folder, name)
                work.mkdir()
                versions.append(Version(name, each, python, work))
            with suppress(KeyboardInterrupt):  # Ctrl-C shows what there is so far
                for repeat in range(options.repeats):
                    for version in versions if repeat % 2 == 0 else versions[::-1]:
                        version.measure(repeat)
                        print(f"repeat {repeat + 1}: {version.name}", file=sys.stderr, flush=True)
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)
        lines, slower = table(*versions, options.limit)
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
