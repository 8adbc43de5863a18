"""A step that is timed as a CUDA graph: captured when it is made, and replayed whenever it is run."""

from __future__ import annotations

import torch

from benchkit.errors import UserError
from benchkit.speed.timing import Mark, Run
from benchkit.train.graph import Program, aside, pool


class Captured:
    """A `Run` without parts: what a graph is made of cannot be told apart while it is replayed.

    Raises:
        UserError: the step waits for the device somewhere, or does something else that no graph can hold.
    """

    def __init__(self, run: Run, device: torch.device, *, compiled: bool = False) -> None:
        def step(row: torch.Tensor) -> torch.Tensor:
            run(lambda name: None)
            return row

        self.refused: list[str] = []
        self.device, self.row = device, torch.zeros(1, dtype=torch.int32, device=device)
        # A compiled step is made in its first run, and is itself only from the second on.
        warmups = 1 + compiled
        self.program = Program(step, 1, device, pool(device), warmups, self.refused.append)
        for _ in range(warmups + 1):
            self.run()

    def __call__(self, mark: Mark) -> None:
        self.run()

    def run(self) -> None:
        with aside(self.device):
            self.program.run(self.row)
        if self.refused:
            raise UserError(f"no CUDA graph can be made of it: {self.refused[0]}")
