"""Imports point downwards: the order of docs/architecture.md, held by reading the source."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Low to high. A module imports from lower layers and from its own package. A new package must be placed here.
LAYERS = (
    {"core"},
    {"nn"},
    {"data", "encoder", "testing"},
    {"store"},
    {"hub", "training"},
    {"experiment"},
    {"analysis", "inspect", "predict"},
    {"pretraining", "speed", "tuning"},
    {"api"},
    {"cli"},
    {"__main__"},
)
# Upward, for annotations alone: a hook names the type of what it is asked for, and discovery holds it.
TYPES_ONLY = {("core", "encoder")}

# What a plugin, ours or a stranger's, may import; and what ours may besides.
PUBLIC = {"", "core", "nn"}
PUBLIC_TO = {"benchkit_demo": {"encoder", "data"}, "benchkit_cs224n": {"benchkit_demo"}}

# What must not be loaded to print a help text; plugins neither (see `_is_heavy`).
HEAVY = {
    *("torch", "pandas", "optuna", "numpy", "scipy", "pyarrow", "tokenizers", "safetensors", "matplotlib"),
    *("huggingface_hub", "httpx2"),
}


@dataclass(frozen=True)
class Import:
    module: str  # dotted; `from a import b` is "a.b"
    line: int
    lazy: bool  # inside a function
    typing: bool  # under `if TYPE_CHECKING:`


def imports(source: str, package: str) -> Iterator[Import]:
    """Every import of a module, wherever it stands; relative ones are resolved against `package`."""

    def walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (Import(f"{base}.{alias.name}", node.lineno, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from (found for child in node.body for found in walk(child, lazy, True))
            yield from (found for child in node.orelse for found in walk(child, lazy, typing))
        else:
            inner = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inner, typing)

    yield from walk(ast.parse(source), False, False)


def violations(root: Path) -> list[str]:
    """One line for each import in `root/benchkit` and `root/plugins` that the tables above forbid."""
    return [*_core_violations(root / "benchkit"), *_plugin_violations(root / "plugins", root / "benchkit")]


def _core_violations(package: Path) -> Iterator[str]:
    level = {name: height for height, names in enumerate(LAYERS) for name in names}
    known = {path.stem if path.suffix else path.name for path in package.iterdir()}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        own, where = parts[1], "/".join(parts) + ".py"
        if own == "__init__":
            yield from (f"{where}:{i.line} imports {i.module} at once" for i in _eager_imports(path))
            continue
        if own not in level:
            yield f"{where} has no layer"
            continue
        for found in imports(path.read_text(encoding="utf-8"), ".".join(parts[:-1])):
            home, _, rest = found.module.partition(".")
            target = rest.partition(".")[0]
            if found.module == "benchkit" or home != "benchkit" or target in (own, "__version__"):
                continue  # the bare package is there for its version and its place on disk
            if target not in known:
                yield f"{where}:{found.line} imports {found.module}: name the module it lives in"
            elif target not in level:
                yield f"{where}:{found.line} imports {target}, which has no layer"
            elif not (level[target] < level[own] or (found.typing and (own, target) in TYPES_ONLY)):
                yield f"{where}:{found.line} {own} may not import {target}"


def _eager_imports(path: Path) -> Iterator[Import]:
    """What `import benchkit` itself would load, the standard library's small change excepted."""
    for found in imports(path.read_text(encoding="utf-8"), "benchkit"):
        standard = found.module.partition(".")[0] in sys.stdlib_module_names
        if not (found.lazy or found.typing or standard):
            yield found


