"""`python -m benchkit.testing.probe MODULE FILE PATH`: imports a module, and says what that did.

`PATH` is a `sys.path` as JSON; the last line of stdout is a JSON list of complaints. torch is imported before.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import io
import json
import logging
import os
import random
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from benchkit.core.errors import one_line

SLOW = 1.0
"""Seconds that a module may spend at import, what it imports itself not counted."""

_TIMEOUT = 60
_ANSWERED = 77  # exit code of a process that has printed its answer
_EVENTS = {
    "socket.connect": "opens a network connection",
    "socket.getaddrinfo": "looks up a host on the network",
    "socket.bind": "opens a network port",
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.fork": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.putenv": "changes the environment",
    "os.mkdir": "makes a folder",
    "os.remove": "removes a file",
}


class Watch:
    """Notes what a module does while it is imported. What another library does at its own import is not its doing.

    Args:
        root: the module's file, or the folder of its package.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.found: list[str] = []
        self.active = False
        self.elsewhere = 0.0  # seconds inside imports of others
        self.depth = 0
        self._import, self._start = builtins.__import__, threading.Thread.start

    def __enter__(self) -> Watch:
        self.before = dict(_globals())  # before imports are timed, since torch imports more for it
        sys.addaudithook(self._hear)
        sys.stdout = sys.stderr = _Ear(self)
        builtins.__import__ = self._timed_import
        threading.Thread.start = lambda thread: self._heard_start(thread)  # type: ignore[method-assign, assignment]
        self.start, self.active = time.perf_counter(), True
        return self

    def __exit__(self, *_: object) -> None:
        self.active = False
        own = time.perf_counter() - self.start - self.elsewhere
        builtins.__import__ = self._import
        if own > SLOW:
            self.note(f"works for {own:.1f} s")
        for name, value in _globals():
            if self.before[name] != value:
                self.note(f"changes {name}")

    def note(self, what: str) -> None:
        if what not in self.found:
            self.found.append(what)

    def is_own(self) -> bool:
        """Whether the code that runs was called by the module, and not by the import of another one."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if file == self.root or file.startswith(self.root + os.sep):
                return True
            if file.startswith("<frozen importlib"):
                return False
            frame = frame.f_back
        return False

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if (writes or event in _EVENTS) and self.is_own():
            self.note(f"writes to {args[0]}" if writes else _EVENTS[event])

    def _heard_start(self, thread: threading.Thread) -> None:
        if self.active and self.is_own():  # before Python 3.12 there is no audit event for it
            self.note("starts a thread")
        self._start(thread)

    def _timed_import(self, name: str, *args: Any, **kwargs: Any) -> Any:
        sibling = not name or name.partition(".")[0] == Path(self.root).stem  # by name or relatively
        outermost = self.depth == 0 and not sibling
        self.depth += outermost
        start = time.perf_counter()
        try:
            return self._import(name, *args, **kwargs)
        finally:
            if outermost:
                self.depth -= 1
                self.elsewhere += time.perf_counter() - start


class _Ear(io.StringIO):
    """Takes the place of stdout and stderr."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def write(self, text: str) -> int:
        if text.strip() and self.watch.active and self.watch.is_own():
            self.watch.note(f"prints {text.strip()[:40]!r}")
        return len(text)


def _globals() -> Iterator[tuple[str, object]]:
    """What a plugin may not change, because it would change the numbers of others."""
    yield "torch's global generator", torch.get_rng_state().tolist()
    yield "NumPy's global generator", repr(np.random.get_state(legacy=False))  # noqa: NPY002 - the global one is meant
    yield "Python's global generator", random.getstate()
    yield "torch's default type or device", (torch.get_default_dtype(), torch.get_default_device())
    yield "torch's number of threads", torch.get_num_threads()
    yield "whether torch keeps gradients", torch.is_grad_enabled()
    yield "torch's matmul precision", torch.get_float32_matmul_precision()
    yield "whether torch must be deterministic", torch.are_deterministic_algorithms_enabled()
    yield "the state of CUDA: it is initialised", torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    yield "the logging set-up", [id(each) for each in logging.root.handlers]
    yield "the working folder", os.getcwd()  # noqa: PTH109 - compared, not used


def examine(module: str, file: str) -> list[str]:
    """Import a module here and now, and say what it did; nothing, if all is well."""
    home = _home(module, file)
    with Watch(home or file) as watch:
        if home:
            importlib.import_module(module)
        else:
            runpy.run_path(file, run_name="benchkit_probed")
    return watch.found


def _home(module: str, file: str) -> str:
    """The module's file or its package's folder, as `import` would find it; "" where only a path leads to the file."""
    try:  # the package alone: to look for a module inside would import it already
        top = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return ""
    homes = [] if top is None else [*(top.submodule_search_locations or [top.origin or ""])]
    inside = (home for home in homes if home and Path(file).resolve().is_relative_to(Path(home).resolve()))
    return next(inside, "")


@functools.cache
def ask(module: str, file: str, path: tuple[str, ...]) -> list[str]:
    """What `examine` says, in a fresh process with this `sys.path`."""
    command = [sys.executable, "-m", "benchkit.testing.probe", module, file, json.dumps(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"takes more than {_TIMEOUT} s"]
    if done.returncode != _ANSWERED:
        return [f"ends the process with code {done.returncode}"]
    found: list[str] = json.loads(done.stdout.splitlines()[-1])  # above it may stand what a library printed
    return found


def main(module: str, file: str, path: str) -> None:
    """Print the complaints as the last line of stdout, and leave at once."""
    sys.path[:] = json.loads(path)
    sys.dont_write_bytecode = True
    stdout = sys.stdout
    try:
        found = examine(module, file)
    except BaseException as error:  # noqa: BLE001 - SystemExit too
        found = [f"raises {one_line(error)}"]
    print("\n" + json.dumps(found), file=stdout, flush=True)
    os._exit(_ANSWERED)  # no thread that the module left behind may keep it


if __name__ == "__main__":
    main(*sys.argv[1:])
