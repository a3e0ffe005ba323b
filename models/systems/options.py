"""What can be chosen about the diffusion systems where they run as swap engines. Loads no torch: the command line lists it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..runtime.options import Options, Value, option, read_words
from ..swap.load import options_by_method as options_of_networks

# DiffSwap's organs: their features come from the source, as the paper says, or from the target, as the released program does by mistake.
ORGAN_SOURCES = ("source", "released")
# Whose outline DiffSwap repaints and whose landmarks it paints: the target's in two dimensions as released, or in three as in the paper:
# landmarks of the source's face in the target's pose, inside the outline of that face or of both.
SHAPES = ("2-D release", "3-D source", "3-D union")
# DiffFace's guidance: as its released program has it, or as its paper has it.
WEIGHTS = ("released", "paper")

_SEED_HELP = "The noise of the first face; the next faces take the numbers that follow."
_MOST_SEED = 10**15


def _seed(default: int) -> int:
    return option(default, _SEED_HELP, least=0, most=_MOST_SEED)


def _steps(default: int, help: str = "Steps of denoising.", least: int = 1) -> int:
    return option(default, help, least=least, most=1000)


def _cfg(default: float) -> float:
    return option(default, "Scale of classifier-free guidance.", least=0.0, most=100.0)


@dataclass(frozen=True)
class REFaceOptions(Options):
    """start_from_target: sampling begins with the noised target instead of with noise alone."""

    steps: int = _steps(50)
    seed: int = _seed(0)
    cfg: float = _cfg(3.5)
    start_from_target: bool = option(False, "Starts from the target under the noise instead of from noise alone.")


@dataclass(frozen=True)
class DiffSwapOptions(Options):
    """target_guidance: how much every step drifts to the target. shape, organ_source: one of ``SHAPES`` and of ``ORGAN_SOURCES``."""

    steps: int = _steps(200)
    seed: int = _seed(0)
    target_guidance: float = option(0.01, "How much every step drifts to the target: more keeps its light and expression better, and the "
                                          "source's identity less.", least=0.0, most=1.0)
    shape: str = option(SHAPES[0], "Repaints the hull of the target's landmarks, or the source's face in the target's pose.",
                        choices=SHAPES)
    organ_source: str = option(ORGAN_SOURCES[0], "Where the look of eyes, nose and mouth comes from.", choices=ORGAN_SOURCES)


@dataclass(frozen=True)
class DiffFaceOptions(Options):
    """steps: of the whole noise schedule, of which the first quarter is left out, as published. repeats: attempts at each face."""

    steps: int = _steps(100, "Steps of the whole noise schedule, of which the first quarter is left out.", least=2)
    seed: int = _seed(404)
    repeats: int = option(4, "Tries per face; the most alike is taken.", least=1, most=64)
    weights: str = option(WEIGHTS[0], "How firmly likeness, expression and gaze guide.", choices=WEIGHTS)


@dataclass(frozen=True)
class FaceAdapterOptions(Options):
    """base: a folder with Stable Diffusion 1.5 in diffusers' layout, which is painted with."""

    steps: int = _steps(25)
    seed: int = _seed(0)
    cfg: float = _cfg(5.0)
    base: str = option("", "The folder of a Stable Diffusion 1.5 model in diffusers' layout, which must be named.")


# The options of every diffusion system by the name of its method.
OPTIONS: Mapping[str, type[Options]] = {
    "REFace": REFaceOptions, "Face-Adapter": FaceAdapterOptions, "DiffSwap": DiffSwapOptions, "DiffFace": DiffFaceOptions,
}  # fmt: skip


def options_by_engine() -> Mapping[str, type[Options]]:
    """Returns the options of every swap engine that has any, networks first, by the method's name."""
    return {**options_of_networks(), **OPTIONS}


def read_engine_options(words: Iterable[str]) -> dict[str, Value]:
    """Reads ``NAME=VALUE`` words; FaceLoomError where no engine has such an option or takes such a value."""
    return read_words(words, options_by_engine().values())
