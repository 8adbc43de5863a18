"""A real headless Chromium, driven over a pipe by its DevTools protocol: nothing to install but the browser."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PATIENCE = 60  # seconds, on a machine that has other things to do


def find_browser() -> str | None:
    """The program in $BENCHKIT_CHROMIUM, or a Chromium or Chrome on the path."""
    return os.environ.get("BENCHKIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. `problems` collects what a reader must never cause: console errors, exceptions, requests."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._rest, self._count, self._session = b"", 0, ""
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer; what happens meanwhile is looked at on the way.

        Raises:
            RuntimeError: the browser refuses it.
        """
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def open(
        self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False, script: bool = True
    ) -> None:
        """Load a file and wait until it is drawn."""
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + _PATIENCE
        while self.run("document.readyState") != "complete" and time.monotonic() < end:
            time.sleep(0.02)
        if script:  # without, there are no frames to wait for, and nothing that draws
            self.settle()

    def resize(self, width: int, height: int = 900) -> None:
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def settle(self) -> None:
        """Two frames, so that what observes sizes has drawn."""
        frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
        self.call("Runtime.evaluate", expression=frame, awaitPromise=True)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page.

        Raises:
            RuntimeError: it throws.
        """
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """A real click in the middle of an element, scrolled to."""
        x, y = self._place(selector, 0.5)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def hover(self, selector: str, share: float = 0.5) -> None:
        """The pointer over an element, so far from its left edge."""
        x, y = self._place(selector, share)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def _place(self, selector: str, share: float) -> tuple[float, float]:
        """Scroll to an element, without the page's own smoothness, and say where it then is."""
        self.run(f"{_element(selector)}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.settle()
        at = json.loads(self.run(f"JSON.stringify({_element(selector)}.getBoundingClientRect())"))
        return at["x"] + at["width"] * share, at["y"] + at["height"] / 2

    def press(self, key: str, code: int) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)
        self.settle()

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page, by default of all of it."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **(self._clip() if whole else {}))[
            "data"
        ]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        data = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _clip(self) -> dict[str, Any]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {**size, "scale": 1}}

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE)
            part = os.read(self._answers, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("the browser is gone" if ready else "the browser does not answer")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        self._look(found.get("method", ""), found.get("params", {}))
        return found

    def _look(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(f"console: {params['args']}")
        elif method == "Runtime.exceptionThrown":
            self.problems.append(f"exception: {params['exceptionDetails']}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"log: {params['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith("data:") and params.get("type") != "Document":
                self.problems.append(f"request: {url}")


def _element(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own; gone afterwards.

    Raises:
        RuntimeError: there is none, or it does not start.
    """
    program = find_browser()
    if program is None:
        raise RuntimeError("no Chromium")
    (read_commands, commands), (answers, write_answers) = os.pipe(), os.pipe()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    options += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"]
    # It reads commands from its descriptor 3 and answers on 4.
    shell = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
    process = subprocess.Popen(
        ["bash", "-c", shell, program, *options, "--remote-debugging-pipe"],
        pass_fds=(read_commands, write_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)  # it ends when nobody can command it any more
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answers)
