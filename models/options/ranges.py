"""The ranges of numbers that several stages, nodes and the command line share, and the check of a word that must be one of some."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..errors import FaceLoomError

# The least and the largest value of each number. feather is a fraction of the crop's edge; crop_size counts pixels.
RANGES: Mapping[str, tuple[float, float]] = {
    "threshold": (0, 1), "framing": (0.5, 4), "crop_size": (64, 4096), "strength": (0, 2), "pixel_boost": (1, 8), "amount": (0, 1),
    "fidelity": (0, 1), "feather": (0, 0.5), "opacity": (0, 1),
}  # fmt: skip


def check_range(name: str, value: float) -> None:
    """Raises FaceLoomError where ``value`` is out of the range of ``name``, a key of ``RANGES``, or NaN."""
    least, most = RANGES[name]
    if not least <= value <= most:
        raise FaceLoomError(f"{name.replace('_', ' ').capitalize()} must be from {least:g} to {most:g}, not {value}.")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises FaceLoomError where ``value`` is none of ``choices``."""
    if value not in choices:
        raise FaceLoomError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
