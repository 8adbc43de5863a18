"""Seeds of one head stacked by `torch.func` in one pass, against one after the other: does it pay?

    python benchmarks/stacked.py [--heads baseline,cnn,siamese] [--seeds 4,8] [--rounds 15] [--device cuda]

One forward and backward pass of every seed on a batch of 64 pooled vectors of one task, as in a step of phase 1, in
turns, with the same modules; the median of the rounds. On a GPU each way is captured as a CUDA graph too. The optimiser
is apart: its step costs the same either way.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from benchkit.core.features import Pooled
from benchkit.core.plugins import load_plugins
from benchkit.core.rng import global_stream

BATCH, HIDDEN, TASK = 64, 384, "quora"


def ways(head: str, seeds: int, device: torch.device) -> dict[str, Callable[[], None]]:
    """The two ways to compute the gradients of all seeds."""
    plugins = load_plugins()
    spec, task = plugins.head(head), plugins.task(TASK)
    shape, loss = task.shape(), next(iter(task.losses.values()))
    modules = []
    for seed in range(seeds):
        with global_stream(seed, "init"):
            modules.append(spec.build(spec.configure({}), HIDDEN, (shape,)).to(device).train())
    vectors = torch.randn(seeds, BATCH, shape.segments, HIDDEN, device=device)
    labels = torch.randint(2, (seeds, BATCH), device=device)
    stacked, buffers = stack_module_state(modules)
    base = copy.deepcopy(modules[0])

    def one(weights: dict[str, Tensor], state: dict[str, Tensor], features: Tensor, wanted: Tensor) -> Tensor:
        outputs = functional_call(base, (weights, state), (Pooled(features), TASK))
        return loss(outputs, wanted, shape)

    def together() -> None:
        for each in stacked.values():
            each.grad = None
        vmap(one, randomness="different")(stacked, buffers, vectors, labels).sum().backward()

    def in_turn() -> None:
        for module, features, wanted in zip(modules, vectors, labels, strict=True):
            nn.Module.zero_grad(module)
            loss(module(Pooled(features), TASK), wanted, shape).backward()

    return {"one by one": in_turn, "stacked": together}


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def milliseconds(step: Callable[[], None], device: torch.device) -> float:
    """CPU time of a step on a CPU, which others cannot take; else the time until the device is done."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    for _ in range(3):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock() - started) / 3 * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default="baseline,cnn,siamese")
    parser.add_argument("--seeds", default="4,8")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    print("| head | seeds | way | ms | one by one / this |\n|---|---:|---|---:|---:|")
    for head in options.heads.split(","):
        for seeds in map(int, options.seeds.split(",")):
            steps = ways(head, seeds, device)
            if device.type == "cuda":
                steps |= {f"{name}, captured": captured(step) for name, step in steps.items()}
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(options.rounds + 1):
                for name, step in steps.items():
                    times[name].append(milliseconds(step, device))
            found = {name: statistics.median(each[1:]) for name, each in times.items()}
            for name, each in found.items():
                print(f"| {head} | {seeds} | {name} | {each:.1f} | {found['one by one'] / each:.2f} |", flush=True)


if __name__ == "__main__":
    main()
