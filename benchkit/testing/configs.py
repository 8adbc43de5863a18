"""Checks of a spec and its config."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from typing import Any

import torch

from benchkit.head import Choice, HeadSpec, Range
from benchkit.settings import plain
from benchkit.testing.samples import FEW, TASKS, build, features, run
from benchkit.testing.verdict import Failed, check

_DRAWS = 6  # configs drawn from inside the search space, beside its ends and corners


@check
def described(spec: HeadSpec) -> None:
    """Has a summary, a frozen config, and defaults inside their search."""
    if not spec.summary.strip():
        raise Failed("it has no summary: one line in HeadSpec(name, summary, …)")
    if not (dataclasses.is_dataclass(spec.config) and spec.config.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise Failed(f"{spec.config.__name__} is not a frozen dataclass: write @dataclass(frozen=True)")
    defaults = spec.configure({})
    for field, search in _searched(spec):
        default = getattr(defaults, field.name)
        if isinstance(search, Range) and not search.low <= default <= search.high:
            raise Failed(f"the default of {field.name}, {default}, is not from {search.low} to {search.high}")
    for shape in TASKS if spec.loss else ():
        asked = spec.loss(defaults, shape) if spec.loss else ""
        if not isinstance(asked, str):
            raise Failed(f"loss(config, shape) gave {asked!r} for {shape.name}, not the name of a loss or ''")


@check
def config(spec: HeadSpec) -> None:
    """Has a config that survives JSON and `--set`.

    A cell's config is stored as JSON and compared with what the user asks for.
    """
    for values in ({}, *_corners(spec)):
        given = spec.configure(values)
        as_json = plain(given)
        try:
            back = spec.configure(json.loads(json.dumps(as_json)))
        except TypeError as error:
            raise Failed(f"its config cannot be written as JSON: {error}") from error
        as_text = {name: str(value) for name, value in as_json.items() if not isinstance(value, list | None)}
        for where, again in (("JSON", back), ("--set", spec.configure({**as_json, **as_text}))):
            changed = [
                each.name
                for each in dataclasses.fields(given)
                if getattr(again, each.name) != getattr(given, each.name)
            ]
            if changed:
                raise Failed(f"{', '.join(changed)} comes back from {where} as something else")


@check
def search(spec: HeadSpec) -> None:
    """Works with every config that a search may draw.

    Both ends of every range and every choice, one at a time; all low and all high; and a few from inside.
    """
    for values in _samples(spec):
        head = build(spec, values, tasks=FEW).train()
        for shape in FEW:
            given = ", ".join(f"{name}={value}" for name, value in values.items())
            try:
                outputs = run(head, features(spec.reads, shape, 2), shape)
            except Failed as found:
                raise Failed(f"with {given}, {found}") from found
            if outputs.shape != (2, shape.out) or not torch.isfinite(outputs).all():
                raise Failed(f"with {given}, {shape.name} gave {tuple(outputs.shape)} or numbers that are not finite")


def _samples(spec: HeadSpec) -> Iterator[dict[str, Any]]:
    for field, search in _searched(spec):
        yield from ({field.name: value} for value in _ends(field, search))
    yield from _corners(spec)
    draw = random.Random(0)
    if any(True for _ in _searched(spec)):
        for _ in range(_DRAWS):
            yield {field.name: _draw(field, search, draw) for field, search in _searched(spec)}


def _corners(spec: HeadSpec) -> list[dict[str, Any]]:
    """All low and all high; first and last choices."""
    ends = {field.name: _ends(field, search) for field, search in _searched(spec)}
    return [{name: values[i] for name, values in ends.items()} for i in (0, -1)] if ends else []


def _searched(spec: HeadSpec) -> Iterator[tuple[dataclasses.Field[Any], Range | Choice]]:
    for field in dataclasses.fields(spec.config):
        if search := field.metadata.get("search"):
            yield field, search


def _ends(field: dataclasses.Field[Any], search: Range | Choice) -> tuple[Any, ...]:
    return search.values if isinstance(search, Choice) else (search.low, search.high)


def _draw(field: dataclasses.Field[Any], search: Range | Choice, draw: random.Random) -> Any:
    if isinstance(search, Choice):
        return draw.choice(search.values)
    place = draw.random()
    value = (
        search.low * (search.high / search.low) ** place
        if search.log
        else search.low + (search.high - search.low) * place
    )
    return round(value) if isinstance(field.default, int) else value
