"""What can be chosen about the research systems' engines; the defaults are what was published. Data only, so that it can be listed
without loading a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace

from ...errors import FaceLoomError

PUBLISHED, OUTLINE = "as published", "face outline"


@dataclass(frozen=True)
class Options:
    """Choices of one system. one_of: for the fields that name a choice, what they may be."""

    @classmethod
    def one_of(cls) -> Mapping[str, tuple[str, ...]]:
        return {}

    def __post_init__(self) -> None:
        for name, choices in self.one_of().items():
            if getattr(self, name) not in choices:
                raise FaceLoomError(f'{_words(name)} must be one of {", ".join(choices)}, not "{getattr(self, name)}".')

    def changed(self, owner: str, **values) -> Options:
        """These with other values. ``owner``: what an engine is called in the error about an option it does not have."""
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                raise FaceLoomError(f"{owner} has no option {name}; it has {', '.join(known) or 'none'}.")
        return replace(self, **values)


@dataclass(frozen=True)
class GhostOptions(Options):
    """enhance: ``off``, ``eval`` (the super-resolution network's stored statistics) or ``as published`` (those of the picture itself, one
    at a time). templates: all ``five``, of which the one that fits best is taken, or only the ``frontal`` one, as ports to ONNX have it.

    mask: its parameters are chosen for ``each face`` (as published for pictures), kept from the first frame over a ``whole clip`` while
    the face is in every frame (as published for video), or are ``own numbers``: ``shrink`` pixels of 224 (grows where negative),
    ``blur_x`` and ``blur_y``, sigmas in those pixels. ``face outline`` needs no landmarks.
    """

    enhance: str = "off"
    templates: str = "five"
    mask: str = "each face"
    shrink: int = 5
    blur_x: float = 5.0
    blur_y: float = 5.0

    @classmethod
    def one_of(cls) -> Mapping[str, tuple[str, ...]]:
        return {"enhance": ("off", "eval", "as published"), "templates": ("five", "frontal"),
                "mask": ("each face", "whole clip", "own numbers", OUTLINE)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blur_x <= 0 or self.blur_y <= 0:
            raise FaceLoomError("The blurs of GHOST's mask must be more than 0.")


@dataclass(frozen=True)
class ReliableSwapOptions(Options):
    """align: False does as the command-line program, which forgets to move the source to ArcFace's alignment (FaceShifter form only).
    mask: as published, hair and background stay the target's, which needs a face parser; or the face's outline."""

    align: bool = True
    mask: str = PUBLISHED

    @classmethod
    def one_of(cls) -> Mapping[str, tuple[str, ...]]:
        return {"mask": (PUBLISHED, OUTLINE)}


@dataclass(frozen=True)
class SimSwapOptions(Options):
    """mask: as published, the parsed face and mouth, eroded softly, which needs a face parser; or the face's outline."""

    mask: str = PUBLISHED

    @classmethod
    def one_of(cls) -> Mapping[str, tuple[str, ...]]:
        return {"mask": (PUBLISHED, OUTLINE)}


@dataclass(frozen=True)
class MegaFSOptions(Options):
    """stretch: a picture's darkest and brightest values become black and white; False shows StyleGAN2's own range. refine: encode the
    pasted face again and regenerate it (the published program computes that and shows the first picture); needs a face parser.
    mask: as published, the parsed face and mouth, eroded softly, which needs a face parser; or the face's outline."""

    stretch: bool = True
    refine: bool = False
    mask: str = PUBLISHED

    @classmethod
    def one_of(cls) -> Mapping[str, tuple[str, ...]]:
        return {"mask": (PUBLISHED, OUTLINE)}


@dataclass(frozen=True)
class FaceDancerOptions(Options):
    """mask: the published soft rectangle, the ``low rectangle`` of the older video program, or the face's outline."""

    mask: str = "rectangle"

    @classmethod
    def one_of(cls) -> Mapping[str, tuple[str, ...]]:
        return {"mask": ("rectangle", "low rectangle", OUTLINE)}


@dataclass(frozen=True)
class FSLSDOptions(Options):
    """hair: the mask the decoder blends by takes the hair in, as published. grow: pixels of 1024 by which that mask is dilated."""

    hair: bool = True
    grow: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.grow <= 512:
            raise FaceLoomError(f"FSLSD's mask can grow by 0 to 512 pixels, not {self.grow}.")


@dataclass(frozen=True)
class DeepfakesOptions(Options):
    """swap: whose face is drawn, of the two the file was trained on. centering and coverage (per cent): how faces were cut out for the
    training. mask: hulls of the landmarks with (``extended``) or without (``components``) raised brows, what the network ``predicted``,
    what a face parser ``parsed``, the ``whole square``, or the face's outline. erode: per cent of its radius by which the mask shrinks
    (grows where negative). color: ``average`` gives the drawn face the mean colour of the target's."""

    swap: str = "A to B"
    mask: str = "extended"
    erode: float = 0.0
    color: str = "average"
    centering: str = "face"
    coverage: float = 100.0

    @classmethod
    def one_of(cls) -> Mapping[str, tuple[str, ...]]:
        return {"swap": ("A to B", "B to A"), "mask": ("extended", "components", "predicted", "parsed", "whole square", OUTLINE),
                "color": ("average", "none"), "centering": ("face", "legacy", "head")}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 62.5 <= self.coverage <= 100:
            raise FaceLoomError(f"Coverage must be from 62.5 to 100 per cent, not {self.coverage}.")
        if not -100 <= self.erode <= 100:
            raise FaceLoomError(f"A mask can shrink by -100 to 100 per cent, not {self.erode}.")


SYSTEMS: Mapping[str, type[Options]] = {
    "GHOST": GhostOptions, "ReliableSwap": ReliableSwapOptions, "SimSwap": SimSwapOptions, "MegaFS": MegaFSOptions,
    "FaceDancer": FaceDancerOptions, "FSLSD": FSLSDOptions,
    "deepfakes": DeepfakesOptions,
}  # fmt: skip


def with_options(engine, system: str, **values):
    """``engine`` with options of a system of ``SYSTEMS``; its networks are shared, and ``engine`` stays as it is."""
    options = getattr(engine, "options", None)
    own = next((name for name, kind in SYSTEMS.items() if isinstance(options, kind)), None)
    if own != system:
        has = f"is {own}; choose the options of {own}" if own else "has no options; connect it to One-Shot Swap directly"
        raise FaceLoomError(f"These are the options of {system}, but {engine.name} {has}.")
    return engine.with_options(**values)


def read_options(words: Iterable[str]) -> dict[str, str | bool | int | float]:
    """Values by name of ``NAME=VALUE`` words, as the systems' options have them; the last of a name holds."""
    kinds = {field.name: field.type for system in SYSTEMS.values() for field in fields(system)}
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise FaceLoomError(f'An engine option is written NAME=VALUE, such as "mask={OUTLINE}", not "{word}".')
        if name not in kinds:
            raise FaceLoomError(f"No engine has an option {name}; there are {', '.join(kinds)}.")
        read, wanted = READERS[kinds[name]]
        try:
            values[name] = read(text)
        except (KeyError, ValueError):
            raise FaceLoomError(f'{_words(name)} must be {wanted}, not "{text}".') from None
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


# How a value is read from words, by the type of its field, and what it must be.
READERS: Mapping[str, tuple[Callable[[str], str | bool | int | float], str]] = {
    "str": (str, "words"), "bool": ({"on": True, "off": False}.__getitem__, "on or off"), "int": (int, "a whole number"),
    "float": (_finite, "a number"),
}  # fmt: skip


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
