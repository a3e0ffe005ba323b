"""A pretend restorer around a torch checkpoint, whole in one module: it returns the negative of a crop."""

from __future__ import annotations

from faceloom.models.runtime.method import Method


class NegativeRestorer:
    """A ``Restorer``."""

    def __init__(self, name, weights) -> None:
        self.name, self.weights = name, weights

    def restore(self, crops, fidelity, progress=None, points=None):
        return (self.weights["white"] - crops).clamp(0, 1)


METHOD = Method("Negative", kind="restorer", suffixes=(".pth",), recognizes=lambda file: "white" in file.tensors,
                open=lambda file, loading: NegativeRestorer(file.name, file.tensors))
