"""The table of every model file FaceLoom knows: where it is published, its hash, its licence and what its network takes and gives.

The data is ``catalogue.json``, one row per file; this module only reads it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import MappingProxyType

from ..errors import FaceLoomError, given
from .terminal import command

Triple = tuple[float, float, float]

KINDS = {
    "swap": "a swap model",
    "converter": "an embedding converter",
    "detector": "a face detector",
    "landmarker": "a landmark model",
    "recognizer": "a face recognizer",
    "attributes": "an age and sex model",
    "parser": "a face parser",
    "occluder": "an occlusion model",
    "restorer": "a face restorer",
    "research": "a research checkpoint",
}


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How a network takes an image and gives one back.

    The same convention for every network: an image is RGB in 0..1; ``(image - mean) / std`` goes in and ``output * output_std +
    output_mean`` comes out. color: the order of the channels, ``rgb`` or ``bgr``, in which ``mean`` and ``std`` are given too.
    layout: ``nchw`` or ``nhwc``.
    """

    mean: Triple = (0, 0, 0)
    std: Triple = (1, 1, 1)
    color: str = "rgb"
    layout: str = "nchw"
    output_mean: Triple = (0, 0, 0)
    output_std: Triple = (1, 1, 1)


@dataclass(frozen=True)
class SwapContract(PixelFormat):
    """What a one-shot swap network takes and gives.

    Crop: ``template`` (a key of ``crops.templates.TEMPLATES``) at ``size`` pixels (None: the graph states it).
    Output: number ``picture_output`` is the swapped crop. ``mask_outputs`` are the numbers of the one-channel outputs whose minimum is the
    network's own mask (none: it has none; exports that lack them are accepted). Numbers count in ``outputs``, the published names, where
    the graph has these; else in the graph's own order.

    Identity: ``source`` is ``embedding``, ``image`` or ``none`` (the person is in the weights).
    An embedding is made in this order. It is the vector of a recognizer with this ``space``, scaled to unit length if ``unit``, else of
    the length that the recognizer gives. ``adapter``: the catalogue name of a second recognizer whose unit vector is added.
    ``converter``: the catalogue name of the network that turns the vector into the engine's own space. ``emap``: the vector is multiplied
    by the 512×512 matrix among the graph's initializers. ``latent_unit``: what comes out is scaled to unit length.
    An image is a crop of the source photo at ``source_template``, ``source_size``, ``source_mean`` and ``source_std``, in the order
    ``color``.

    ``source_input`` and ``target_input`` are the names of the graph's inputs; None where exports differ (then shapes tell them apart).
    """

    template: str
    size: int | None
    picture_output: int = 0
    mask_outputs: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ()
    source: str = "embedding"
    space: str | None = None
    unit: bool = True
    adapter: str | None = None
    converter: str | None = None
    emap: bool = False
    latent_unit: bool = False
    source_template: str | None = None
    source_size: int | None = None
    source_mean: Triple = (0, 0, 0)
    source_std: Triple = (1, 1, 1)
    source_input: str | None = None
    target_input: str | None = None

    @property
    def embedding_space(self) -> str:
        """The ``space`` of a network that takes an embedding; FaceLoomError for any other."""
        return given(self.space, "A swap network that takes an embedding needs a contract that states its space; fetch the file again.")

    @property
    def fixed_size(self) -> int:
        """The ``size``, after the graph has been asked; FaceLoomError where neither states it."""
        return given(self.size, "A swap network needs a contract or a graph that states its size; fetch the file again.")


