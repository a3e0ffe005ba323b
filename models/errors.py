"""The one error type users see."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


class FaceLoomError(ValueError):
    """Something the user can put right. The message is one sentence that says what to do."""


def given(value: Value | None, sentence: str) -> Value:
    """Return a value that must be there; raise the sentence where it is None."""
    if value is None:
        raise FaceLoomError(sentence)
    return value


def check_finite(values: Tensor | None, sentence: str) -> None:
    """Raise the sentence where a value is NaN or infinite."""
    if values is not None and not bool(values.float().sum().isfinite()):  # one such value makes the sum one
        raise FaceLoomError(sentence)
