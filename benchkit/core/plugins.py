"""Finding plugins: entry points of the group `benchkit`, loaded one by one, each guarded.

Built-in heads, tasks and encoders come through the same entry points as anyone's. A plugin that fails to load is kept
as broken, with its error, and takes nothing else down.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from benchkit.core import hookspecs
from benchkit.core.errors import UserError, one_line, unknown
from benchkit.core.protocol import phase_names
from benchkit.core.source import FILE_MARK, files_beside, modules_beside

if TYPE_CHECKING:
    from benchkit.core.head import HeadSpec
    from benchkit.core.task import TaskSpec
    from benchkit.encoder import EncoderSpec


GROUP = "benchkit"
_Spec = TypeVar("_Spec")
_KINDS = ("head", "task", "encoder")
# Methods and attributes of `nn.ModuleDict` that are also plausible names of a task.
_MODULE_NAMES = ("type", "train", "eval", "keys", "values", "items", "pop", "clear", "update", "training", "half",
                 "float")  # fmt: skip


@dataclass(frozen=True)
class Plugin:
    """One entry point, or one file.

    Attributes:
        distribution: `name version`; "" for a file.
        module: as the entry point names it; a file's path.
        path: of the module's source; "" where it has none, or is nowhere to be found.
        hooks: names of the hooks it implements.
        heads, tasks, encoders: names of what it offers.
        error: what broke it, or whom it clashes with; "" if it works.
    """

    name: str
    distribution: str
    module: str
    path: str = ""
    hooks: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    error: str = ""


@dataclass
class Plugins:
    """What is installed: specs by name, and the state of each plugin."""

    manager: pluggy.PluginManager
    plugins: list[Plugin] = field(default_factory=list)
    heads: dict[str, HeadSpec] = field(default_factory=dict)
    tasks: dict[str, TaskSpec] = field(default_factory=dict)
    encoders: dict[str, EncoderSpec] = field(default_factory=dict)
    owners: dict[tuple[str, str], str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # installed, but not named by BENCHKIT_PLUGINS

    def head(self, name: str) -> HeadSpec:
        return self._get("head", self.heads, name)

    def task(self, name: str) -> TaskSpec:
        return self._get("task", self.tasks, name)

    def _get(self, kind: str, specs: dict[str, _Spec], name: str) -> _Spec:
        if name in specs:
            return specs[name]
        error = unknown(kind, name, specs)
        if self.broken:
            broken = (f"{plugin.name} ({plugin.error})" for plugin in self.broken)
            error = UserError(f"{error}; plugins that did not load: {', '.join(broken)}")
        raise error

    @property
    def broken(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.error]

    def observe(self, record: Any) -> list[str]:
        """Call the `benchkit_record` hooks; a plugin that fails there is named and does not stop the run."""
        errors = []
        for impl in self.manager.hook.benchkit_record.get_hookimpls():
            try:
                impl.function(record) if impl.argnames else impl.function()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - an observer must not take the run down
                errors.append(f"plugin {impl.plugin_name}: benchkit_record failed: {_line(error)}")
        return errors


def load_plugins(files: Iterable[Path] = (), *, strict: bool = True, hook: str = "") -> Plugins:
    """Load every plugin named by an entry point, and modules from `files` beside them.

    `BENCHKIT_PLUGINS=a,b` restricts the entry points to those names; empty loads none.

    Args:
        strict: whether a clash, a misspelt hook or a broken file stops everything; otherwise it is the `error` of its
            plugin, and a name stays with whoever had it first. For lists of what is there: never to run anything.
        hook: leave out the entry points whose source does not name this hook, so as not to import them.

    Raises:
        UserError: two plugins claim one name, a plugin implements a hook that does not exist, or a file that was asked
            for does not load; `BENCHKIT_PLUGINS` names something that is not installed.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    found = Plugins(manager)
    entries = sorted(entry_points(group=GROUP), key=lambda each: each.name)
    wanted = _wanted([entry.name for entry in entries])
    found.left_out = tuple(entry.name for entry in entries if entry.name not in wanted)
    for entry in entries:
        if entry.name in wanted and (not hook or _may_implement(entry.module, hook)):
            distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
            _register(found, entry.name, distribution, entry.value, entry.load, strict)
    for path in files:
        error = _register(found, path.stem, "", str(path), partial(_load_file, path), strict)
        if error and strict:
            raise UserError(f"{path} does not load as a plugin: {error}{_unmarked(path)}")
    return found


