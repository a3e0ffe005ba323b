"""What ComfyUI sees of FaceLoom: schemas, sockets, progress and previews. Nothing here computes.

A node is one class in a file of this folder whose name does not begin with an underscore; it is found here by itself.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from ..models.runtime.memory import register_memory_freer
from ._devices import make_room
from ._models import register_folders
from .identity_files import register_identity_folders


def find_nodes() -> list[type[io.ComfyNode]]:
    """Return the node classes of all modules of this folder, by name."""
    modules = [import_module(f".{module.name}", __package__) for module in iter_modules(__path__) if not module.name.startswith("_")]
    classes = [value for module in modules for value in vars(module).values()
               if isinstance(value, type) and issubclass(value, io.ComfyNode) and value.__module__ == module.__name__]
    return sorted(classes, key=lambda node: node.__name__)


# The one thing that importing the pack registers: folders of models and identities, and who makes room on a shared graphics card.
register_memory_freer(make_room)
register_folders()
register_identity_folders()


class FaceLoomExtension(ComfyExtension):
    """The nodes, for ComfyUI's loader."""

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return find_nodes()
