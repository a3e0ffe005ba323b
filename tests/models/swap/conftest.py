"""The doubles of all swap networks, written once."""

from __future__ import annotations

import pytest
from faceloom.models.files.folders import Folders


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
