"""Studies on disk or in a database."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchkit.core.errors import UserError
from benchkit.store.files import locked, writing

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection


# The server ends the session of a machine that has vanished after about a minute and a half, and so frees its locks.
_KEEPALIVE = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 6}


@dataclass(frozen=True)
class FileLocks:
    """Named locks between the processes of one machine: files in a folder."""

    folder: Path

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Wait for a lock and hold it."""
        with locked(self.folder / name, wait=True):
            yield

    def is_free(self, name: str) -> bool:
        """Whether nobody holds a lock."""
        with locked(self.folder / name, wait=False) as mine:
            return mine

    def forget(self, name: str) -> None:
        """Drop what is kept of a lock that nobody will ask for again."""
        with suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of everything: nothing is held but within `hold`."""


class PostgresLocks:
    """As `FileLocks`, between processes of any machine: advisory locks of a session that lives as long as this object.

    They need a connection of their own: a pooler that shares sessions between clients, as pgbouncer in transaction
    mode does, would share the locks too.
    """

    def __init__(self, url: URL) -> None:
        self._url, self._held = url, set[str]()

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        self._call("pg_advisory_lock", name)
        self._held.add(name)
        try:
            yield
        finally:
            self._held.discard(name)
            self._call("pg_advisory_unlock", name)

    def is_free(self, name: str) -> bool:
        if name in self._held:  # by this process: the server gives a session its own lock a second time
            return False
        mine = self._call("pg_try_advisory_lock", name)
        if mine:
            self._call("pg_advisory_unlock", name)
        return mine

    def forget(self, name: str) -> None:
        """The server keeps nothing of a lock."""

    def close(self) -> None:
        if connection := vars(self).pop("_connection", None):
            connection.close()

    def _call(self, function: str, name: str) -> bool:
        from sqlalchemy import exc, text

        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        try:
            result = self._connection.execute(text(f"SELECT {function}(:number)"), {"number": number}).scalar()
        except exc.SQLAlchemyError as error:
            raise UserError(f"the connection to {self._url.render_as_string()} is lost: {_reason(error)}") from error
        return bool(result)

    @cached_property
    def _connection(self) -> Connection:
        from sqlalchemy import create_engine, pool, text

        connection = create_engine(self._url, poolclass=pool.NullPool, isolation_level="AUTOCOMMIT").connect()
        for setting, seconds in _KEEPALIVE.items():
            connection.execute(text(f"SET {setting} = {seconds}"))
        return connection


KNOWN = "journal:PATH, sqlite:///PATH, postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError, ArithmeticError)
_SQLITE_SECONDS = 120  # that a writer waits for the others
_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Storage:
    """An open storage, and the locks of those who share it."""

    url: str
    optuna: BaseStorage
    locks: FileLocks | PostgresLocks

    def close(self) -> None:
        """Close what is open to a database; locks that are held are lost."""
        from optuna.storages import RDBStorage

        self.locks.close()
        if isinstance(self.optuna, RDBStorage):
            self.optuna.remove_session()
            self.optuna.engine.dispose()


def open_storage(url: str, *, create: bool = True) -> Storage:
    """Open a storage by URL.

    Args:
        create: make a file that is not there.

    Raises:
        UserError: unknown scheme, a file that is not there or is none of Optuna's, a database that does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # benchkit has its own lines
    scheme, _, rest = url.partition(":")
    if scheme in ("postgresql", "postgresql+psycopg"):
        return _postgres(url)
    if scheme not in ("journal", "sqlite"):
        raise UserError(f"unknown storage {shown(url)!r} (known: {KNOWN})")
    path = Path(rest.removeprefix("//" if scheme == "journal" else "///")).expanduser()
    if not path.name or path.is_dir() or str(path) == ":memory:" or (scheme == "sqlite" and rest[:3] != "///"):
        raise UserError(
            f"storage {shown(url)!r} names no file: {'journal:' if scheme == 'journal' else 'sqlite:///'}PATH"
        )
    if not create and not path.exists():
        raise UserError(f"no studies at {path}: give --storage, or run benchkit tune first")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    locks = FileLocks(Path(f"{path}.locks"))
    if scheme == "journal":
        return Storage(url, _journal(path), locks)
    with locks.hold("open"):  # two that make the tables at once would stumble over each other
        return Storage(url, _rdb(f"sqlite:///{path}", {"timeout": _SQLITE_SECONDS}), locks)


