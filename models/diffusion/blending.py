"""Where a diffusion model may paint, step by step. Masks are 1 where the face is replaced; progress runs from 0 (noise) to 1 (clean)."""

from __future__ import annotations

from torch import Tensor

from ..errors import FaceLoomError, check_number

BLENDINGS = ("soft", "hard", "target-preserving", "differential")


def step_mask(mask: Tensor, progress: float, blending: str, start: float = 0.0, end: float = 0.6) -> Tensor:
    """Return the mask of one step, shaped like ``mask`` (any shape, 0..1).

    ``soft`` returns it unchanged, ``hard`` rounds it to 0 or 1. ``target-preserving`` is DiffFace's ramp (Kim et al. 2022, section 3.4):
    the hard mask times a factor that rises from 0 at ``start`` to 1 at ``end``, so that early steps keep the target's layout and light.
    ``differential`` sets a pixel to 1 once the progress reaches one minus its mask value (Levin and Fried 2023), so that grey pixels
    change less. Any other word is an error.
    """
    for words, value in (("The start of blending", start), ("The end of blending", end)):
        check_number(words, value, 0, 1)
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
    """Return 0 up to ``start``, 1 from ``end`` on, and a straight line between (a step at ``start`` where ``end`` is not above it)."""
    if end <= start:
        return float(progress >= start)
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def acts_at(progress: float, start: float, end: float) -> bool:
    """Tell whether guidance that acts from ``start`` to ``end`` (both included) acts at this progress."""
    return start <= progress <= end


def target_preserving_factor(step: int, first: int = 75, full: float = 30) -> float:
    """Return DiffFace's mask factor (0..1) after a step of its schedule.

    Steps count down from ``first`` - 1 to 0; from step ``full`` on the factor is 1. The defaults are those of the released program.
    """
    return ramp((first - (step + 1)) / first, 0.0, (first - full) / first)
