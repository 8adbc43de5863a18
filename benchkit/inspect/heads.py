"""Plugins and heads as lists."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import torch

from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import Choice, HeadSpec, Range, count
from benchkit.core.plugins import Plugin, Plugins
from benchkit.core.task import TaskShape, TaskSpec
from benchkit.encoder import Encoder
from benchkit.experiment.cell import loss_names
from benchkit.experiment.config import Plan, Request, resolve
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.workspace import Workspace
from benchkit.inspect.diagram import Figure, axes, figure, label, meaning, mermaid, svg
from benchkit.inspect.structure import LENGTH, Branch, Layer, Structure, structure
from benchkit.inspect.trace import encoder_macs
from benchkit.store.files import cache_root
from benchkit.testing.verdict import one_line


def terminal_width() -> int:
    """Columns of the terminal; 100 where there is none."""
    return max(60, get_terminal_size((100, 24)).columns)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """A table with a rule below its header, wrapped between words to fit the terminal where that is possible.

    Args:
        rows: a row with nothing but a first cell is a heading, which may be wider than its column. Cells are broken at
            spaces, and not at no-break spaces.
        right: names of the columns that are aligned right; these are not wrapped.
    """
    table = [header, *(row for row in rows if any(row[1:]))]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    words = [max(map(len, " ".join(cells).split(" "))) for cells in zip(*table, strict=True)]
    while sum(widths) + 2 * len(widths) - 2 > terminal_width():
        narrower = [
            [width - (at == place) for place, width in enumerate(widths)]
            for at, name in enumerate(header)
            if name not in right and widths[at] > words[at]
        ]
        if not narrower:
            break  # a long word, such as a path, is left whole
        widths = min(narrower, key=lambda each: (sum(len(_fitted(row, each)) for row in table), max(each)))
    lines = []
    for row in (header, *rows):
        for parts in _fitted(row, widths) if any(row[1:]) else [row]:
            aligned = [
                part.rjust(width) if name in right else part.ljust(width)
                for name, part, width in zip(header, parts, widths, strict=True)
            ]
            lines.append("  ".join(aligned).rstrip())
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]]).replace(_NO_BREAK, " ")


_NO_BREAK = "\u00a0"


def _fitted(row: Sequence[str], widths: Sequence[int]) -> list[tuple[str, ...]]:
    """The lines that a row takes."""
    return list(zip_longest(*map(_wrapped, row, widths), fillvalue=""))


@cache
def _wrapped(cell: str, width: int) -> list[str]:
    """The lines of a cell; after an indented number they hang below the text beside it."""
    numbered = re.match(r" +\d+ |", cell)
    indent = " " * (numbered.end() if numbered else 0)
    return textwrap.wrap(cell, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def paragraph(text: str, indent: str = "  ") -> str:
    """Wrapped to the terminal, with a hanging indent; long words, such as paths, are left whole."""
    return textwrap.fill(
        text, terminal_width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def as_data(found: Plugins) -> list[dict[str, Any]]:
    """One JSON-ready object a plugin, with its `state`."""
    return [{**dataclasses.asdict(plugin), "state": state(plugin)} for plugin in found.plugins]


def state(plugin: Plugin) -> str:
    return "broken" if plugin.error else "ok"


def render(found: Plugins) -> str:
    """A table, then what is wrong, then where each plugin's file is."""
    if not found.plugins:
        return "\n\n".join(["no plugin is loaded", *_left_out(found)])
    rows = [(each.name, _home(each), state(each), ", ".join(each.hooks), _offers(each)) for each in found.plugins]
    errors = [f"{each.name} ({_home(each)}): {each.error}" for each in found.broken]
    parts = [columns(("plugin", "distribution", "state", "hooks", "offers"), rows)]
    parts += ["Broken\n" + "\n".join(f"  {paragraph(line, '    ')}" for line in errors)] if errors else []
    parts += ["Files\n" + _files(found), *_left_out(found)]
    return "\n\n".join(parts)


def short_path(path: str) -> str:
    """Relative to where the user is, or to their home, where that is shorter."""
    for base, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
        if Path(path).is_relative_to(base) and base != Path(base.root):
            return prefix + str(Path(path).relative_to(base))
    return path


def _home(plugin: Plugin) -> str:
    return plugin.distribution or "a file"


def _offers(plugin: Plugin) -> str:
    kinds = {"head": plugin.heads, "task": plugin.tasks, "encoder": plugin.encoders}
    return "; ".join(
        f"{kind if len(names) == 1 else kind + 's'} {', '.join(names)}" for kind, names in kinds.items() if names
    )


def _files(found: Plugins) -> str:
    """A line each, never wrapped, so that a path can be copied."""
    width = max(len(plugin.name) for plugin in found.plugins)
    return "\n".join(f"  {each.name:<{width}}  {short_path(each.path) or 'none found'}" for each in found.plugins)


def _left_out(found: Plugins) -> list[str]:
    names = ", ".join(found.left_out)
    return [paragraph(f"BENCHKIT_PLUGINS leaves out: {names}")] if names else []


