"""Small real runs on the demo data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import benchkit

SIZES = {
    f"{task}.{split}_size": size
    for task in ("sst", "quora", "sts")
    for split, size in {"train": 64, "dev": 40, "test": 40}.items()
}


def run(out: Path, heads: str = "baseline", **options: Any) -> benchkit.Result:
    """Two epochs of phase 1 of one seed, unless told otherwise; `settings` come over these."""
    options.setdefault("encoder", "demo")
    settings = {**SIZES, "layers": "-1", "pretrain.epochs": 2, **options.pop("settings", {})}
    return benchkit.run(heads, out=out, settings=settings, **{"seeds": 1, "phases": "pretrain", **options})


def flags(**settings: Any) -> list[str]:
    """The same settings for the command line."""
    every = {**SIZES, "layers": "-1", "pretrain.epochs": 2, **settings}
    return ["--encoder", "demo"] + [part for name, value in every.items() for part in ("--set", f"{name}={value}")]
