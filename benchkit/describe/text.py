"""Heads as text for a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchkit.describe.columns import columns, paragraph
from benchkit.describe.figure import axes, label, meaning
from benchkit.describe.heads import Listed, Setting, Shown
from benchkit.describe.installed import short_path
from benchkit.describe.structure import LENGTH, Branch, Layer
from benchkit.encoder import encoder_macs
from benchkit.features import Layers, Pooled, Tokens
from benchkit.head import Choice, HeadSpec, Range
from benchkit.task import TaskShape


def render_list(found: Sequence[Listed], setting: Setting) -> str:
    """A line a head, then what is wrong with some."""
    rows = [
        (each.spec.name, _reads(each.spec.reads), _number(each.parameters), each.owner, each.spec.summary)
        for each in found
    ]
    tasks = ", ".join(shape.name for shape in setting.shapes)
    where = f"Parameters on encoder {setting.encoder.name} (hidden {setting.encoder.hidden}) for the tasks {tasks}."
    notes = [f"{each.spec.name} ({each.owner}) cannot be built: {each.error}" for each in found if each.error]
    notes += [f"plugin {each.name} is broken: {each.error}" for each in setting.plugins.broken]
    table = columns(("head", "reads", "parameters", "plugin", "summary"), rows, right=("parameters",))
    return "\n\n".join([table, "\n".join(paragraph(line) for line in (where, *notes))])


def render_head(shown: Shown) -> str:
    parts = (_facts(shown), _layers(shown), _parameters(shown), _work(shown), _config(shown.spec, shown.config))
    return "\n\n".join(parts)


def _facts(shown: Shown) -> str:
    spec, found = shown.spec, shown.structure
    pairs = ", ".join(branch.task.name for branch in found.branches if branch.task.segments == 2)
    home = f"{shown.plugin.distribution}, " if shown.plugin.distribution else ""
    facts = {
        "from": home + short_path(shown.plugin.path),
        "encoder": f"{shown.encoder.name}, {shown.about.replace(' · ', ', ')}",
        "reads": f"{_reads(spec.reads)}; hidden is {found.width}"
        + (f", segment is 2 for the pairs of {pairs}" if pairs else ""),
        "symmetric": "yes: a pair's sentences may change places" if spec.symmetric else "not declared",
        "loss": "; ".join(f"{each.name} for {each.task}{' (asked for)' * each.asked}" for each in shown.losses),
    }
    lines = [paragraph(f"{name:<11}{text}", " " * 11) for name, text in facts.items()]
    return "\n".join([paragraph(f"{spec.name}: {spec.summary}"), "", *lines])


def _layers(shown: Shown) -> str:
    """All layers in order, those that tasks share once; by number what each takes, if not simply the one before."""
    found = shown.structure
    widest = max(found.branches, key=lambda branch: branch.task.segments)
    title = "shared by all tasks" if len(found.branches) > 1 else "trunk"
    shared = [(number, layer) for number, layer in enumerate(widest.layers[: found.shared]) if not layer.is_feature]
    rows: list[tuple[str, ...]] = [(title, "", "", "", "")] if shared else []
    rows += [_row(widest, number, layer, "") for number, layer in shared]
    for branch in found.branches:
        rows.append((f"{branch.task.name}: {_kind(branch.task)}", "", "", "", ""))
        rows += [
            _row(branch, number, layer, "")
            for number, layer in enumerate(branch.layers)
            if number >= found.shared and not layer.is_feature
        ]
    return columns(("layer", "output", "parameters", "MACs", "in the head"), rows, right=("parameters", "MACs"))


def _row(branch: Branch, number: int, layer: Layer, indent: str) -> tuple[str, ...]:
    before = max((i for i in range(number) if not branch.layers[i].is_feature), default=None)
    takes = [branch.layers[i] for i in layer.inputs]
    plain = layer.inputs == (before,) or (before is None and all(each.is_feature for each in takes))
    source = "" if plain else f"  ← {', '.join(_short(branch, i) for i in layer.inputs) or 'nothing'}"
    path = "" if layer.is_function else layer.path
    return (
        f"  {number:>2} {label(layer)}{source}",
        axes(layer),
        f"{layer.parameters:,}" if layer.parameters else "",
        _short_number(layer.macs) if layer.macs else "",
        path,
    )


def _short(branch: Branch, number: int) -> str:
    layer = branch.layers[number]
    return layer.kind if layer.is_feature else str(number)


def _kind(task: TaskShape) -> str:
    return f"{'a pair' if task.segments == 2 else 'one input'}, {meaning(task)}"


def _parameters(shown: Shown) -> str:
    found = shown.structure
    counts = found.parameters
    parts = [f"{counts['trunk']:,} in the trunk"] if shown.spec.trunk else []
    parts += [f"{branch.parameters:,} for {branch.task.name} alone" for branch in found.branches]
    more = found.common - counts["trunk"]
    parts += [f"{more:,} for several tasks outside the trunk"] if more > 0 else []
    parts += [f"{found.idle:,} that no task uses"] if found.idle else []
    total = f"{counts['head']:,} parameters: {', '.join(parts)}; the encoder has {shown.encoder.parameters:,}"
    return paragraph(total)


def _work(shown: Shown) -> str:
    """Multiply-accumulates of one example, and of the encoder for one sentence."""
    parts, unknown = [], set[str]()
    for branch in shown.structure.branches:
        if branch.macs is None:
            parts.append(f"not known for {branch.task.name}, since it takes no single example")
            continue
        trunk = f" ({branch.macs.trunk:,} of them in the trunk)" if branch.macs.trunk else ""
        parts.append(f"{branch.macs.total:,} for {branch.task.name}{trunk}")
        unknown.update(branch.macs.unknown)
    encoder = encoder_macs(shown.encoder.config, [LENGTH])
    pair = any(branch.task.segments == 2 for branch in shown.structure.branches)
    text = (
        f"MACs (1 MAC is 2 FLOPs) of one example with sentences of {LENGTH} word pieces: {', '.join(parts)}; the "
        f"encoder takes {encoder:,} a sentence{'; above, what tasks share is counted for a pair' * pair}"
    )
    missing = f"; not counted: {', '.join(sorted(unknown))}" if unknown else ""
    return paragraph(text + missing)


def _config(spec: HeadSpec, config: Any) -> str:
    rows = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        text = f"{value}" if value == field.default else f"{value} (default {field.default})"
        rows.append(
            (f"{spec.name}.{field.name}", text, _search(field.metadata.get("search")), field.metadata.get("help", ""))
        )
    return columns(("setting", "value", "search", "meaning"), rows) if rows else "no settings"


def _search(search: Range | Choice | None) -> str:
    if isinstance(search, Range):
        return f"{search.low:g} to {search.high:g}{', log' * search.log}"
    return f"one of {', '.join(map(str, search.values))}" if search else "fixed"


def _reads(kind: type[Pooled]) -> str:
    return "tokens" if issubclass(kind, Tokens) else "layers" if issubclass(kind, Layers) else "pooled"


def _short_number(value: int) -> str:
    """Three digits: `8.19k`, `262k`, `3.15M`."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:#.3g}".rstrip(".") + name
    return str(value)


def _number(value: int | None) -> str:
    return "—" if value is None else f"{value:,}"