def _unmarked(path: Path) -> str:
    """What else a file that does not load would be refused for: a hook without a mark."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return ""
    names = [each.name for each in body if isinstance(each, ast.FunctionDef) and not each.decorator_list]
    return "".join(f"; and {_NO_MARK.format(name)}" for name in names if hasattr(hookspecs, name))


def _may_implement(module: str, hook: str) -> bool:
    """Whether the source of a module or package names a hook; true where there is no source to look at."""
    origin = Path(_origin(module))
    files = origin.parent.rglob("*.py") if origin.name == "__init__.py" else [origin]
    return not origin.is_file() or any(hook in file.read_text("utf-8", "replace") for file in files)


def _wanted(installed: list[str]) -> set[str]:
    """The names of the entry points to load."""
    setting = os.environ.get("BENCHKIT_PLUGINS", ",".join(installed))
    names = {name.strip() for name in setting.split(",")} - {""}
    if wrong := names - set(installed):
        raise UserError(f"BENCHKIT_PLUGINS: {unknown('plugin', min(wrong), installed)}")
    return names


def _load_file(path: Path) -> Any:
    """The module in a file; it is entered in `sys.modules`, where dataclasses and `inspect` look for it.

    It may import modules beside it: while it is loaded, its folder is the last one on `sys.path`.
    """
    if not path.is_file():
        raise UserError(f"no head file at {path}")
    name = f"benchkit_file_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError(f"head file {path} is not a Python file: its name must end in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module
    folder = path.resolve().parent
    sys.path.append(str(folder))
    try:
        for beside in modules_beside(path, folder):
            _check_beside(path, beside, folder)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    files = set(files_beside(path.resolve()).values())
    for each in [*sys.modules.values()]:
        if Path(getattr(each, "__file__", None) or "") in files:
            setattr(each, FILE_MARK, True)
    return module


def _check_beside(path: Path, name: str, folder: Path) -> None:
    """Raises: UserError: Python would import another module of that name than the one in the folder."""
    origin = _origin(name)
    if not origin or folder not in Path(origin).resolve().parents:
        raise UserError(f"{path} imports {name}, which is beside it, but Python finds {origin} first: rename it")


def _register(found: Plugins, name: str, distribution: str, module: str, load: Callable[[], Any], strict: bool) -> str:
    """Load one plugin and enter its specs, or note why it is broken and return that.

    Raises:
        UserError: it misspells a hook or claims another's name, and this is strict.
    """
    owner = distribution or module
    plugin, specs, errors = None, list[tuple[str, Any]](), list[str]()
    try:
        plugin = load()
        if found.manager.is_registered(plugin):
            return ""
        found.manager.register(plugin, f"{distribution}:{name}" if distribution else module)
        specs = _collect(found.manager, plugin)
    except KeyboardInterrupt:
        raise
    except BaseException as caught:  # noqa: BLE001 - whatever a stranger's module raises, SystemExit too
        errors = [_line(caught)]
        if plugin is not None and found.manager.is_registered(plugin):
            found.manager.unregister(plugin)
    else:
        errors = [*_hook_mistakes(found.manager, plugin, owner), *_enter(found, specs, owner)]
        if errors and strict:
            raise UserError(errors[0])
    path, error = str(getattr(plugin, "__file__", None) or _origin(module)), "; ".join(errors)
    hooks = tuple(sorted(caller.name for caller in found.manager.get_hookcallers(plugin) or ()))
    offers = {f"{kind}s": tuple(spec.name for each, spec in specs if each == kind) for kind in _KINDS}
    found.plugins.append(Plugin(name, distribution, module, path, hooks, **offers, error=error))
    return error


def _origin(module: str) -> str:
    """Where the source of a module that does not load is, as far as that can be told without loading it."""
    if module.endswith(".py"):
        return str(Path(module).resolve())
    spec = None
    with suppress(ImportError, ValueError):
        spec = find_spec(module.partition(":")[0].partition(".")[0])
    return spec.origin or "" if spec else ""


def _enter(found: Plugins, specs: list[tuple[str, Any]], owner: str) -> Iterator[str]:
    """Enter specs under their names, where nobody has them; heads and tasks share the names of `--set` tables.

    Yields:
        What is wrong with a name, in a line.
    """
    registries: dict[str, dict[str, Any]] = {"head": found.heads, "task": found.tasks, "encoder": found.encoders}
    for kind, spec in specs:
        others = ("head", "task") if kind != "encoder" else ("encoder",)
        other = next((each for each in others if (each, spec.name) in found.owners), None)
        if other is not None:
            both = f"{kind} {spec.name!r}" if other == kind else f"the name {spec.name!r}, a {kind} and a {other},"
            first = found.owners[other, spec.name]
            yield f"{both} comes from both {first} and {owner}: uninstall one, or set BENCHKIT_PLUGINS"
        else:
            found.owners[kind, spec.name] = owner
            registries[kind][spec.name] = spec


_NO_MARK = "{} is there without @hookimpl: write @hookimpl above it (from benchkit import hookimpl)"
# Modules for authors of heads that were elsewhere in version 0.1.
_MOVED = ("benchkit.blocks", "benchkit.losses", "benchkit.metrics")


def _hook_mistakes(manager: pluggy.PluginManager, plugin: Any, owner: str) -> Iterator[str]:
    """Hooks that do not exist, and functions with a hook's name that are not marked as one."""
    known = [hook for hook in dir(hookspecs) if hook.startswith("benchkit_")]
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        hook = (options.get("specname") or name) if options is not None else name
        if options is not None and hook not in known:
            yield f"plugin {owner}: {unknown('hook', hook, known)}"
        if options is None and name in known and callable(getattr(plugin, name)):
            yield f"plugin {owner}: {_NO_MARK.format(name)}"


