"""The check of what importing a plugin does."""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import subprocess
import sys

from benchkit.head import HeadSpec
from benchkit.testing.verdict import Failed, Skipped, check


@check
def imports(spec: HeadSpec) -> None:
    """Does nothing at import but define things.

    The module of the head's class is imported in a fresh process. It may not print, start a thread or a process, use
    the network, write files, draw from or seed a global generator, change torch's settings, set up logging, or work for
    more than a second. What libraries do when the module imports them is not held against it, unless they change a
    generator or torch's settings.
    """
    try:
        file = inspect.getsourcefile(spec.cls)
    except (TypeError, OSError):
        file = None
    if file is None or spec.cls.__module__ == "__main__":
        raise Skipped("its class was not imported from a file")
    found = _examine(spec.cls.__module__, file, tuple(sys.path))
    if found:
        raise Failed(f"importing {spec.cls.__module__} {', '.join(found)}")


@functools.cache
def _examine(module: str, file: str, path: tuple[str, ...]) -> list[str]:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps({"module": module, "file": file, "path": path}), file=server.stdin, flush=True)
    answer = server.stdout.readline()
    if not answer:
        raise Failed(f"could not be tried: python -m benchkit.testing.probe ended with code {server.wait()}")
    found: list[str] = json.loads(answer)
    return found


@functools.cache
def _server() -> subprocess.Popen[str]:
    """One for this process, since it has to load torch; told to leave when this process does."""
    command = [sys.executable, "-m", "benchkit.testing.probe"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    atexit.register(server.communicate)  # closes its stdin, which ends it
    return server
