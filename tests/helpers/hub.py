"""A Hugging Face hub on the loopback: repositories from dictionaries, and faults on request."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LFS = (".safetensors", ".bin", ".parquet", ".gz", ".h5")


@dataclass
class Repo:
    """What a repository holds at each revision.

    Attributes:
        files: by commit, then path.
        branches: name -> commit.
        gated: only who sends `Bearer good` may read it.
    """

    files: dict[str, dict[str, bytes]]
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    licence: str = "apache-2.0"
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.files else None


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request: an answer of another status, or one that is cut after so many bytes.

    Attributes:
        stall: do not cut, but send nothing more until `Hub.go_on` is set.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = -1
    change: Callable[[bytes], bytes] | None = None
    no_range: bool = False
    stall: bool = False


_NONE = Fault()


@dataclass
class Hub:
    """The server's state; tests put repositories and faults in, and read the requests.

    Attributes:
        repos: by `models/NAME` or `datasets/NAME`.
        faults: taken one a request, by the last part of the path that is asked for (`api` for the API).
        requests: method, path, and headers in lower case; but for what huggingface_hub asks on its own, once a day and
            process, by whom it is called.
        answer: replaces keys of what the API says of a repository.
        elsewhere: host that large files are redirected to, as to a CDN; "" for none.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    answer: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: str = ""
    url: str = ""
    go_on: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, files: Mapping[str, bytes], commit: str = COMMIT, **settings: Any) -> None:
        self.repos[name] = Repo({commit: dict(files)}, {"main": commit}, **settings)

    def fail(self, what: str, *faults: Fault) -> None:
        self.faults.setdefault(what, []).extend(faults)

    def asked(self, what: str) -> list[dict[str, str]]:
        """Headers of the GET requests for a file."""
        return [headers for method, path, headers in self.requests if method == "GET" and path.endswith(what)]


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(_LFS)


def etag(path: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if is_large(path) else git_id(data)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)  # a proxy is asked for whole addresses
        if path != "/api/agent-harnesses":
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.hub.requests.append((self.command, path, headers))
        if match := re.fullmatch(r"/api/(models|datasets)/(.+?)(?:/revision/(.+))?", path):
            self._info(f"{match[1]}/{match[2]}", match[3] or "main")
        elif match := re.fullmatch(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
            self._file(f"{(match[1] or 'models/')}{match[2]}", match[3], match[4])
        elif path.startswith("/blobs/"):
            self._blob(path)
        else:
            self._say(404)

    def _fault(self, what: str) -> Fault:
        waiting = self.hub.faults.get(what, [])
        return waiting.pop(0) if waiting else Fault()

    def _find(self, name: str, revision: str) -> tuple[Repo, str] | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._say(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})
        elif repo.gated and self.headers.get("Authorization") != "Bearer good":
            self._say(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif (commit := repo.commit(revision)) is None:
            self._say(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id."})
        else:
            return repo, commit
        return None

    def _info(self, name: str, revision: str) -> None:
        fault = self._fault("api")
        if fault.status:
            self._say(fault.status, fault.headers)
        elif found := self._find(name, revision):
            repo, commit = found
            siblings = [_sibling(path, data) for path, data in repo.files[commit].items()]
            info = {"id": name.partition("/")[2], "sha": commit, "siblings": siblings,
                    "cardData": {"license": repo.licence}, "tags": []}  # fmt: skip
            self._say(200, {"Content-Type": "application/json"}, json.dumps({**info, **self.hub.answer}).encode())

    def _file(self, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if not found:
            return
        repo, commit = found
        if path not in repo.files[commit]:
            self._say(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        data = repo.files[commit][path]
        known = {"X-Repo-Commit": commit, "ETag": f'"{etag(path, data)}"'}
        if self.hub.elsewhere and is_large(path):
            place = f"{self.hub.elsewhere}/blobs/{name}/{commit}/{path}"
            linked = {"X-Linked-Etag": known["ETag"], "X-Linked-Size": str(len(data)), "Location": place}
            self._say(302, known | linked)
        else:
            self._send(path, data, known)

    def _blob(self, path: str) -> None:
        for name, repo in self.hub.repos.items():
            for commit, files in repo.files.items():
                for file, data in files.items():
                    if path == f"/blobs/{name}/{commit}/{file}":
                        self._send(file, data, {})
                        return
        self._say(404)

    def _send(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        fault = self._fault(path.rpartition("/")[2])
        if fault.status:
            self._say(fault.status, fault.headers)
            return
        data = fault.change(data) if fault.change else data
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and not fault.no_range else 0
        if start and start >= len(data):
            self._say(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        status = 206 if start else 200
        where = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._say(status, headers | where | {"Accept-Ranges": "bytes"}, data[start:], fault)

    def _say(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", fault: Fault = Fault()
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if fault.cut < 0 else body[: fault.cut])
        if 0 <= fault.cut < len(body):
            self.wfile.flush()
            if fault.stall:
                self.hub.go_on.wait(300)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    large = {"lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}}
    return {"rfilename": path, "size": len(data), "blobId": git_id(data), **(large if is_large(path) else {})}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of the loopback, for as long as the block runs."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: Hub, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Make this process ask `hub`, and keep what it fetches under `cache`; as the variables do for a new process.

    It does not wait between two tries.
    """
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hf" / "hub"))
    patch.setenv("BENCHKIT_CACHE", str(cache / "benchkit"))
    patch.delenv("HF_TOKEN", raising=False)
    patch.setattr("time.sleep", lambda seconds: None)


def variables(hub: Hub, cache: Path) -> dict[str, str]:
    """The environment of a process that asks `hub`."""
    names = ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return inherited | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache / "hf"),
        "BENCHKIT_CACHE": str(cache / "benchkit"),
    }


def benchkit(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchkit", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints, in this process."""
    from benchkit.cli import cli

    capsys.readouterr()
    cli.main(list(arguments), standalone_mode=False)
    return capsys.readouterr().out
