"""The engine around an ONNX network: faces of every kind, odd files, wrong settings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import doubles
from faceloom.models.errors import FaceLoomError
from faceloom.models.swap import load_engine
from swap_scene import FACES, IMAGES, SIZE, identity, path_of

pytestmark = pytest.mark.usefixtures("surroundings")


def test_many_faces_over_a_clip(folders):
    many = replace(FACES, items=FACES.items * 20)
    engine = load_engine(path_of(folders, "inswapper_128"), folders=folders)
    seen = []
    crops, _ = engine.swap(IMAGES, many, identity(), 32, pixel_boost=2, progress=lambda done, total: seen.append(done))
    assert seen[-1] == 160 and seen == sorted(seen)
    few, _ = engine.swap(IMAGES, FACES, identity(), 32, pixel_boost=2)
    assert torch.allclose(crops[38:], few, atol=1e-6)


def test_no_faces(folders):
    crops, masks = load_engine(path_of(folders, "inswapper_128"), folders=folders).swap(IMAGES, FACES.take([]), identity(), SIZE)
    assert crops.shape == (0, SIZE, SIZE, 3) and masks.shape == (0, SIZE, SIZE)


WRONG = [{"pixel_boost": 0}, {"pixel_boost": 9}, {"pixel_boost": 1.5}, {"strength": -.1}, {"strength": float("nan")}]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings(wrong, folders):
    with pytest.raises(FaceLoomError, match=r"must be"):
        load_engine(path_of(folders, "inswapper_128"), folders=folders).swap(IMAGES, FACES, identity(), SIZE, **wrong)


def test_an_answer_of_another_size(folders, tmp_path):
    helper, kind = doubles.helper, doubles.TensorProto.FLOAT
    nodes = [helper.make_node("Concat", ["target", "target"], ["output"], axis=2)]
    ports = [helper.make_tensor_value_info(name, kind, shape) for name, shape in
             (("target", [1, 3, 256, 256]), ("source", [1, 512]), ("output", [1, 3, None, None]))]
    path = doubles.save(tmp_path / "alphaface_256.onnx", nodes, ports[:2], ports[2:], [])
    with pytest.raises(FaceLoomError, match=r"answered pictures of \(512, 256, 3\), not of \(256, 256, 3\)"):
        load_engine(path, folders=folders).swap(IMAGES, FACES, identity(), SIZE)
