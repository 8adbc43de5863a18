"""A round of fine-tuning, one batch of each task, against a Hugging Face loop: `python benchmarks/finetune.py`.

    loop      transformers' BertModel (sdpa, fp32), each batch padded to its longest sentence, torch's default AdamW
    task      benchkit, a step a task: `finetune.step = "task"`
    round     benchkit, one summed step: `finetune.step = "round"`
    task bf16, round bf16    the same with the encoder's forward in bf16, where the hardware has it

All in one process, with encoders of one shape, the same head, losses and rows; they take turns (A B C, C B A, ...), so
that whatever else the machine does falls on all of them. Ratios are medians over rounds of the loop's time over ours in
the same round; time is the process's CPU time on a CPU, device events on a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from made_up import LENGTHS, SHAPES, config_of, make_encoder, make_head, make_work
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchkit.core.features import Pooled
from benchkit.core.protocol import Phase
from benchkit.encoder import BertConfig, Tokenized, resolve_precision
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.training.batches import Batch
from benchkit.training.evaluation import PhaseContext
from benchkit.training.fast_cpu import fast_cpu_layers
from benchkit.training.optimizer import AdamW
from benchkit.training.readers import LiveReader
from benchkit.training.steps import take_step

LR = 1e-6
Step = Callable[[list[Batch]], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="base", help="of the encoder (default: BERT-base)")
    parser.add_argument("--batch", type=int, default=8, help="examples a task (default 8, the report's)")
    parser.add_argument("--rounds", type=int, default=6, help="timed rounds a repeat (default 6)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats, each with other rows (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU (default 1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write the table here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = measure(args)
    print(report)
    if args.out:
        args.out.write_text(report, encoding="utf-8")


def measure(args: argparse.Namespace) -> str:
    device, config = torch.device(args.device), config_of(args.shape)
    rows = args.batch * (args.rounds * args.repeats + 1)
    settings = Phase(epochs=1, batch_size=args.batch, learning_rate=LR)
    sizes = {name: {"train": rows} for name in LENGTHS}
    context, tokenized = make_work(sizes, "finetune", settings, "round_robin", device)
    steps = methods(context, tokenized, config)
    batches = list(context.order.epoch(1))
    rounds = [batches[start : start + 3] for start in range(0, len(batches), 3)]
    for step in steps.values():
        step(rounds[-1])
    seconds: list[list[dict[str, float]]] = []
    for repeat in range(args.repeats):
        seconds.append([])
        for number in range(args.rounds):
            order = list(steps) if number % 2 == 0 else list(steps)[::-1]
            here = rounds[repeat * args.rounds + number]
            seconds[-1].append({name: timed(lambda: steps[name](here), device) for name in order})  # noqa: B023
            print(", ".join(f"{name} {spent:.2f} s" for name, spent in seconds[-1][-1].items()), flush=True)
    return table(args, context, tokenized, rounds, seconds)


def methods(context: PhaseContext, tokenized: Tokenized, config: BertConfig) -> dict[str, Step]:
    encoder = make_encoder(config, context.device)
    head = make_head("baseline", context, config.hidden_size)
    modules = nn.ModuleDict({"head": head, "encoder": encoder.model}).train()
    settings = FeatureSettings(pooling="cls")
    reader = LiveReader(
        encoder, tokenized, settings, Pooled, True, lambda rows: encode_table(encoder, tokenized, settings)
    )
    optimizer = AdamW(modules.parameters(), context.settings.weight_decay)

    def ours(batches: list[Batch], together: int, autocast: bool) -> None:
        here = dataclasses.replace(context, autocast=autocast)
        with fast_cpu_layers(modules):
            for start in range(0, len(batches), together):
                take_step(here, modules, reader, optimizer, batches[start : start + together], LR)

    found: dict[str, Step] = {
        "loop": hugging_face(context, tokenized, config),
        "task": lambda batches: ours(batches, 1, False),
        "round": lambda batches: ours(batches, 3, False),
    }
    if resolve_precision("auto", context.device) == "bf16":
        found["task bf16"] = lambda batches: ours(batches, 1, True)
        found["round bf16"] = lambda batches: ours(batches, 3, True)
    return found


def hugging_face(context: PhaseContext, tokenized: Tokenized, config: BertConfig) -> Step:
    """What one writes first; both sentences of a pair in one call, which is the kinder reading of it."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    theirs = transformers.BertConfig(**{name: getattr(config, name) for name in names})
    model = transformers.BertModel(theirs, add_pooling_layer=False)
    head, device = make_head("baseline", context, config.hidden_size), context.device
    modules = nn.ModuleDict({"head": head, "encoder": model}).to(device).train()
    optimizer = torch.optim.AdamW(modules.parameters(), lr=LR, weight_decay=context.settings.weight_decay)

    def step(batches: list[Batch]) -> None:
        for task, examples in batches:
            part = context.corpus.parts[task, "train"]
            rows = part.rows[examples]
            pieces = [piece(tokenized, row) for row in rows.flatten().tolist()]
            ids = pad_sequence(pieces, batch_first=True).to(device)
            mask = pad_sequence([torch.ones_like(each) for each in pieces], batch_first=True).to(device)
            first = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
            outputs = modules["head"](Pooled(first.view(*rows.shape, -1)), task)
            assert part.labels is not None
            loss = context.losses[task](outputs, part.labels[examples].to(device), context.shapes[task])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return step


def piece(tokenized: Tokenized, row: int) -> Tensor:
    start, end = tokenized.offsets[row : row + 2].tolist()
    return tokenized.ids[start:end].long()


def timed(call: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cpu":
        started = time.process_time()
        call()
        return time.process_time() - started
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()  # type: ignore[no-untyped-call]
    call()
    after.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    return before.elapsed_time(after) / 1e3


def table(
    args: argparse.Namespace,
    context: PhaseContext,
    tokenized: Tokenized,
    rounds: list[list[Batch]],
    seconds: list[list[dict[str, float]]],
) -> str:
    device = context.device
    real, padded = count_tokens(context, tokenized, rounds)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {args.threads} thread"
    lines = [
        f"# A round of fine-tuning, {args.shape}, batch {args.batch}\n",
        f"{where}; torch {torch.__version__}, transformers {transformers.__version__}; {args.repeats} repeats of "
        f"{args.rounds} rounds; {real:.0f} word pieces a round, {padded:.0f} with padding. Time of a round, median of "
        "all rounds; × is the loop's time over it in the same round, median a repeat.\n",
        "| method | s a round | " + " | ".join(f"× repeat {number + 1}" for number in range(args.repeats)) + " |",
        "|---|---:|" + "---:|" * args.repeats,
    ]
    for name in seconds[0][0]:
        middle = statistics.median(each[name] for repeat in seconds for each in repeat)
        ratios = [statistics.median(each["loop"] / each[name] for each in repeat) for repeat in seconds]
        lines.append(f"| {name} | {middle:.3f} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    return "\n".join(lines) + "\n"


def count_tokens(context: PhaseContext, tokenized: Tokenized, rounds: list[list[Batch]]) -> tuple[float, float]:
    """Word pieces a round: the real ones, and those that a batch padded to its longest has."""
    counts = [
        tokenized.lengths[context.corpus.parts[task, "train"].rows[examples].flatten()]
        for batches in rounds
        for task, examples in batches
    ]
    real, padded = sum(int(each.sum()) for each in counts), sum(int(each.max()) * len(each) for each in counts)
    return real / len(rounds), padded / len(rounds)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({torch.backends.cpu.get_cpu_capability()})"


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
