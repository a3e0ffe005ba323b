"""The rooms of the house: a folder imports only from the folders above it, whichever definition the import stands in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top down; CONTRIBUTING.md says what each is for. Nothing imports from a room below its own.
ORDER = (
    "models/errors.py", "models/progress.py", "models/pixels", "models/faces.py", "models/options", "models/files", "models/runtime",
    "models/networks", "models/crops", "models/face3d", "models/detect", "models/identity", "models/select", "models/parse",
    "models/swap", "models/train", "models/restore", "models/paste", "models/evaluate", "models/diffusion", "models/systems",
    "models/interop", "models/pipeline.py", "models/clip", "nodes", "cli", "bench",
)  # fmt: skip
SOURCES = sorted(path for folder in ("models", "nodes", "cli", "bench") for path in (ROOT / folder).rglob("*.py"))


def room_of(path: Path) -> str:
    """The room in which a file or folder of the checkout lies."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "models" else parts[0]


def imported(path: Path, tree: ast.AST) -> Iterator[tuple[int, Path]]:
    """Line and file of every import of our own that a module makes, in functions and classes too."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = path.parents[node.level - 1]
        elif (node.module or "").split(".")[0] == "faceloom":
            base = ROOT
        else:
            continue
        base = base.joinpath(*(node.module or "").removeprefix("faceloom").strip(".").split("."))
        for alias in node.names:
            inner = [base / f"{alias.name}.py", base / alias.name / "__init__.py", base.with_suffix(".py"), base / "__init__.py"]
            yield node.lineno, next(file for file in inner if file.is_file())


def uphill(path: Path, text: str) -> list[str]:
    """The imports of a module's text that lead to a room below its own."""
    rank = ORDER.index(room_of(path))
    return [f"{path.relative_to(ROOT)}:{line} imports {target.relative_to(ROOT)}" for line, target in imported(path, ast.parse(text))
            if target != ROOT / "__init__.py" and ORDER.index(room_of(target)) > rank]


def test_every_file_lies_in_a_room_of_the_list():
    assert not {room_of(path) for path in SOURCES} - {*ORDER, "models/__init__.py"}


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_from_rooms_above_it(room):
    wrong = [line for path in SOURCES if room_of(path) == room for line in uphill(path, path.read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(wrong)


def test_an_import_inside_a_function_is_seen_too():
    path = ROOT / "models" / "pixels" / "masks.py"
    assert uphill(path, "def late():\n    from ..paste import blends\n") == ["models/pixels/masks.py:2 imports models/paste/blends.py"]
    assert uphill(path, "from ..errors import FaceLoomError\n") == []


def test_no_two_modules_of_the_command_line_import_each_other():
    found = {path: {target for _, target in imported(path, ast.parse(path.read_text(encoding="utf-8")))} for path in SOURCES}
    assert not [(one, other) for one, others in found.items() for other in others
                if one in found.get(other, ()) and room_of(one) == "cli" and "__init__.py" not in (one.name, other.name)]


def test_models_has_four_loose_modules():
    assert {path.name for path in (ROOT / "models").glob("*.py")} == {"__init__.py", "errors.py", "progress.py", "faces.py", "pipeline.py"}
