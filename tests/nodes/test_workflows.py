"""The bundled workflows: sound as files, the same graph as their API twins, and run by a headless server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
NODE_IDS = json.loads(Path(__file__).with_name("schema.json").read_text())
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
# The target picture each workflow loads and saves a changed copy of.
TARGETS = {"quick-face-swap": "target", "swap-with-masks-and-colour-match": "target", "identity-from-several-photos": "target",
           "group-photo-with-faceselect": "group", "one-shot-swap-with-a-model": "target"}
# Where each public file goes that a workflow asks for, and which double of networks.py stands in for it.
FILES = {"one-shot-swap-with-a-model": {"faceloom/recognizers/arcface_w600k_r50.onnx": "recognizer",
                                        "hyperswap/hyperswap_1a_256.onnx": "swap", "facerestore_models/gfpgan_1.4.onnx": "restorer"}}


def read(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text())


def twin(name: str) -> dict:
    return json.loads((ROOT / "tests" / "api" / f"{name}.json").read_text())


def widget_inputs(info: dict, values: list, prefix: str = "") -> dict:
    """Takes the values of one node's widgets off ``values``, in the order of its ``/object_info`` entry, and names them."""
    named = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in info.get(group, {}).items():
            options = rest[0] if rest else {}
            if isinstance(kind, list):
                kind = "COMBO"
            if kind not in WIDGETS or options.get("forceInput"):
                continue
            named[prefix + name] = value = values.pop(0)
            if options.get("image_upload") or options.get("control_after_generate"):
                values.pop(0)
            if kind == "COMFY_DYNAMICCOMBO_V3":
                chosen = next(option for option in options["options"] if option["key"] == value)
                named |= widget_inputs(chosen["inputs"], values, f"{prefix}{name}.")
    return named


def as_api(workflow: dict, info: dict) -> dict:
    """A UI-format workflow without groups, subgraphs or muted nodes as an API-format graph."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        values = list(node.get("widgets_values", []))
        inputs = widget_inputs(info[node["type"]]["input"], values)
        assert not values, f"{node['type']} has {len(values)} widget value(s) too many"
        inputs |= {item["name"]: sources[item["link"]] for item in node["inputs"] if item.get("link") is not None}
        graph[str(node["id"])] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": node["title"]}}
    return graph


def test_there_is_one_for_each_need():
    assert set(NAMES) == set(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail(name):
    path = ROOT / "workflows" / f"{name}.jpg"
    assert path.stat().st_size <= 150_000
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 300


@pytest.mark.parametrize("name", NAMES)
def test_laid_out(name):
    """A note explains, everything is in a group or is the note, and no two nodes overlap."""
    workflow = read(name)
    boxes = [(*node["pos"], *node["size"]) for node in workflow["nodes"]]
    for i, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:i]:
            apart = x + width <= other_x or other_x + other_width <= x or y + height <= other_y or other_y + other_height <= y
            assert apart, (x, y)
    notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1 and notes[0]["widgets_values"][0].startswith("## ")
    assert len(workflow["groups"]) >= 3 and all(group["title"] for group in workflow["groups"])
    assert all(node.get("title") for node in workflow["nodes"])


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_it_asks_for_are_linked(pack, name):
    """What ComfyUI's dialog of missing models needs: the name in the widget, an address of the catalogue's, a folder it knows."""
    from faceloom.models.catalogue import row_of_file
    from faceloom.models.folders import KEYS

    linked = {}
    for node in read(name)["nodes"]:
        for model in node["properties"].get("models", []):
            row = row_of_file(model["name"])
            assert model["name"] in node["widgets_values"] and model["url"] in row.urls and row.sha256
            assert model["directory"] in KEYS and model["directory"] == row.folder.split("/")[0]
            linked[f"{row.folder}/{row.file}"] = row.kind
    assert linked == FILES[name]


@pytest.fixture
def files(request, base) -> None:
    """The doubles a workflow needs, in the server's models folder while its test runs."""
    wanted = FILES.get(request.getfixturevalue("name"), {})
    paths = [getattr(request.getfixturevalue("networks"), double)(base / "models" / file) for file, double in wanted.items()]
    yield
    for path in paths:
        path.unlink()


