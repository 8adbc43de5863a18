"""From what a user asked for to the cells that answer it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchkit.core.errors import UserError, unknown
from benchkit.core.plugins import Plugins
from benchkit.core.protocol import MOST_SEEDS, Protocol, load_file, load_preset, override, parse_settings
from benchkit.core.settings import plain
from benchkit.encoder import resolve_precision
from benchkit.experiment.cell import Cell, Execution, identity_of, key_of, sources_of
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.workspace import Workspace, find_folder
from benchkit.hub.datasets import HUB, hub_folder


@dataclass(frozen=True)
class Request:
    """The options of `benchkit run`; None or empty means what the protocol says."""

    heads: tuple[str, ...] = ()
    head_files: tuple[Path, ...] = ()
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    phases: tuple[str, ...] = ()
    preset: str = ""
    protocol: Path | None = None
    settings: tuple[str, ...] = ()
    data: str = ""
    encoder: str = ""
    device: str = "auto"
    precision: str = ""
    out: Path | None = None
    jobs: int = 0
    executor: str = ""
    threads: int = 1
    feature_cache: bool = True
    keep_encoder: str = "best"
    encoder_dtype: str = "bf16"
    interference: bool = False
    cuda_graph: bool | None = None
    compiled: bool = False


@dataclass(frozen=True)
class Plan:
    """A request, resolved: nothing in it is left to be decided."""

    protocol: Protocol
    encoder: str
    data: str
    heads: tuple[str, ...]
    head_files: tuple[str, ...]
    configs: dict[str, Any]
    seeds: tuple[int, ...]
    execution: Execution
    out: Path
    jobs: int
    executor: str = ""
    keep_encoder: str = "best"
    encoder_dtype: str = "bf16"
    interference: bool = False


def resolve(request: Request, plugins: Plugins) -> Plan:
    """Settle every option, without loading anything large.

    Raises:
        UserError: something in it is unknown, missing or of the wrong type.
    """
    protocol = requested_protocol(request, plugins)
    heads = tuple(dict.fromkeys(request.heads or protocol.heads))
    if not heads:
        raise UserError(f"no head was named: use --heads with some of {', '.join(plugins.heads)}")
    configs = {name: plugins.head(name).configure(protocol.head_options.get(name, {})) for name in heads}
    for name in protocol.tasks:
        plugins.task(name)
    # Fields of heads and tasks that are not in this run are checked too: a typo there is a typo.
    for name, values in protocol.head_options.items():
        plugins.head(name).configure(values)
    named = [(name, options.loss) for name, options in protocol.task_options.items() if options.loss]
    named += [each for phase in protocol.phase_settings.values() for each in phase.losses.items()]
    for name, loss in named:
        if loss not in plugins.task(name).losses:
            raise unknown(f"loss of {name}", loss, plugins.task(name).losses)
    encoder, data = request.encoder or protocol.encoder, request.data or protocol.data
    if not encoder:
        raise UserError(f"the protocol {protocol.name!r} names no encoder: use --encoder with a name or a folder")
    if not data:
        raise UserError(f"the protocol {protocol.name!r} names no data: use --data with a folder, or --data demo")
    folder = None if encoder in plugins.encoders else find_folder(encoder)
    for choice, known in ((request.keep_encoder, ("all", "best", "none")), (request.encoder_dtype, ("bf16", "fp32"))):
        if choice not in known:
            raise UserError(f"fine-tuned encoders are kept as one of {', '.join(known)}, not {choice!r}")
    device = choose_device(request.device)
    return Plan(
        protocol=protocol,
        # A worker may be started in another folder.
        encoder=str(folder) if folder else encoder,
        data=data if data == "demo" else str(data_folder(data, protocol.tasks)),
        heads=heads,
        head_files=tuple(str(path.resolve()) for path in request.head_files),
        configs=configs,
        seeds=request.seeds or tuple(range(protocol.seeds)),
        execution=Execution(
            device=device.type,
            precision=resolve_precision(protocol.precision, device),
            threads=request.threads,
            feature_cache=request.feature_cache,
            cuda_graph=use_graphs(request.cuda_graph, device),
            compiled=request.compiled,
        ),
        out=request.out or Path("results/runs") / f"{protocol.name}-{Path(encoder).name}",
        jobs=_jobs(request, device),
        executor=request.executor,
        keep_encoder=request.keep_encoder,
        encoder_dtype=request.encoder_dtype,
        interference=request.interference,
    )


def data_folder(name: str, tasks: Sequence[str]) -> Path:
    """What `--data` means: a folder, or `hub` for all that `benchkit data fetch` has fetched (`./hub` is a folder).

    Raises:
        UserError: `hub`, and one of the tasks has not been fetched.
    """
    return hub_folder(tasks) if name == HUB else Path(name).expanduser().resolve()


def make_cells(plan: Plan, workspace: Workspace) -> list[Cell]:
    """All cells of a plan, seeds innermost. Loads encoder and data, whose contents are part of a cell's key."""
    protocol = plan.protocol
    tasks, data = workspace.tasks(protocol), workspace.data(plan.data, protocol)
    encoder = workspace.encoder(plan.encoder)
    encoder.check(protocol.pooling, protocol.layers)
    device, precision = plan.execution.device, plan.execution.precision
    fingerprint = workspace.fingerprint(plan.encoder)
    cells = []
    for head in plan.heads:
        spec, config = workspace.plugins.head(head), plan.configs[head]
        assembly = Assembly.of(spec, config, protocol, tasks, encoder, precision, device)
        assembly.check_build()
        assembly.check_phases()
        sources = sources_of(spec, config, tasks, protocol)
        for seed in plan.seeds:
            identity = identity_of(spec, config, seed, protocol, tasks, data, fingerprint, plan.execution)
            cell = Cell(
                key=key_of(identity),
                head=head,
                config=plain(config),
                seed=seed,
                protocol=protocol,
                encoder=plan.encoder,
                data=plan.data,
                execution=plan.execution,
                head_files=plan.head_files,
                identity=identity,
                kept_encoder=plan.keep_encoder,
                encoder_dtype=plan.encoder_dtype,
                sources=sources,
                interference=plan.interference,
            )
            cells.append(cell)
    return cells


