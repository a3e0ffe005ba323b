"""Lists the model files that loader nodes offer, opens the chosen one, and says where it runs and under which licence."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import folder_paths
import torch
from comfy_api.latest import io

from ..models.errors import FaceLoomError
from ..models.files.catalogue import Row, rows
from ..models.files.find import Choice, FoundFile, check_name, find_by_name, list_choices, list_research_files
from ..models.files.folders import FOLDER_DEPTHS, MODEL_SUFFIXES, OTHER_KEYS, Folders, default_folders
from ..models.runtime.devices import TorchModel
from ..models.runtime.method import HasModel, HasNote, Loading, Method, built_in_method
from ..models.runtime.onnx import OnnxModel
from ._devices import ComfyDevices, half, show_patcher
from ._inputs import FileList
from ._runtime import listener, show
from ._schema import Node

Model = TypeVar("Model")

NOT_HERE = " (not downloaded)"
NONE = "none"
BUILT_IN = "built in, no file is needed"

PROVIDERS: dict[str, str | Sequence[str]] = {
    "auto": "auto", "CUDA": "cuda", "TensorRT": "tensorrt", "DirectML": "directml", "CoreML": "coreml", "OpenVINO": "openvino",
    "ROCm": ("rocm", "migraphx"), "CPU": "cpu",
}  # fmt: skip


def register_folders() -> None:
    """Tells ComfyUI which folders hold face models. Those that a user or another pack named stay, and stay in front.

    Lists of other packs show what ComfyUI's suffixes let through, in folders that nobody named before, too: our own suffixes are ours
    alone, for our loaders list files by themselves.
    """
    for key in FOLDER_DEPTHS:
        folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))
        paths, suffixes = folder_paths.folder_names_and_paths[key]
        if not suffixes:
            own = MODEL_SUFFIXES if key == "faceloom" else folder_paths.supported_pt_extensions
            folder_paths.folder_names_and_paths[key] = (paths, set(own))


def folders() -> Folders:
    """Returns everywhere model files may be, ``extra_model_paths.yaml`` included."""
    named = [key for key in (*FOLDER_DEPTHS, *OTHER_KEYS) if key in folder_paths.folder_names_and_paths]
    return default_folders(folder_paths.models_dir, {key: folder_paths.get_folder_paths(key) for key in named})


def loading(provider: str = "auto", **connected: Any) -> Loading:
    """Returns what a file is opened with in ComfyUI. connected: the helpers of ``Loading`` that came in through sockets."""
    return Loading(folders(), PROVIDERS[provider], ComfyDevices(), half(), **connected)


def list_names(methods: Sequence[Method], kind: str) -> list[str]:
    """Returns what a loader offers: what is built in (``none`` where nothing is), then the files that are here, then those that could be;
    research systems' original files last of each.

    methods: the rows of the stage. kind: of the stage's files, a key of ``catalogue.KINDS``.
    """
    where = folders()
    choices = [choice for each in _kinds(methods, kind) for choice in list_choices(each, where) if _can_open(methods, each, choice)]
    choices += list_research_files(kind, where, [folder for method in methods for folder in method.folders])
    here = [choice.name for choice in choices if choice.path]
    elsewhere = [choice.name + NOT_HERE for choice in choices if not choice.path]
    return [*([method.label for method in methods if method.label] or [NONE]), *here, *elsewhere]


def _kinds(methods: Sequence[Method], kind: str) -> list[str]:
    """Lists the kinds of files that the methods open, the stage's own first."""
    return list(dict.fromkeys([kind, *(method.kind for method in methods if method.suffixes)]))


def _can_open(methods: Sequence[Method], kind: str, choice: Choice) -> bool:
    """Tells whether a method opens files of this suffix and catalogue row. Folders shared with other packs hold files of other kinds."""
    suffixes = {suffix for method in methods if method.kind == kind for suffix in method.suffixes}
    return os.path.splitext(choice.name)[1].lower() in suffixes and (choice.row is None or _is_known(methods, choice.row))


def _is_known(methods: Sequence[Method], row: Row) -> bool:
    return row.contract is not None and any(method.takes(row) for method in methods)


def file_input(methods: Sequence[Method], kind: str, tooltip: str, name: str = "file", optional: bool = False) -> io.Input:
    """Returns the list of a loader's files; see ``list_names``."""
    names = list_names(methods, kind)
    return FileList(name, options=names, default=names[0], optional=optional, tooltip=f"{tooltip} {commercial_use(methods, kind)}")


