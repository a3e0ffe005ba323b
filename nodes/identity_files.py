"""IdentitySave and IdentityLoad: people as files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..models.errors import FaceLoomError
from ..models.identity.files import identity_path, load_identity, save_identity
from ._inputs import FileList
from ._runtime import show
from ._schema import Node
from ._sockets import Identity
from .identity import portraits

FOLDER = "faceloom_identities"


def register_identity_folders() -> None:
    """Tell ComfyUI where identity files lie: ours first, then those ReActor saved. Paths a user configured stay in front, and folders of
    FaceLoom and ReActor that a user keeps outside the models folder are looked through as well."""
    for key, below in (("faceloom", "identities"), ("reactor", "faces"), ("reactor/faces", ""), ("reactor_faces", "")):
        named = folder_paths.get_folder_paths(key) if key in folder_paths.folder_names_and_paths else []
        standard = [] if key == "reactor_faces" else [os.path.join(folder_paths.models_dir, *key.split("/"))]
        for folder in dict.fromkeys([*standard, *named]):
            folder_paths.add_model_folder_path(FOLDER, os.path.join(folder, below) if below else folder)
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {".safetensors"})


class IdentitySave(Node, title="Identity Save", aliases=["save face model", "store identity"], is_output_node=True):
    """Saves a person to models/faceloom/identities, so that other workflows can load them without the photos."""

    @classmethod
    def inputs(cls):
        return [
            Identity.Input("identity", tooltip="The person to save."),
            io.String.Input("filename", default="person", tooltip="The file's name without folder or ending."),
            io.Combo.Input("if_exists", options=["keep both", "overwrite"], default="keep both",
                           tooltip="What to do when there is such a file already: keep both numbers the new one, overwrite replaces the "
                                   "old one."),
        ]

    outputs = [
        Identity.Output("identity", tooltip="The same person, to go on with."),
        io.String.Output("file", tooltip="The name of the file that was written, as Identity Load lists it."),
    ]

    @classmethod
    def execute(cls, identity, filename, if_exists) -> io.NodeOutput:
        path = _path_for(filename, overwrite=if_exists == "overwrite")
        save_identity(identity, path)
        return io.NodeOutput(identity, path.name, ui=show(cls, portraits(identity), f"saved as {path.name}"))


class IdentityLoad(Node, title="Identity Load", aliases=["load face model", "reactor face model"], shows_text=True):
    """Loads a person that Identity Save, or ReActor, saved as a face model."""

    @classmethod
    def inputs(cls):
        return [
            FileList("file", options=folder_paths.get_filename_list(FOLDER),
                     tooltip="The identity file, from models/faceloom/identities or models/reactor/faces."),
        ]

    outputs = [Identity.Output("identity", tooltip="The person in the file.")]

    @classmethod
    def fingerprint_inputs(cls, file):
        path = folder_paths.get_full_path(FOLDER, file)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        path = folder_paths.get_full_path(FOLDER, file)
        if path is None:
            raise FaceLoomError(f"There is no identity file {file} in models/faceloom/identities; save one with Identity Save or copy "
                                "it there.")
        identity = load_identity(path)
        return io.NodeOutput(identity, ui=show(cls, portraits(identity), str(identity)))


def _path_for(filename: str, overwrite: bool) -> Path:
    first = path = identity_path(folder_paths.get_folder_paths(FOLDER)[0], filename)
    number = 2
    while path.exists() and not overwrite:
        path = first.with_name(f"{first.stem}_{number}{first.suffix}")
        number += 1
    return path