@dataclass(frozen=True)
class NetContract(PixelFormat):
    """What every other network takes and gives.

    family: which code reads the output (``scrfd``, ``yolov8``, ``yunet``, ``arcface``, ``bisenet``, ``xseg``, ``sam``, ``codeformer`` ...).
    size: edge of the input in pixels; None where any size goes. template: of the crop; None for networks that take no aligned crop.
    space: the name of the embeddings that a recognizer makes or that a converter turns others into. fidelity: the name of a restorer's
    input for the fidelity weight; None where it has none.
    """

    family: str
    size: int | None = None
    template: str | None = None
    space: str | None = None
    fidelity: str | None = None

    @property
    def fixed_size(self) -> int:
        """The ``size`` of a network that has one; FaceLoomError where any size goes."""
        if self.size is None:
            raise FaceLoomError(f"A network of the {self.family} family needs a contract that states its size; fetch the file again.")
        return self.size

    @property
    def crop_template(self) -> str:
        """The ``template`` of a network that takes an aligned crop; FaceLoomError for any other."""
        if self.template is None:
            raise FaceLoomError(f"A network of the {self.family} family needs a contract that states its template; fetch the file again.")
        return self.template


def as_net_contract(contract: SwapContract | NetContract | None) -> NetContract:
    """Return a contract that must be a ``NetContract``; FaceLoomError for that of a swap model, and where there is none."""
    if not isinstance(contract, NetContract):
        raise FaceLoomError("This file has no contract that a network of its kind can be held to; choose another file.")
    return contract


def as_swap_contract(contract: SwapContract | NetContract | None) -> SwapContract:
    """Return a contract that must be a ``SwapContract``; FaceLoomError for that of another kind, and where there is none."""
    if not isinstance(contract, SwapContract):
        raise FaceLoomError("This file has no contract that a swap model can be held to; choose another file.")
    return contract


@dataclass(frozen=True)
class Row:
    """What is known of one model file.

    kind: a key of ``KINDS``. folder: below the models folder, where a download goes. vendor: who published it. urls: https addresses, best
    first; empty where the file has to be fetched by hand from ``page``. packs: names of the zip archives that hold it under one of its
    names. aliases: names other programs give the same model. commercial: whether commercial use is allowed; None where unknown.
    bytes, crc32: None where unknown. sha256: None where unpinned (the hash of the first download is recorded and later ones must match).
    also: sha256 of other exports with the same contract. loads: of a research file, the kind whose loader opens it (``swap``: an engine);
    None for files that only others need beside them.
    """

    name: str
    kind: str
    file: str
    folder: str
    licence: str
    commercial: bool | None
    vendor: str
    urls: tuple[str, ...] = ()
    packs: tuple[str, ...] = ()
    page: str | None = None
    aliases: tuple[str, ...] = ()
    bytes: int | None = None
    sha256: str | None = None
    also: tuple[str, ...] = ()
    crc32: str | None = None
    contract: SwapContract | NetContract | None = None
    note: str = ""
    loads: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All file names of this model, its own first. Research files also go by the name that ``models convert`` gives them, unless only
        their suffix tells what they are."""
        stem = Path(self.file).stem
        converted = (f"{stem}.safetensors",) if self.kind == "research" and stem != "*" else ()
        return tuple(dict.fromkeys((self.file, *self.aliases, *converted)))

    @property
    def hashes(self) -> tuple[str, ...]:
        """All sha256 that the file may have."""
        return ((self.sha256,) if self.sha256 else ()) + self.also

    @property
    def by_hand(self) -> bool:
        """Whether the file cannot be downloaded by a program: only a web page is known."""
        return not self.urls and not self.packs

    @property
    def terms(self) -> str:
        """Licence and commercial use in a few words."""
        use = {True: "commercial use allowed", False: "no commercial use", None: "commercial use unclear"}[self.commercial]
        licence_says_so = self.commercial is False and "non-commercial" in self.licence
        return self.licence if licence_says_so else f"{self.licence}, {use}"


def _with_tuples(values: Mapping) -> dict:
    """Copy a JSON object with tuples for its lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _sha256_or_none(sha256: str) -> str | None:
    return None if sha256 == "unpinned" else sha256


def parse_row(data: Mapping) -> Row:
    """Make a row of its JSON object. FaceLoomError for unknown keys and kinds, so that the tests find misspelt ones."""
    values = _with_tuples(data)
    contract = values.pop("contract", None)
    unknown = set(values) - {field.name for field in fields(Row)}
    if unknown or values.get("kind") not in KINDS:
        wrong = ", ".join(sorted(unknown)) or values.get("kind")
        raise FaceLoomError(f"The catalogue row {data.get('name')} has unknown keys or an unknown kind: {wrong}.")
    if contract is not None:
        contract = (SwapContract if values["kind"] == "swap" else NetContract)(**_with_tuples(contract))
    values["sha256"] = _sha256_or_none(values["sha256"])
    return Row(contract=contract, **values)


