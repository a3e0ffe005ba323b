"""How long work reports itself without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

# progress(done, total). The listener may raise to stop the work; whoever calls it lets that pass.
Progress = Callable[[int, int], object]


def silent(done: int, total: int) -> None:
    """The listener nobody connected."""
