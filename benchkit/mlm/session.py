"""One pre-training in its folder: begun, gone on with, or found finished."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from benchkit.encoder.tokenizer import read_json
from benchkit.errors import UserError
from benchkit.mlm.curve import write_csv, write_png
from benchkit.mlm.folder import write_folder
from benchkit.mlm.setup import Ready, Request, prepare
from benchkit.mlm.train import State, train
from benchkit.plugins import Plugins
from benchkit.runner.cell import Execution
from benchkit.runner.environment import environment, peak_memory
from benchkit.store.atomic import write_atomic
from benchkit.store.checkpoints import load_checkpoint, save_checkpoint
from benchkit.store.locks import locked

RECORD, CHECKPOINT = "pretrain.json", "checkpoint.pt"


class Watcher(Protocol):
    """Who is told how a pre-training goes."""

    def say(self, line: str) -> None: ...

    def begin(self, ready: Ready, done: int) -> None: ...

    def look(self, row: Mapping[str, Any]) -> None: ...

    def step(self, step: int) -> None: ...


def pretrain(request: Request, plugins: Plugins, watcher: Watcher) -> dict[str, Any]:
    """Train, and leave in `request.out` the encoder, its record and its curve; returns the record.

    The folder can be loaded from the first look at the held-out texts on. The same request goes on after the last
    one, and ends with the numbers (on a CPU to the last bit) of a training that was left alone.

    Raises:
        UserError: see `prepare` and `train`; or the folder holds something else, or is in use.
    """
    out = request.out
    if (out / "config.json").exists() and not (out / RECORD).is_file():
        raise UserError(f"{out} holds an encoder that was not made here: choose another --out")
    ready = prepare(request, plugins, watcher.say)
    with locked(out / ".lock", wait=False) as held:
        if not held:
            raise UserError(f"{out}: another process trains into this folder; wait for it, or choose another --out")
        found = _found(out, ready.identity)
        if found.get("status") == "done":
            return found
        state = _stored(out, found, watcher.say)
        watcher.begin(ready, state.step)

        def on_look(state: State) -> None:
            _save(request, ready, state)
            watcher.look(state.curve[-1])

        train(ready.work, ready.model, state, on_look, watcher.step)
        return _finish(request, ready, state, watcher.say)


def _found(out: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the same training, or {} where nothing has begun.

    Raises:
        UserError: the folder holds another training.
    """
    if not (out / RECORD).is_file():
        return {}
    record = read_json(out / RECORD)
    changed = _differences(record.get("identity", {}), json.loads(json.dumps(identity)))
    if changed:
        raise UserError(f"{out} holds another pre-training ({', '.join(changed)} differ): choose another --out")
    return record


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = ({**each.get("recipe", {}), **each} for each in (old, new))
    names = [name for name in after if name != "recipe" and before.get(name) != after[name]]
    # A changed recipe makes another encoder, too: the cause is enough.
    return [name for name in names if name != "encoder"] or names


def _stored(out: Path, found: Mapping[str, Any], say: Callable[[str], None]) -> State:
    kept = load_checkpoint(out / CHECKPOINT, say) if found else None
    return State(**kept) if kept else State()


def _save(request: Request, ready: Ready, state: State) -> None:
    out = request.out
    _write_record(out, _record(request, ready, state, "running"))
    save_checkpoint(out / CHECKPOINT, vars(state))
    write_folder(out, ready.model, ready.tokenizer, request.half)
    write_csv(state.curve, out / "curve.csv")


def _finish(request: Request, ready: Ready, state: State, say: Callable[[str], None]) -> dict[str, Any]:
    out = request.out
    write_folder(out, ready.model, ready.tokenizer, request.half)
    write_csv(state.curve, out / "curve.csv")
    try:
        write_png(state.curve, ready.unigram, out / "curve.png")
    except ImportError:
        say("no curve.png: matplotlib is not installed (pip install 'benchkit[plots]')")
    record = _record(request, ready, state, "done")
    _write_record(out, record)
    with suppress(FileNotFoundError):
        (out / CHECKPOINT).unlink()
    return record


def _write_record(out: Path, record: Mapping[str, Any]) -> None:
    write_atomic(out / RECORD, (json.dumps(record, indent=2) + "\n").encode(), durable=False)


def _record(request: Request, ready: Ready, state: State, status: str) -> dict[str, Any]:
    work, texts, unigram = ready.work, ready.texts, ready.unigram
    execution = Execution(work.device.type, ready.identity["precision"], request.threads)
    return {
        "status": status,
        "command": shlex.join(["benchkit", *sys.argv[1:]]),
        "identity": ready.identity,
        "from": request.base,
        "head": ready.head,
        "parameters": sum(each.numel() for each in ready.model.parameters()),
        "vocab_size": ready.model.bert.config.vocab_size,
        "sources": [{"name": s.name, "sha256": s.sha256, "texts": len(s.texts)} for s in texts.sources],
        "texts": {"train": len(texts.train), "held_out": len(texts.held_out)},
        "pieces": {"train": len(work.tokenized.ids), "held_out_masked": len(work.held_out.targets)},
        "steps": work.steps,
        "unigram": {"loss": unigram.loss, "perplexity": unigram.perplexity, "accuracy": unigram.accuracy},
        "result": {
            **{name: value for name, value in state.curve[-1].items() if value == value},
            "pieces_per_second": round(state.seen / state.seconds) if state.seconds else 0,
        },
        "peak_memory": peak_memory(work.device),
        "environment": environment(execution),
    }
