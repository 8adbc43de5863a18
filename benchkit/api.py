"""benchkit from Python, for notebooks: the same run as the command line's, with frames instead of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchkit.analysis.report import comparison_text, curves_frame, summary_frame, write_report
from benchkit.analysis.tables import collect
from benchkit.core.plugins import load_plugins
from benchkit.core.record import Record
from benchkit.core.task import TaskSpec
from benchkit.encoder import Encoder
from benchkit.experiment.companions import Control
from benchkit.experiment.config import Request, parse_seeds, split_names
from benchkit.experiment.session import Session
from benchkit.experiment.workspace import open_encoder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        cells: one record a (head, seed), in the order asked for.
        folder: where the tables, curves, records and predictions are.
    """

    cells: tuple[Record, ...]
    controls: tuple[Control, ...]
    tasks: Mapping[str, TaskSpec]
    folder: Path
    phases: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Mean, spread and interval a head, task, phase and split: the content of `summary.csv`."""
        return summary_frame(collect(self.cells, self.controls, self.tasks, self.phases))

    def curves(self) -> pd.DataFrame:
        """A row a cell, phase, epoch, task and split: the content of `curves.csv`."""
        return curves_frame(self.cells)

    def __str__(self) -> str:
        return comparison_text(collect(self.cells, self.controls, self.tasks, self.phases))


def run(
    heads: str | Sequence[str] = (),
    *,
    head_files: Sequence[str | Path] = (),
    preset: str = "",
    protocol: str | Path | None = None,
    tasks: str | Sequence[str] = (),
    data: str | Path = "",
    encoder: str | Path = "",
    seeds: int | Sequence[int] = (),
    phases: str | Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "",
    out: str | Path | None = None,
    jobs: int = 1,
    executor: str = "",
    threads: int = 1,
    feature_cache: bool = True,
    keep_encoder: str = "best",
    encoder_dtype: str = "bf16",
    interference: bool = False,
    cuda_graph: bool | None = None,
    compiled: bool = False,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> Result:
    """Train heads on one encoder and compare them; finished cells under `out` are reused.

    Args:
        heads, tasks, phases: names, as a sequence or as text with commas.
        seeds: how many, or which.
        settings: protocol and head fields by dotted name, `{"pretrain.epochs": 3, "cnn.dropout": 0.1}`.
        jobs: processes that run cells.
        executor: where cells run: `local`, in this process, or `processes`; by default as `jobs` says.
        keep_encoder: the fine-tuned encoders that are stored, for `benchkit predict`: `all`, `none`, or the `best`
            seed's of each head.
        encoder_dtype: what they are stored in, `bf16` or `fp32`.
        interference: measure after each epoch how the tasks' gradients agree: `cells[0].phases[0].interference`.
        cuda_graph: capture steps as CUDA graphs; None: on a GPU.
        compiled: hand the encoder's layers to `torch.compile` where they are trained.
        on_event: sees progress, `{"event": "epoch", "phase": …, "epoch": …}` and the like.

    Raises:
        UserError: the request cannot be carried out, in one line.
    """
    request = Request(
        heads=split_names(heads), tasks=split_names(tasks), phases=split_names(phases), seeds=_seeds(seeds),
        head_files=tuple(map(Path, head_files)), preset=preset, protocol=Path(protocol) if protocol else None,
        settings=tuple(f"{name}={_written(value)}" for name, value in (settings or {}).items()),
        data=str(data), encoder=str(encoder), device=device, precision=precision, out=Path(out) if out else None,
        jobs=jobs, executor=executor, threads=threads, feature_cache=feature_cache, keep_encoder=keep_encoder,
        encoder_dtype=encoder_dtype,
        interference=interference, cuda_graph=cuda_graph, compiled=compiled,
    )  # fmt: skip
    emit = on_event or (lambda event: None)
    session = Session.open(request, load_plugins(request.head_files), emit)
    outcome = session.run(emit)
    plan, phases = session.plan, session.plan.protocol.phases
    results = collect(outcome.records, outcome.controls, outcome.tasks, phases)
    write_report(plan.out, results, outcome.records, log=lambda line: emit({"event": "log", "line": line}))
    return Result(outcome.records, outcome.controls, outcome.tasks, plan.out, phases)


def load_encoder(name_or_dir: str | Path) -> Encoder:
    """An encoder by name, or from a folder in the Hugging Face layout.

    `load_encoder(…).encode(texts, pooling="mean")` gives a tensor (n, hidden), float32.

    Raises:
        UserError: there is no such encoder, or its checkpoint cannot be used.
    """
    return open_encoder(str(name_or_dir), load_plugins())


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    text = str(seeds) if isinstance(seeds, int) else "".join(f"{seed}," for seed in seeds)
    return parse_seeds(text) if text else ()


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
