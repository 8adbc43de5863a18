"""A name for this machine with this software: times of another are nothing to compare with."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from importlib.metadata import version

import torch

from benchkit.experiment.cell import Execution
from benchkit.experiment.environment import environment


def fingerprint() -> str:
    """Processor, cores, GPU, torch and Python, as a folder's name; the host's name only as a hash."""
    processor = environment(Execution())["processor"] or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    host = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
    parts = f"{processor} {os.cpu_count()} {gpu} torch{version('torch')} python{platform.python_version()} {host}"
    return re.sub(r"[^A-Za-z0-9.+]+", "-", parts)
