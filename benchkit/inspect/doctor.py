"""What this machine has and lacks. What could crash is tried in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import benchkit
from benchkit.core.errors import one_line
from benchkit.store.files import FEATURES, cache_root, total_memory

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: what it is listed under.
        state: `note` for what is missing but not needed; `broken` for what is needed.
        advice: what to do; "" where there is nothing to do.
    """

    section: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""


_SECONDS = 120

# What an extra is for; those that developers need are not listed.
EXTRAS = {
    "plots": "pictures of curves and studies",
    "tune": "the samplers cmaes and gp",
    "postgres": "studies in PostgreSQL",
    "bench": "speed next to transformers and sentence-transformers",
    "onnx": "benchkit export --onnx",
}


def examine() -> list[Finding]:
    """All findings, by section."""
    found = [*versions(), *probed(), *extras(), *cache()]
    order = list(dict.fromkeys(finding.section for finding in found))
    return sorted(found, key=lambda finding: order.index(finding.section))


def versions() -> Iterator[Finding]:
    yield Finding("system", "benchkit", f"{benchkit.__version__} in {Path(benchkit.__file__).parent}")
    yield Finding("system", "python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("system", "platform", platform.platform())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    yield Finding("system", "cores", ", ".join([f"{cores} for this process", *named]))
    if memory := total_memory():
        yield Finding("system", "memory", f"{memory / 2**30:.1f} GiB")


def probed() -> Iterator[Finding]:
    """What the probe printed, and where it died if it did."""
    command = [sys.executable, "-m", "benchkit.inspect.doctor"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode("utf-8", "replace")
        code = None
    part = "packages"
    for line in output.splitlines():
        with suppress(ValueError, TypeError):  # what a library prints among them
            part, *finding = json.loads(line)
            if finding:
                yield Finding(part, *finding)
    if code == 0:
        return
    if code is None:
        end = f"took longer than {_SECONDS} s and was stopped"
    elif code < 0:
        end = f"killed the process that tried it: {signal.Signals(-code).name}"
    else:
        end = f"ended the process that tried it, with exit code {code}"
    yield Finding(part, part, end, "broken", "reinstall the package that was being loaded, torch first")


def extras() -> Iterator[Finding]:
    """The optional parts of benchkit, and what is not possible without those that are missing."""
    for name, purpose in EXTRAS.items():
        needed = required(name)
        if missing := [package for package, version in needed.items() if not version]:
            value = f"{purpose}: {', '.join(missing)} not installed"
            yield Finding("extras", name, value, "note", f"pip install 'benchkit[{name}]'")
        elif needed:
            yield Finding("extras", name, purpose)


def cache() -> Iterator[Finding]:
    """Where features are kept, whether there is room, and how much is there."""
    root = cache_root()
    there = next(path for path in (root, *root.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("cache", "root", f"{root} cannot be written", "broken", "set BENCHKIT_CACHE to another folder")
        return
    free = shutil.disk_usage(there).free
    yield Finding("cache", "root", str(root))
    low = free < 1e9
    advice = "benchkit cache clear, or set BENCHKIT_CACHE" if low else ""
    yield Finding("cache", "free space", f"{free / 1e9:.1f} GB", "note" if low else "ok", advice)
    files = [path for path in (root / FEATURES).glob("*/*.safetensors") if path.is_file()]
    stores = len({path.parent for path in files})
    size = sum(path.stat().st_size for path in files)
    yield Finding("cache", "features", f"{size / 1e6:.1f} MB in {stores} stores: benchkit cache list")


# Where a distribution's module has another name.
_MODULES = {"scikit-learn": "sklearn"}


def main() -> None:
    """Print every part's findings, a JSON list each; a part that fails is itself a finding."""
    for name, part in PARTS.items():
        print(json.dumps([name]), flush=True)  # noqa: T201 - tells where the process died, if it does
        try:
            for finding in part():
                print(json.dumps(dataclasses.astuple(finding)), flush=True)  # noqa: T201
        except BaseException as error:  # noqa: BLE001 - the point of this module
            broken = (name, name, one_line(error), "broken", "see the line above")
            print(json.dumps(broken), flush=True)  # noqa: T201


def packages() -> Iterator[Finding]:
    """Every package that benchkit needs: its version, and whether it loads."""
    for name, installed in sorted(required().items()):
        try:
            importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
        except BaseException as error:  # noqa: BLE001
            advice = f"pip install --force-reinstall {name}" if installed else f"pip install {name}"
            yield Finding("packages", name, f"{installed} does not load: {one_line(error)}".strip(), "broken", advice)
        else:
            yield Finding("packages", name, installed)


def required(extra: str = "") -> dict[str, str]:
    """Distribution -> installed version, "" where there is none: what benchkit needs, or one of its extras does."""
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

    from benchkit.encoder.encoder import resolve_precision

    def native(device: str) -> str:
        bf16 = resolve_precision("auto", device) == "bf16"
        return "bf16 native, so precision auto is bf16" if bf16 else "bf16 emulated, so precision auto is fp32"

    kind, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    yield Finding("devices", "cpu", f"{kind}; {native('cpu')}; torch threads: {threads}")
    if not torch.cuda.is_available():
        yield Finding("devices", "cuda", f"none that torch {torch.__version__} can use", "note")
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        ability = f"compute capability {about.major}.{about.minor}"
        value = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {ability}; {native(f'cuda:{number}')}"
        yield Finding("devices", f"cuda:{number}", value)


def plugins() -> Iterator[Finding]:
    """Every plugin that an entry point names."""
    from benchkit.core.plugins import load_plugins

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
    from benchkit.core.errors import UserError
    from benchkit.core.plugins import load_plugins
    from benchkit.data import present

    root = _folder("data", "--data")
    if isinstance(root, Finding):
        yield root
        return
    tasks = [task for task in load_plugins(strict=False).tasks.values() if task.files]
    yield Finding("data", "BENCHKIT_DATA", str(root))
    found = {}
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        with suppress(UserError):
            found[folder] = present(folder, tasks)
    for folder, names in found.items():
        yield Finding("data", folder.name, f"--data {folder} has {', '.join(names)}")
    if not found:
        advice = "benchkit data check DIR says where a task is looked for"
        yield Finding("data", root.name, "no task's files in it or in the folders inside", "note", advice)


def weights() -> Iterator[Finding]:
    """The encoders found in the folder that BENCHKIT_WEIGHTS names."""
    from benchkit.core.errors import UserError
    from benchkit.encoder.checkpoint import model_folder, read_config, weight_files
    from benchkit.experiment.workspace import weights_folders

    root = _folder("weights", "--encoder")
    if isinstance(root, Finding):
        yield root
        return
    yield Finding("weights", "BENCHKIT_WEIGHTS", str(root))
    for folder in weights_folders():
        try:  # from the config and the sizes of the files: weights take long to read
            inner = model_folder(folder)
            config, _ = read_config(inner / "config.json", str(inner / "config.json"))
            size = sum(file.stat().st_size for file in weight_files(inner)[1]) / 1e6
        except (UserError, OSError) as error:
            yield Finding("weights", folder.name, str(error), "note")
        else:
            value = f"{config.num_hidden_layers} × {config.hidden_size}, {size:.0f} MB"
            yield Finding("weights", folder.name, value)


def _folder(section: str, option: str) -> Path | Finding:
    """The folder that `BENCHKIT_<SECTION>` names, or a finding where it names none."""
    variable = f"BENCHKIT_{section.upper()}"
    value = os.environ.get(variable)
    if not value:
        return Finding(section, variable, "not set", "note", f"or name a folder with {option}")
    path = Path(value).expanduser()
    correct = f"correct {variable}, or unset it"
    return path if path.is_dir() else Finding(section, variable, f"{value} is no folder", "broken", correct)


PARTS: dict[str, Callable[[], Iterator[Finding]]] = {
    "packages": packages,
    "devices": devices,
    "plugins": plugins,
    "data": data,
    "weights": weights,
}


if __name__ == "__main__":
    main()