@dataclass(frozen=True)
class Shown:
    """Everything about one head; `plugin` is where it comes from."""

    assembly: Assembly
    plugin: Plugin
    structure: Structure

    @property
    def spec(self) -> HeadSpec:
        return self.assembly.spec

    @property
    def encoder(self) -> Encoder:
        return self.assembly.encoder

    @property
    def about(self) -> str:
        """The encoder's size, and how its states become features."""
        protocol, encoder = self.assembly.protocol, self.encoder
        size = f"{encoder.config.num_hidden_layers} layers of {encoder.hidden}"
        if self.assembly.features.apart:
            return f"{size} · {protocol.pooling} pooling of each"
        where = "" if protocol.layers == (-1,) else f" of {', '.join(map(str, protocol.layers))} side by side"
        return f"{size} · {protocol.pooling} pooling{where}"

    @property
    def figure(self) -> Figure:
        return figure(self.structure, f"encoder {self.encoder.name}", self.about)

    def losses(self) -> str:
        """The loss of each task, and whether it is the head that asks for it."""
        spec, config, tasks = self.spec, self.assembly.config, self.assembly.tasks
        names = loss_names(spec, config, tasks, self.assembly.protocol)
        asked = {shape.name for shape in self.assembly.shapes if spec.loss and spec.loss(config, shape)}
        return "; ".join(f"{names[task.name]} for {task.name}{' (asked for)' * (task.name in asked)}" for task in tasks)


@dataclass(frozen=True)
class Setup:
    """A request of `benchkit run`, resolved and loaded as far as heads can be looked at and timed without data."""

    plan: Plan
    plugins: Plugins
    encoder: Encoder
    tasks: tuple[TaskSpec, ...]

    @staticmethod
    def open(request: Request, plugins: Plugins) -> Setup:
        """Raises: UserError: as `resolve` does, or the encoder cannot be used."""
        plan = resolve(request, plugins)
        workspace = Workspace(plugins, cache_root(), lambda line: None)
        encoder = workspace.encoder(plan.encoder).to(plan.execution.device).eval()
        return Setup(plan, plugins, encoder, tuple(workspace.tasks(plan.protocol)))

    @property
    def device(self) -> torch.device:
        return torch.device(self.plan.execution.device)

    @property
    def shapes(self) -> tuple[TaskShape, ...]:
        return self.plan.protocol.shapes(self.tasks)

    def assembly(self, head: str, precision: str = "fp32") -> Assembly:
        """Raises: UserError: the head or the protocol reads what the encoder does not have."""
        spec, config = self.plugins.head(head), self.plan.configs[head]
        return Assembly.of(spec, config, self.plan.protocol, self.tasks, self.encoder, precision, self.device)

    def shown(self, name: str) -> Shown:
        """A head, looked through.

        Raises:
            UserError: it cannot be built, does not run, or reads what the encoder does not have.
        """
        assembly = self.assembly(name)
        plugin = next(each for each in self.plugins.plugins if name in each.heads)
        layers = len(assembly.features.layers)
        found = structure(assembly.spec, assembly.config, width_of(assembly), assembly.shapes, layers)
        return Shown(assembly, plugin, found)


def width_of(assembly: Assembly) -> int:
    """Of a feature vector: layers stand side by side where the head does not read them apart."""
    return assembly.encoder.hidden * (1 if assembly.features.apart else len(assembly.features.layers))


def as_mermaid(shown: Shown) -> str:
    return mermaid(shown.figure)


def as_svg(shown: Shown) -> str:
    return svg(shown.figure)


def render_list(setup: Setup) -> str:
    """A line a head with its parameters here, then what is wrong with some; none takes another down."""
    rows, notes = [], []
    for name in setup.plan.heads:
        spec, owner, parameters = setup.plugins.head(name), setup.plugins.owners["head", name], "—"
        try:
            with torch.device("meta"):
                parameters = f"{count(setup.assembly(name).build()):,}"
        except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
            notes.append(f"{name} ({owner}) cannot be built: {one_line(error)}")
        rows.append((name, _reads(spec.reads), parameters, owner, spec.summary))
    tasks = ", ".join(shape.name for shape in setup.shapes)
    where = f"Parameters on encoder {setup.encoder.name} (hidden {setup.encoder.hidden}) for the tasks {tasks}."
    notes += [f"plugin {each.name} is broken: {each.error}" for each in setup.plugins.broken]
    table = columns(("head", "reads", "parameters", "plugin", "summary"), rows, right=("parameters",))
    return "\n\n".join([table, "\n".join(paragraph(line) for line in (where, *notes))])


def render_head(shown: Shown) -> str:
    config = _config(shown.spec, shown.assembly.config)
    return "\n\n".join((_facts(shown), _layers(shown), _parameters(shown), _work(shown), config))


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
        "loss": shown.losses(),
    }
    lines = [paragraph(f"{name:<11}{text}", " " * 11) for name, text in facts.items()]
    return "\n".join([paragraph(f"{spec.name}: {spec.summary}"), "", *lines])


def _layers(shown: Shown) -> str:
    """All layers in order, those that tasks share once; by number what each takes, if not simply the one before."""
    found = shown.structure
    widest = found.widest
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
    source = "" if plain else f"← {', '.join(_short(branch, i) for i in layer.inputs) or 'nothing'}"
    what = label(layer).replace(" → ", f"{_NO_BREAK}→{_NO_BREAK}")
    path = "" if layer.is_function else layer.path
    return (
        f"  {number:>2} {what}  {source.replace(' ', _NO_BREAK)}".rstrip(),
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
        trunk = f" ({branch.trunk_macs:,} of them in the trunk)" if branch.trunk_macs else ""
        parts.append(f"{branch.macs:,} for {branch.task.name}{trunk}")
        unknown.update(branch.uncounted)
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
