"""What a file of source code computes: a hash of its syntax tree, without what cannot change a number.

Keys of cells and features are made of these hashes. Comments, docstrings, formatting, type-checking imports, and the
texts of log lines and exceptions are left out, so that editing them reruns nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

NUMERICS = 1
"""Version of the numbers, to be raised when they change though no hashed file does (a kernel of another library)."""

ENCODING = tuple(f"encoder/{name}.py" for name in ("attention", "bert", "encoder", "kernels", "packing", "tokenizer"))
"""The modules that compute features, relative to the package."""

_STEPS = ("batches", "constants", "cuda_graphs", "evaluation", "fast_cpu", "loop", "optimizer", "readers")
TRAINING = (
    *(f"core/{name}.py" for name in ("features", "rng", "task")),
    *(f"nn/{name}.py" for name in ("blocks", "losses", "metrics")),
    *(*ENCODING, "store/table.py"),
    *(f"training/{name}.py" for name in (*_STEPS, "static_batches", "steps")),
    "experiment/open_cell.py",
)
"""The modules that compute a cell's numbers, relative to the package."""

FILE_MARK = "__benchkit_file__"
"""Attribute of modules that come from a head file, or from beside one."""

_SHORT = 12
# Calls of these names with a text only tell somebody something.
_TELLING = frozenset({"log", "_log", "warn", "warning", "say"})


def package_files(names: tuple[str, ...], root: Path | None = None) -> dict[str, Path]:
    """Files of the package by name; `root` is a copy of the package, for tests."""
    root = root or Path(__file__).parents[1]
    return {name: root / name for name in names}


def code_hash(files: Mapping[str, Path]) -> str:
    """Hash of what several files compute, by name, in their order."""
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}\0{file_hash(path)}\0".encode())
    return digest.hexdigest()


def short_hashes(files: Mapping[str, Path]) -> dict[str, str]:
    """A short hash of what each file computes, so that a change can be named."""
    return {name: file_hash(path)[:_SHORT] for name, path in files.items()}


def file_hash(path: Path) -> str:
    """Hash of what a file of Python computes."""
    stat = path.stat()
    return _file_hash(path, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _file_hash(path: Path, modified: int, size: int) -> str:
    return hashlib.sha256("\n".join(_lines(ast.parse(path.read_bytes()))).encode()).hexdigest()


def files_beside(path: Path) -> dict[str, Path]:
    """A file and those of the modules beside it that it imports, by name, and that these import in turn."""
    found, waiting = {path.name: path}, [path]
    while waiting:
        for name in modules_beside(waiting.pop(), path.parent):
            module = path.parent / name
            files = sorted(module.rglob("*.py")) if module.is_dir() else [module.with_suffix(".py")]
            new = {each.relative_to(path.parent).as_posix(): each for each in files}
            waiting += [each for other, each in new.items() if other not in found]
            found |= new
    return found


def modules_beside(path: Path, folder: Path) -> list[str]:
    """The modules in a folder that a file imports, by the first part of their names, sorted."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    places = {name: (folder / f"{name}.py", folder / name / "__init__.py") for name in names - {"benchkit"}}
    return sorted(name for name, files in places.items() if any(each.is_file() for each in files))


def numeric_versions() -> dict[str, Any]:
    """The versions that features and cells are keyed with."""
    return {"numerics": NUMERICS, "torch": version("torch"), "tokenizers": version("tokenizers")}


def _lines(node: ast.AST) -> Iterator[str]:
    """A node and what is below it, the same in every version of Python: empty fields are left out."""
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if isinstance(node, ast.Raise) and isinstance(value, ast.Call):
            value = value.func  # the exception's type matters, its text does not
        if isinstance(node, ast.Call) and name != "func" and _tells(node):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST):
                if not _is_silent(each):
                    yield f".{name}"
                    yield from _lines(each)
            elif each is not None and name not in ("type_comment", "kind"):
                yield f".{name}={each!r}"
    yield "end"


def _is_silent(node: ast.AST) -> bool:
    """A docstring, another string that stands alone, or what is imported for type checkers only."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _tells(node: ast.Call) -> bool:
    name = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
    text = node.args[0] if node.args else None
    is_text = isinstance(text, ast.JoinedStr) or (isinstance(text, ast.Constant) and isinstance(text.value, str))
    return name in _TELLING and is_text
