"""Progress of a search on stderr, and Ctrl-C as a wish rather than an order."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from benchkit.cli.progress import Progress


class TuneProgress(Progress):
    """Takes the events of a search, and of the runs that conclude it."""

    def __init__(self, jobs: int = 1) -> None:
        super().__init__(jobs)
        self.wanted = self.at_start = 0
        self.head = ""
        self.started = 0.0
        self.running: dict[int, str] = {}

    def _study(self, event: Mapping[str, Any]) -> None:
        self.close()
        counts, self.wanted, self.head = event["counts"], event["wanted"], event["head"]
        self.at_start, self.started, self.running = counts.finished, time.monotonic(), {}
        if counts.finished:
            best = f", best so far {counts.best:.4f}" if counts.best is not None else ""
            self.say(f"{counts.finished} of {self.wanted} trials are finished already{best}")
        if self.terminal and counts.finished < self.wanted:
            self._show(self.head, counts.finished, self.wanted, "trial")

    def _begin(self, event: Mapping[str, Any]) -> None:
        self.running[event["number"]] = ""

    def _step(self, event: Mapping[str, Any]) -> None:
        self.running[event["number"]] = f"{event['epoch']}/{event['epochs']}"
        if self.bar is not None:
            self.bar.set_description_str(
                f"{self.head} [{', '.join(f'{n}: {at}' for n, at in sorted(self.running.items()) if at)}]"
            )

    def _trial(self, event: Mapping[str, Any]) -> None:
        self.running.pop(event["number"], None)
        best = "" if event["best"] is None else f"best {event['best']:.4f}, "
        state = f"{best}{event['pruned']} pruned, {event['failed']} failed{self._until(event['finished'])}"
        if event["state"] == "FAIL":
            self.say(f"trial {event['number']} failed: {event['reason']}")
        if self.terminal:
            self._show(self.head, event["finished"], self.wanted, "trial")
            assert self.bar is not None
            self.bar.set_postfix_str(state)
        else:
            value = f" {event['values'][0]:.4f}" if event["values"] else ""
            name = {"COMPLETE": "", "PRUNED": " pruned", "FAIL": " failed"}[event["state"]]
            self.say(f"[{event['finished']}/{self.wanted}] trial {event['number']}{value}{name}; {state}")
        if event["finished"] >= self.wanted:
            self.close()

    def _until(self, finished: int) -> str:
        from benchkit.runner.eta import clock

        done = finished - self.at_start
        if done < 1 or finished >= self.wanted:
            return ""
        return f", about {clock((time.monotonic() - self.started) / done * (self.wanted - finished))} left"

    def _show(self, what: str, done: int | None, total: int, unit: str) -> None:
        super()._show(what, done, total, unit)
        if unit == "trial" and self.bar is not None:
            self.bar.bar_format = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} {unit}s{postfix}"


class Interrupt:
    """Whether Ctrl-C was pressed. Once: the running trials are finished. Twice: KeyboardInterrupt."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.pressed = progress, False

    def __call__(self) -> bool:
        return self.pressed

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _press(self, number: int, frame: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        click.echo("\nstopping after the running trials; Ctrl-C again stops at once", err=True)
