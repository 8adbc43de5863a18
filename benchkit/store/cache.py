"""What lies under the cache's root: to be listed, cleared and verified."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchkit.core.errors import UserError
from benchkit.core.settings import parse, read_json
from benchkit.store.files import FEATURES, last_used, locked, writing


@dataclass(frozen=True)
class Cache:
    """One feature store, or another folder under the root.

    Attributes:
        name: a feature store's key; the folder's name otherwise.
        kind: `features`, or `other` for what is not benchkit's feature stores.
        about: what a feature store says of itself: `encoder` (fingerprint), `settings`, `written_by`; may be empty.
        files, size: segments, or all files; bytes.
        used: seconds since 1970.
    """

    path: Path
    name: str
    kind: str
    about: dict[str, Any]
    files: int
    size: int
    used: float

    @property
    def encoder(self) -> str:
        """The encoder's name, or the beginning of its fingerprint where an older benchkit wrote the store."""
        named = self.about.get("written_by", {}).get("encoder")
        return str(named or self.about.get("encoder", "")[:12])


def caches(root: Path) -> list[Cache]:
    """All caches that hold something, feature stores first, the latest used first."""
    features = [_cache(path, "features") for path in _folders(root / FEATURES)]
    others = [_cache(path, "other") for path in _folders(root) if path.name != FEATURES]
    found = [cache for cache in (*features, *others) if cache.files]
    return sorted(found, key=lambda cache: (cache.kind != "features", -cache.used))


def clear(cache: Cache) -> bool:
    """Remove a cache's content; whether it was removed, which it is not while a process holds a lock in it.

    Lock files stay where they are, empty: removing one would split those who wait for it.

    Raises:
        UserError: it cannot be removed.
    """
    with ExitStack() as stack:
        locks = sorted(path for path in cache.path.rglob("*") if _is_lock(path))
        if cache.kind == "features":
            locks = [cache.path / "lock"]  # made here if it is not there, so that nobody takes it meanwhile
        if not all(stack.enter_context(locked(path, wait=False)) for path in locks):
            return False
        with writing(cache.path):
            for path in sorted(cache.path.iterdir()):
                if path.is_dir() and not any(_is_lock(each) for each in path.rglob("*")):
                    shutil.rmtree(path)
            for path in sorted(each for each in cache.path.rglob("*") if not each.is_dir() and not _is_lock(each)):
                path.unlink(missing_ok=True)
    return True


@dataclass(frozen=True)
class Damage:
    """A segment that will not be served, and why."""

    path: Path
    reason: str


def verify(cache: Cache) -> Iterator[Damage]:
    """Compare each segment of a feature store with the sha256 in its name, and with the store it lies in."""
    from benchkit.store.table import BadSegment, open_segment

    for path in _segments(cache.path):
        try:
            open_segment(path, cache.name)
        except FileNotFoundError:
            continue  # cleared meanwhile
        except BadSegment as error:
            yield Damage(path, str(error))
        except OSError as error:
            yield Damage(path, f"it cannot be read: {error.strerror}")


def _cache(path: Path, kind: str) -> Cache:
    files = _segments(path) if kind == "features" else [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files)
    about = _about(path / "settings.json") if kind == "features" else {}
    return Cache(path, path.name, kind, about, len(files), size, last_used(path))


def _segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


@dataclass(frozen=True)
class _Settings:
    reads: str
    pooling: str
    layers: tuple[int, ...]
    precision: str
    device: str


@dataclass(frozen=True)
class _About:
    encoder: str
    settings: _Settings
    written_by: Mapping[str, str] = field(default_factory=dict)


def _about(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        parse(_About, content)
    except (UserError, ValueError):
        return {}
    return content


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _is_lock(path: Path) -> bool:
    return path.name == "lock" or path.suffix == ".lock"
