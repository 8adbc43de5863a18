"""The contract that benchkit holds every head to, and what this one alone promises."""

from __future__ import annotations

import pytest
import torch
from benchkit_attention_example import Attention, Config, benchkit_heads

from benchkit import HeadSpec, TaskShape, Tokens
from benchkit.testing import HeadContract


class TestAttention(HeadContract):
    @pytest.fixture
    def spec(self) -> HeadSpec:
        return benchkit_heads()[0]


def test_the_order_of_word_pieces_is_of_no_account() -> None:
    head = Attention(Config(), 8, (TaskShape("tone", 1, 2),)).eval()
    tokens, mask = torch.randn(3, 1, 5, 8), torch.ones(3, 1, 5, dtype=torch.bool)
    forth, back = (head(Tokens(each[:, :, 0], each, mask), "tone") for each in (tokens, tokens.flip(2)))
    torch.testing.assert_close(forth, back)
