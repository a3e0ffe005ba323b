"""What is published is whole, light and within the registry's rules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted(
    path for path in ROOT.rglob("*.py")
    if not any(part in ("tests", "bench", "build", "output") or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
# What models/ may import at module level beside the standard library and itself; everything else only inside the function that uses it.
LIGHT = {"torch", "numpy", "scipy", "PIL"}


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST, top: bool = False):
    """Absolute module names a tree imports; with ``top`` only those that run when the module is imported."""
    body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.If | ast.Try)] if top else [tree]
    body = [node for node in body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]  # these never run
    for node in (inner for outer in body for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_requirements_and_pyproject_say_the_same():
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text().splitlines() if line.strip()]
    assert lines == PROJECT["project"]["dependencies"]
    assert not any(line.startswith(("#", "-")) for line in lines), "ComfyUI-Manager installs line by line"


def test_what_belongs_to_comfyui_is_never_required():
    required = {re.split(r"[ ;<>=!~\[]", line)[0].lower() for line in PROJECT["project"]["dependencies"]}
    assert not required & {"torch", "torchvision", "numpy", "onnxruntime", "onnxruntime-gpu", "insightface", "mediapipe"}
    assert not any("opencv" in name for name in required)
    everything = [line for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra]
    assert not any(re.match(r"(torch|numpy)\s*[<>=!~]", line) for line in everything), "no pins on torch or numpy"


def test_nothing_brings_another_onnxruntime_or_opencv():
    """Whatever is required or offered as an extra, and what that requires in turn: as far as it is installed here, and by name what
    is known to bring one."""
    extras = PROJECT["project"]["optional-dependencies"]
    others = (line for name, extra in extras.items() if name not in ("cpu", "cuda", "test") for line in extra)
    asked = [*PROJECT["project"]["dependencies"], *others]
    seen = set()
    while asked:
        name = re.split(r"[ ;<>=!~\[(]", asked.pop())[0].lower().replace("_", "-")
        assert not re.match("onnxruntime|opencv|mediapipe$|insightface$|facexlib$|albumentations$|ultralytics$|rembg$", name), name
        if name not in seen:
            seen.add(name)
            with suppress(PackageNotFoundError):
                asked += [line for line in requires(name) or () if "extra ==" not in line]
    assert "numpy" in seen and (extras["cpu"], extras["cuda"]) == (["onnxruntime"], ["onnxruntime-gpu"])


def test_every_package_is_published():
    folders = {path.parent for path in SOURCES if path.parent != ROOT}
    expected = {"faceloom"} | {"faceloom." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected
    without = [names(folder) for folder in folders if not (folder / "__init__.py").is_file()]
    assert not without, "packages without __init__.py"


def test_every_data_file_of_models_is_published():
    listed = PROJECT["tool"]["setuptools"]["package-data"]
    for path in (ROOT / "models").rglob("*"):
        if path.suffix not in (".py", ".pyc") and path.is_file():
            package = "faceloom." + ".".join(path.parent.relative_to(ROOT).parts)
            assert any(path.match(pattern) for pattern in listed.get(package, []) + listed.get("*", [])), names(path)


def test_licence_and_notice():
    assert "Apache License" in (ROOT / "LICENSE").read_text() and "END OF TERMS AND CONDITIONS" in (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == {"text": "Apache-2.0"}
    notice = (ROOT / "NOTICE").read_text()
    data = list((ROOT / "models").rglob("*.safetensors"))
    assert data and all(names(path).replace("\\", "/") in notice for path in data)


def test_readme_has_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for extra, then in (("demo", "faceloom demo"), ("test", "pytest")):
        assert f'\npython -m pip install -e ".[{extra}]" && python -m {then}\n' in readme
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", readme):
        assert (ROOT / link).exists(), f"README links to {link}"


def test_imports_outside_functions_are_light():
    allowed = LIGHT | set(sys.stdlib_module_names)
    heavy = {(names(path), module) for path in SOURCES if "models" in path.relative_to(ROOT).parts
             for module in imports(parse(path), top=True) if module.split(".")[0] not in allowed}
    assert not heavy


@pytest.mark.parametrize("folder", ["models", "cli"])
def test_nothing_that_computes_knows_comfyui_or_opencv(folder):
    forbidden = {"cv2", "kornia", "torchvision", "comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server"}
    found = {(names(path), module) for path in SOURCES if path.relative_to(ROOT).parts[0] == folder
             for module in imports(parse(path)) if module.split(".")[0] in forbidden}
    # Two adapters use ComfyUI where it is already running.
    assert {file for file, _ in found} <= {"models/runtime/onnx.py", "models/files/folders.py"}, found


def test_registry_rules():
    """No eval, exec or subprocess anywhere that is published; no absolute import of our own packages, which other packs could shadow."""
    for path in SOURCES:
        tree = parse(path)
        called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert not called & {"eval", "exec"}, names(path)
        modules = {module.split(".")[0] for module in imports(tree)}
        assert not modules & {"subprocess", "pip", "pty"}, names(path)
        assert not modules & {"models", "cli", "faceloom"}, f"{names(path)} imports its own package absolutely"


def test_importing_the_pack_loads_nothing_heavy():
    """ComfyUI imports the pack's root at start-up; what it needs then is a name or two."""
    probe = "import sys, faceloom; print([m for m in ('torch', 'numpy', 'scipy', 'PIL', 'dlib', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_command_line_help_needs_no_torch():
    probe = ("import sys\nfrom faceloom.cli import main\ntry:\n    main(['swap', '--help'])\nexcept SystemExit:\n    pass\n"
             "print('torch' in sys.modules, file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"
