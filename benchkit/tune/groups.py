"""What can be searched: a head's own fields and the protocol's, by group."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchkit.errors import unknown
from benchkit.head import Choice, HeadSpec, Range
from benchkit.protocol import Phase, Protocol
from benchkit.task import TaskSpec
from benchkit.tune.space import Dimension, Space, empty

# By phase: usual with a frozen encoder, and for fine-tuning one (around Devlin et al. 2018, appendix A.3).
_RATES = {"pretrain": (1e-4, 3e-2), "finetune": (1e-6, 2e-4)}
_BATCHES = {"pretrain": (16, 32, 64, 128), "finetune": (8, 16, 32)}
_DECAY = (1e-4, 0.3)

DEFAULT_GROUPS = ("head", "lr")


def build_space(
    spec: HeadSpec,
    config: Any,
    protocol: Protocol,
    tasks: Sequence[TaskSpec],
    search: Sequence[str],
    pins: Sequence[str],
) -> Space:
    """The fields that `search` names, groups or single fields, without those that are pinned.

    Args:
        config: the head's config with everything that the protocol says; its values are the defaults.
        pins: dotted names of fields that the user has set.

    Raises:
        UserError: a name is unknown, or nothing is left to search.
    """
    groups = _groups(spec, config, protocol, tasks)
    fields = {each.name: each for dimensions in groups.values() for each in dimensions}
    chosen: dict[str, Dimension] = {}
    for name in search:
        if name not in groups and name not in fields:
            raise unknown("search group or field", name, [*groups, *fields])
        chosen |= {each.name: each for each in groups.get(name) or ([fields[name]] if name in fields else [])}
    left = [each for name, each in chosen.items() if name not in pins]
    if not left:
        what = ", ".join(search) or "--search is empty"
        reason = f"{what}: every field is pinned by --set" if chosen else f"{what}: it has no such field"
        raise empty(spec.name, reason if search else what)
    return Space(tuple(left))


def group_names() -> list[str]:
    return ["head", "dropout", *_PROTOCOL]


def _groups(spec: HeadSpec, config: Any, protocol: Protocol, tasks: Sequence[TaskSpec]) -> dict[str, list[Dimension]]:
    head = list(_head(spec, config))
    found = {"head": head, "dropout": [each for each in head if "dropout" in each.name.partition(".")[2]]}
    return {**found, **{name: list(make(protocol, tasks)) for name, make in _PROTOCOL.items()}}


def _head(spec: HeadSpec, config: Any) -> Iterator[Dimension]:
    hints = typing.get_type_hints(spec.config)
    for field in dataclasses.fields(spec.config):
        search, name, value = field.metadata.get("search"), f"{spec.name}.{field.name}", getattr(config, field.name)
        if isinstance(search, Range):
            kind: typing.Literal["int", "float"] = "int" if hints[field.name] is int else "float"
            yield _ranged(name, kind, value, search.low, search.high, log=search.log)
        elif isinstance(search, Choice):
            yield Dimension(name, "choice", _settable(value), choices=tuple(map(_settable, search.values)))


def _ranged(
    name: str, kind: typing.Literal["int", "float"], value: Any, low: float, high: float, log: bool
) -> Dimension:
    """A range that holds the default, wherever the protocol has put it; 0 has no place on a log scale."""
    if log and value <= 0:
        low, log = 0.0, False
    return Dimension(name, kind, value, min(low, value), max(high, value), log)


def _settable(value: Any) -> Any:
    """A choice as Optuna stores it, and as `--set` reads it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return ",".join(map(str, value))


def _phases(protocol: Protocol) -> Iterator[tuple[str, Phase]]:
    for name in protocol.phases:
        yield name, protocol.phase(name)


def _rates(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    for name, phase in _phases(protocol):
        yield _ranged(f"{name}.learning_rate", "float", phase.learning_rate, *_RATES[name], log=True)


def _decays(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    for name, phase in _phases(protocol):
        yield _ranged(f"{name}.weight_decay", "float", phase.weight_decay, *_DECAY, log=True)


def _batches(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    for name, phase in _phases(protocol):
        sizes = sorted({*_BATCHES[name], phase.batch_size})
        yield Dimension(f"{name}.batch_size", "choice", phase.batch_size, choices=tuple(sizes))


def _schedules(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    choices = typing.get_args(typing.get_type_hints(Phase)["schedule"])
    for name, phase in _phases(protocol):
        yield Dimension(f"{name}.schedule", "choice", phase.schedule, choices=choices)


def _losses(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    """Of tasks that have several; "" leaves it to the head, or else to the task."""
    for task in tasks:
        if len(task.losses) > 1:
            default = protocol.options(task.name).loss
            yield Dimension(
                f"{task.name}.loss", "choice", default, choices=tuple(dict.fromkeys([default, *task.losses]))
            )


def _sampling(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    choices = typing.get_args(typing.get_type_hints(Protocol)["sampling"])
    yield Dimension("sampling", "choice", protocol.sampling, choices=choices)


_PROTOCOL: Mapping[str, Callable[[Protocol, Sequence[TaskSpec]], Iterator[Dimension]]] = {
    "lr": _rates,
    "weight_decay": _decays,
    "batch": _batches,
    "schedule": _schedules,
    "loss": _losses,
    "sampling": _sampling,
}
