"""One file over HTTP: goes on where an earlier try was cut, by this process or a dead one; checked when whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchkit import __version__
from benchkit.errors import UserError
from benchkit.hub.checksum import RemoteFile
from benchkit.hub.patience import BusyError, Patience, insist
from benchkit.hub.remote import Kind, asking, file_url
from benchkit.hub.watch import Watch
from benchkit.store.atomic import writing


@dataclass(frozen=True)
class Downloader:
    """Files of one repository at one commit.

    Attributes:
        folder: for what has arrived so far.
        advice: what to do instead, for the message of a failure.
    """

    repo: str
    kind: Kind
    revision: str
    folder: Path
    watch: Watch
    patience: Patience
    advice: str

    def get(self, file: RemoteFile) -> Path:
        """The file, whole and checked, under a name of its own; the caller moves it where it belongs.

        Raises:
            UserError: it could not be had, or is not what was expected.
        """
        url = file_url(self.repo, self.kind, self.revision, file.path)
        part = self.folder / f"{self._name(file)}.part"
        with writing(part):
            self.folder.mkdir(parents=True, exist_ok=True)
            flaw = self._fill(part, file, url)
            if flaw:
                self.watch.say(f"{file.name}: {flaw}; fetching it once more")
                flaw = self._fill(part, file, url)
        if flaw:
            raise UserError(f"{url} is not what was expected: {flaw}; nothing of it was kept; {self.advice}")
        return part

    def _name(self, file: RemoteFile) -> str:
        """The same wherever the same content comes from; another for another content."""
        place = f"{self.kind} {self.repo} {self.revision} {file.path}"
        return file.identity or hashlib.sha256(place.encode()).hexdigest()

    def _fill(self, part: Path, file: RemoteFile, url: str) -> str:
        """Add to `part` until it is whole; what is wrong with it then, and in that case remove it.

        A wrong beginning would spoil every later try as well.
        """
        self.watch.start(file.path, _size(part), file.size)
        try:
            if file.size is None or _size(part) < file.size:
                attempt = self._attempt(part, url)
                insist(attempt, url, self.advice, self.patience, self.watch.say, here=lambda: _size(part))
        finally:
            self.watch.stop()
        flaw = file.flaw(part)
        if flaw:
            part.unlink()
        return flaw

    def _attempt(self, part: Path, url: str) -> Callable[[], None]:
        def attempt() -> None:
            with asking(url, self.advice):
                _stream(part, url, self.watch)

        return attempt


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _stream(part: Path, url: str, watch: Watch) -> None:
    """One request; what arrives before it breaks stays in `part`. Raises what the client raises."""
    from huggingface_hub import get_session
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    have = _size(part)
    headers = build_hf_headers(library_name="benchkit", library_version=__version__) | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            watch.advance(-have)
            raise BusyError("the server has fewer bytes than are here; beginning again")
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        _append(part, response, have, watch)


def _append(part: Path, response: Any, have: int, watch: Watch) -> None:
    resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    if have and not resumed:
        watch.advance(-have)  # the server sends the file from its beginning
    with part.open("ab" if resumed else "wb") as target:
        for block in response.iter_bytes():
            target.write(block)
            watch.advance(len(block))
