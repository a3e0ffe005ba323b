"""The one error type users see."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class FaceLoomError(ValueError):
    """Something the user can put right. The message is one sentence that says what to do."""


def check_finite(values: Tensor | None, sentence: str) -> None:
    """Raise the sentence where a value is NaN or infinite."""
    if values is not None and not bool(values.float().sum().isfinite()):  # one such value makes the sum one
        raise FaceLoomError(sentence)
