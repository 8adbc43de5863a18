"""Where on disk benchkit keeps what can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """$BENCHKIT_CACHE, else $XDG_CACHE_HOME/benchkit, else ~/.cache/benchkit."""
    if own := os.environ.get("BENCHKIT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "benchkit"


def hub_root() -> Path:
    """Where fetched data and encoders are: $HF_HOME/benchkit if only HF_HOME is set, else `hub` in the cache."""
    home = os.environ.get("HF_HOME")
    if home and not os.environ.get("BENCHKIT_CACHE"):
        return Path(home).expanduser() / "benchkit"
    return cache_root() / "hub"
