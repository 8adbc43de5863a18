"""Progress of a run on stderr: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tqdm import tqdm

    from benchkit.runner.eta import Eta

_QUIET_SECONDS = 10.0  # between lines about encoding, where there is no terminal


class Progress:
    """Takes the events of a run, one call each."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.terminal = sys.stderr.isatty()
        self.cells: dict[str, Mapping[str, Any]] = {}
        self.finished = 0
        self.eta: Eta | None = None
        self.bar: tqdm[Any] | None = None
        self.encode_started = self.encode_said = 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        getattr(self, "_" + event["event"])(event)

    def say(self, line: str) -> None:
        """A line that stays, above the bar if there is one."""
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _log(self, event: Mapping[str, Any]) -> None:
        self.say(event["line"])

    def _plan(self, event: Mapping[str, Any]) -> None:
        from benchkit.runner.eta import Eta

        self.cells = {cell["key"]: cell for cell in event["cells"]}
        self.finished = sum(cell["done"] for cell in self.cells.values())
        self.eta = Eta(self.cells, min(self.jobs, max(1, len(self.cells) - self.finished)))
        if self.finished:
            self.say(f"{self.finished} of {len(self.cells)} cells are finished already and are reused")

    def _encode(self, event: Mapping[str, Any]) -> None:
        from benchkit.runner.eta import clock

        done, total, now = event["done"], event["total"], time.monotonic()
        if self.terminal:
            self._show("encode", done, total, "text")
        elif done == 0 or done == total or now - self.encode_said > _QUIET_SECONDS:
            self.encode_started = self.encode_started or now
            self.encode_said = now
            spent = now - self.encode_started
            left = f", {clock(spent / done * (total - done))} left" if 0 < done < total else ""
            self.say(f"encoded {done:,} of {total:,} texts{left}")
        if done == total:
            self.close()
            self.encode_started = 0.0

    def _start(self, event: Mapping[str, Any]) -> None:
        pass

    def _epoch(self, event: Mapping[str, Any]) -> None:
        assert self.eta is not None
        self.eta.epoch(event["key"], event["phase"], event["epoch"], event["seconds"])
        if self.terminal:
            from benchkit.runner.eta import total_epochs

            cell = self.cells[event["key"]]
            self._show("train", None, total_epochs(list(self.cells.values())), "epoch")
            assert self.bar is not None
            self.bar.set_postfix_str(
                f"{cell['head']} seed {cell['seed']} {event['phase']} dev {event['score']:.3f}, {self._left()}"
            )

    def _cell(self, event: Mapping[str, Any]) -> None:
        assert self.eta is not None
        self.eta.end(event["key"])
        self.finished += 1
        cell = self.cells[event["key"]]
        state = "" if event["status"] == "ok" else f": {event['status']}: {event['error']}"
        self.say(
            f"[{self.finished}/{len(self.cells)}] {cell['head']} seed {cell['seed']}{state or ' done'}{self._tail()}"
        )
        if self.finished == len(self.cells):
            self.close()

    def _tail(self) -> str:
        return f", {self._left()}" if self.finished < len(self.cells) and not self.terminal else ""

    def _left(self) -> str:
        from benchkit.runner.eta import clock

        assert self.eta is not None
        seconds, known = self.eta.left()
        return f"{'about' if known else 'at least'} {clock(seconds)} left"

    def _show(self, what: str, done: int | None, total: int, unit: str) -> None:
        """Move the bar to `done`, or on by one; open it first if need be."""
        from tqdm import tqdm

        if self.bar is None:
            layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}s"
            layout += ", {remaining} left" if done is not None else "{postfix}"
            self.bar = tqdm(
                total=total,
                desc=what,
                unit=unit,
                bar_format=layout,
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
            )
        self.bar.update(1 if done is None else done - self.bar.n)