def absolute(url: str) -> str:
    """A URL that means the same in another working folder."""
    scheme, _, rest = url.partition(":")
    if scheme == "journal" and rest:
        return f"journal:{Path(rest.removeprefix('//')).expanduser().resolve()}"
    if scheme == "sqlite" and rest.startswith("///") and rest[3:]:
        return f"sqlite:///{Path(rest[3:]).expanduser().resolve()}"
    return url


def shown(url: str) -> str:
    """A URL without its password, also where it is malformed."""
    url = re.sub(r"(?i)(password=)[^&]*", r"\1***", url)
    before, at, rest = url.rpartition("@")  # a password may hold any other character, and "@" too
    if not at:
        return url
    scheme, slashes, login = before.rpartition("//") if "://" not in before else before.partition("://")
    user, colon, _ = login.partition(":")
    return f"{scheme}{slashes}{user}{':***' * bool(colon)}@{rest}"


@contextmanager
def damage_is_one_line(storage: Storage, study: str) -> Iterator[None]:
    """Turn what a damaged study raises into one line.

    Raises:
        UserError: instead.
    """
    try:
        yield
    except _DAMAGE as error:
        where = f"study {study!r} in {shown(storage.url)}"
        reason = f"{type(error).__name__}: {_reason(error)}"[:200]
        hint = "it is damaged, or another version of benchkit made it; use another --study or --storage"
        raise UserError(f"{where} cannot be read: {hint} ({reason})") from error


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "orig", error)).split())


class _Journal(JournalFileBackend):
    """Optuna's, whose errors name no file."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            with writing(Path(self._file_path)):
                super().append_logs(logs)
        except UserError:
            self._lock.acquire()  # which drops what a full disk cut off
            self._lock.release()
            raise


def _journal(path: Path) -> BaseStorage:
    with writing(path):
        backend = _Journal(str(path), lock_obj=_JournalLock(path))  # type: ignore[arg-type]
    try:
        return JournalStorage(backend)
    except _DAMAGE as error:
        raise UserError(f"{path} is not a journal of Optuna's, or a damaged one: {_reason(error)[:200]}") from error


class _JournalLock:
    """Optuna's own locks are files that outlive their holder; the system releases this one.

    Whoever gets it first removes a last line that a killed writer left unfinished: anything written after it would make
    the journal unreadable.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self._lock.acquire(poll_interval=0.005)
        with self._path.open("rb+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self._lock.release()


def _postgres(url: str) -> Storage:
    from sqlalchemy import exc, make_url

    try:
        full = make_url(url).set(drivername="postgresql+psycopg")
    except (exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise UserError(f"storage {shown(url)!r} is not a URL: {KNOWN.rpartition(', ')[2]}") from error
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise UserError("PostgreSQL takes the package psycopg: pip install 'benchkit[postgres]'") from error
    locks = PostgresLocks(full.update_query_dict({"connect_timeout": str(_CONNECT_SECONDS)}))
    try:
        with locks.hold("benchkit/open"):
            found = _rdb(full.render_as_string(hide_password=False), {"connect_timeout": _CONNECT_SECONDS})
    except UserError as error:
        locks.close()
        reason = str(error).partition(" is lost: ")[2] or str(error)
        raise UserError(f"cannot reach the database {shown(url)}: {reason}") from error
    return Storage(url, found, locks)


def _rdb(url: str, connect: dict[str, Any]) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy import exc

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return RDBStorage(url, engine_kwargs={"connect_args": connect, "pool_pre_ping": True})
    except (exc.SQLAlchemyError, RuntimeError) as error:
        raise UserError(f"cannot use the database {shown(url)}: {_reason(error)}") from error
