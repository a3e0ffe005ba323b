"""What every test of ``models/`` shares."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside this file


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What the tests find out about files is not remembered on this machine."""
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def one_thread():
    """For pictures too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
