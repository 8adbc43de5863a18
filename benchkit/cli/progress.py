"""Progress lines of runs, downloads, searches and pre-training."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tqdm import tqdm

    from benchkit.experiment.estimate import Eta
    from benchkit.pretraining.session import Ready


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
        from benchkit.experiment.estimate import Eta

        self.cells = {cell["key"]: cell for cell in event["cells"]}
        self.finished = sum(cell["done"] for cell in self.cells.values())
        self.eta = Eta(self.cells, min(self.jobs, max(1, len(self.cells) - self.finished)))
        if self.finished:
            self.say(f"{self.finished} of {len(self.cells)} cells are finished already and are reused")

    def _encode(self, event: Mapping[str, Any]) -> None:
        from benchkit.experiment.estimate import clock

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
            from benchkit.experiment.estimate import total_epochs

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
        from benchkit.experiment.estimate import clock

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


class FetchProgress:
    """A `benchkit.hub.download.Watch`."""

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
        from benchkit.experiment.estimate import clock

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
        from benchkit.experiment.estimate import clock

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


class PretrainProgress:
    """Is told of each step and of each look at the held-out texts."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None
        self.steps = self.first = self.now = 0
        self.started = self.said = 0.0

    def say(self, line: str) -> None:
        """A line that stays, above the bar if there is one."""
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)

    def begin(self, ready: Ready, done: int) -> None:
        texts, work = ready.texts, ready.work
        self.say(
            f"{len(texts.train):,} texts of {len(work.tokenized.ids):,} word pieces, and {len(texts.held_out):,} held "
            f"out; {work.steps:,} steps{f', {done:,} done already' if done else ''}"
        )
        self.steps, self.first, self.now = work.steps, done, done
        self.started = time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            layout = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"
            self.bar = tqdm(
                total=work.steps, initial=done, bar_format=layout, file=sys.stderr, leave=False, dynamic_ncols=True
            )

    def step(self, step: int) -> None:
        self.now = step
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def look(self, row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        perplexity = f"held-out perplexity {row['held_out_perplexity']:,.1f}"
        if self.bar is not None:
            self.bar.set_postfix_str(perplexity)
        elif row["step"] in (0, self.steps) or now - self.said > _QUIET_SECONDS:
            self.said = now
            loss = f"loss {row['loss']:.3f}, " if math.isfinite(row["loss"]) else ""
            self.say(f"step {row['step']:,}/{self.steps:,}: {loss}{perplexity}{self._left(row)}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _left(self, row: Mapping[str, Any]) -> str:
        from benchkit.experiment.estimate import clock

        done = row["step"] - self.first
        if done <= 0 or row["step"] == self.steps:
            return ""
        left = clock((time.monotonic() - self.started) / done * (self.steps - row["step"]))
        return f", {row['pieces'] / row['seconds']:,.0f} pieces/s, about {left} left"