def _plugin_violations(plugins: Path, package: Path) -> Iterator[str]:
    modules = {path.stem for path in plugins.glob("benchkit_*")}
    for path in sorted(plugins.rglob("*.py")):
        module = path.relative_to(plugins).parts[0].removesuffix(".py")
        allowed = PUBLIC | PUBLIC_TO.get(module, set())
        for found in imports(path.read_text(encoding="utf-8"), ""):
            home, _, rest = found.module.partition(".")
            if home in modules - {module} - allowed:
                yield f"{path.name}:{found.line} imports another plugin, {home}"
            if home != "benchkit":
                continue
            target = rest.partition(".")[0]
            is_module = (package / target).is_dir() or (package / f"{target}.py").is_file()
            if (target if is_module else "") not in allowed:
                yield f"{path.name}:{found.line} imports benchkit.{target}, which is not for plugins"


def test_imports_point_downwards() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("benchkit/core/a.py", "from benchkit.training import x", "core/a.py:1 core may not import training"),
        ("benchkit/core/a.py", "from ..training import x", "core/a.py:1 core may not import training"),
        ("benchkit/core/a.py", "from .. import training", "core/a.py:1 core may not import training"),
        ("benchkit/core/a.py", "def f():\n    import benchkit.training", "core/a.py:2 core may not import training"),
        ("benchkit/data/a/b.py", "from ...experiment import x", "data/a/b.py:1 data may not import experiment"),
        ("benchkit/nn/a.py", "from benchkit.data import x", "benchkit/nn/a.py:1 nn may not import data"),
        ("benchkit/nn/a.py", "from benchkit import HeadSpec", "name the module it lives in"),
        ("benchkit/core/a.py", "from benchkit.encoder import x", "core may not import encoder"),
        ("benchkit/novelty.py", "", "benchkit/novelty.py has no layer"),
        ("benchkit/__init__.py", "from benchkit.core.head import x", "imports benchkit.core.head.x at once"),
        ("benchkit/__init__.py", "import torch", "imports torch at once"),
        ("plugins/benchkit_a.py", "from benchkit.store import x", "benchkit.store, which is not for plugins"),
        ("plugins/benchkit_a.py", "import benchkit_b", "imports another plugin, benchkit_b"),
    ],
)
def test_a_forbidden_import_is_reported(tmp_path: Path, path: str, source: str, complaint: str) -> None:
    assert _violations_of_tree(tmp_path, path, source)[0].endswith(complaint)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("benchkit/training/a.py", "from benchkit.core.head import x\nfrom benchkit import __version__\nimport torch"),
        ("benchkit/data/a/b.py", "from ..c import x\nfrom benchkit.core.errors import y"),
        ("benchkit/nn/a.py", "from benchkit.core.task import x"),
        ("benchkit/core/a.py", "if TYPE_CHECKING:\n    from benchkit.encoder import x"),
        ("benchkit/__init__.py", "if TYPE_CHECKING:\n    from benchkit.core.head import x\nimport importlib"),
        ("plugins/benchkit_a.py", "from benchkit import HeadSpec\nimport torch"),
        ("plugins/benchkit_demo.py", "from benchkit.encoder import x"),
    ],
)
def test_a_permitted_import_is_not(tmp_path: Path, path: str, source: str) -> None:
    assert _violations_of_tree(tmp_path, path, source) == []


def _violations_of_tree(root: Path, path: str, source: str) -> list[str]:
    """The violations of a tree with every known module, empty but for one."""
    names = [f"benchkit/{name}/__init__.py" for names in LAYERS for name in names]
    for name in [*names, "benchkit/data/c.py", "plugins/benchkit_b.py", path]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source if name == path else "", encoding="utf-8")
    return violations(root)


def test_help_loads_neither_torch_nor_a_plugin() -> None:
    done = _help("-X", "importtime")
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded  # the list was read
    assert sorted(name for name in loaded if name in HEAVY or name.startswith("benchkit_")) == []


def test_help_answers_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Under 0.3 s on an idle core; twice that here, where other tests and machines share it."""
    took = []
    for _ in range(5):
        start = time.perf_counter()
        _help()
        took.append(time.perf_counter() - start)
    with capsys.disabled():
        print(f"\nbenchkit --help: {min(took):.3f} s, best of {len(took)}")
    assert min(took) < 0.6


def _help(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-m", "benchkit", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True)
