"""Where on disk benchkit keeps what can be made or fetched again, and when it was used.

Without torch, so that it can be told where torch does not load.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FEATURES = "features"
_USED = "used"


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


def mark_used(folder: Path) -> None:
    """Note that a cache was used now; one that cannot be written to is used all the same."""
    with suppress(OSError):
        (folder / _USED).touch()


def last_used(folder: Path) -> float:
    """Seconds since 1970: when a cache was last used, or written to."""
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        with suppress(OSError):  # removed meanwhile
            times.append(path.stat().st_mtime)
    return max(times)
