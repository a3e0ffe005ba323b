"""Reads JSON that a stranger wrote."""

from __future__ import annotations

import json
from typing import Any


def read_object(text: object) -> dict[str, Any]:
    """Read the JSON object in a text or its bytes. ValueError says what it is instead: no text, no JSON, a list, nested too deeply."""
    value = _parse(text)
    if not isinstance(value, dict):
        kinds = {list: "a list", str: "a text", type(None): "null", bool: "a truth value"}
        raise ValueError(f"{kinds.get(type(value), 'a number')} instead of an object")
    return value


def read_list(text: object) -> list[Any]:
    """Read the JSON list in a text or its bytes. ValueError says what it is instead, as ``read_object`` does."""
    value = _parse(text)
    if not isinstance(value, list):
        raise ValueError("no list")
    return value


def _parse(text: object) -> Any:
    """Read whatever JSON a text or its bytes hold. ValueError says in a few words why there is none."""
    if not isinstance(text, str | bytes):
        raise ValueError("no text")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested more deeply than any program writes it") from error
    except ValueError as error:
        raise ValueError("no JSON") from error
