"""`make bench`: the suites, stored and compared with this machine's last run; further arguments go to pytest.

Runs are kept in `.benchmarks/<machine>/`, so a run of another machine, or of another torch, is never what one is
compared with: pytest-benchmark would compare them without a word (its issues 273 and 276).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from machine import fingerprint

ROOT = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    storage = ROOT / ".benchmarks" / fingerprint()
    options = [f"--benchmark-storage=file://{storage}", "--benchmark-autosave"]
    options += ["--benchmark-columns=min,median,iqr,rounds", "--benchmark-sort=name"]
    if any(storage.rglob("*.json")):
        options.append("--benchmark-compare")
        print(f"compared with the last run in {storage.relative_to(ROOT)}", flush=True)
    else:
        print(f"no run of this machine yet; this one will be in {storage.relative_to(ROOT)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-enable", *options]
    return subprocess.run([*command, *(arguments or ["benchmarks"])], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
