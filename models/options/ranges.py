"""The ranges of numbers that several stages, nodes and the command line share, and the check of a word that must be one of some."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..errors import FaceLoomError

# The least and the largest value of each number. feather is a fraction of the crop's edge; crop_size counts pixels.
RANGES: Mapping[str, tuple[float, float]] = {
    "threshold": (0, 1), "framing": (0.5, 4), "crop_size": (64, 4096), "strength": (0, 2), "pixel_boost": (1, 8), "amount": (0, 1),
    "fidelity": (0, 1), "feather": (0, 0.5), "opacity": (0, 1), "min_size": (0, 65536),
}  # fmt: skip


def check_range(name: str, value: float, whole: bool = False) -> None:
    """Raises FaceLoomError where ``value`` is out of the range of ``name``, a key of ``RANGES``, is NaN or no number. whole: it must have
    no fraction."""
    check_number(name.replace("_", " ").capitalize(), value, *RANGES[name], whole)


def check_number(words: str, value: float, least: float, most: float, whole: bool = False) -> None:
    """Raises FaceLoomError where ``value`` does not lie between ``least`` and ``most``, is NaN or no number. words: what it is, in the
    error. whole: it must have no fraction."""
    try:
        good = bool(least <= value <= most) and not (whole and value != int(value))
    except (TypeError, ValueError):  # text, None, or an array of several
        good = False
    if not good:
        raise FaceLoomError(f"{words} must be {'a whole number ' if whole else ''}from {least:g} to {most:g}, not {value}.")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises FaceLoomError where ``value`` is none of ``choices``."""
    if value not in choices:
        raise FaceLoomError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
