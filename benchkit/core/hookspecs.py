"""All hooks, on one screen. A plugin adds or observes; no hook can change a measurement.

from benchkit import HeadSpec, hookimpl

@hookimpl
def benchkit_heads():
    return [HeadSpec(...)]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from benchkit.core.head import HeadSpec
    from benchkit.core.record import Record
    from benchkit.core.task import TaskSpec
    from benchkit.encoder import EncoderSpec


hookspec = pluggy.HookspecMarker("benchkit")
hookimpl = pluggy.HookimplMarker("benchkit")


@hookspec
def benchkit_heads() -> Iterable[HeadSpec]:  # type: ignore[empty-body]
    """Head architectures to compare."""


@hookspec
def benchkit_tasks() -> Iterable[TaskSpec]:  # type: ignore[empty-body]
    """Sentence or sentence-pair tasks to train on."""


@hookspec
def benchkit_encoders() -> Iterable[EncoderSpec]:  # type: ignore[empty-body]
    """Encoders that can be asked for by name."""


@hookspec
def benchkit_record(record: Record) -> None:
    """See a cell's record after it was stored. The record is frozen."""
