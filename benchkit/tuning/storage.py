"""Studies on disk or in a database."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from benchkit.core.errors import UserError
from benchkit.store.files import locked, writing

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy import URL, Connection


# The server ends the session of a machine that has vanished after about a minute and a half, and so frees its locks.
_KEEPALIVE = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 6}


class Locks(ABC):
    """Named locks between all processes of a storage."""

    @abstractmethod
    def hold(self, name: str) -> AbstractContextManager[None]:
        """Wait for a lock and hold it."""

    @abstractmethod
    def is_free(self, name: str) -> bool:
        """Whether nobody holds a lock."""

    def forget(self, name: str) -> None:  # noqa: B027 - not all keep something
        """Drop what is kept of a lock that nobody will ask for again."""

    def close(self) -> None:  # noqa: B027
        """Let go of everything."""


@dataclass(frozen=True)
class FileLocks(Locks):
    """Lock files in a folder, for processes of one machine."""

    folder: Path

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        with locked(self.folder / name, wait=True):
            yield

    def is_free(self, name: str) -> bool:
        with locked(self.folder / name, wait=False) as mine:
            return mine

    def forget(self, name: str) -> None:
        with suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)


class PostgresLocks(Locks):
    """Advisory locks of a session that lives as long as this object: for processes of any machine.

    They need a connection of their own: a pooler that shares sessions between clients, as pgbouncer in transaction
    mode does, would share the locks too.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._held: set[str] = set()

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

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, function: str, name: str) -> bool:
        from sqlalchemy import exc, text

        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        try:
            result = self._open().execute(text(f"SELECT {function}(:number)"), {"number": number}).scalar()
        except exc.SQLAlchemyError as error:
            raise UserError(f"the connection to {self._url.render_as_string()} is lost: {_reason(error)}") from error
        return bool(result)

    def _open(self) -> Connection:
        from sqlalchemy import create_engine, pool, text

        if self._connection is None:
            engine = create_engine(self._url, poolclass=pool.NullPool, isolation_level="AUTOCOMMIT")
            self._connection = engine.connect()
            for setting, seconds in _KEEPALIVE.items():
                self._connection.execute(text(f"SET {setting} = {seconds}"))
        return self._connection


KNOWN = "journal:PATH, sqlite:///PATH, postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)
_SQLITE_SECONDS = 120  # that a writer waits for the others
_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Storage:
    """An open storage, and the locks of those who share it."""

    url: str
    optuna: BaseStorage
    locks: Locks

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
    quiet()
    scheme, _, rest = url.partition(":")
    if scheme == "journal":
        return _journal(url, Path(rest.removeprefix("//")).expanduser(), create)
    if scheme == "sqlite":
        return _sqlite(url, create)
    if scheme in ("postgresql", "postgresql+psycopg"):
        return _postgres(url)
    raise UserError(f"unknown storage {shown(url)!r} (known: {KNOWN})")


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


def quiet() -> None:
    """Keep Optuna's own log to what went wrong; benchkit has its own lines."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _journal(url: str, path: Path, create: bool) -> Storage:
    from optuna.storages import JournalStorage

    if not path.name or path.is_dir():
        raise UserError(f"storage {shown(url)!r} names no file: journal:PATH")
    _there(path, create)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        backend = _journal_backend(path)
    try:
        optuna = JournalStorage(backend)
    except _DAMAGE as error:
        raise UserError(f"{path} is not a journal of Optuna's, or a damaged one: {_reason(error)[:200]}") from error
    return Storage(url, optuna, FileLocks(Path(f"{path}.locks")))


def _journal_backend(path: Path) -> Any:
    from optuna.storages.journal import JournalFileBackend

    lock = _journal_lock(path)

    class Backend(JournalFileBackend):
        """On a full disk: one line, and no half of a line in the journal."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            try:
                with writing(path):
                    super().append_logs(logs)
            except UserError:
                lock.acquire()  # which removes it
                lock.release()
                raise

    return Backend(str(path), lock_obj=lock)


def _journal_lock(path: Path) -> Any:
    from optuna.storages.journal import JournalFileOpenLock

    class Lock(JournalFileOpenLock):
        """Optuna's locks are files that outlive their holder; the system releases this one.

        Whoever gets it first removes a last line that a killed writer left unfinished: anything written after it
        would make the journal unreadable.
        """

        def __init__(self) -> None:
            self._lock = FileLock(f"{path}.lock")

        def acquire(self) -> bool:
            self._lock.acquire(poll_interval=0.005)
            _drop_unfinished_line(path)
            return True

        def release(self) -> None:
            self._lock.release()

    return Lock()


def _drop_unfinished_line(path: Path) -> None:
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _sqlite(url: str, create: bool) -> Storage:
    path = Path(url.removeprefix("sqlite:///")).expanduser()
    if not url.startswith("sqlite:///") or not path.name or str(path) == ":memory:" or path.is_dir():
        raise UserError(f"storage {shown(url)!r} names no file: sqlite:///PATH")
    _there(path, create)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    locks = FileLocks(Path(f"{path}.locks"))
    with locks.hold("open"):  # two that make the tables at once would stumble over each other
        return Storage(url, _rdb(f"sqlite:///{path}", {"timeout": _SQLITE_SECONDS}), locks)


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
            optuna = _rdb(full.render_as_string(hide_password=False), {"connect_timeout": _CONNECT_SECONDS})
    except UserError as error:
        locks.close()
        reason = str(error).partition(" is lost: ")[2] or str(error)
        raise UserError(f"cannot reach the database {shown(url)}: {reason}") from error
    return Storage(url, optuna, locks)


def _rdb(url: str, connect: dict[str, Any]) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy import exc

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return RDBStorage(url, engine_kwargs={"connect_args": connect, "pool_pre_ping": True})
    except (exc.SQLAlchemyError, RuntimeError) as error:
        raise UserError(f"cannot use the database {shown(url)}: {_reason(error)}") from error


def _there(path: Path, create: bool) -> None:
    if not create and not path.exists():
        raise UserError(f"no studies at {path}: give --storage, or run benchkit tune first")
