"""``python -m faceloom queue`` against a headless server: the bundled workflows converted, and a folder of pictures through one of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "tests" / "api").glob("*.json"))
TARGET, SOURCE = "Target: the picture to change", "Source: the person"

pytestmark = pytest.mark.parametrize("server", ["default cache"], indirect=True)


def plain(graph: dict) -> dict:
    return {number: (node["class_type"], node["inputs"]) for number, node in graph.items()}


def test_workflows_become_their_api_form(server, pack):
    from faceloom.cli.queue_graph import read_workflow

    info = server.json("/object_info")
    compared = 0
    for name in NAMES:
        twin = json.loads((ROOT / "tests" / "api" / f"{name}.json").read_text())
        if all(node["class_type"] in info for node in twin.values()):
            assert plain(read_workflow(ROOT / "workflows" / f"{name}.json", info)) == plain(twin), name
            compared += 1
    assert compared >= 10


@pytest.fixture
def photos(tmp_path, base) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    shutil.copy(base / "input" / "target.png", folder / "one.png")
    shutil.copy(base / "input" / "target.png", folder / "more" / "two.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    return folder


def queue(server, out: Path, *words: str, capsys) -> tuple[int, dict]:
    from faceloom.cli import main

    capsys.readouterr()
    code = main(["queue", str(ROOT / "workflows" / "quick-face-swap.json"), "--server", server.url, "--out", str(out), "--json", "--quiet",
                 *words])
    return code, json.loads(capsys.readouterr().out or "{}")


def test_a_folder_goes_through_a_workflow_and_the_second_run_does_what_is_missing(server, pack, base, photos, tmp_path, capsys):
    from PIL import Image

    out = tmp_path / "swapped"
    words = (f"--each={TARGET}={photos}", f"--set={SOURCE}={base / 'input' / 'source.png'}", "--set=Swap.strength=0.5")
    code, told = queue(server, out, *words, capsys=capsys)
    assert code == 1 and told["counts"] == {"done": 2, "there already": 0, "failed": 1}
    jobs = {job["job"]: job for job in told["jobs"]}
    assert jobs["broken"]["status"] == "failed" and "Target: the picture to change" in jobs["broken"]["error"]
    assert "\n" not in jobs["broken"]["error"] and jobs["more/two"]["outputs"] == ["more/two.png"]
    assert Image.open(out / "one.png").size == Image.open(photos / "one.png").size
    assert (out / "one.png").read_bytes() != (photos / "one.png").read_bytes()
    (out / "one.png").unlink()
    (photos / "broken.png").unlink()
    code, told = queue(server, out, *words, capsys=capsys)
    assert code == 0 and told["counts"] == {"done": 1, "there already": 1, "failed": 0} and (out / "one.png").is_file()


def test_a_dry_run_queues_nothing(server, pack, photos, tmp_path, capsys):
    code, graph = queue(server, tmp_path / "out", f"--each={TARGET}={photos}", "--dry-run", capsys=capsys)
    assert code == 0 and graph["2"]["inputs"]["image"] == str(photos / "broken.png") and not (tmp_path / "out").exists()
    assert not server.json("/queue")["queue_pending"]


@pytest.mark.parametrize(("words", "said"), [
    (["--set=Nobody=1"], "has no node called 'Nobody'; there are: Source: the person \\(1, LoadImage\\)"),
    (["--set=LoadImage=a.png"], "has 2 nodes called 'LoadImage'"), (["--set=Swap.power=1"], "The node Swap has no input power"),
    (["--set=Swap.strength=much"], "strength of Swap must be a number"), (["--set=Swap=1"], "Say which input of Swap is meant"),
    (["--each=1=nowhere/"], "nowhere/ holds no pictures"), (["--set=1=no/such.png"], "no/such.png does not exist"),
])  # fmt: skip
def test_words_that_name_nothing(server, pack, tmp_path, capsys, words, said):
    import re

    from faceloom.cli import main

    code = main(["queue", str(ROOT / "workflows" / "quick-face-swap.json"), "--server", server.url, "--out", str(tmp_path / "o"), *words])
    error = capsys.readouterr().err
    assert code == 2 and re.search(said, error) and error.count("\n") == 1


def test_what_the_server_refuses_is_one_line_with_the_nodes_title(server, pack, photos, tmp_path, capsys):
    code, told = queue(server, tmp_path / "out", f"--each={TARGET}={photos / 'one.png'}", "--set=Swap.strength=99", capsys=capsys)
    assert code == 1 and told["jobs"][0]["error"].startswith("Swap: Value 99.0 bigger than max") and told["jobs"][0]["job"] == "one"
