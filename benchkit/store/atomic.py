"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from benchkit.errors import UserError

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


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], None], *, durable: bool = True) -> None:
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
        temp = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
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


def _remove_stale(folder: Path) -> None:
    """Remove temporary files of dead processes, and any when they are a day old."""
    for entry in folder.glob(".*.tmp"):
        match = _TEMP.fullmatch(entry.name)
        if match is None:
            continue
        with suppress(OSError):  # another process may be removing it as well
            dead = match["host"] == _host() and not _alive(int(match["pid"]))
            if dead or time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                entry.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
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