@dataclass(frozen=True)
class Pack:
    """A zip archive of several models, and the rows of those it holds."""

    name: str
    url: str
    sha256: str | None
    rows: tuple[Row, ...]


@cache
def _data() -> dict:
    return json.loads((Path(__file__).parent / "catalogue.json").read_text(encoding="utf-8"))


@cache
def catalogue() -> Mapping[str, Row]:
    """Return all rows by name, in the order of ``catalogue.json``."""
    return MappingProxyType({row["name"]: parse_row(row) for row in _data()["rows"]})


def rows(kind: str | None = None) -> tuple[Row, ...]:
    """Return all rows of a kind, or of every kind."""
    return tuple(row for row in catalogue().values() if kind in (None, row.kind))


@cache
def packs() -> Mapping[str, Pack]:
    """Return the zip archives by name (``buffalo_l`` ...)."""
    return MappingProxyType({
        name: Pack(name, data["url"], _sha256_or_none(data["sha256"]), tuple(row for row in rows() if name in row.packs))
        for name, data in _data()["packs"].items()
    })


@cache
def _by_file_name() -> Mapping[str, Row]:
    return {name.lower(): row for row in reversed(rows()) for name in row.names}


@cache
def _by_hash() -> Mapping[str, Row]:
    return {digest: row for row in reversed(rows()) for digest in row.hashes}


@cache
def _by_pattern() -> tuple[tuple[str, Row], ...]:
    """Pairs of a pattern such as ``*.dfm`` and the row for files of any name that match it."""
    return tuple((name.lower(), row) for row in rows() if "*" in row.file for name in row.names)


def row_by_file_name(file_name: str) -> Row | None:
    """Find the row with this file name, whatever its case and folder; None if there is none."""
    name = os.path.basename(file_name).lower()
    return _by_file_name().get(name) or next((row for pattern, row in _by_pattern() if fnmatchcase(name, pattern)), None)


def row_by_hash(sha256: str) -> Row | None:
    """Find the row of the file with this sha256; None if there is none."""
    return _by_hash().get(sha256)


def guess_row(file_name: str, kind: str | None = None) -> Row | None:
    """Find the row whose name a file's name begins with, ignoring case and punctuation: ``Inswapper-128_mine.onnx`` is taken for
    ``inswapper_128``. Of several rows the one with the longest name is returned, None if there is none. kind: only rows of this kind.
    """
    letters = _letters_and_digits(Path(file_name).stem)
    matches = [
        (len(name), row)
        for row in rows(kind)
        for name in {_letters_and_digits(Path(known).stem) for known in row.names} | {_letters_and_digits(row.name)}
        if len(name) >= 4 and letters.startswith(name) and "*" not in row.file
    ]
    return max(matches, key=lambda pair: pair[0])[1] if matches else None


def _letters_and_digits(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def row_by_name(name: str) -> Row:
    """Find the row with this name or file name. FaceLoomError, with similar names, if there is none."""
    row = catalogue().get(name) or row_by_file_name(name)
    if row is None:
        raise FaceLoomError(f"There is no model called {name}; `{command('models', 'list')}` shows all.{_suggest(name)}")
    return row


def _suggest(name: str) -> str:
    """Return the sentence that offers up to three names like this one, "" where there are none."""
    from difflib import get_close_matches

    close = get_close_matches(name, [*catalogue(), *packs()], n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def rows_by_names(names: Iterable[str]) -> tuple[Row, ...]:
    """Find the rows for names given by a user: row names, file names or pack names. Every row is returned once."""
    found: dict[str, Row] = {}
    for name in names:
        for row in packs()[name].rows if name in packs() else (row_by_name(name),):
            found[row.name] = row
    return tuple(found.values())