def _collect(manager: pluggy.PluginManager, plugin: Any) -> list[tuple[str, Any]]:
    """What a plugin offers, as (kind, spec).

    Raises:
        TypeError, ValueError: it offers something else, or under a name that cannot be used.
    """
    from benchkit.core.head import HeadSpec
    from benchkit.core.task import TaskSpec

    wanted = {"head": HeadSpec, "task": TaskSpec}
    specs: list[tuple[str, Any]] = []
    for kind in _KINDS:
        hook = f"benchkit_{kind}s"
        for impl in getattr(manager.hook, hook).get_hookimpls():
            for spec in impl.function() if impl.plugin is plugin else ():
                # The type of an encoder's spec is not asked for: its module would import torch.
                right = isinstance(spec, wanted[kind]) if kind in wanted else type(spec).__name__ == "EncoderSpec"
                if not right:
                    raise TypeError(f"{hook} returned {spec!r:.60}, not a {kind.capitalize()}Spec")
                _check_name(kind, spec.name)
                if isinstance(spec, HeadSpec):
                    spec.configure({})
                elif isinstance(spec, TaskSpec):
                    spec.check()
                specs.append((kind, spec))
    return specs


def _check_name(kind: str, name: str) -> None:
    """A task's name becomes a key of `nn.ModuleDict` in most heads, which refuses dots and its own attributes."""
    reserved = {"mean", *phase_names(), *(_MODULE_NAMES if kind == "task" else ())}
    if not name or not name.replace("-", "_").isidentifier() or name in reserved:
        raise ValueError(
            f"{kind} name {name!r} cannot be used: letters, digits, _ and -, none of {', '.join(sorted(reserved))}"
        )


def _line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in _MOVED:
        return f"{one_line(error)}; it is now benchkit.nn.{error.name.rpartition('.')[2]}"
    return one_line(error)
