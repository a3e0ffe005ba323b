"""Portraits and shared material for the tests, and how many processes run them."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "models"), str(TESTS / "models" / "swap")]  # helpers that several tests import
if "bench" not in sys.modules:  # not part of the package, and the checkout's other folders must not be importable by their own names
    spec = importlib.util.spec_from_file_location("bench", TESTS.parent / "bench" / "__init__.py",
                                                  submodule_search_locations=[str(TESTS.parent / "bench")])
    sys.modules["bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["bench"])
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is not an error
hypothesis.settings.load_profile("untimed")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # as one of several processes, which are one a core


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What ``-n auto`` in pyproject.toml means: a run of all tests takes every core, at most four, for a process holds about a gigabyte;
    a run of files that were named stays in this process, where ``print`` and a debugger work. ``-n 0`` and ``-n 2`` say it oneself."""
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return 0
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_configure(config: pytest.Config) -> None:
    """Several processes have one thread each, in numpy's BLAS and in the programs that tests start as well."""
    if getattr(config.option, "numprocesses", None):
        os.environ["OMP_NUM_THREADS"] = "1"


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
