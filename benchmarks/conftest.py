"""What the suites are timed on: the demo's encoder and sentences, one thread."""

from __future__ import annotations

import pytest
import torch

from benchkit.core.plugins import Plugins, load_plugins
from benchkit.data import load_data
from benchkit.encoder import Encoder
from benchkit.experiment.config import Request
from benchkit.inspect.heads import Setup


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    torch.set_num_threads(1)
    return load_plugins()


@pytest.fixture(scope="session")
def encoder(plugins: Plugins) -> Encoder:
    return plugins.encoders["demo"].load()


@pytest.fixture(scope="session")
def texts(plugins: Plugins) -> list[str]:
    """Distinct sentences of the demo's training data."""
    splits = load_data("demo", [plugins.task("quora")])["quora"]
    return list(dict.fromkeys(text for texts in splits["train"].texts for text in texts))


@pytest.fixture(scope="session")
def setup(plugins: Plugins) -> Setup:
    return Setup.open(Request(heads=tuple(sorted(plugins.heads))), plugins)
