"""The form that all of FaceLoom's nodes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

CATEGORY = "FaceLoom"


class Node(io.ComfyNode):
    """The base of the nodes. A node's class statement says how it is found, its docstring what it does; it gives ``inputs``, ``outputs``
    and ``execute``.

    title: the name on the node. aliases: further words under which it is found. shows_text: the node shows a text or a picture also while
    others still run. more: what else ``io.Schema`` takes.
    """

    _about: dict[str, Any]
    outputs: Sequence[io.Output] = ()

    def __init_subclass__(cls, title: str = "", aliases: Sequence[str] = (), shows_text: bool = False, **more: Any) -> None:
        super().__init_subclass__()
        if title:  # ComfyUI runs nodes as subclasses that it makes without a word and locks: those are the node they come from
            cls._about = {"node_id": cls.__name__, "display_name": title, "description": " ".join(cls.__doc__.split()),
                          "search_aliases": [*aliases, "faceloom"], "has_intermediate_output": shows_text, **more}

    @classmethod
    def inputs(cls) -> list[io.Input]:
        """Returns the inputs. ComfyUI asks again and again, because lists of files change."""
        raise NotImplementedError

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(category=CATEGORY, inputs=cls.inputs(), outputs=list(cls.outputs), **cls._about)
