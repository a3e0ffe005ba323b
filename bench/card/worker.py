"""The process of one section: ``python -m bench.card.worker MODULE:FUNCTION SETTINGS RESULT``, run in the checkout.

It calls the function with a ``Setup`` and writes what it yields to the file RESULT, one JSON object a line: ``{"row": ...}`` for every
row, at once, and ``{"status": ..., "reason": ...}`` at the end.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main(argv: list[str]) -> int:
    """Runs one section. Returns 0; the result file says how it went."""
    target, settings, result = argv
    with open(result, "w", encoding="utf-8") as file:

        def write(line: dict) -> None:
            file.write(json.dumps(_plain(line)) + "\n")
            file.flush()

        try:
            values = json.loads(settings)
            os.environ["FACELOOM_CACHE"] = values["folder"]
            register_faceloom()
            from bench.card.tools import Setup, Skip, one_line

            module, name = target.split(":")
            try:
                for row in getattr(importlib.import_module(module), name)(Setup.of(**values)):
                    write({"row": row})
                write({"status": "done"})
            except Skip as skip:
                write({"status": "skipped", "reason": str(skip)})
        except Exception as error:
            traceback.print_exc()
            try:
                reason = one_line(error)
            except NameError:  # this Python has no torch, say
                reason = f"{type(error).__name__}: {error}"
            write({"status": "failed", "reason": reason})
    return 0


def register_faceloom() -> None:
    """Makes this checkout importable as ``faceloom``, whether pip knows it or not."""
    spec = importlib.util.spec_from_file_location("faceloom", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["faceloom"] = module
    spec.loader.exec_module(module)


def _plain(value: Any) -> Any:
    """The value in JSON's types: numbers of numpy and torch become Python's, NaN and infinity become words, which JSON lacks."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float):
        return number if math.isfinite(number) else str(number)
    return number if isinstance(number, (bool, int)) else str(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
