"""Progress of a pre-training on stderr: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tqdm import tqdm

    from benchkit.mlm.setup import Ready

_QUIET_SECONDS = 10.0  # between lines, where there is no terminal


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
        from benchkit.runner.eta import clock

        done = row["step"] - self.first
        if done <= 0 or row["step"] == self.steps:
            return ""
        left = clock((time.monotonic() - self.started) / done * (self.steps - row["step"]))
        return f", {row['pieces'] / row['seconds']:,.0f} pieces/s, about {left} left"
