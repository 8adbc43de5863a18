"""Files: atomic writes, locks, and what lies under the root of the cache."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from benchkit.core.errors import UserError
from benchkit.core.settings import parse, read_json

_ADVICE = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.ENOTDIR: "choose another folder",
    errno.EEXIST: "choose another folder",
    errno.EISDIR: "choose another name",
}
_STALE_SECONDS = 24 * 3600
_TEMP = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.tmp")


def write_atomic(path: Path, content: bytes | memoryview | Callable[[BinaryIO], None], *, durable: bool = True) -> None:
    """Write a file through a temporary one beside it: readers see the old content or the new.

    On any failure the temporary file is removed and the old content stays. What killed processes left behind
    in the same folder is removed too.

    Args:
        content: the bytes, or a function that writes them.
        durable: also survive a power failure (fsync of file and folder).

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        temp = _temporary(path)
        try:
            with temp.open("xb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temp.replace(path)
        except BaseException:
            with suppress(OSError):
                temp.unlink()
            raise
        if durable:
            _sync_folder(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of a full or forbidden disk into one line about `path`.

    Raises:
        UserError: instead of such an `OSError`; others pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        raise UserError(f"cannot write {path}: {os.strerror(error.errno)}; {_ADVICE[error.errno]}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, to be filled; renamed to it in the end, or removed if filling it fails.

    What killed processes left behind beside it is removed too.

    Raises:
        UserError: `path` is there and not empty, or cannot be written.
    """
    path = path.absolute()
    taken = UserError(f"{path} is there already: name a new folder")
    with writing(path):
        if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
            raise taken
        _remove_stale(path.parent)
        inside = _temporary(path)
        inside.mkdir(parents=True)  # with the mode that the umask says; `mkdtemp` would say 0700
        try:
            yield inside
            inside.replace(path)
        except BaseException as error:
            shutil.rmtree(inside, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise taken from None  # another process was faster
            raise


def _temporary(path: Path) -> Path:
    """A name beside `path` that says whose it is, and that nobody can know before: no planted link is followed."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _remove_stale(folder: Path) -> None:
    """Remove temporary files and folders of dead processes, and any when they are a day old."""
    for entry in folder.glob(".*.tmp"):
        match = _TEMP.fullmatch(entry.name)
        if match is None:
            continue
        with suppress(OSError):  # another process may be removing it as well
            dead = match["host"] == _host() and not _alive(int(match["pid"]))
            if dead or time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def _host() -> str:
    """Eight characters for where a process id means the same: this host or, on it, this container."""
    try:
        numbering = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        numbering = ""
    return hashlib.sha256(f"{socket.gethostname()} {numbering}".encode()).hexdigest()[:8]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


_POLL = 0.05  # seconds


@contextmanager
def locked(path: Path, *, wait: bool, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold a lock on the file `path`. The empty file stays: without it, two waiting processes could both get the lock.

    Args:
        wait: wait for another holder; else go on without the lock.
        on_wait: called once if there is another holder to wait for.

    Yields:
        Whether the lock is held; always True with `wait`.

    Raises:
        UserError: the folder cannot be written.
    """
    lock = FileLock(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if wait:
                if on_wait:
                    on_wait()
                lock.acquire(poll_interval=_POLL)
    try:
        yield lock.is_locked
    finally:
        lock.release()


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


def total_memory() -> int:
    """Bytes of memory that this machine has; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


@dataclass(frozen=True)
class StoreSettings:
    """The `settings.json` of a feature store: the encoder's fingerprint and name, and how texts were encoded."""

    encoder: str
    settings: Mapping[str, Any]
    written_by: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cache:
    """One feature store, or another folder under the root.

    Attributes:
        name: a feature store's key; the folder's name otherwise.
        kind: `features` for a feature store of benchkit, `other` for anything else.
        about: the settings of a feature store; None if its `settings.json` is missing or damaged.
        files, size: number of segments (or of all files), and their bytes.
        used: time of the last use, in seconds since 1970.
    """

    path: Path
    name: str
    kind: str
    about: StoreSettings | None
    files: int
    size: int
    used: float

    @property
    def encoder(self) -> str:
        """The encoder's name; the beginning of its fingerprint if an older benchkit wrote the store."""
        return self.about.written_by.get("encoder", self.about.encoder[:12]) if self.about else ""


def caches(root: Path) -> list[Cache]:
    """All caches that are not empty: feature stores first, then by last use, the latest first."""
    features = [_cache(path, "features", "*.safetensors") for path in _folders(root / FEATURES)]
    others = [_cache(path, "other", "**/*") for path in _folders(root) if path.name != FEATURES]
    found = [cache for cache in (*features, *others) if cache.files]
    return sorted(found, key=lambda cache: (cache.kind != "features", -cache.used))


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _cache(path: Path, kind: str, pattern: str) -> Cache:
    files = [each for each in path.glob(pattern) if each.is_file()]
    about = None
    if kind == "features":
        with suppress(UserError, ValueError):
            about = parse(StoreSettings, read_json(path / "settings.json"))
    return Cache(path, path.name, kind, about, len(files), sum(each.stat().st_size for each in files), last_used(path))


def clear(cache: Cache) -> bool:
    """Remove a cache's content. Returns False, and removes nothing, while a process holds a lock in it.

    The empty lock files stay. If one were removed, waiting processes would hold locks on different files.

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


def _is_lock(path: Path) -> bool:
    return path.name == "lock" or path.suffix == ".lock"


def verify(cache: Cache) -> Iterator[tuple[Path, str]]:
    """The segments of a feature store that are damaged or belong to another store, and why. They are never used."""
    from benchkit.store.table import BadSegment, open_segment

    for path in sorted(cache.path.glob("*.safetensors")):
        try:
            open_segment(path)
        except FileNotFoundError:
            continue  # cleared meanwhile
        except BadSegment as error:
            yield path, str(error)
        except OSError as error:
            yield path, f"it cannot be read: {error.strerror}"
