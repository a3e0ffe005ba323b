"""How a stage finds the method for a file: every method declares itself in one ``Method``, every stage has one tuple of them.

``models/<stage>/load.py`` holds the stage's tuple and the one function that opens everything the stage can open; nodes and command line
call that function. A new method is one file, which ends with its ``Method``, and one row in the tuple.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload, runtime_checkable

from ..errors import FaceLoomError
from ..files.catalogue import KINDS, NetContract, Row, SwapContract
from ..files.contents import Contents
from ..files.damaged import check_model_file
from ..files.find import FoundFile, find_by_path_or_name, find_companion
from ..files.folders import Folders, default_folders
from .options import Options, Value

if TYPE_CHECKING:
    from .devices import DeviceManager

Model = TypeVar("Model", covariant=True)


@dataclass(frozen=True)
class Loading:
    """What a file is opened with.

    folders: where models and companion files are looked for. providers: where ONNX graphs run, see ``runtime.open_session``. devices: who
    moves torch networks; None: the CPU. half: networks that were published in half precision, or are proven in it, are opened in it.
    parser (``parse.Parser``), landmarker (``face3d.points106.Landmarker``) and recognizer (``identity.Recognizer``): helpers that are
    connected; where one is None, a method that needs it looks for its file in ``folders``. contract: held to instead of the catalogue's.
    """

    folders: Folders = field(default_factory=default_folders)
    providers: str | Sequence[str] = "auto"
    devices: DeviceManager | None = None
    half: bool = False
    parser: Any = None
    landmarker: Any = None
    recognizer: Any = None
    contract: SwapContract | NetContract | None = None


@runtime_checkable
class HasModel(Protocol):
    """Something around one network. model: its ``TorchModel`` or ``OnnxModel``."""

    model: Any


@runtime_checkable
class HasNote(Protocol):
    """Something with a note to the user. note: what is missing, or which terms hold; "" where there is nothing to say."""

    note: str


@dataclass(frozen=True)
class Companion:
    """A file that another file needs beside it. row: its name in the catalogue. called: what error messages call it."""

    row: str
    called: str

    @overload
    def find(self, path: Path, loading: Loading, needed: Literal[True] = True) -> Path: ...
    @overload
    def find(self, path: Path, loading: Loading, needed: bool) -> Path | None: ...

    def find(self, path: Path, loading: Loading, needed: bool = True) -> Path | None:
        """Returns the companion of ``path``: in the same folder, else where the models folders have it; as safetensors where it was
        converted. FaceLoomError says how to get a missing one, unless it is not ``needed``."""
        found = find_companion(path, self.row, folders=loading.folders, what=self.called, needed=needed)
        converted = found and found.with_suffix(".safetensors")
        return converted if converted and converted.is_file() else found


def any_file(file: Contents) -> bool:
    """Recognizes every file: for the last row of a stage, which says in its own words what is wrong with a file."""
    return True


def has_suffix(*suffixes: str) -> Callable[[Contents], bool]:
    """Recognizes files by their suffix, in small letters with its dot."""
    return lambda file: file.suffix in suffixes


def is_row(name: str, otherwise: Callable[[Contents], bool]) -> Callable[[Contents], bool]:
    """Recognizes the file of one catalogue row by its name; of files the catalogue does not know those that ``otherwise`` recognizes. For
    files of gigabytes, which are read for a question about their tensors."""
    return lambda file: file.row.name == name if file.row else otherwise(file)


@dataclass(frozen=True)
class Method(Generic[Model]):
    """One way to do a stage's work.

    name: what the command line and messages call it. open: ``open(file, loading, **options)`` returns the model; the file is None for a
    built-in method. recognizes: whether a file is this method's, from what is cheaply read of it (suffix, telling tensors, graph ports).
    label: of a built-in method, which needs no file: its entry in a loader node's list.

    kind: which rows of the catalogue are its files. families: of which contract families only; None: of any. suffixes: the files of the
    kind's folders that a loader node lists. folders: folders of its own below the models folder, whose files are listed too.
    companions: files that its files need. options: what can be chosen about it, None: nothing.
    """

    name: str
    open: Callable[..., Model]
    recognizes: Callable[[Contents], bool] = lambda file: False
    label: str = ""
    kind: str = ""
    families: tuple[str, ...] | None = None
    suffixes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    companions: tuple[Companion, ...] = ()
    options: type[Options] | None = None

    def takes(self, row: Row) -> bool:
        """Returns whether a file of this catalogue row can be this method's."""
        of_family = self.families is None or (isinstance(row.contract, NetContract) and row.contract.family in self.families)
        return row.kind == self.kind and of_family


def open_model(methods: Iterable[Method[Model]], kind: str, path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None,
               options: Mapping[str, Value] | None = None) -> Model:
    """Opens a built-in method by its name or label, or a file by its path or its name in the models folders.

    methods: the stage's rows; the first one that recognizes the file opens it. kind: what the file should be (a key of
    ``catalogue.KINDS``). FaceLoomError where the file is damaged or of another kind, where no method recognizes it, and where the method
    does not have one of the options or refuses its value.
    """
    methods, loading, options = tuple(methods), loading or Loading(), options or {}
    if built_in := built_in_method(methods, path_or_name):
        _check_options(built_in, f"The engine {built_in.name} is built in and", options, ", or name a model's file")
        return built_in.open(None, loading, **options)
    file = Contents(find_by_path_or_name(path_or_name, kind, loading.folders))
    check_model_file(file.path)
    _check_kind(file, kind, methods)
    method = next((method for method in methods if method.recognizes(file)), None)
    if method is None:
        raise _unknown(file, kind)
    _check_options(method, f"{file.path.name} is opened as {method.name}, which", options)
    return method.open(file, loading, **options)


def built_in_method(methods: Iterable[Method[Model]], name: object) -> Method[Model] | None:
    """Returns the method that needs no file and has this name or label; None where there is none."""
    return next((method for method in methods if method.label and name in (method.name, method.label)), None)


def _check_kind(file: Contents, kind: str, methods: Sequence[Method]) -> None:
    """Raises where the catalogue says that the file is of another stage."""
    if file.row and file.row.kind != kind and not any(method.takes(file.row) for method in methods):
        raise FaceLoomError(f"{file.path.name} is {KINDS[file.row.kind]}, not {KINDS[kind]}; load it with the node for that.")


def _check_options(method: Method, subject: str, options: Mapping[str, Value], instead: str = "") -> None:
    """Raises before anything is opened where the method does not have an option or refuses its value."""
    if method.options:
        method.options().changed(method.name, **options)
    elif options:
        raise FaceLoomError(f"{subject} has no options; leave {', '.join(options)} out{instead}.")


def _unknown(file: Contents, kind: str) -> FaceLoomError:
    what = KINDS[kind].split(" ", 1)[1]
    holds = f"; its first weights are {', '.join(list(file.tensors)[:3])}" if file.tensors else ""
    return FaceLoomError(f"{file.path.name} is no {what} FaceLoom knows{holds}.")
