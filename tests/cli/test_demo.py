"""The demo: what it writes, what it reports, and that the swap is one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from faceloom.cli import OK, USER_ERROR, demo, main
from faceloom.models.files.picture import read_image
from PIL import Image

FILES = ["collins_to_hopper.png", "contact_sheet.png", "hopper_to_collins.png", "report.json"]


NETWORK = Path(os.environ.get("FACELOOM_SHARED", Path(__file__).parents[3] / "shared")) / "models" / "mobilefacenet_128.onnx"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The demo run once, as a user runs it; measured by a recognition network too where there is one."""
    folder = tmp_path_factory.mktemp("demo")
    network = ["--recognizer", str(NETWORK)] if NETWORK.is_file() else []
    done = subprocess.run([sys.executable, "-m", "faceloom", "demo", "--out", "here", *network], cwd=folder, capture_output=True, text=True)
    assert done.returncode == OK, done.stderr
    return folder / "here", done


def test_it_writes_the_four_files_and_nothing_else(made):
    folder, _ = made
    assert sorted(os.listdir(folder)) == FILES


def test_progress_on_stderr_and_a_short_table_on_stdout(made):
    _, done = made
    assert "100%" in done.stderr and "Warning" not in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 8 and re.split(r"\s{2,}", lines[0])[:4] == ["swap", "measured by", "to source", "to target"]
    swaps = [line.split()[0] for line in lines[1:lines.index("")]]
    assert sorted(set(swaps), key=swaps.index) == ["collins_to_hopper", "hopper_to_collins"]


def test_the_faces_change_hands_and_nothing_else_changes(made, collins, hopper):
    folder, _ = made
    report = json.loads((folder / "report.json").read_text())
    for name, target in (("collins_to_hopper", hopper), ("hopper_to_collins", collins)):
        result = read_image(folder / f"{name}.png")
        assert result.shape == target.shape[1:]
        changed = (result != target[0]).any(-1).float().mean()
        assert 0.02 < changed < 0.35
        likeness = report["swaps"][name]["similarity"]["dlib128"]
        assert likeness["to_source"]["after"] >= likeness["same_person"] > likeness["to_target"]["after"]
        assert likeness["to_target"]["before"] == pytest.approx(1, abs=1e-3)


def test_the_report_says_what_ran_where_and_for_how_long(made):
    folder, _ = made
    report = json.loads((folder / "report.json").read_text())
    for swap in report["swaps"].values():
        assert {"detect", "crop", "swap", "restore", "paste", "measure", "write"} == set(swap["milliseconds"])
        assert all(value >= 0 for value in swap["milliseconds"].values())
    ran = report["ran"]
    assert ran["engine"] == "mesh" and ran["detector"] == "dlib" and ran["device"] == "cpu"
    assert ran["versions"]["torch"] == torch.__version__ and ran["python"].count(".") == 2


def test_the_report_names_the_build_of_torch_that_ran(monkeypatch):
    """A package's metadata may say 2.14.1 where what runs is 2.14.1+cu130, and CUDA or not is what a reader asks first."""
    monkeypatch.setattr(torch, "__version__", "9.8.7+cu130")
    ran = demo.environment(SimpleNamespace(name="mesh"), torch.device("cpu"))
    assert ran["versions"]["torch"] == "9.8.7+cu130"


def test_the_pictures_say_what_they_are(made):
    folder, _ = made
    with Image.open(folder / "collins_to_hopper.png") as file:
        assert "Face swap" in file.text["Provenance"] and file.text["Source"] == "Eileen Collins"


def test_the_contact_sheet_shows_six_columns_of_two_rows(made):
    sheet = read_image(made[0] / "contact_sheet.png")
    height, width = sheet.shape[:2]
    assert width > 2.4 * height and width >= 6 * 256


def test_a_network_that_had_no_part_in_it_takes_the_result_for_the_source(made):
    if not NETWORK.is_file():
        pytest.skip(f"{NETWORK} is not there")
    folder, done = made
    for swap in json.loads((folder / "report.json").read_text())["swaps"].values():
        likeness = swap["similarity"]["mobilefacenet_128"]
        assert likeness["to_source"]["after"] >= 0.60 and likeness["to_target"]["after"] <= 0.30
        assert abs(likeness["to_source"]["before"]) < 0.3
    assert "mobilefacenet_128" in done.stdout


def test_an_unwritable_folder_is_found_first(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(demo, "read_portraits", lambda: pytest.fail("work began"))
    assert main(["demo", "--out", str(tmp_path / "file")]) == USER_ERROR
    assert "Nothing can be written" in capsys.readouterr().err


def test_table_says_no_face():
    likeness = {"to_source": {"before": 0.1, "after": None}, "to_target": {"before": 1.0, "after": 0.25}, "same_person": 0.3}
    times = {"swap": 12.4, "paste": 3.3, "measure": 900, "write": 50}
    text = demo.table({"a_to_b": {"similarity": {"s": likeness}, "milliseconds": times}})
    assert re.split(r"\s{2,}", text.splitlines()[1]) == ["a_to_b", "s", "0.10 → no face", "1.00 → 0.25", "≥ 0.30", "12", "16"]
