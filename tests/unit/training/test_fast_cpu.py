"""Layers that compute the quick way in training: torch's numbers, or torch's distribution."""

from __future__ import annotations

import pytest
import torch
from helpers.training import Net, make_modules, make_work, train
from torch import Tensor, nn

from benchkit.training.fast_cpu import fast_cpu_layers


def quickly(layer: nn.Module, x: Tensor) -> Tensor:
    with fast_cpu_layers(nn.ModuleList([layer])):
        result: Tensor = layer(x)
    return result


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 1003, requires_grad=True)
    y = quickly(nn.Dropout(rate), x)
    torch.autograd.backward(y.sum())
    y = y.detach()
    assert float((y == 0).float().mean()) == pytest.approx(rate, abs=0.005)
    assert float(y.mean()) == pytest.approx(1, abs=0.02)
    assert x.grad is not None
    assert torch.equal(x.grad, y), "what was dropped has no gradient, what was kept has the scale"
    kept = (y != 0).float()
    neighbours = (kept[:, 1:] * kept[:, :-1]).mean()  # four of them come from one random number
    assert float(neighbours) == pytest.approx((1 - rate) ** 2, abs=0.01)


def test_dropout_draws_from_the_seeded_stream() -> None:
    layer, x = nn.Dropout(0.5), torch.ones(64)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append((quickly(layer, x), quickly(layer, x)))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert not torch.equal(drawn[0][0], drawn[2][0])


@pytest.mark.parametrize("rate", [0.0, 1.0, 1e-9])
def test_dropout_of_nothing_or_all_is_torchs(rate: float) -> None:
    x = torch.randn(5)
    assert torch.equal(quickly(nn.Dropout(rate), x), x if rate < 1 else torch.zeros(5))
    assert torch.equal(quickly(nn.Dropout(0.5).eval(), x), x)
    assert quickly(nn.Dropout(0.5), torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(3, 2, 12), (2, 13), (1, 1, 4)])
def test_max_pooling_and_its_gradient_are_torchs_to_the_last_bit(size: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, first = nn.MaxPool1d(size), torch.randint(0, 4, shape).float()  # whole numbers, so that many are equal
    second = first.clone()
    first.requires_grad_()
    second.requires_grad_()
    plain, fast = layer(first), quickly(layer, second)
    assert torch.equal(plain, fast)
    gradient = torch.randn_like(plain)
    torch.autograd.backward([plain, fast], [gradient, gradient])
    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(first.grad, second.grad)


@pytest.mark.parametrize(
    "layer", [nn.MaxPool1d(3, stride=1), nn.MaxPool1d(2, padding=1), nn.MaxPool1d(2, dilation=2), nn.MaxPool1d((2,))]
)
def test_other_pooling_is_left_to_torch(layer: nn.MaxPool1d) -> None:
    x = torch.randn(2, 3, 9, requires_grad=True)
    assert torch.equal(quickly(layer, x), layer(x))


def test_layers_are_torchs_own_again_afterwards() -> None:
    layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))

    def fail() -> None:
        with fast_cpu_layers(layers):
            assert [type(layer) is kind for layer, kind in zip(layers, kinds, strict=True)] == [False, True]
            assert isinstance(layers[0], nn.Dropout)
            raise KeyError

    kinds = (nn.Dropout, nn.Linear)
    with pytest.raises(KeyError):
        fail()
    assert tuple(type(layer) for layer in layers) == kinds


def test_only_the_steps_of_a_training_are_quick() -> None:
    seen: set[tuple[bool, bool]] = set()

    class Watching(Net):
        def forward(self, features: object, task: str) -> Tensor:
            seen.add((self.training, type(self.dropout) is nn.Dropout))
            return super().forward(features, task)  # type: ignore[arg-type]

    context, vectors = make_work(epochs=1)
    train(context, vectors, nn.ModuleDict({"head": Watching(0.2)}))
    assert seen == {(True, False), (False, True)}
    assert type(make_modules()["head"].dropout) is nn.Dropout
