"""The hub: what a repository holds at a revision, under which address. Settings come from the HF_ variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchkit.errors import UserError
from benchkit.hub.checksum import RemoteFile
from benchkit.hub.patience import BusyError, Patience, insist
from benchkit.hub.watch import Watch

Kind = Literal["model", "dataset"]
_BUSY = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Listing:
    """A repository at one commit.

    Attributes:
        files: by their path.
        licence: as the repository's card says, or "".
    """

    repo: str
    kind: Kind
    revision: str
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    licence: str = ""


def endpoint() -> str:
    """$HF_ENDPOINT, else https://huggingface.co; without a slash at the end."""
    from huggingface_hub import constants

    return constants.ENDPOINT.rstrip("/")


def file_url(repo: str, kind: Kind, revision: str, path: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, path, repo_type=kind, revision=revision)


def look_up(repo: str, kind: Kind, revision: str, watch: Watch, patience: Patience, advice: str) -> Listing:
    """The commit that a branch, tag or commit id stands for, and its files.

    Raises:
        UserError: there is no such repository or revision, or the hub cannot be asked.
    """
    from huggingface_hub.errors import HFValidationError

    page = f"{endpoint()}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    try:
        info = insist(lambda: _ask(repo, kind, revision, page, advice), page, advice, patience, watch.say)
    except HFValidationError:
        raise UserError(f"{repo!r} cannot be the name of a repository: it looks like owner/name") from None
    if not info.sha or info.siblings is None:
        raise UserError(f"cannot fetch {page}: the server names no commit or no files; is HF_ENDPOINT a hub? {advice}")
    files = [_file(sibling) for sibling in info.siblings]
    return Listing(repo, kind, info.sha, {file.path: file for file in files}, _licence(info))


def _ask(repo: str, kind: Kind, revision: str, page: str, advice: str) -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    with asking(page, advice):
        return HfApi().repo_info(
            repo, repo_type=kind, revision=revision, files_metadata=True, timeout=HF_HUB_ETAG_TIMEOUT
        )


def look_up_offline(repo: str, kind: Kind, revision: str, paths: Iterable[str]) -> Listing | None:
    """What the cache of the hub's own library ($HF_HOME) has of a repository: some of `paths`, or None."""
    from huggingface_hub import try_to_load_from_cache

    files, commit = {}, ""
    for path in paths:
        found = try_to_load_from_cache(repo, path, revision=revision, repo_type=kind)
        if isinstance(found, str):
            name = Path(found).resolve().name  # the cache calls a file by what the hub knows of it
            files[path] = RemoteFile(path, None, name if len(name) == 64 else "", name if len(name) == 40 else "")
            commit = Path(found).parents[path.count("/")].name
    return Listing(repo, kind, commit, files) if files else None


def _file(sibling: Any) -> RemoteFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else ""
    return RemoteFile(sibling.rfilename, sibling.size, sha256, "" if sha256 else sibling.blob_id or "")


def _licence(info: Any) -> str:
    licence = (info.card_data or {}).get("license", "")
    return ", ".join(licence) if isinstance(licence, list) else str(licence or "")


@contextmanager
def asking(url: str, advice: str) -> Iterator[None]:
    """Turn what goes wrong with a request into one line.

    Raises:
        BusyError: it may go better in a while.
        UserError: it will not.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]

    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code in _BUSY:
            raise BusyError(reason_of(error), _seconds(error.response.headers.get("Retry-After"))) from error
        nowhere = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
        raise UserError(f"cannot fetch {url}: {reason_of(error)}{'' if nowhere else f'; {advice}'}") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"cannot fetch {url}: HF_HUB_OFFLINE is set; {advice}") from error
    except ClientError as error:
        raise BusyError(reason_of(error), connected="Connect" not in type(error).__name__) from error


def reason_of(error: Exception) -> str:
    """Why a request failed, and what the user can do about it."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its owner wants to be asked for access: ask on the repository's page, then set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one and no HF_TOKEN that may read it"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error.response)
    text = " ".join(str(error).split())
    return f"{_kind(error)} ({text})" if text else _kind(error)


def _status(response: Any) -> str:
    meaning = {401: "HF_TOKEN is missing or wrong", 403: "access is forbidden", 404: "nothing is there",
               429: "too many requests; wait some minutes, or set HF_TOKEN"}  # fmt: skip
    status: int = response.status_code
    return f"HTTP {status}, {meaning.get(status, 'the server failed' if status >= 500 else response.reason_phrase)}"


def _kind(error: Exception) -> str:
    """`ConnectError` and its like in words; their names are the same in every client that the hub's library used."""
    name = type(error).__name__
    if "Proxy" in name:
        return "the proxy does not answer"
    if "Timeout" in name:
        return "no answer in time"
    return "no connection" if "Connect" in name else "the connection broke"


def _seconds(header: str | None) -> float:
    """`Retry-After` in seconds; a date counts as nothing."""
    with suppress(TypeError, ValueError):
        return float(header or "")
    return 0.0
