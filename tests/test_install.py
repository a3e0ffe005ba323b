"""What the install script says in environments of every kind."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def install():
    spec = importlib.util.spec_from_file_location("faceloom_install", ROOT / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_knows_every_requirement(install):
    required = {re.split(r"[ ;<>=!~\[]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert set(install.REQUIRED.values()) <= required
    assert required - set(install.REQUIRED.values()) <= {"dlib", "dlib-bin"}


def test_the_build_that_fits(install):
    assert install.fitting_flavour("linux", cuda=True, hip=False) == "onnxruntime-gpu"
    assert install.fitting_flavour("win32", cuda=True, hip=False) == "onnxruntime-gpu"
    assert install.fitting_flavour("win32", cuda=False, hip=False) == "onnxruntime-directml"
    assert install.fitting_flavour("linux", cuda=False, hip=True) == "onnxruntime-migraphx"
    assert install.fitting_flavour("darwin", cuda=False, hip=False) == install.fitting_flavour("linux", False, False) == "onnxruntime"


class Environment:
    """A folder of installed packages, and the script run where nothing else is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, distribution: str, module: str, broken: bool = False) -> None:
        info = self.folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "top_level.txt").write_text(f"{module}\n")
        (info / "RECORD").write_text(f"{module}/__init__.py,,\n{module}/capi/x.py,,\n")
        (self.folder / module / "capi").mkdir(parents=True, exist_ok=True)
        if not broken:
            (self.folder / module / "__init__.py").touch()

    def says(self) -> list[str]:
        done = subprocess.run([sys.executable, "-S", str(ROOT / "install.py")], capture_output=True, text=True, check=True,
                              env={"PYTHONPATH": str(self.folder)})
        return done.stdout.splitlines()


@pytest.fixture
def environment(tmp_path, install):
    there = Environment(tmp_path)
    for module, distribution in install.REQUIRED.items():
        there.add(distribution, module)
    return there


def test_without_onnxruntime_there_is_the_one_line_that_gets_the_right_one(environment):
    (line,) = environment.says()
    assert line.startswith("FaceLoom: ready with its built-in models.") and f'run: "{sys.executable}" -m pip install onnxruntime' in line
    environment.add("torch", "torch")
    (environment.folder / "torch" / "version.py").write_text("cuda = '13.0'\nhip = None\n")
    assert environment.says()[0].endswith("-m pip install onnxruntime-gpu")


@pytest.mark.parametrize("flavour", ["onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-gpu-extended"])
def test_any_one_build_is_left_alone(environment, flavour):
    environment.add(flavour, "onnxruntime")
    environment.add("opencv-python-headless", "cv2")
    environment.add("onnxruntime-extensions", "onnxruntime_extensions")
    assert environment.says() == ["FaceLoom: ready."]


def test_two_builds_are_told_of(environment):
    environment.add("onnxruntime-gpu", "onnxruntime")
    environment.add("onnxruntime", "onnxruntime")
    (line,) = environment.says()
    assert line == "FaceLoom: onnxruntime and onnxruntime-gpu overwrite each other; uninstall all of them, then install one."


def test_half_a_build_is_told_of(environment):
    environment.add("onnxruntime-gpu", "onnxruntime", broken=True)
    (line,) = environment.says()
    assert "onnxruntime-gpu is damaged" in line and line.endswith("-m pip install --force-reinstall --no-deps onnxruntime-gpu")


def test_what_is_missing_is_told_of(tmp_path, install):
    there = Environment(tmp_path)
    there.add("onnxruntime", "onnxruntime")
    lines = there.says()
    assert len(lines) == len(install.REQUIRED) and all(" is missing; run: " in line for line in lines)
