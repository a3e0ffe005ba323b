"""Whole graphs through ComfyUI's own executor, in this process and without a server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

API = Path(__file__).parents[1] / "api"


@pytest.fixture(scope="module")
def quick() -> dict:
    """The API twin of the bundled quick swap."""
    return json.loads((API / "quick-face-swap.json").read_text())


def shown(base, outputs: dict, node: str) -> np.ndarray:
    """The first picture a node shows or saves, ``[H, W, C]`` uint8."""
    picture = outputs[node]["images"][0]
    return np.asarray(Image.open(base / picture["type"] / picture["subfolder"] / picture["filename"]))


def test_quick_swap(run_graph, pictures, base, quick):
    outputs = run_graph(quick, ["8"])
    target = np.asarray(Image.open(base / "input" / "target.png")).astype(int)
    result = shown(base, outputs, "8").astype(int)
    changed = np.abs(result - target).max(-1)
    assert result.shape == target.shape
    # Grace Hopper's face fills columns 150 to 390, rows 60 to 360; her uniform and the flag are not touched.
    assert (changed[130:300, 190:340] > 8).mean() > 0.5
    assert changed[380:].max() == 0 and changed[:, :120].max() == 0 and changed[:, 420:].max() == 0
    assert outputs["4"]["text"] == ["1 face"] and len(outputs["5"]["images"]) == 1


def test_a_batch_with_faceless_frames_loses_none(run_graph, pictures, base):
    """Two pictures in one batch, of which one has no face: both come out, the second as it was."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "target.png"}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 600, "batch_size": 1, "color": 0x336699}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {"class_type": "FaceDetect", "inputs": {"image": ["3", 0], "threshold": 0.5, "order": "large-small", "keep": "all",
                                                     "crop_size": 256, "min_size": 0, "framing": 1.0, "no_face": "pass"}},
        "5": {"class_type": "ImageInvert", "inputs": {"image": ["4", 1]}},
        "6": {"class_type": "PasteBack", "inputs": {"image": ["3", 0], "faces": ["4", 0], "crops": ["5", 0], "color_match": "none",
                                                    "blend": "feather", "feather": 0.0, "opacity": 1.0}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "batch"}},
    }
    outputs = run_graph(graph, ["7"])
    assert len(outputs["7"]["images"]) == 2
    assert outputs["4"]["text"] == ["1 face in 2 frames, 1 without a face"]
    first, second = (np.asarray(Image.open(base / "output" / picture["filename"])) for picture in outputs["7"]["images"])
    assert (second == (0x33, 0x66, 0x99)).all()
    target = np.asarray(Image.open(base / "input" / "target.png"))
    middle = first[200:260, 240:300].astype(int) + target[200:260, 240:300]
    assert np.abs(middle - 255).mean() < 8  # the face is its own negative


def test_an_error_is_one_sentence(run_graph, pictures, quick):
    graph = json.loads(json.dumps(quick))
    graph["3"]["inputs"] |= {"min_size": 8000}
    with pytest.raises(RuntimeError, match=r"^ArcFaceEmbed: .*FaceLoomError: There is no face to make an identity of"):
        run_graph(graph, ["8"])


@pytest.mark.parametrize("alignment", ["FFHQ quad", "box"])
def test_another_alignment_goes_all_the_way(run_graph, pictures, base, alignment):
    """Crops cut by another square, inverted, land where they were taken; the mask made for these faces holds."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "target.png"}},
        "2": {"class_type": "FaceDetect", "inputs": {"image": ["1", 0], "threshold": 0.5, "order": "large-small", "keep": "all",
                                                     "crop_size": 256, "min_size": 0, "framing": 1.0, "no_face": "pass"}},
        "3": {"class_type": "FaceAlign", "inputs": {"image": ["1", 0], "faces": ["2", 0], "alignment": alignment, "crop_size": 320,
                                                    "framing": 1.0}},
        "4": {"class_type": "ImageInvert", "inputs": {"image": ["3", 1]}},
        "5": {"class_type": "PasteBack", "inputs": {"image": ["1", 0], "faces": ["3", 0], "crops": ["4", 0], "color_match": "none",
                                                    "blend": "feather", "feather": 0.0, "opacity": 1.0}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "aligned"}},
    }
    outputs = run_graph(graph, ["3", "6"])
    target = np.asarray(Image.open(base / "input" / "target.png")).astype(int)
    result = shown(base, outputs, "6").astype(int)
    assert shown(base, outputs, "3").shape[:2] == (320, 320)
    assert np.abs(result[200:260, 240:300] + target[200:260, 240:300] - 255).mean() < 8
    assert (result[380:] == target[380:]).all()


@pytest.mark.parametrize("edited", ["crops", "image"])
def test_a_node_that_mirrors_in_place_gives_what_one_that_copies_gives(run_graph, pictures, base, edited):
    """ComfyUI forbids the first kind, and there are such nodes: they write in the very tensor that Face Detect or LoadImage handed out."""
    from nodes import NODE_CLASS_MAPPINGS

    class Mirror:
        RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "mirror", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"image": ("IMAGE",), "in_place": ("BOOLEAN", {"default": False})}, "optional": {"after": ("*",)}}

        @classmethod
        def VALIDATE_INPUTS(cls, input_types):
            return True

        def mirror(self, image, in_place, after=None):
            return (image.copy_(image.flip(2)) if in_place else image.flip(2),)

    def result(in_place: bool) -> np.ndarray:
        detect = {"threshold": 0.5, "order": "large-small", "keep": "all", "crop_size": 256, "min_size": 0, "framing": 1.0,
                  "no_face": "pass"}
        paste = {"color_match": "none", "blend": "feather", "feather": 0.0, "opacity": 1.0}
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "target.png"}},
            "2": {"class_type": "FaceDetect", "inputs": {"image": ["1", 0], **detect}},
            "3": {"class_type": "MirrorForTests", "inputs": {"image": ["2", 1], "in_place": in_place}},
            "4": {"class_type": "PasteBack", "inputs": {"image": ["1", 0], "faces": ["2", 0], "crops": ["3", 0], **paste}},
            "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": f"mirrored {edited} {in_place}"}},
        }
        if edited == "image":  # after the faces were found; then they are cut anew
            graph["3"]["inputs"] |= {"image": ["1", 0], "after": ["2", 0]}
            graph["4"] = {"class_type": "FaceAlign", "inputs": {"image": ["3", 0], "faces": ["2", 0], "alignment": "FFHQ", "crop_size": 0,
                                                                "framing": 1.0}}
            graph["5"]["inputs"]["images"] = ["4", 1]
        return shown(base, run_graph(graph, ["5"]), "5").astype(int)

    NODE_CLASS_MAPPINGS["MirrorForTests"] = Mirror
    try:
        copied, in_place = result(False), result(True)
    finally:
        del NODE_CLASS_MAPPINGS["MirrorForTests"]
    assert np.array_equal(copied, in_place)
    if edited == "crops":
        target = np.asarray(Image.open(base / "input" / "target.png")).astype(int)
        assert (np.abs(in_place - target).max(-1) > 8).mean() > 0.05
