"""The form that all of FaceLoom's nodes share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io

from ._checks import check_crops, check_inputs

CATEGORY = "FaceLoom"


def _checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Returns ``execute`` of a node, which first looks at what came in; see ``_checks.py``."""
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def run(cls: type[Node], *arguments: Any, **named: Any) -> io.NodeOutput:
        given = signature.bind(cls, *arguments, **named).arguments
        check_inputs(cls._about["display_name"], cls.inputs(), given, cls._about.get("is_input_list", False))
        check_crops(given)
        return execute(cls, *arguments, **named)

    return run


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
            cls.execute = classmethod(_checked(cls.execute.__func__))

    @classmethod
    def inputs(cls) -> list[io.Input]:
        """Returns the inputs. ComfyUI asks again and again, because lists of files change."""
        raise NotImplementedError

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(category=CATEGORY, inputs=cls.inputs(), outputs=list(cls.outputs), **cls._about)
