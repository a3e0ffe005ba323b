"""The form that all of FaceLoom's node schemas share."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "FaceLoom"


def node_schema(node: type[io.ComfyNode], display_name: str, aliases: list[str], inputs: list[io.Input], outputs: list[io.Output],
                shows_text: bool = False, **more) -> io.Schema:
    """Returns the schema of a node class: its id is the class's name, its description the class's docstring.

    aliases: further words under which the node is found. shows_text: the node shows a text or a picture also while others still run.
    more: what else ``io.Schema`` takes.
    """
    owner = next(base for base in node.__mro__ if "define_schema" in vars(base))  # ComfyUI runs nodes as nameless subclasses
    return io.Schema(node_id=owner.__name__, display_name=display_name, category=CATEGORY, description=" ".join(owner.__doc__.split()),
                     search_aliases=[*aliases, "faceloom"], inputs=inputs, outputs=outputs, has_intermediate_output=shows_text, **more)
