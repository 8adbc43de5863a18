"""What was fetched, from where: `fetched.json` beside the files. It is written last, so where it is, all is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchkit.errors import UserError
from benchkit.hub.checksum import RemoteFile, sha256_of
from benchkit.store.atomic import write_atomic

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
