"""The table of every model file FaceLoom knows: where it is published, its hash, its licence and how it wants to be fed.

The data is ``catalogue.json``, one row per file; this module only reads it. A contract is written in one convention whatever the
network's own: a picture is RGB 0..1, ``(picture - mean) / std`` goes in, ``answer * output_std + output_mean`` comes out.
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

from ..errors import FaceLoomError
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


@dataclass(frozen=True)
class SwapContract:
    """How a one-shot swap network wants its crop and its identity, and what it answers.

    Crop: ``template`` (a key of ``geometry.TEMPLATES``) at ``size`` pixels (None: the graph says), ``mean`` and ``std`` per channel in
    ``color`` order (``rgb`` or ``bgr``), ``layout`` ``nchw`` or ``nhwc``.
    Answer: output number ``picture_output``, turned into a picture with ``output_mean`` and ``output_std``; ``mask_outputs`` are the
    numbers of the one-channel outputs whose minimum is the network's own mask (none: it has none; exports that lack them are fine). The
    numbers count in ``outputs``, the published names, where the graph has these; else in the graph's own order.

    Identity, in this order:
    ``source`` is ``embedding``, ``image`` or ``none`` (the person is in the weights).
    Embedding: the vector of a recognizer with this ``space``; made a unit vector if ``unit``, else of the recognizer's own length.
    ``adapter``: the catalogue name of a second recognizer whose unit vector is added. ``converter``: the catalogue name of the network
    that turns it into the engine's own space. ``emap``: multiplied by the 512×512 matrix among the graph's initializers.
    ``latent_unit``: the outcome is made a unit vector.
    Image: a crop of the source photo at ``source_template``, ``source_size``, ``source_mean``, ``source_std``, in the order ``color``.

    ``source_input`` and ``target_input`` are the graph's input names; None where exports differ (then the shapes tell them apart).
    """

    template: str
    size: int | None
    mean: Triple = (0, 0, 0)
    std: Triple = (1, 1, 1)
    color: str = "rgb"
    layout: str = "nchw"
    output_mean: Triple = (0, 0, 0)
    output_std: Triple = (1, 1, 1)
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


@dataclass(frozen=True)
class NetContract:
    """How every other network wants its picture; the same convention as ``Contract``.

    family: which code reads the answer (``scrfd``, ``yolov8``, ``yunet``, ``arcface``, ``bisenet``, ``xseg``, ``sam``, ``codeformer`` ...).
    template: None for networks that see no aligned crop. size: input edge, None where any size goes. space: of a recognizer or, for a
    converter, what comes out. fidelity: input name of a restorer's fidelity weight.
    """

    family: str
    size: int | None = None
    template: str | None = None
    mean: Triple = (0, 0, 0)
    std: Triple = (1, 1, 1)
    color: str = "rgb"
    layout: str = "nchw"
    output_mean: Triple = (0, 0, 0)
    output_std: Triple = (1, 1, 1)
    space: str | None = None
    fidelity: str | None = None


@dataclass(frozen=True)
class Row:
    """One file.

    folder: below the models folder, where a download goes. aliases: names other programs give the same model. urls: https, best first;
    empty where it can only be fetched by hand from ``page``. packs: names of the zip archives that hold it under one of its names.
    bytes and crc32: None where unknown. sha256: None where unpinned (the first download is remembered and later ones must match).
    also: sha256 of other exports that answer to the same contract. commercial: None where unknown. loads: of a research file, the kind
    whose loader opens it (``swap``: an engine); None for those that other files need beside them.
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
        """Every file name it goes by; research files also as ``models convert`` writes them, unless only their suffix tells them."""
        stem = Path(self.file).stem
        converted = (f"{stem}.safetensors",) if self.kind == "research" and stem != "*" else ()
        return tuple(dict.fromkeys((self.file, *self.aliases, *converted)))

    @property
    def hashes(self) -> tuple[str, ...]:
        """Every sha256 it is known by."""
        return ((self.sha256,) if self.sha256 else ()) + self.also

    @property
    def by_hand(self) -> bool:
        """Whether nothing but a web page is known."""
        return not self.urls and not self.packs

    @property
    def terms(self) -> str:
        """Licence and commercial use in a few words."""
        use = {True: "commercial use allowed", False: "no commercial use", None: "commercial use unclear"}[self.commercial]
        said = self.commercial is False and "non-commercial" in self.licence
        return self.licence if said else f"{self.licence}, {use}"


