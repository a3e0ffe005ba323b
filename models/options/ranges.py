"""The ranges of numbers that several stages, nodes and the command line share."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import FaceLoomError

# The least and the largest value of each number. feather is a fraction of the crop's edge; crop_size counts pixels.
RANGES: Mapping[str, tuple[float, float]] = {
    "threshold": (0, 1), "framing": (0.5, 4), "crop_size": (64, 4096), "strength": (0, 2), "pixel_boost": (1, 8), "amount": (0, 1),
    "fidelity": (0, 1), "feather": (0, 0.5),
}  # fmt: skip


def check_range(name: str, value: float) -> None:
    """Raises FaceLoomError where ``value`` is out of the range of ``name``, a key of ``RANGES``, or NaN."""
    least, most = RANGES[name]
    if not least <= value <= most:
        raise FaceLoomError(f"{name.replace('_', ' ').capitalize()} must be from {least:g} to {most:g}, not {value}.")
