"""The doubles of all swap networks, written once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from faceloom.models.folders import Folders

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Folders:
    """A models folder with every double and the converters."""
    import doubles

    root = tmp_path_factory.mktemp("models")
    place = root / "faceloom" / "swap"
    for name in doubles.CONVERTERS:
        doubles.save_converter(name, place)
    for name in doubles.TRUTHS:
        doubles.save_double(name, place)
    return Folders((root,))


@pytest.fixture
def surroundings(tmp_path_factory, monkeypatch):
    """No cache of the user's, and one thread: the pictures are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    torch.set_num_threads(threads)
