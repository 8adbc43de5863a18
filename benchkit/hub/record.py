"""What was fetched, from where, and its checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchkit.core.errors import UserError
from benchkit.store.files import write_atomic

_BLOCK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one revision.

    Attributes:
        path: in the repository, with `/`.
        size: bytes; None where nobody says.
        sha256: of the content, or "". The hub knows it of large files (git-lfs).
        blob: git's id of the content, or "": what the hub knows of small files.
    """

    path: str
    size: int | None = None
    sha256: str = ""
    blob: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def identity(self) -> str:
        """A name for the content, or "" where nothing is known of it."""
        return self.sha256 or self.blob

    def flaw(self, path: Path) -> str:
        """What is wrong with a local copy, or "".

        Of all that is known of the file, everything must fit.
        """
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"it has {size:,} bytes, not {self.size:,}"
        if self.sha256 and (found := sha256_of(path)) != self.sha256:
            return f"its sha256 is {found}, not {self.sha256}"
        if self.blob and not self.sha256 and (found := git_blob(path)) != self.blob:
            return f"its git id is {found}, not {self.blob}"
        return ""


def sha256_of(path: Path) -> str:
    """As `sha256sum` gives it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(path: Path) -> str:
    """As `git hash-object` gives it."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


NAME = "fetched.json"


@dataclass(frozen=True)
class Fetched:
    """A fetched folder.

    Attributes:
        revision: the commit.
        pinned: whose word the checksums are: `benchkit` knew them before, or `hub`: those the hub gave at the first
            fetch, and what came was recorded.
        source: files as the repository has them: path -> `sha256:…` or `git:…`.
        files: files in the folder: name -> sha256.
        splits: for data, which cut they have; `rows` counts them.
        fingerprint: of an encoder.
    """

    repo: str
    revision: str
    pinned: str
    source: Mapping[str, str]
    files: Mapping[str, str]
    licence: str = ""
    citation: str = ""
    splits: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    parameters: int = 0
    notes: tuple[str, ...] = ()
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write(self, folder: Path) -> None:
        write_atomic(folder / NAME, (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode())


def read_record(folder: Path) -> Fetched | None:
    """The record of a folder, or None where there is none.

    Raises:
        UserError: it cannot be read as one.
    """
    path = folder / NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Fetched(**values | {"notes": tuple(values.get("notes", ()))})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove {folder} and fetch it again") from error


def damage(folder: Path, record: Fetched) -> list[str]:
    """What is missing from a fetched folder or differs from its record, a line each."""
    problems = []
    for name, wanted in record.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif (found := sha256_of(path)) != wanted:
            problems.append(f"{path} has changed since it was fetched: its sha256 is {found}, not {wanted}")
    return problems


def sums(folder: Path, names: list[str]) -> dict[str, str]:
    """sha256 of files, by name."""
    return {name: sha256_of(folder / name) for name in sorted(names)}


def named(file: RemoteFile) -> str:
    """`sha256:…` or `git:…`: which content a repository's file has."""
    return f"sha256:{file.sha256}" if file.sha256 else f"git:{file.blob}" if file.blob else "unknown"
