"""Adapters by family; a new file here is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
import re

from faceloom.tests.golden_adapters.base import Adapter


def adapter_of(name: str) -> Adapter | None:
    """The adapter whose pattern fits a vector's name."""
    for module in pkgutil.iter_modules(__path__):
        for kind in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(kind, type) and issubclass(kind, Adapter) and kind is not Adapter and re.match(kind.pattern, name):
                return kind()
    return None
