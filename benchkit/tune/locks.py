"""Locks that processes of one study share; the system releases them when their holder dies, `kill -9` included.

A study has one lock, held for moments while a trial is handed out, and each worker one of its own, held as long as it
lives: a trial whose worker's lock is free has lost its worker. No clock and no heartbeat is needed for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchkit.errors import UserError
from benchkit.store.locks import locked

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

# The server ends the session of a machine that has vanished after about a minute and a half, and so frees its locks.
_KEEPALIVE = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 6}


class Locks(Protocol):
    """Named locks between all processes of a storage."""

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Wait for a lock and hold it."""
        ...

    def is_free(self, name: str) -> bool:
        """Whether nobody holds a lock."""
        ...

    def forget(self, name: str) -> None:
        """Drop what is kept of a lock that nobody will ask for again."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(frozen=True)
class FileLocks:
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

    def close(self) -> None:
        pass


class PostgresLocks:
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
        if name in self._held:  # by another worker in this process: the server would give it to a session twice
            return False
        mine = self._call("pg_try_advisory_lock", name)
        if mine:
            self._call("pg_advisory_unlock", name)
        return mine

    def forget(self, name: str) -> None:
        pass

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
            reason = " ".join(str(getattr(error, "orig", error)).split())
            raise UserError(f"the connection to {self._url.render_as_string()} is lost: {reason}") from error
        return bool(result)

    def _open(self) -> Connection:
        from sqlalchemy import create_engine, pool, text

        if self._connection is None:
            engine = create_engine(self._url, poolclass=pool.NullPool, isolation_level="AUTOCOMMIT")
            self._connection = engine.connect()
            for setting, seconds in _KEEPALIVE.items():
                self._connection.execute(text(f"SET {setting} = {seconds}"))
        return self._connection
