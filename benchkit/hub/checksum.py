"""Whether a file is the one that was meant."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

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