def requested_protocol(request: Request, plugins: Plugins) -> Protocol:
    """The preset or file that a request names, with its settings."""
    if request.protocol is not None and request.preset:
        raise UserError('--preset and --protocol exclude each other; a protocol file can say base = "paper"')
    if request.protocol is not None:
        protocol = load_file(request.protocol, plugins.tasks, plugins.heads)
    else:
        protocol = load_preset(request.preset or "demo", plugins.tasks, plugins.heads)
    protocol = override(protocol, parse_settings(request.settings), plugins.tasks, plugins.heads)
    named: dict[str, Any] = {"tasks": request.tasks, "phases": request.phases, "precision": request.precision}
    protocol = override(protocol, {name: value for name, value in named.items() if value}, plugins.tasks, plugins.heads)
    return replace(protocol, tasks=tuple(dict.fromkeys(protocol.tasks)))


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device.

    Raises:
        UserError: another name, or there is no CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch sees no CUDA device here; use --device cpu, or install a CUDA build of torch"
        )
    if name not in ("cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    return torch.device(name)


def use_graphs(wanted: bool | None, device: torch.device) -> bool:
    """Whether steps are captured as CUDA graphs: on a GPU, unless somebody says no.

    Raises:
        UserError: they are asked for on another device.
    """
    if wanted and device.type != "cuda":
        raise UserError(f"--cuda-graph: there are no CUDA graphs on {device.type}; leave it out, or use --device cuda")
    return device.type == "cuda" if wanted is None else wanted


def _jobs(request: Request, device: torch.device) -> int:
    """Workers where the user names none: all cores of a CPU, but no more than a laptop can hold; a GPU's one."""
    if request.jobs:
        return request.jobs
    if device.type != "cpu" or request.executor == "local":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores // request.threads))


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` is three seeds, 0 to 2; `0,5,7` are these.

    Raises:
        UserError: it is neither.
    """
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--seeds takes a number of seeds, or seeds as 0,5,7, not {text!r}") from None
    count = len(seeds) if "," in text else sum(seeds)
    if not seeds or count < 1 or min(seeds) < 0:
        raise UserError(f"--seeds takes at least one seed, none below 0, not {text!r}")
    if count > MOST_SEEDS:
        raise UserError(f"--seeds takes at most {MOST_SEEDS:,} seeds, not {count}")
    return tuple(dict.fromkeys(seeds if "," in text else range(count)))


def split_names(text: str | Sequence[str]) -> tuple[str, ...]:
    """`"a, b"` or `["a", "b"]` as names."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())
