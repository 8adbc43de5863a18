"""`python -m benchkit.doctor.probe`: tries what could fail or crash, and prints a finding a line, as JSON.

Each part is guarded, and its findings are flushed before the next begins: where a library takes the process down, what
came before is known, and so is what was being tried.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from benchkit.doctor.finding import Finding

# Where a distribution's module has another name.
_MODULES = {"scikit-learn": "sklearn"}


def main() -> None:
    """Run every part; a part that fails is itself a finding."""
    for name, part in PARTS.items():
        print(json.dumps({"part": name}), flush=True)  # noqa: T201
        try:
            for finding in part():
                print(json.dumps(dataclasses.asdict(finding)), flush=True)  # noqa: T201
        except BaseException as error:  # noqa: BLE001 - the point of this module
            broken = Finding(name, name, one_line(error), "broken", "see the line above")
            print(json.dumps(dataclasses.asdict(broken)), flush=True)  # noqa: T201


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}".removesuffix(": ")


def packages() -> Iterator[Finding]:
    """Every package that benchkit needs: its version, and whether it loads."""
    for name, version in sorted(required().items()):
        try:
            importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
        except BaseException as error:  # noqa: BLE001
            advice = f"pip install --force-reinstall {name}" if version else f"pip install {name}"
            yield Finding("packages", name, f"{version} does not load: {one_line(error)}".strip(), "broken", advice)
        else:
            yield Finding("packages", name, version)


def required(extra: str = "") -> dict[str, str]:
    """Distribution -> installed version, "" where there is none: what benchkit needs, or one of its extras does."""
    from importlib.metadata import PackageNotFoundError, requires, version

    found = {}
    for line in requires("benchkit") or ():
        needs, _, marker = line.partition(";")
        named = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        name = re.split(r"[\s\[<>=!~;(]", needs.strip(), maxsplit=1)[0].lower()
        if (named[1] if named else "") != extra or name == "benchkit":
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def devices() -> Iterator[Finding]:
    """The CPU and GPUs as torch sees them."""
    import torch

    from benchkit.encoder.precision import resolve_precision

    kind = torch.backends.cpu.get_cpu_capability()
    native = resolve_precision("auto", "cpu") == "bf16"
    yield Finding("devices", "cpu", f"{kind}; bf16 {_native(native)}; torch threads: {torch.get_num_threads()}")
    flags = _cpu_flags()
    if flags:
        yield Finding("devices", "cpu features", ", ".join(flags))
    if not torch.cuda.is_available():
        yield Finding("devices", "cuda", f"none that torch {torch.__version__} can use", "note")
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        native = resolve_precision("auto", f"cuda:{number}") == "bf16"
        memory, ability = about.total_memory / 2**30, f"{about.major}.{about.minor}"
        value = f"{about.name}, {memory:.0f} GiB, compute capability {ability}; bf16 {_native(native)}"
        yield Finding("devices", f"cuda:{number}", value)


def _native(native: bool) -> str:
    return "native, so precision auto is bf16" if native else "emulated, so precision auto is fp32"


def _cpu_flags() -> list[str]:
    """Of the vector and matrix units, those that Linux tells of."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return []
    line = next((each for each in text.splitlines() if each.startswith("flags")), "")
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")
    return [flag for flag in wanted if flag in line.split()]


def plugins() -> Iterator[Finding]:
    """Every plugin that an entry point names."""
    from benchkit.plugins import load_plugins

    found = load_plugins(strict=False)
    for plugin in found.plugins:
        offers = ", ".join([*plugin.heads, *plugin.tasks, *plugin.encoders])
        if plugin.error:
            home = plugin.distribution.partition(" ")[0] or plugin.module
            yield Finding("plugins", plugin.name, plugin.error, "broken", f"repair or uninstall {home}")
        else:
            yield Finding("plugins", plugin.name, f"{plugin.distribution}: {offers}")
    for name in found.left_out:
        yield Finding("plugins", name, "not named by BENCHKIT_PLUGINS", "note")


def data() -> Iterator[Finding]:
    """The tasks found in the folder that BENCHKIT_DATA names, and in those just inside it."""
    from benchkit.data import present
    from benchkit.errors import UserError
    from benchkit.plugins import load_plugins

    root = _named("BENCHKIT_DATA")
    if not isinstance(root, Path):
        yield root or Finding("data", "BENCHKIT_DATA", "not set", "note", "or name a folder with --data")
        return
    tasks = [task for task in load_plugins(strict=False).tasks.values() if task.files]
    yield Finding("data", "BENCHKIT_DATA", str(root))
    found = False
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        try:
            names = present(folder, tasks)
        except UserError:
            continue
        found = True
        yield Finding("data", folder.name, f"--data {folder} has {', '.join(names)}")
    if not found:
        advice = "benchkit data check DIR says where a task is looked for"
        yield Finding("data", root.name, "no task's files in it or in the folders inside", "note", advice)


def weights() -> Iterator[Finding]:
    """The encoders found in the folder that BENCHKIT_WEIGHTS names."""
    root = _named("BENCHKIT_WEIGHTS")
    if not isinstance(root, Path):
        yield root or Finding("weights", "BENCHKIT_WEIGHTS", "not set", "note", "or name a folder with --encoder")
        return
    yield Finding("weights", "BENCHKIT_WEIGHTS", str(root))
    for folder in sorted(path for path in root.iterdir() if (path / "config.json").is_file()):
        yield _encoder(folder)


def _encoder(folder: Path) -> Finding:
    """Read from its config alone: weights are large."""
    from benchkit.encoder.checkpoint import WEIGHTS
    from benchkit.encoder.config import BertConfig
    from benchkit.encoder.tokenizer import read_json
    from benchkit.errors import UserError

    try:
        config = BertConfig.from_json(read_json(folder / "config.json"), str(folder / "config.json"))
    except UserError as error:
        return Finding("weights", folder.name, str(error), "note")
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        return Finding("weights", folder.name, f"no {' and no '.join(WEIGHTS)}", "note", "fetch them again")
    size = file.stat().st_size / 1e6
    return Finding("weights", folder.name, f"{config.num_hidden_layers} × {config.hidden_size}, {size:.0f} MB")


def _named(variable: str) -> Path | Finding | None:
    """The folder that a variable names; None where it is not set, a finding where it names none."""
    value = os.environ.get(variable)
    if not value:
        return None
    path = Path(value).expanduser()
    if path.is_dir():
        return path
    section = variable.rpartition("_")[2].lower()
    return Finding(section, variable, f"{value} is no folder", "broken", f"correct {variable}, or unset it")


PARTS: dict[str, Callable[[], Iterator[Finding]]] = {
    "packages": packages,
    "devices": devices,
    "plugins": plugins,
    "data": data,
    "weights": weights,
}


if __name__ == "__main__":
    main()
