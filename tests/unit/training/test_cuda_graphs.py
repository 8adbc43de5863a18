"""Capturing a step, and what happens where that cannot be done."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchkit.core.errors import UserError
from benchkit.experiment.config import use_graphs
from benchkit.training.cuda_graphs import GraphedStep, graph_pool, side_stream


def test_graphs_are_for_gpus() -> None:
    assert use_graphs(None, torch.device("cpu")) is False
    assert use_graphs(None, torch.device("cuda")) is True
    assert use_graphs(False, torch.device("cuda")) is False
    with pytest.raises(UserError, match="--cuda-graph: there are no CUDA graphs on cpu"):
        use_graphs(True, torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_step_that_waits_is_not_captured() -> None:
    said: list[str] = []
    device = torch.device("cuda")
    program = GraphedStep(lambda row: row + int(row.sum()), 4, device, graph_pool(device), 1, said.append)
    ones = torch.ones(4, dtype=torch.int32, device="cuda")
    for _ in range(4):
        assert program.run(ones).tolist() == [5, 5, 5, 5]
    assert program.graph is None
    assert "it waits for the device" in said[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError, torch.OutOfMemoryError])
def test_a_capture_that_fails_is_ended(raised: type[BaseException]) -> None:
    """An error of the head: the step is taken as it is. Ctrl-C and a lack of memory stay what they are. All goes on."""
    device, said, runs = torch.device("cuda"), list[str](), []

    def step(row: Tensor) -> Tensor:
        runs.append(1)
        if len(runs) == 2:
            raise raised("no")
        return row * 2

    ones = torch.ones(4, dtype=torch.int32, device=device)
    with side_stream(device):
        program = GraphedStep(step, 4, device, graph_pool(device), 1, said.append)
        program.run(ones)
        if raised is ValueError:
            assert program.run(ones).tolist() == [2, 2, 2, 2]
            assert "ValueError: no" in said[0]
        else:
            with pytest.raises(raised):
                program.run(ones)
        other = GraphedStep(lambda row: row * 3, 4, device, graph_pool(device), 1, said.append)
        assert [other.run(ones).tolist() for _ in range(3)] == [[3, 3, 3, 3]] * 3
        assert other.graph is not None
