"""Where the model may paint, step by step. Masks are 1 where the face is replaced; progress runs from 0 (noise) to 1 (picture)."""

from __future__ import annotations

from torch import Tensor

from ..errors import FaceLoomError

BLENDINGS = ("soft", "hard", "target-preserving", "differential")


def step_mask(mask: Tensor, progress: float, blending: str, start: float = 0.0, end: float = 0.6) -> Tensor:
    """The mask of one step, shaped like ``mask``.

    ``soft``: as it is. ``hard``: 0 or 1. ``target-preserving``: DiffFace's ramp (Kim et al. 2022, section 3.4), the hard mask times a
    factor that rises from 0 at ``start`` to 1 at ``end``, so that early steps keep the target's layout and light. ``differential``: a
    pixel joins in when the progress reaches one minus its mask value (Levin and Fried 2023), so that grey pixels change less.
    """
    if blending == "soft":
        return mask
    if blending == "hard":
        return (mask > 0.5).to(mask.dtype)
    if blending == "target-preserving":
        return (mask > 0.5).to(mask.dtype) * ramp(progress, start, end)
    if blending == "differential":
        return ((mask >= 1 - progress) & (mask > 0)).to(mask.dtype)
    raise FaceLoomError(f"blending must be one of {', '.join(BLENDINGS)}, not {blending!r}.")


def ramp(progress: float, start: float, end: float) -> float:
    """0 up to ``start``, 1 from ``end`` on, a straight line between (a step at ``start`` where they are equal)."""
    if end <= start:
        return float(progress >= start)
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def within(progress: float, start: float, end: float) -> bool:
    """Whether guidance acts at this progress."""
    return start <= progress <= end


def preserving_factor(step: int, first: int = 75, full: int = 30) -> float:
    """DiffFace's own schedule: the factor after its spaced step ``step`` (counting down from ``first`` - 1)."""
    return ramp((first - (step + 1)) / first, 0.0, (first - full) / first)
