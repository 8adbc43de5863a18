"""How far runs, searches, downloads and pre-training are: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchkit.cli.output import say, size, stop

if TYPE_CHECKING:
    from tqdm import tqdm

    from benchkit.experiment.estimate import Eta


_QUIET_SECONDS = 10.0  # between lines, where there is no terminal


class Progress:
    """One bar at a time, with the time that is left: a `benchkit.core.progress.Progress`.

    A run or a search calls the object with its events.

    Attributes:
        jobs: cells that run at once.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self.terminal = sys.stderr.isatty()
        self.bar: tqdm[Any] | None = None
        self.name = self.unit = self.note = ""
        self.done = self.first = self.total = self.finished = 0
        self.started = self.said = 0.0
        self.cells: dict[str, Mapping[str, Any]] = {}
        self.eta: Eta | None = None
        self.running: dict[int, str] = {}

    def say(self, line: str) -> None:
        """A line that stays, above the bar if there is one."""
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            say(line)

    def start(self, name: str, done: int, total: int | None, unit: str = "B") -> None:
        self.close()
        self.name, self.unit, self.note, self.done, self.first, self.total = name, unit, "", done, done, total or 0
        self.started = self.said = time.monotonic()
        if done and unit == "B":
            self.say(f"{name}: continuing from {self._amount(done)}")
        if self.terminal:
            from tqdm import tqdm

            count = "{n_fmt}/{total_fmt}" + ("" if unit == "B" else f" {unit}")
            layout = "{desc} {percentage:3.0f}%|{bar}| " + count + "{postfix}"
            self.bar = tqdm(total=total, initial=done, desc=name, unit=unit, unit_scale=unit == "B", bar_format=layout,
                            file=sys.stderr, leave=False, dynamic_ncols=True)  # fmt: skip

    def advance(self, count: int, note: str = "") -> None:
        self.done, self.note = self.done + count, note or self.note
        state = "".join(f", {part}" for part in (self.note, self.left()) if part)
        if self.bar is not None:
            self.bar.postfix = state.removeprefix(", ")
            self.bar.update(count)
        elif time.monotonic() - self.said > _QUIET_SECONDS:
            self.said = time.monotonic()
            of = f" of {self._amount(self.total)}" if self.total else ""
            self.say(f"{self.name}: {self._amount(self.done)}{of}{state}")

    def stop(self) -> None:
        self.close()
        if self.name and self.done > self.first:
            self.say(f"{self.name}: {self._amount(self.done)}")
        self.name = ""

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def left(self) -> str:
        """The time left: of the cells of a run by their epochs, else by what was done since `start`."""
        from benchkit.experiment.estimate import clock

        if self.eta is not None and self.name != "encode":
            seconds, known = self.eta.left()
            return f"{'about' if known else 'at least'} {clock(seconds)} left"
        new, rest = self.done - self.first, self.total - self.done
        if new < 1 or rest < 1:
            return ""
        return f"about {clock((time.monotonic() - self.started) / new * rest)} left"

    def _amount(self, count: int) -> str:
        return size(count) if self.unit == "B" else f"{count:,} {self.unit}"

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take an event of a run or a search."""
        getattr(self, "_" + event["event"])(event)

    def _log(self, event: Mapping[str, Any]) -> None:
        self.say(event["line"])

    def _encode(self, event: Mapping[str, Any]) -> None:
        if self.name != "encode":
            self.start("encode", event["done"], event["total"], "texts")
        self.advance(event["done"] - self.done)
        if event["done"] == event["total"]:
            self.stop()

    def _plan(self, event: Mapping[str, Any]) -> None:
        from benchkit.experiment.estimate import Eta

        self.cells = {cell["key"]: cell for cell in event["cells"]}
        self.finished = sum(cell["done"] for cell in self.cells.values())
        self.eta = Eta(self.cells, min(self.jobs, max(1, len(self.cells) - self.finished)))
        if self.finished:
            self.say(f"{self.finished} of {len(self.cells)} cells are finished already and are reused")

    def _start(self, event: Mapping[str, Any]) -> None: ...

    def _epoch(self, event: Mapping[str, Any]) -> None:
        assert self.eta is not None
        self.eta.epoch(event["key"], event["phase"], event["epoch"], event["seconds"])
        if self.terminal:
            if self.bar is None:
                self.start(
                    "train",
                    0,
                    sum(sum(cell["phases"].values()) for cell in self.cells.values() if not cell["done"]),
                    "epochs",
                )
            cell = self.cells[event["key"]]
            self.advance(1, f"{cell['head']} seed {cell['seed']} {event['phase']} dev {event['score']:.3f}")

    def _cell(self, event: Mapping[str, Any]) -> None:
        assert self.eta is not None
        self.eta.end(event["key"])
        self.finished += 1
        cell, total = self.cells[event["key"]], len(self.cells)
        state = " done" if event["status"] == "ok" else f": {event['status']}: {event['error']}"
        left = f", {self.left()}" if self.finished < total and not self.terminal else ""
        self.say(f"[{self.finished}/{total}] {cell['head']} seed {cell['seed']}{state}{left}")
        if self.finished == total:
            self.close()

    def _study(self, event: Mapping[str, Any]) -> None:
        counts, head, self.eta, self.running = event["counts"], event["head"], None, {}
        if counts.finished:
            best = f", best so far {counts.best:.4f}" if counts.best is not None else ""
            self.say(f"{counts.finished} of {event['wanted']} trials are finished already{best}")
        if counts.finished < event["wanted"]:
            self.start(head, counts.finished, event["wanted"], "trials")

    def _begin(self, event: Mapping[str, Any]) -> None:
        self.running[event["number"]] = ""

    def _step(self, event: Mapping[str, Any]) -> None:
        self.running[event["number"]] = f"{event['epoch']}/{event['epochs']}"
        if self.bar is not None:
            epochs = ", ".join(f"{number}: {at}" for number, at in sorted(self.running.items()) if at)
            self.bar.set_description_str(f"{self.name} [{epochs}]")

    def _trial(self, event: Mapping[str, Any]) -> None:
        self.running.pop(event["number"], None)
        best = "" if event["best"] is None else f"best {event['best']:.4f}, "
        state = f"{best}{event['pruned']} pruned, {event['failed']} failed"
        if event["state"] == "FAIL":
            self.say(f"trial {event['number']} failed: {event['reason']}")
        self.said = time.monotonic()  # the line below tells all
        self.advance(event["finished"] - self.done, state)
        if not self.terminal:
            value = f" {event['values'][0]:.4f}" if event["values"] else ""
            name = {"COMPLETE": "", "PRUNED": " pruned", "FAIL": " failed"}[event["state"]]
            left = f", {self.left()}" if self.left() else ""
            self.say(f"[{event['finished']}/{self.total}] trial {event['number']}{value}{name}; {state}{left}")
        if event["finished"] >= self.total:
            self.close()


@contextmanager
def shown(resumes: str = "") -> Iterator[Progress]:
    """Progress of work that Ctrl-C stops, and that the same command resumes `from …`."""
    progress = Progress()
    try:
        yield progress
    except KeyboardInterrupt:
        progress.close()
        stop(f"interrupted; the same command goes on{resumes and ' '}{resumes}", 130)
    finally:
        progress.close()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed, for a search to end after its running trials.

    The second time, KeyboardInterrupt is raised.
    """
    pressed: list[int] = []

    def press(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        say("\nstopping after the running trials; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
