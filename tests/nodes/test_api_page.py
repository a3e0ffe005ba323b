"""Every example of docs/api.md, as it stands there, against a headless server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.parametrize("server", ["default cache"], indirect=True)


def examples(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


@pytest.fixture
def folder(tmp_path, base) -> Path:
    shutil.copy(base / "input" / "source.png", tmp_path / "me.png")
    shutil.copy(base / "input" / "target.png", tmp_path / "photo.png")
    shutil.copy(base / "input" / "target.png", base / "input" / "photo.png")
    return tmp_path


def test_every_example_is_one_that_is_run(server):
    assert sorted(kind for kind, _ in BLOCKS) == ["bash", "json", "json", "python"]


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_the_swap_with_curl_and_with_python(server, pack, folder):
    for kind, command in (("bash", ["bash", "-e", "-c"]), ("python", [sys.executable, "-c"])):
        text, = examples(kind)
        done = subprocess.run([*command, text.replace("http://127.0.0.1:8188", server.url)], cwd=folder, capture_output=True, text=True,
                              timeout=120)
        assert done.returncode == 0, done.stderr
    photo, whole, half = (Image.open(folder / name).convert("RGB") for name in ("photo.png", "result.png", "half.png"))
    assert photo.size == whole.size == half.size
    assert len({picture.tobytes() for picture in (photo, whole, half)}) == 3


@pytest.mark.parametrize("number", range(len(examples("json"))))
def test_the_other_requests(server, pack, folder, number):
    entry = server.run(json.loads(examples("json")[number])["prompt"])
    assert entry["status"]["status_str"] == "success" and any(node.get("images") for node in entry["outputs"].values())


def test_numbers_as_text_and_what_is_missing(server, pack, folder):
    request = json.loads(examples("json")[1])
    request["prompt"]["2"]["inputs"]["threshold"] = "0.5"
    assert server.run(request["prompt"])["status"]["status_str"] == "success"
    del request["prompt"]["2"]["inputs"]["min_size"]
    request["prompt"]["2"]["inputs"]["framing"] = 99
    code, answer = server.post("/prompt", request)
    told = {(each["extra_info"]["input_name"], each["type"]) for each in answer["node_errors"]["2"]["errors"]}
    assert code == 400 and told == {("min_size", "required_input_missing"), ("framing", "value_bigger_than_max")}
