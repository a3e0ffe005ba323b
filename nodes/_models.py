"""Model files as loaders list them, find them and tell about them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import folder_paths
import torch
from comfy_api.latest import io

from ..models.errors import FaceLoomError
from ..models.files.catalogue import Row, rows
from ..models.files.find import Choice, FoundFile, check_name, find_by_name, list_choices, list_research_files
from ..models.files.folders import FOLDER_DEPTHS, MODEL_SUFFIXES, Folders, default_folders
from ..models.runtime.devices import TorchModel
from ..models.runtime.onnx import OnnxModel
from ._devices import show_patcher
from ._runtime import listener

NOT_HERE = " (not downloaded)"

PROVIDERS: dict[str, str | Sequence[str]] = {
    "auto": "auto", "CUDA": "cuda", "TensorRT": "tensorrt", "DirectML": "directml", "CoreML": "coreml", "OpenVINO": "openvino",
    "ROCm": ("rocm", "migraphx"), "CPU": "cpu",
}  # fmt: skip

# What the loader of a kind can open. The folders that users share with other packs hold more.
OPENS: dict[str, set[str]] = {
    "swap": {".onnx", ".dfm"}, "detector": {".onnx"}, "landmarker": {".task"}, "points106": {".onnx"}, "recognizer": {".onnx"},
    "attributes": {".onnx"}, "parser": {".onnx", ".pth", ".safetensors"}, "occluder": {".onnx", ".pth", ".safetensors"},
    "restorer": {".onnx", ".pth", ".ckpt", ".safetensors"},
}  # fmt: skip
FAMILIES: dict[str, set[str]] = {"landmarker": {"mediapipe"}, "points106": {"insightface106"}, "attributes": {"genderage"}}
# Kinds of a loader that are part of one of the catalogue's.
WITHIN: dict[str, str] = {"points106": "landmarker"}


def register_folders() -> None:
    """Tell ComfyUI which folders hold face models. Those that a user or another pack named stay, and stay in front."""
    for key in FOLDER_DEPTHS:
        folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))
        paths, suffixes = folder_paths.folder_names_and_paths[key]
        if not suffixes:
            folder_paths.folder_names_and_paths[key] = (paths, set(MODEL_SUFFIXES))


def folders() -> Folders:
    """Everywhere model files may be, ``extra_model_paths.yaml`` included."""
    return default_folders(folder_paths.models_dir, {key: folder_paths.get_folder_paths(key) for key in FOLDER_DEPTHS})


def listed(kinds: Sequence[str], built_in: str) -> list[str]:
    """What a loader offers: what is built in, then the files that are here, then those that could be; research systems' original files
    last of each."""
    where = folders()
    choices = [choice for kind in kinds for choice in list_choices(WITHIN.get(kind, kind), where) if _fits(choice, kind)]
    choices += [choice for kind in kinds for choice in list_research_files(kind, where)]
    here = [choice.name for choice in choices if choice.path]
    elsewhere = [choice.name + NOT_HERE for choice in choices if not choice.path]
    return [built_in, *here, *elsewhere]


def _fits(choice: Choice, kind: str) -> bool:
    return os.path.splitext(choice.name)[1].lower() in OPENS[kind] and (choice.row is None or _known(choice.row, kind))


def _known(row: Row, kind: str) -> bool:
    return row.contract is not None and (kind not in FAMILIES or row.contract.family in FAMILIES[kind])


def file_input(kinds: Sequence[str], built_in: str, tooltip: str, name: str = "file", optional: bool = False) -> io.Input:
    """The list of a loader's files."""
    return io.Combo.Input(name, options=listed(kinds, built_in), default=built_in, optional=optional,
                          tooltip=f"{tooltip} {commercial_use(kinds)}")


def research_input(row_name: str, tooltip: str, name: str = "file") -> io.Input:
    """The one file of a research system that a loader opens, here or not."""
    chosen = [choice for choice in list_choices("research", folders()) if choice.row and choice.row.name == row_name]
    options = [choice.name if choice.path else choice.name + NOT_HERE for choice in chosen]
    return io.Combo.Input(name, options=options, default=options[0], tooltip=tooltip)


def provider_input() -> io.Input:
    return io.Combo.Input("provider", options=list(PROVIDERS), default="auto", advanced=True,
                          tooltip="Where an ONNX network runs: auto takes the graphics card where onnxruntime can use it. What is "
                                  "really in use is shown on the node. Other networks run where ComfyUI runs its own.")


def commercial_use(kinds: Sequence[str]) -> str:
    """Which of the known files of these kinds may be used for money, in a sentence or two."""
    known = [row for kind in kinds for row in rows(WITHIN.get(kind, kind)) if _known(row, kind) and "*" not in row.file]
    known += [row for row in rows("research") if row.loads in kinds and "*" not in row.file]
    free = [row.name for row in known if row.commercial]
    shown = "The licence of the chosen file is shown on the node."
    if len(free) == len(known):
        return f"Commercial use is allowed for all known files. {shown}"
    allowed = f"is allowed for {', '.join(free)} only" if free else "is not allowed, or not clear, for any known file"
    return f"Commercial use {allowed}. {shown}"


def checked(*names: str | None) -> bool | str:
    """What ``validate_inputs`` answers for file names: they come from whoever sent the graph. Whether a file is there, is another
    question: names that are not listed are looked for when the node runs, so that a file may be of another name or come later."""
    try:
        for name in names:
            if name is not None:
                check_name(_plain(name))
    except FaceLoomError as error:
        return str(error)
    return True


def load(name: str, kind: str, provider: str, open_file: Callable[[FoundFile, Folders, str | Sequence[str]], object]) -> tuple[object, str]:
    """``open_file(found, folders, providers)`` for a file of the list. Returns what it loaded and what to show on the node."""
    where, providers = folders(), PROVIDERS[provider]
    found = find_by_name(_plain(name), where, kind, listener())
    loaded = show_patcher(open_file(found, where, providers))
    return loaded, _told(found, loaded)


def load_research(name: str, open_file: Callable[[FoundFile, Folders], tuple]) -> tuple[tuple, str]:
    """``open_file(found, folders)`` for a file that holds several things. Returns them and what to show on the node, which is about the
    first."""
    where = folders()
    found = find_by_name(_plain(name), where, "research", listener())
    parts = open_file(found, where)
    return parts, _told(found, show_patcher(parts[0]))


def _told(found: FoundFile, loaded) -> str:
    """Where it runs, under which licence, and what else the user should know."""
    warning, model = "", getattr(loaded, "model", None)
    if isinstance(model, OnnxModel):
        runs, warning = model.describe(), model.warning
    elif isinstance(model, TorchModel):
        runs = f"{found.path.name} on {model.handle.load_device}{_precision(model)}"
    else:
        runs = f"{found.path.name} on cpu"
    terms = found.row.terms if found.row else "unknown, the catalogue does not have this file"
    return "\n".join(filter(None, [runs, f"Licence: {terms}", warning and f"Warning: {warning}", found.note, getattr(loaded, "note", "")]))


def _precision(model: TorchModel) -> str:
    kind = next(model.net.parameters()).dtype
    return "" if kind == torch.float32 else f" in {str(kind).removeprefix('torch.')}"


def _plain(name: str) -> str:
    return str(name).removesuffix(NOT_HERE)