@pytest.mark.slow
class TestServer:
    def test_the_pack_loads(self, server):
        log = server.log.read_text()
        assert "IMPORT FAILED" not in log and "faceloom" in log
        seconds = [line for line in log.splitlines() if "seconds" in line and line.rstrip().endswith("faceloom")]
        assert len(seconds) == 1

    def test_templates_docs_and_words_are_served(self, server):
        assert set(server.json("/workflow_templates")["faceloom"]) == set(NAMES)
        for name in NAMES:
            assert json.loads(server.get(f"/api/workflow_templates/faceloom/{name}.json")) == read(name)
            assert server.get(f"/api/workflow_templates/faceloom/{name}.jpg")[:2] == b"\xff\xd8"
        for path in (ROOT / "js" / "docs").glob("*.md"):
            assert server.get(f"/extensions/faceloom/docs/{path.name}") == path.read_bytes()
        words = server.json("/i18n")
        for language in ("en", "de", "fr"):
            ours = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())
            assert ours.items() <= words[language]["nodeDefs"].items()

    @pytest.mark.parametrize("name", NAMES)
    def test_the_workflow_is_its_api_twin(self, server, name):
        info = server.json("/object_info")
        workflow = read(name)
        for node in workflow["nodes"]:
            if node["type"] in NODE_IDS:
                assert node["properties"]["cnr_id"] == "faceloom"
                assert [output["type"] for output in node["outputs"]] == info[node["type"]]["output"]
        graph = as_api(workflow, info)
        assert graph == twin(name) and set(NODE_IDS) & {node["class_type"] for node in graph.values()}

    @pytest.mark.parametrize("name", NAMES)
    def test_the_workflow_runs(self, server, name, pictures, files):
        graph = twin(name)
        history = server.run(graph)
        assert history["status"]["status_str"] == "success", history["status"]
        saved = next(node for node, what in graph.items() if what["class_type"] == "SaveImage")
        result = server.picture(history["outputs"][saved]["images"][0]).astype(int)
        target = (pictures[TARGETS[name]][0] * 255).round().numpy().astype(int)
        changed = np.abs(result - target).max(-1)
        assert result.shape == target.shape
        # A face's worth of pixels changed visibly; the picture around it is what it was.
        assert (changed > 12).mean() > 0.03 and (changed == 0).mean() > 0.5
        finder = [node for node, what in graph.items() if what["class_type"] == "FaceDetect"][-1]
        assert history["outputs"][finder]["text"][0].split()[0] == ("3" if name.startswith("group") else "1")
        for node, what in graph.items():
            if what["class_type"].startswith("Load") and "file" in what["inputs"]:
                text = history["outputs"][node]["text"][0]
                assert text.startswith(f"{what['inputs']['file']} on cpu\nLicence: ")

    def test_a_file_that_is_not_there_is_one_sentence(self, server, pictures):
        graph = twin("one-shot-swap-with-a-model")
        for node in graph.values():
            if node["class_type"] in ("LoadFaceRecognizer", "LoadRestoreModel"):
                node["inputs"]["file"] = "w600k_mbf.onnx" if node["class_type"] == "LoadFaceRecognizer" else "codeformer.onnx"
        history = server.run(graph)
        message, = (data for event, data in history["status"]["messages"] if event == "execution_error")
        assert message["node_type"].startswith("Load") and message["exception_type"].endswith("FaceLoomError")
        assert "is not on this machine: run `python -m faceloom models get " in message["exception_message"]

    def test_a_name_that_leaves_the_folders_is_refused_at_once(self, server, pictures):
        graph = twin("one-shot-swap-with-a-model")
        loader = next(node for node in graph.values() if node["class_type"] == "LoadSwapModel")
        loader["inputs"]["file"] = "../../hyperswap_1a_256.onnx"
        status, answer = server.post("/prompt", {"prompt": graph})
        assert status == 400 and "is not the name of a model file" in json.dumps(answer["node_errors"])
