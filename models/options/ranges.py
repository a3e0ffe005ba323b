"""The ranges of numbers that several stages, nodes and the command line share, and the check of a word that must be one of some."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..errors import FaceLoomError, brief, check_number

# The least and the largest value of each number. feather is a fraction of the crop's edge; crop_size counts pixels.
RANGES: Mapping[str, tuple[float, float]] = {
    "threshold": (0, 1), "framing": (0.5, 4), "crop_size": (64, 4096), "strength": (0, 2), "pixel_boost": (1, 8), "amount": (0, 1),
    "fidelity": (0, 1), "feather": (0, 0.5), "opacity": (0, 1), "min_size": (0, 65536),
}  # fmt: skip
# The largest seed that torch takes.
MOST_SEED = 2**64 - 1
# Edge in pixels of the largest crop, wherever the number comes from.
LARGEST_EDGE = 16384


def check_range(name: str, value: float, whole: bool = False) -> None:
    """Raises FaceLoomError where ``value`` is out of the range of ``name``, a key of ``RANGES``, is NaN or no number. whole: it must have
    no fraction."""
    check_number(name.replace("_", " ").capitalize(), value, *RANGES[name], whole)


def check_fields(settings: object, limits: Mapping[str, tuple[float, float, bool]]) -> None:
    """Raises FaceLoomError where a number of ``settings`` is out of its limits. limits: by the number's name the least and the largest
    value, and whether it must have no fraction."""
    for name, (least, most, whole) in limits.items():
        check_number(name.replace("_", " ").capitalize(), getattr(settings, name), least, most, whole)


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises FaceLoomError where ``value`` is none of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise FaceLoomError(f"{name} must be one of {', '.join(choices)}, not {brief(value)}.")
