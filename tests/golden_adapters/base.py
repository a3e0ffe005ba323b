"""What the golden test and its adapters share.

An adapter is a class in one of this folder's files. ``pattern`` is searched in a vector's name; ``build`` makes our network from what the
json says of it, ``run`` answers the outputs the json lists, by name, as whole arrays; with a ``mistake`` (a key of the json's
``controls``) it makes that mistake. What it cannot make is an ``Unmade``.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

Nets = dict[str, nn.Module]


class Unmade(Exception):
    """A control mistake this adapter does not know."""


@dataclass(frozen=True)
class Golden:
    """One vector: its json and arrays, and the ``fill.py`` that lies beside them."""

    folder: Path
    name: str

    @cached_property
    def data(self) -> dict[str, Any]:
        return json.loads((self.folder / f"{self.name}.json").read_text())

    @cached_property
    def arrays(self) -> Mapping[str, np.ndarray]:
        return np.load(self.folder / f"{self.name}.npz")

    @cached_property
    def fill(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("golden_fill", self.folder / "fill.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def beside(self, name: str) -> Golden:
        """Another vector of the folder."""
        return Golden(self.folder, name)

    @property
    def inputs(self) -> dict[str, Any]:
        return self.data["inputs"]

    def input(self, name: str) -> torch.Tensor:
        """An input as the recipe makes it; ``from`` recipes read another vector's arrays."""
        recipe = self.inputs[name]
        if "from" in recipe:
            file, array, first, last = re.match(r"(\w+)\.npz (\w+)(?:\[(\d+):(\d+)\])?", recipe["from"]).groups()
            values = self.beside(file).arrays[array]
            return torch.from_numpy(values[int(first) : int(last)] if first else values)
        return torch.from_numpy(self.fill.make_input(recipe))

    def other(self, name: str, number: str = "1") -> torch.Tensor:
        """The same recipe under the next name (``ghost.z0`` → ``ghost.z1``)."""
        recipe = dict(self.inputs[name])
        names = recipe["name"] if isinstance(recipe["name"], list) else [recipe["name"]]
        recipe["name"] = [re.sub(r"\d*$", number, each) for each in names]
        return torch.from_numpy(self.fill.make_input(recipe))

    @property
    def shapes(self) -> dict[str, dict[str, list]]:
        """``[shape, dtype]`` by key, by part (``""`` where there is one network); parts may be tags before the keys, ``[Arcface]``."""
        listed = self.data.get("state_dict") or {}
        if listed and all(isinstance(part, dict) for part in listed.values()):
            return listed
        parts: dict[str, dict[str, list]] = {} if listed else {"": {}}
        for key, shape in listed.items():
            tag, own = re.match(r"(?:\[(\w+)\])?(.*)", key).groups("")
            parts.setdefault(tag, {})[own] = shape
        return parts

    @property
    def rules(self) -> dict[str, list]:
        rules = self.data["fill_rules"]
        return rules if isinstance(rules, dict) else {"": rules}

    @property
    def mistakes(self) -> dict[str, float]:
        """How far each mistake moves the output, in standard deviations of the right one."""
        listed = {name: entry["rel_to_std"] for name, entry in self.data.get("controls", {}).items()}
        return {name: moved for name, moved in listed.items() if "tolerance guide" not in name}


class Adapter:
    """Builds and runs our side of one kind of vector."""

    pattern: str
    limit = 1e-4
    limits: dict[str, float] = {}  # of single arrays
    prefix = ""  # before every key when its values are made
    keras = False  # state_dict() answers Keras' names and layouts by itself

    def build(self, golden: Golden) -> nn.Module | Nets | None:
        """Our network, networks by part, or None where only functions are tested."""
        return None

    def run(self, golden: Golden, nets: Any, mistake: str | None = None) -> Mapping[str, torch.Tensor | np.ndarray]:
        """The outputs by name."""
        raise NotImplementedError

    def rules(self, golden: Golden, part: str) -> list:
        """How the weights of a part are made, other than by default."""
        return golden.rules.get(part, [])

    def moved(self, golden: Golden, mistake: str) -> str:
        """The output a control's figure is about: the first one listed."""
        return next(iter(golden.data["outputs"]))


def bgr(picture: torch.Tensor) -> torch.Tensor:
    """``[N, 3, H, W]`` with the colours the wrong way round."""
    return picture.flip(1)


@contextmanager
def resizing_with(**changed: Any) -> Iterator[None]:
    """All of torch's resizing with other options (``align_corners=False``)."""
    right = nn.functional.interpolate
    signature = inspect.signature(right)

    def wrong(*args: Any, **options: Any) -> torch.Tensor:
        given = signature.bind(*args, **options).arguments
        return right(**(given | changed if given.get("mode") == "bilinear" else given))

    with mock.patch.object(nn.functional, "interpolate", wrong):
        yield


@contextmanager
def uninitialised() -> Iterator[None]:
    """Networks are made without spending time on random weights."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
    patches = [mock.patch.object(kind, "reset_parameters", lambda self: None) for kind in kinds]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
