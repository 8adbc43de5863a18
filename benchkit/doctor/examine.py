"""The whole diagnosis: what can be told safely, and what the probe found out in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import benchkit
from benchkit.doctor.finding import Finding
from benchkit.doctor.probe import required
from benchkit.store.place import FEATURES, cache_root

_SECONDS = 120

# What an extra is for; those that developers need are not listed.
EXTRAS = {
    "plots": "pictures of curves and studies",
    "tune": "the samplers cmaes and gp",
    "postgres": "studies in PostgreSQL",
    "bench": "speed next to transformers and sentence-transformers",
    "onnx": "benchkit export --onnx",
}


def examine() -> list[Finding]:
    """All findings, by section."""
    found = [*versions(), *probed(), *extras(), *cache()]
    order = list(dict.fromkeys(finding.section for finding in found))
    return sorted(found, key=lambda finding: order.index(finding.section))


def versions() -> Iterator[Finding]:
    yield Finding("system", "benchkit", f"{benchkit.__version__} in {Path(benchkit.__file__).parent}")
    yield Finding("system", "python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("system", "platform", platform.platform())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    yield Finding("system", "cores", ", ".join([f"{cores} for this process", *named]))
    if memory := _memory():
        yield Finding("system", "memory", f"{memory / 2**30:.1f} GiB")


def probed() -> Iterator[Finding]:
    """What the probe printed, and where it died if it did."""
    command = [sys.executable, "-m", "benchkit.doctor.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode("utf-8", "replace")
        code = None
    part = "packages"
    for line in output.splitlines():
        values = _json(line)
        if values.keys() == {"part"}:
            part = values["part"]
        elif values.keys() == Finding.__dataclass_fields__.keys():
            yield Finding(**values)
    if code != 0:
        yield Finding(part, part, _end(code), "broken", "reinstall the package that was being loaded, torch first")


def extras() -> Iterator[Finding]:
    """The optional parts of benchkit, and what is not possible without those that are missing."""
    offered = metadata("benchkit").get_all("Provides-Extra") or []
    for name, purpose in EXTRAS.items():
        if name not in offered:
            continue
        missing = [package for package, version in required(name).items() if not version]
        if missing:
            value = f"{purpose}: {', '.join(missing)} not installed"
            yield Finding("extras", name, value, "note", f"pip install 'benchkit[{name}]'")
        else:
            yield Finding("extras", name, purpose)


def cache() -> Iterator[Finding]:
    """Where features are kept, whether there is room, and how much is there."""
    root = cache_root()
    there = next(path for path in (root, *root.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("cache", "root", f"{root} cannot be written", "broken", "set BENCHKIT_CACHE to another folder")
        return
    free = shutil.disk_usage(there).free
    yield Finding("cache", "root", str(root))
    low = free < 1e9
    advice = "benchkit cache clear, or set BENCHKIT_CACHE" if low else ""
    yield Finding("cache", "free space", f"{free / 1e9:.1f} GB", "note" if low else "ok", advice)
    files = [path for path in (root / FEATURES).glob("*/*.safetensors") if path.is_file()]
    stores = len({path.parent for path in files})
    size = sum(path.stat().st_size for path in files)
    yield Finding("cache", "features", f"{size / 1e6:.1f} MB in {stores} stores: benchkit cache list")


def _json(line: str) -> dict[str, Any]:
    """A line of the probe; what a library prints among them is passed over."""
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _end(code: int | None) -> str:
    if code is None:
        return f"took longer than {_SECONDS} s and was stopped"
    if code < 0:
        return f"killed the process that tried it: {signal.Signals(-code).name}"
    return f"ended the process that tried it, with exit code {code}"


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
