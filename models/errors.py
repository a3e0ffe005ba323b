"""The one error type users see."""

from __future__ import annotations

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
    """Raises FaceLoomError where ``value`` does not lie between ``least`` and ``most``, is NaN or no number. words: what it is, in the
    error. whole: it must have no fraction."""
    try:
        good = bool(least <= value <= most) and not (whole and value != int(value))
    except (TypeError, ValueError, RuntimeError):  # text, None, or an array or tensor of several
        good = False
    if not good:
        raise FaceLoomError(f"{words} must be {'a whole number ' if whole else ''}from {least:g} to {most:g}, not {value}.")
