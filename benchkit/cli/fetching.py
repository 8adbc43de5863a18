"""How a download goes, on stderr: a bar with an ETA on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tqdm import tqdm

_QUIET_SECONDS = 10.0


class FetchProgress:
    """A `benchkit.hub.watch.Watch`."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.bar: tqdm[Any] | None = None
        self.name, self.done, self.total = "", 0, 0
        self.at_start, self.started, self.said = 0, 0.0, 0.0

    def start(self, name: str, done: int, total: int | None) -> None:
        self.name, self.done, self.total, self.at_start = name, done, total or 0, done
        self.started = self.said = time.monotonic()
        if done:
            self.say(f"{name}: going on from {size(done)}")
        if self.terminal:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total, initial=done, desc=name, unit="B", unit_scale=True, file=sys.stderr, leave=False,
                dynamic_ncols=True, bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left",
            )  # fmt: skip

    def advance(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.said > _QUIET_SECONDS:
            self.said = time.monotonic()
            of = f" of {size(self.total)}" if self.total else ""
            self.say(f"{self.name}: {size(self.done)}{of}{self._left()}")

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        if self.done > self.at_start:
            self.say(f"{self.name}: {size(self.done)}")

    def say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)

    def _left(self) -> str:
        from benchkit.runner.eta import clock

        new, spent = self.done - self.at_start, time.monotonic() - self.started
        if new <= 0 or not self.total:
            return ""
        return f", {clock(spent / new * (self.total - self.done))} left"


def size(count: int) -> str:
    """Bytes as people read them: `171 kB`, `35.0 MB`."""
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:,.1f} MB"
