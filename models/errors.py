"""The one error type users see."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


class FaceLoomError(ValueError):
    """Something the user can put right. The message is one sentence that says what to do."""

    __module__ = "faceloom"  # ComfyUI shows it with the name, and a custom node's module is called by its path on the machine


def given(value: Value | None, sentence: str) -> Value:
    """Return a value that must be there; raise the sentence where it is None."""
    if value is None:
        raise FaceLoomError(sentence)
    return value


def check_finite(values: Tensor | None, sentence: str) -> None:
    """Raise the sentence where a value is NaN or infinite."""
    if values is not None and not bool(values.float().sum().isfinite()):  # one such value makes the sum one
        raise FaceLoomError(sentence)


def check_number(words: str, value: float, least: float, most: float, whole: bool = False) -> None:
    """Raises FaceLoomError where ``value`` does not lie between ``least`` and ``most``, is NaN or no number (a tensor of one is none).
    words: what it is, in the error. whole: it must be an integer."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real) or not least <= value <= most:
        raise FaceLoomError(f"{words} must be {'a whole number ' if whole else ''}from {least:g} to {most:g}, not {brief(value)}.")


def brief(value: object) -> str:
    """Return what a value is in a few words, for a sentence: a word or number as it is, an array by its shape, and never several lines."""
    if value is None:
        return "nothing"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"an array {list(shape)}" if shape else str(value)
    text = repr(value) if isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
