"""Workflows as ComfyUI's server takes them: the API form of what the canvas saved, and the inputs that ``queue`` fills in.

The canvas form lists nodes with the values of their widgets in order, and links by number; how the values are named is known from the
server's ``/object_info`` only. The API form is {node id: {"class_type", "inputs", "_meta"}}, where a link is [node id, output number].
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models.errors import FaceLoomError

Graph = dict[str, dict[str, Any]]
Info = Mapping[str, Any]

_MUTED, _BYPASSED = 2, 4  # of a node's ``mode``
_SUBGRAPH_INPUTS = -10  # the node that a subgraph's own inputs come from; its outputs go to -20
_SUBGRAPH_OUTPUTS = -20
_NOTES = {"Note", "MarkdownNote"}
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
_SEED_MODES = {"fixed", "increment", "decrement", "randomize"}
_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")
_DEEPEST = 20  # subgraphs in subgraphs


def read_workflow(path: Path, info: Info) -> Graph:
    """Read a workflow file in either form and return its API form. FaceLoomError where it is neither, or the server lacks its nodes."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FaceLoomError(f"{path} is no workflow that can be read ({str(error).splitlines()[0]}).") from error
    if isinstance(saved, dict) and isinstance(saved.get("prompt"), dict):
        saved = saved["prompt"]
    if isinstance(saved, dict) and saved and all(isinstance(node, dict) and "class_type" in node for node in saved.values()):
        graph = copy.deepcopy(saved)
    elif isinstance(saved, dict) and isinstance(saved.get("nodes"), list):
        try:
            graph = _as_api(saved, info)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise FaceLoomError(f"{path} is damaged: a node or link is not as the canvas saves it ({error!r}).") from error
    else:
        raise FaceLoomError(f"{path} is no ComfyUI workflow; save it from the canvas, or with Export (API).")
    missing = sorted({node["class_type"] for node in graph.values()} - set(info))
    if missing:
        raise FaceLoomError(f"The server has no node {', '.join(missing)}; install the packs that {path.name} uses.")
    return graph


