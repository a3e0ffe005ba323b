"""Options of a method: a frozen dataclass whose fields say what each option does and which values it takes.

Node widgets, the command line's help and the tables of docs/ are made from these fields, so an option is written once. Nothing heavy is
imported here or where options are declared: they are listed without opening a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from ..errors import FaceLoomError

Value = str | bool | int | float
Chosen = TypeVar("Chosen", bound="Options")


def option(default: Value, help: str, *, choices: tuple[str, ...] = (), least: float | None = None, most: float | None = None,
           step: float | None = None, unit: str = "", under: tuple[str, str] | None = None) -> Any:
    """Declares one option of an ``Options`` dataclass.

    default: the value as published; its type (str, bool, int, float) is the option's type. help: one or two sentences for the widget and
    the command line. choices: every value a word may be. least, most, step: of a number. unit: what a number counts, for error messages
    (``"pixels"``). under: name and choice of the option this one belongs to; it has a meaning only with that choice.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "least": least, "most": most, "step": step, "unit": unit,
                                            "under": under})


@dataclass(frozen=True)
class Options:
    """Options of one method; a subclass declares its fields with ``option``."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises FaceLoomError where a value is not among the choices, of another type, or outside its range."""
        for each in fields(self):
            check_value(each.name, getattr(self, each.name), each.default, each.metadata)

    def changed(self: Chosen, owner: str, **values: Value) -> Chosen:
        """Returns these options with other ``values``. owner: what the method is called in the error about an option it does not have."""
        known = [each.name for each in fields(self)]
        for name in values:
            if name not in known:
                raise FaceLoomError(f"{owner} has no option {name}; it has {', '.join(known) or 'none'}.")
        return replace(self, **values)


def check_value(name: str, value: Value, default: object, about: Mapping[str, Any]) -> None:
    """Raises FaceLoomError unless ``value`` is of the default's type and within the choices or the range of ``about``."""
    if about["choices"]:
        if value not in about["choices"]:
            raise FaceLoomError(f'{in_words(name)} must be one of {", ".join(about["choices"])}, not "{value}".')
        return
    least, most = about["least"], about["most"]
    if isinstance(default, bool) or least is None:
        return
    if not isinstance(value, int | float) or not least <= value <= most or (isinstance(default, int) and value != int(value)):
        unit = f" {about['unit']}" if about["unit"] else ""
        what = "a whole number " if isinstance(default, int) else ""
        raise FaceLoomError(f"{in_words(name)} must be {what}from {least:g} to {most:g}{unit}, not {value}.")


def read_words(words: Iterable[str], kinds: Iterable[type[Options]]) -> dict[str, Value]:
    """Reads ``NAME=VALUE`` words of the command line; the last word of a name holds.

    kinds: the options there are. A name that none of them has, and a value that none of them takes, is an error.
    """
    kinds = list(kinds)
    declared: dict[str, list[type[Options]]] = {}
    for kind in kinds:
        for each in fields(kind):
            declared.setdefault(each.name, []).append(kind)
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise FaceLoomError(f'An engine option is written NAME=VALUE, such as "mask=face outline", not "{word}".')
        if name not in declared:
            raise FaceLoomError(f"No engine has an option {name}; there are {', '.join(declared)}.")
        values[name] = _read_value(name, text, declared[name])
    return values


def _read_value(name: str, text: str, kinds: list[type[Options]]) -> Value:
    """The value of an option that several methods may have; FaceLoomError of the last one where none of them takes it."""
    refused: FaceLoomError | None = None
    for kind in kinds:
        default = next(each.default for each in fields(kind) if each.name == name)
        read, wanted = READERS[type(default)]
        try:
            value = read(text)
        except (KeyError, ValueError):
            refused = FaceLoomError(f'{in_words(name)} must be {wanted}, not "{text}".')
            continue
        try:
            kind(**{name: value})
        except FaceLoomError as error:
            refused = error
            continue
        return value
    assert refused is not None
    raise refused


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


# How a value is read from words, by the type of its option, and what it must be.
READERS: Mapping[type, tuple[Callable[[str], Value], str]] = {
    str: (str, "words"), bool: ({"on": True, "off": False}.__getitem__, "on or off"), int: (int, "a whole number"),
    float: (_finite, "a number"),
}  # fmt: skip


def in_words(name: str) -> str:
    """Returns an option's name as the start of a sentence: ``blur_x`` is ``Blur x``."""
    return name.replace("_", " ").capitalize()
