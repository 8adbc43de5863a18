"""How long `benchkit report --html` takes, and how large page and process get: `python benchmarks/report_page.py`.

The cells are made up (10 heads × 10 seeds × 3 tasks, 60,000 predictions each, both phases of the report's length), but
written through the stores a run writes through, and their texts are found again. The command is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.made_run import Made, write_run

SIZES = {"sst": (8544, 1101, 2210), "quora": (8544, 13000, 40431), "sts": (6041, 1532, 1726)}
SENTENCE = "how a sentence of a usual length looks when it is not about anything in particular, number {}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="folder for the cells and the page (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        made = Made(
            heads=[f"head{i}" for i in range(args.heads)],
            seeds=args.seeds,
            sizes=SIZES,
            phases={"pretrain": 10, "finetune": 25},
            text=SENTENCE.format,
        )
        run = write_run(folder, made)
        page = folder / "report.html"
        measure(["report", str(run), "--html", str(page)], page)


def measure(command: list[str], page: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "benchkit", *command], env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one thread")
    print(f"wall {wall:.1f} s, CPU {used.ru_utime + used.ru_stime:.1f} s")
    print(f"peak memory {used.ru_maxrss / 1024:.0f} MiB")
    print(f"page {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
