"""Heads of one size: which field makes a head large, and what it must be for so many parameters."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch

from benchkit.errors import UserError
from benchkit.head import HeadSpec, Range
from benchkit.runner.cell import Cell
from benchkit.runner.workspace import Workspace, build_head, feature_settings

TOLERANCE = 0.05

Count = Callable[[Mapping[str, Any]], int]


def parse_size(text: str) -> int:
    """`250k`, `1.5M` or `250000` as a number of parameters.

    Raises:
        UserError: it is none.
    """
    units = {"k": 1e3, "m": 1e6}
    number, unit = (text[:-1], units[text[-1:].lower()]) if text[-1:].lower() in units else (text, 1)
    try:
        size = round(float(number) * unit)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise UserError(f"--match-params takes a number of parameters, such as 250k or 1.5M, not {text!r}")
    return size


def width_fields(cell: Cell, workspace: Workspace, pins: Sequence[str] = ()) -> list[str]:
    """The whole-number fields of a head that change its size, the strongest first; without those that are pinned."""
    spec, count = workspace.plugins.head(cell.head), counter(cell, workspace)
    spans = {}
    for name, (low, high) in _ranges(spec).items():
        if f"{cell.head}.{name}" not in pins:
            spans[name] = abs(count({**cell.config, name: high}) - count({**cell.config, name: low}))
    return sorted((name for name, span in spans.items() if span), key=lambda name: -spans[name])


def fit_size(
    cell: Cell, config: Mapping[str, Any], size: int, widths: Sequence[str], workspace: Workspace
) -> dict[str, Any]:
    """The config with its widths changed so that the head has `size` parameters, within 5 %.

    The first of `widths` is solved by bisection. Where its range is not enough it stays at its end, and the next one is
    solved, so that other drawn values are changed no more than need be.

    Raises:
        UserError: no widths give that size.
    """
    spec, count = workspace.plugins.head(cell.head), counter(cell, workspace)
    fitted, ranges = dict(config), _ranges(spec)
    for name in widths:
        if _fits(count(fitted), size):
            break
        fitted[name] = _solve(partial(_count_with, count, fitted, name), *ranges[name], size)
    found = count(fitted)
    if not _fits(found, size):
        raise UserError(
            f"head {cell.head!r} cannot have {size:,} parameters ±{TOLERANCE:.0%} with {dict(config)}: "
            f"the nearest has {found:,}"
        )
    return fitted


def counter(cell: Cell, workspace: Workspace) -> Count:
    """Counts a head's parameters by config; on the meta device nothing is allocated."""
    protocol, device = cell.protocol, torch.device(cell.execution.device)
    spec, encoder = workspace.plugins.head(cell.head), workspace.encoder(cell.encoder)
    shapes = [task.shape(joint=protocol.pair_input == "joint") for task in workspace.tasks(protocol)]
    settings = feature_settings(protocol, spec, encoder, cell.execution.precision, device)

    def count(config: Mapping[str, Any]) -> int:
        with torch.device("meta"):
            head = build_head(spec, spec.configure(config), encoder, settings, shapes)
        return sum(parameter.numel() for parameter in head.parameters())

    return count


def _count_with(count: Count, config: Mapping[str, Any], name: str, value: int) -> int:
    return count({**config, name: value})


def _fits(found: int, size: int) -> bool:
    return abs(found - size) <= TOLERANCE * size


def _ranges(spec: HeadSpec) -> dict[str, tuple[int, int]]:
    hints = typing.get_type_hints(spec.config)
    searched = {field.name: field.metadata.get("search") for field in fields(spec.config)}
    return {
        name: (int(each.low), int(each.high))
        for name, each in searched.items()
        if isinstance(each, Range) and hints[name] is int
    }


def _solve(count: Callable[[int], int], low: int, high: int, size: int) -> int:
    """The value from low to high whose count is nearest to `size`; counts grow with the value."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < size else (low, middle)
    return min((low, high), key=lambda value: abs(count(value) - size))
