"""Our AdamW is torch's fused one, to the last bit, and costs no import of TorchDynamo."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from benchkit.training.optimizer import AdamW


def nets() -> tuple[nn.ModuleList, nn.ModuleList]:
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 2)]))
    return made[0], made[1]


def test_it_is_torchs_to_the_last_bit_and_can_be_taken_up_again() -> None:
    first, second = nets()
    theirs = torch.optim.AdamW(first.parameters(), weight_decay=0.02, fused=True)
    ours = AdamW(second.parameters(), weight_decay=0.02)
    for step in range(12):
        rate, inputs = 0.1 / (1 + step), torch.randn(4, 5)
        for group in theirs.param_groups:
            group["lr"] = rate
        if step == 6:
            state, ours = ours.state_dict(), AdamW(second.parameters(), weight_decay=0.02)
            ours.load_state_dict(state)
        branch = int(step % 3 == 2)  # the second has its first gradient late, and none most of the time
        for net, optimizer in ((first, theirs), (second, ours)):
            optimizer.zero_grad()
            net[branch](inputs).square().mean().backward()
        theirs.step()
        ours.step(rate)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_training_does_not_import_dynamo() -> None:
    code = """if True:
        import sys, torch
        from benchkit.training.optimizer import AdamW
        weight = torch.nn.Parameter(torch.ones(3))
        weight.sum().backward()
        AdamW([weight], 0.01).step(0.1)
        assert float(weight[0].detach()) != 1.0
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
