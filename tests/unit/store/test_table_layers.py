"""`Layers`: every layer's vector, kept apart; stored and live."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchkit.core.features import Layers
from benchkit.core.plugins import load_plugins
from benchkit.encoder import Encoder
from benchkit.store.features import FeatureSettings, FeatureStore

INPUTS = [("a moving film",), ("the plot is dull",), ("so so",)]
ROWS = torch.tensor([[0, 1], [2, 0]])


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_plugins().encoders["demo"].load()


def test_they_share_what_is_stored_side_by_side(encoder: Encoder, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    side = store.table(encoder, INPUTS, FeatureSettings(pooling="mean", layers=(0, 1, 2)))
    apart = store.table(encoder, INPUTS, FeatureSettings(reads="layers", pooling="mean", layers=(0, 1, 2)))
    assert (side.report.encoded, apart.report.encoded) == (3, 0)
    features = apart.gather(ROWS)
    assert isinstance(features, Layers)
    assert features.layers.shape == (2, 2, 3, encoder.hidden)
    assert torch.equal(features.layers.flatten(2), side.gather(ROWS).pooled)
    assert torch.equal(features.pooled, features.layers[:, :, -1])


def test_live_ones_are_the_stored_ones(encoder: Encoder, tmp_path: Path) -> None:
    settings = FeatureSettings(reads="layers", pooling="mean", layers=(0, 1, 2))
    stored = FeatureStore(tmp_path).table(encoder, INPUTS, settings).gather(ROWS)
    live = encoder.features(encoder.tokenize(INPUTS), ROWS, Layers, "mean", (0, 1, 2))
    assert isinstance(live, Layers)
    assert isinstance(stored, Layers)
    torch.testing.assert_close(live.layers, stored.layers, rtol=1e-5, atol=1e-5)
