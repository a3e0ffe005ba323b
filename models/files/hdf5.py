"""Opens HDF5 files of strangers with h5py: nothing outside the file is read, and no more than it holds."""

from __future__ import annotations

import importlib
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..errors import FaceLoomError
from .declared import Declared, named


@contextmanager
def open_hdf5(file: str | io.BytesIO, path: str) -> Iterator[Any]:
    """Open an HDF5 file or its content in memory; ``path`` is what errors name.

    FaceLoomError where h5py is missing, where the file links to others, and, inside the block, where it turns out to be damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise FaceLoomError("Keras files (.keras, .h5) are read with h5py; run: pip install h5py, or convert the file to .safetensors."
                            ) from error
    try:
        with h5py.File(file, "r") as opened:
            _check_links(opened, path)
            _check_datasets(opened, path)
            yield opened
    except FaceLoomError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise FaceLoomError(f"{os.path.basename(path)} is not a whole HDF5 file; fetch it again.") from error


def _check_links(file: Any, path: str) -> None:
    """Raise FaceLoomError where a name in the file stands for something that is in another file."""
    links = importlib.import_module("h5py.h5l")  # a compiled module without stubs

    def outward(name: bytes, link: Any) -> bytes | None:  # raising in here would be lost in h5py
        return None if link.type in (links.TYPE_HARD, links.TYPE_SOFT) else name

    found = file.id.links.visit(outward, info=True)
    if found is not None:
        raise _elsewhere(path, found.decode(errors="replace"))


def _check_datasets(file: Any, path: str) -> None:
    """Raise FaceLoomError where any dataset takes its numbers from another file, or where all declare more than the file holds."""
    from h5py import Dataset

    declared = Declared(path)

    def fault(_: str, item: Any) -> FaceLoomError | None:
        try:
            if isinstance(item, Dataset) and item.shape is not None:
                _check_dataset(item, declared, path)
        except FaceLoomError as error:
            return error
        return None

    error = file.visititems(fault)
    if error is not None:
        raise error


def _check_dataset(dataset: Any, declared: Declared, path: str) -> None:
    """Raise FaceLoomError where the numbers of a dataset are in another file, or more than the file holds."""
    if dataset.external or dataset.is_virtual:
        raise _elsewhere(path, dataset.name)
    with named(path):
        declared.add(max(math.prod(dataset.shape), math.prod(dataset.chunks or (0,))) * dataset.dtype.itemsize)


def read_dataset(dataset: Any, declared: Declared, path: str) -> torch.Tensor:
    """Read the numbers of a dataset. declared: counts them, since one dataset may have many names. FaceLoomError where they are none, in
    another file, or more than the file holds."""
    if dataset.dtype.kind not in "fiub":
        raise FaceLoomError(f"{os.path.basename(path)} holds something else than numbers in {dataset.name}; fetch it again.")
    _check_dataset(dataset, declared, path)
    return torch.from_numpy(np.asarray(dataset[()]))


def _elsewhere(path: str, name: str) -> FaceLoomError:
    return FaceLoomError(f"{os.path.basename(path)} takes {name} from another file, which weights never need, so it is refused; fetch it "
                         "from another place.")
