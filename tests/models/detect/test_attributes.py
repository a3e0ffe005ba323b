"""Age and sex from a double whose answer is the colours of the picture it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.detect.load import load_attributes
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces

onnx = pytest.importorskip("onnx", reason="the double is written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT


def save_double(path: Path, width: int = 3) -> Path:
    """Mean red, green and blue of a 96-pixel picture that comes as RGB 0..255, in 0..1."""
    nodes = [helper.make_node("ReduceMean", ["data"], ["mean"], axes=[2, 3], keepdims=0),
             helper.make_node("Mul", ["mean", "scale"], ["fc1"])]
    weights = [numpy_helper.from_array(np.full((1, 3), 1 / 255, np.float32), "scale")]
    ports = [helper.make_tensor_value_info("data", FLOAT, [None, 3, 96, 96]), helper.make_tensor_value_info("fc1", FLOAT, [1, width])]
    graph = helper.make_graph(nodes, "double", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))


def test_square_of_one_and_a_half_boxes(tmp_path):
    images = torch.zeros(2, 200, 300, 3)
    # Two people: the square around the first box is x 70..160 and y 55..145 (1.5 times 60 pixels around its middle).
    images[0, :, :115] = torch.tensor([.2, .8, .0])
    images[0, :, 115:] = torch.tensor([.4, .4, .6])
    images[1] = torch.tensor([.7, .1, .25])
    faces = Faces((Face(0, [90, 70, 140, 130], np.zeros((5, 2))), Face(1, [10, 10, 90, 50], np.zeros((5, 2)))), 2, 200, 300)
    seen = []
    read = load_attributes(save_double(tmp_path / "genderage.onnx")).read(images, faces, lambda *done: seen.append(done))
    assert [face.sex for face in read] == ["male", "female"]
    assert read[0].age == pytest.approx(30, abs=.7) and read[1].age == pytest.approx(25, abs=.01)
    assert faces[0].sex is None and seen == [(2, 2)]


def test_other_files(tmp_path):
    with pytest.raises(FaceLoomError, match="is a swap model, not an age and sex model"):
        load_attributes(save_double(tmp_path / "inswapper_128.onnx"))
    with pytest.raises(FaceLoomError, match=r"from insightface's genderage\.onnx only"):
        load_attributes(save_double(tmp_path / "fairface.onnx"))
    assert load_attributes(save_double(tmp_path / "mine.onnx")).contract.size == 96
