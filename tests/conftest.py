"""Portraits and shared material for the tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "models"), str(TESTS / "models" / "swap")]  # helpers that several tests import
torch.set_num_threads(2)


@pytest.fixture(scope="session")
def collins() -> torch.Tensor:
    """Eileen Collins, ``[1, 512, 512, 3]`` (NASA, public domain; comes inside scikit-image)."""
    from skimage import data

    return torch.from_numpy(data.astronaut().astype(np.float32) / 255)[None]


@pytest.fixture(scope="session")
def hopper() -> torch.Tensor:
    """Grace Hopper, ``[1, 600, 512, 3]`` (U.S. Navy, public domain; comes inside matplotlib)."""
    import matplotlib.cbook
    from PIL import Image

    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return torch.from_numpy(np.asarray(Image.open(file).convert("RGB"), np.float32) / 255)[None]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the checkout; tests that need it skip where it is not."""
    folder = Path(os.environ.get("FACELOOM_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder} (set FACELOOM_SHARED)")
    return folder