@dataclass(frozen=True)
class _Scope:
    """One level of a workflow: the canvas itself, or the inside of one subgraph node. nodes: by id. links: by number, the output that each
    comes from. prefix: of the ids of its nodes. instance: the subgraph node in ``outer``."""

    nodes: Mapping[Any, dict]
    links: Mapping[Any, tuple[Any, int]]
    ends: Mapping[int, Any] = field(default_factory=dict)  # by output number of a subgraph: the link that ends there
    inputs: tuple[str, ...] = ()  # names of a subgraph's inputs
    prefix: str = ""
    outer: _Scope | None = None
    instance: dict = field(default_factory=dict)

    @classmethod
    def of(cls, saved: dict, prefix: str = "", outer: _Scope | None = None, instance: dict | None = None) -> _Scope:
        links, ends = {}, {}
        for link in saved.get("links") or ():
            if isinstance(link, dict):
                link = [link[name] for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
            links[link[0]] = (link[1], link[2])
            if link[3] == _SUBGRAPH_OUTPUTS:
                ends[link[4]] = link[0]
        names = tuple(item["name"] for item in saved.get("inputs") or ()) if outer else ()
        return cls({node["id"]: node for node in saved["nodes"]}, links, ends, names, prefix, outer, instance or {})


def _as_api(workflow: dict, info: Info) -> Graph:
    """Convert a workflow that the canvas saved."""
    subgraphs = {each["id"]: each for each in (workflow.get("definitions") or {}).get("subgraphs") or ()}
    return _Converter(subgraphs, info).convert(_Scope.of(workflow), 0)


class _Converter:
    """Converts the levels of one workflow. subgraphs: their definitions by id."""

    def __init__(self, subgraphs: Mapping[str, dict], info: Info) -> None:
        self.subgraphs, self.info = subgraphs, info

    def convert(self, scope: _Scope, depth: int) -> Graph:
        """Return the nodes of one level and of those inside it that run."""
        graph: Graph = {}
        for node in scope.nodes.values():
            kind = node["type"]
            if node.get("mode", 0) in (_MUTED, _BYPASSED) or kind in (*_NOTES, "Reroute", "PrimitiveNode"):
                continue
            if kind in self.subgraphs:
                if depth >= _DEEPEST:
                    raise FaceLoomError("The workflow has subgraphs that hold themselves.")
                graph |= self.convert(self._inside(scope, node), depth + 1)
                continue
            inputs = self._widgets(node)
            for item in node.get("inputs") or ():
                if item.get("link") is not None:
                    inputs.pop(item["name"], None)
                    source = self.source(scope, item["link"])
                    if source is not None:
                        inputs[item["name"]] = source
            title = node.get("title") or self.info.get(kind, {}).get("display_name") or kind
            graph[f"{scope.prefix}{node['id']}"] = {"inputs": inputs, "class_type": kind, "_meta": {"title": title}}
        return graph

    def _inside(self, scope: _Scope, node: dict) -> _Scope:
        return _Scope.of(self.subgraphs[node["type"]], f"{scope.prefix}{node['id']}:", scope, node)

    def source(self, scope: _Scope, link: Any, depth: int = 0) -> Any:
        """Return what a link brings: [node id, output number], the value of a widget, or None where its node is muted or not there."""
        if link not in scope.links or depth > 1000:
            return None
        number, slot = scope.links[link]
        if number == _SUBGRAPH_INPUTS and scope.outer:
            return self._from_outside(scope, slot, depth)
        node = scope.nodes.get(number)
        if node is None or node.get("mode", 0) == _MUTED:
            return None
        if node["type"] == "PrimitiveNode":
            return (node.get("widgets_values") or [None])[0]
        if node["type"] == "Reroute" or node.get("mode", 0) == _BYPASSED:
            inner = _passed_on(node, slot)
            return None if inner is None else self.source(scope, inner, depth + 1)
        if node["type"] in self.subgraphs:
            inside = self._inside(scope, node)
            return self.source(inside, inside.ends.get(slot), depth + 1)
        return [f"{scope.prefix}{number}", slot]

    def _from_outside(self, scope: _Scope, slot: int, depth: int) -> Any:
        """Return what comes into a subgraph node at its input number ``slot``: by a link, or as the value that the node shows."""
        if scope.outer is None or slot >= len(scope.inputs):
            return None
        items = scope.instance.get("inputs") or []
        item = next((item for item in items if item["name"] == scope.inputs[slot]), None)
        if item is None:
            return None
        if item.get("link") is not None:
            return self.source(scope.outer, item["link"], depth + 1)
        shown = [each["name"] for each in items if each.get("widget")]
        values = scope.instance.get("widgets_values") or []
        return values[shown.index(item["name"])] if item["name"] in shown and len(values) == len(shown) else None

    def _widgets(self, node: dict) -> dict[str, Any]:
        """Name the values of a node's widgets."""
        values = node.get("widgets_values") or []
        known = self.info.get(node["type"])
        if isinstance(values, Mapping):
            return {name: value for name, value in values.items() if name in input_options(self.info, node["type"])}
        return {} if known is None else _named(known["input"], list(values))


def _passed_on(node: dict, slot: int) -> Any:
    """Return the link whose value a bypassed node or a reroute hands on at an output: the input of the same number where its kind fits,
    else the first one that fits."""
    inputs, outputs = node.get("inputs") or [], node.get("outputs") or []
    if node["type"] == "Reroute":
        return inputs[0].get("link") if inputs else None
    kind = outputs[slot]["type"] if slot < len(outputs) else "*"
    fitting = [item for item in [*inputs[slot : slot + 1], *inputs] if item["type"] == kind or "*" in (item["type"], kind)]
    return fitting[0].get("link") if fitting else None


def _named(groups: Mapping[str, Mapping], values: list, prefix: str = "") -> dict[str, Any]:
    """Take the values of a node's widgets off ``values``, in the order of its entry in ``/object_info``, and name them."""
    named: dict[str, Any] = {}
    for name, kind, options in _declared(groups):
        if options.get("forceInput") or not (kind in _WIDGETS or options.get("socketless")) or not values:
            continue
        named[prefix + name] = value = values.pop(0)
        seeds = options.get("control_after_generate") or name in ("seed", "noise_seed")
        if values and ((seeds and values[0] in _SEED_MODES) or (any(options.get(each) for each in _UPLOADS)
                                                               and values[0] in ("image", "video", "audio", "upload", None))):
            values.pop(0)
        if isinstance(value, Mapping) and values[: len(value)] == list(value.values()):
            del values[: len(value)]  # a rectangle, which the canvas shows number by number too
        if kind == "COMFY_DYNAMICCOMBO_V3":
            chosen = next((option for option in options["options"] if option["key"] == value), None)
            named |= _named(chosen["inputs"], values, f"{prefix}{name}.") if chosen else {}
    return named


def _declared(groups: Mapping[str, Mapping]) -> list[tuple[str, Any, Mapping]]:
    """List name, kind and options of the inputs in an entry of ``/object_info``."""
    found = []
    for group in ("required", "optional"):
        for name, (kind, *rest) in (groups.get(group) or {}).items():
            found.append((name, "COMBO" if isinstance(kind, list) else kind, rest[0] if rest and isinstance(rest[0], Mapping) else {}))
    return found


def input_options(info: Info, kind: str) -> dict[str, Mapping]:
    """Return the options of every input of a node type by its name."""
    return {name: options for name, _, options in _declared((info.get(kind) or {}).get("input") or {})}


def read_value(graph: Graph, info: Info, number: str, name: str, text: str) -> Any:
    """Return ``text`` as the kind of value that an input of a node takes. FaceLoomError where it is none."""
    node = graph[number]
    declared = {each: kind for each, kind, _ in _declared((info.get(node["class_type"]) or {}).get("input") or {})}
    now = node["inputs"].get(name)
    usual = {bool: "BOOLEAN", int: "INT", float: "FLOAT"}.get(type(now), "STRING")  # of inputs inside a dynamic list
    kind = declared.get(name, usual)
    try:
        if kind == "BOOLEAN":
            return {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}[text.lower()]
        return int(text) if kind == "INT" else float(text) if kind == "FLOAT" else text
    except (KeyError, ValueError):
        what = {"BOOLEAN": "true or false", "INT": "a whole number", "FLOAT": "a number"}[kind]
        raise FaceLoomError(f"{name} of {_title(graph, number)} must be {what}, not {text!r}.") from None


def takes_files(options: Mapping) -> bool:
    """Whether an input with these options in ``/object_info`` takes a file that is uploaded."""
    return any(options.get(each) for each in _UPLOADS)


def find_input(graph: Graph, info: Info, words: str) -> tuple[str, str]:
    """Return node id and input name of ``NODE`` or ``NODE.input``, where NODE is a title, an id or a type.

    Without an input it is the one that takes a file, or the only value. FaceLoomError, which lists what there is, for words that name
    nothing or several.
    """
    for each in graph.values():
        each.setdefault("_meta", {}).setdefault("title", each["class_type"])
    node, named = _nodes_called(graph, words), ""
    parts = words.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        if not node:
            node, named = _nodes_called(graph, ".".join(parts[:cut])), ".".join(parts[cut:])
    if len(node) != 1:
        there = "; ".join(f"{each['_meta']['title']} ({number}, {each['class_type']})" for number, each in graph.items())
        what = "no node" if not node else f"{len(node)} nodes"
        raise FaceLoomError(f"The workflow has {what} called {words!r}; there are: {there}.")
    number = node[0]
    options = input_options(info, graph[number]["class_type"])
    values = [name for name, value in graph[number]["inputs"].items() if not isinstance(value, list)]
    if named:
        if named not in options and named not in graph[number]["inputs"]:
            raise FaceLoomError(f"The node {_title(graph, number)} has no input {named}; there are: {', '.join(options)}.")
        return number, named
    chosen = [name for name in values if takes_files(options.get(name, {}))] or values
    if len(chosen) != 1:
        raise FaceLoomError(f"Say which input of {_title(graph, number)} is meant, as in {words!r}.{(values or ['input'])[0]}; there are: "
                            f"{', '.join(values)}.")
    return number, chosen[0]


def _nodes_called(graph: Graph, words: str) -> list[str]:
    """Return the ids of the nodes with this title, else the one with this id, else those of this type."""
    ways: tuple[Callable[[str, dict], bool], ...] = (
        lambda number, node: node.get("_meta", {}).get("title") == words, lambda number, node: number == words,
        lambda number, node: node["class_type"] == words)
    found = ([number for number, node in graph.items() if is_called(number, node)] for is_called in ways)
    return next((numbers for numbers in found if numbers), [])


def _title(graph: Graph, number: str) -> str:
    return graph[number].get("_meta", {}).get("title") or graph[number]["class_type"]