def provider_input() -> io.Input:
    return io.Combo.Input("provider", options=list(PROVIDERS), default="auto", advanced=True,
                          tooltip="Where an ONNX network runs: auto takes the graphics card where onnxruntime can use it. What is "
                                  "really in use is shown on the node. Other networks run where ComfyUI runs its own.")


def commercial_use(methods: Sequence[Method], kind: str) -> str:
    """Returns which of the known files of a loader may be used for money, in a sentence or two."""
    known = [row for each in _kinds(methods, kind) for row in rows(each) if _is_known(methods, row) and "*" not in row.file]
    known += [row for row in rows("research") if row.loads == kind and "*" not in row.file]
    free = [row.name for row in known if row.commercial]
    shown = "The licence of the chosen file is shown on the node."
    if len(free) == len(known):
        return f"Commercial use is allowed for all known files. {shown}"
    allowed = f"is allowed for {', '.join(free)} only" if free else "is not allowed, or not clear, for any known file"
    return f"Commercial use {allowed}. {shown}"


def checked(*names: str | None) -> bool | str:
    """Returns what ``validate_inputs`` returns for file names, which come from whoever sent the graph.

    Whether a file is there is another question: names that are not listed are looked for when the node runs, so that a file may be of
    another name or come later.
    """
    try:
        for name in names:
            if name is not None:
                check_name(_file_name(name))
    except FaceLoomError as error:
        return str(error)
    return True


def load(name: str, kind: str, methods: Sequence[Method[Model]], open_file: Callable[[str | FoundFile, Loading], Model], given: Loading
         ) -> tuple[Model, str]:
    """Opens an entry of a loader's list with ``open_file``, the stage's function. Returns the model and what to show on the node."""
    name = _file_name(name)
    if built_in_method(methods, name):
        return open_file(name, given), BUILT_IN
    found = find_by_name(name, given.folders, kind, listener())
    model = show_patcher(open_file(found, given))
    return model, describe(found, model)


def load_research(name: str, open_file: Callable[[FoundFile], tuple]) -> tuple[tuple, str]:
    """Opens a research file that holds several things with ``open_file(found)``. Returns them and what to show on the node, which is about
    the first."""
    found = find_by_name(_file_name(name), folders(), "research", listener())
    parts = open_file(found)
    return parts, describe(found, show_patcher(parts[0]))


def describe(found: FoundFile, loaded: object) -> str:
    """Returns where a model runs, under which licence, and what else the user should know."""
    warning, model = "", loaded.model if isinstance(loaded, HasModel) else None
    if isinstance(model, OnnxModel):
        runs, warning = model.describe(), model.warning
    elif isinstance(model, TorchModel):
        runs = f"{found.path.name} on {model.handle.load_device}{_precision(model)}"
    else:
        runs = f"{found.path.name} on cpu"
    terms = found.row.terms if found.row else "unknown, the catalogue does not have this file"
    note = loaded.note if isinstance(loaded, HasNote) else ""
    return "\n".join(filter(None, [runs, f"Licence: {terms}", warning and f"Warning: {warning}", found.note, note]))


def _precision(model: TorchModel) -> str:
    kind = next(model.net.parameters()).dtype
    return "" if kind == torch.float32 else f" in {str(kind).removeprefix('torch.')}"


def _file_name(name: str) -> str:
    """Returns the file's name from an entry of a list."""
    return str(name).removesuffix(NOT_HERE)


class FileLoader(Node):
    """The base of loader nodes that choose one file."""

    @classmethod
    def validate_inputs(cls, file):
        """Refuses what is not the plain name of a model file."""
        return checked(file)


class ResearchLoader(FileLoader):
    """The base of loader nodes that open the one file of a research system: ``row_name`` is its row in the catalogue."""

    row_name: str
    file_tooltip: str

    @classmethod
    def inputs(cls):
        """Returns the list of that one file, here or not."""
        chosen = [choice for choice in list_choices("research", folders()) if choice.row and choice.row.name == cls.row_name]
        options = [choice.name if choice.path else choice.name + NOT_HERE for choice in chosen]
        return [FileList("file", options=options, default=options[0], tooltip=cls.file_tooltip)]


class ResearchModelLoader(ResearchLoader):
    """The base of those whose file holds a diffusion model: they give its MODEL, its VAE, and what makes its conditioning."""

    @classmethod
    def open_file(cls, found: FoundFile) -> tuple:
        """Returns what makes the conditioning, ComfyUI's MODEL and its VAE."""
        raise NotImplementedError

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        (conditioner, model, vae), text = load_research(file, cls.open_file)
        return io.NodeOutput(model, vae, conditioner, ui=show(cls, text=text))
