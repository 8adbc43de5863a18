"""Streams are independent of one another, repeatable, and leave torch's own generator alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchkit.core.rng import derive, generator, global_stream


def test_a_seed_is_a_function_of_its_name_for_ever() -> None:
    # Written down: a change that would renumber every result has to be made here too.
    assert derive(0, "init") == 1519069808562059438
    assert derive(3, "order", "pretrain", 1) == 9014346619538688063


def test_streams_differ_by_seed_purpose_phase_and_epoch() -> None:
    names = itertools.product(range(5), ("init", "order", "dropout"), ("pretrain", "finetune"), range(1, 5))
    seeds = [derive(seed, purpose, phase, epoch) for seed, purpose, phase, epoch in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_are_not_correlated() -> None:
    first = torch.randn(10_000, generator=generator(0, "a"))
    second = torch.randn(10_000, generator=generator(0, "b"))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05


def test_a_generator_repeats() -> None:
    assert torch.equal(torch.rand(5, generator=generator(1, "x")), torch.rand(5, generator=generator(1, "x")))


def test_the_global_stream_repeats_and_restores() -> None:
    torch.manual_seed(11)
    expected = torch.rand(6)
    torch.manual_seed(11)
    before = torch.rand(3)
    with global_stream(0, "init"):
        first = torch.rand(4)
    between = torch.rand(1)
    with global_stream(0, "init"):
        second = torch.rand(4)
    assert torch.equal(first, second)
    assert torch.equal(torch.cat([before, between, torch.rand(2)]), expected)


def test_the_global_stream_is_restored_after_an_error() -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    with pytest.raises(RuntimeError, match="shape"), global_stream(0, "init"):
        torch.rand(4).reshape(3)
    assert torch.equal(torch.rand(1), expected)


def test_streams_nest() -> None:
    with global_stream(0, "dropout"):
        alone = torch.rand(4)
    with global_stream(0, "dropout"):
        first = torch.rand(2)
        with global_stream(0, "init"):
            torch.rand(7)
        assert torch.equal(torch.cat([first, torch.rand(2)]), alone)