def _tuples(values: dict) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _pinned(sha256: str) -> str | None:
    return None if sha256 == "unpinned" else sha256


def parse_row(data: Mapping) -> Row:
    """A row from its JSON object. Unknown keys are an error, so that a slip of the pen is found by the tests."""
    values = _tuples(dict(data))
    contract = values.pop("contract", None)
    unknown = set(values) - {field.name for field in fields(Row)}
    if unknown or values.get("kind") not in KINDS:
        what = ", ".join(sorted(unknown)) or values.get("kind")
        raise FaceLoomError(f"The catalogue row {data.get('name')} has unknown keys or an unknown kind: {what}.")
    if contract is not None:
        contract = (SwapContract if values["kind"] == "swap" else NetContract)(**_tuples(contract))
    values["sha256"] = _pinned(values["sha256"])
    return Row(contract=contract, **values)


@dataclass(frozen=True)
class Pack:
    """A zip archive and the rows that come out of it."""

    name: str
    url: str
    sha256: str | None
    rows: tuple[Row, ...]


@cache
def _data() -> dict:
    return json.loads((Path(__file__).parent / "catalogue.json").read_text(encoding="utf-8"))


@cache
def catalogue() -> Mapping[str, Row]:
    """All rows by name, in the file's order."""
    return MappingProxyType({row["name"]: parse_row(row) for row in _data()["rows"]})


def rows(kind: str | None = None) -> tuple[Row, ...]:
    """All rows of a kind."""
    return tuple(row for row in catalogue().values() if kind in (None, row.kind))


@cache
def packs() -> Mapping[str, Pack]:
    """The zip archives by name (``buffalo_l`` ...)."""
    return MappingProxyType({
        name: Pack(name, data["url"], _pinned(data["sha256"]), tuple(row for row in rows() if name in row.packs))
        for name, data in _data()["packs"].items()
    })


@cache
def _by_file_name() -> Mapping[str, Row]:
    return {name.lower(): row for row in reversed(rows()) for name in row.names}


@cache
def _by_hash() -> Mapping[str, Row]:
    return {digest: row for row in reversed(rows()) for digest in row.hashes}


@cache
def _patterns() -> tuple[tuple[str, Row], ...]:
    return tuple((name.lower(), row) for row in rows() if "*" in row.file for name in row.names)


def row_by_file_name(file_name: str) -> Row | None:
    """The row that goes by this file name (case does not matter)."""
    name = os.path.basename(file_name).lower()
    return _by_file_name().get(name) or next((row for pattern, row in _patterns() if fnmatchcase(name, pattern)), None)


def row_by_hash(sha256: str) -> Row | None:
    """The row with this sha256."""
    return _by_hash().get(sha256)


def guess_row(file_name: str, kind: str | None = None) -> Row | None:
    """The row whose name the file's name begins with, ignoring case and punctuation: ``Inswapper-128_mine.onnx`` is like ``inswapper_128``.

    The longest such name wins; None if there is none.
    """
    plain = _plain(Path(file_name).stem)
    likely = [
        (len(stem), row)
        for row in rows(kind)
        for stem in {_plain(Path(name).stem) for name in row.names} | {_plain(row.name)}
        if len(stem) >= 4 and plain.startswith(stem) and "*" not in row.file
    ]
    return max(likely, key=lambda pair: pair[0])[1] if likely else None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def row_by_name(name: str) -> Row:
    """The row with this name or file name."""
    row = catalogue().get(name) or row_by_file_name(name)
    if row is None:
        raise FaceLoomError(f"There is no model called {name}; `{command('models', 'list')}` shows all.{_suggest(name)}")
    return row


def _suggest(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [*catalogue(), *packs()], n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def rows_by_names(names: Iterable[str]) -> tuple[Row, ...]:
    """Rows for names given by a user: row names, file names or pack names; every row once."""
    found: dict[str, Row] = {}
    for name in names:
        for row in packs()[name].rows if name in packs() else (row_by_name(name),):
            found[row.name] = row
    return tuple(found.values())
