"""FaceAnalysis objects of other packs."""

from __future__ import annotations

import gc
import shutil
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.interop.insightface import attributes_of, detector_of, landmarker_of, recognizer_of
from faceloom.models.runtime.onnx import OnnxModel
from faceloom.models.select.rules import SelectionRule, select_faces


def test_taken_over_from_a_real_analysis(shared, collins, monkeypatch, tmp_path):
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path))
    zoo = pytest.importorskip("insightface.model_zoo")
    detection = zoo.get_model(str(shared / "models" / "scrfd_2.5g_bnkps.onnx"))
    recognition = zoo.get_model(str(shared / "models" / "mobilefacenet_128.onnx"))
    analysis = SimpleNamespace(models={"detection": detection, "recognition": recognition}, det_model=detection)
    detector, recognizer = detector_of(analysis), recognizer_of(analysis)
    assert detector.name == "scrfd_2.5g_bnkps"
    faces = detect_faces(collins, detector)
    theirs = SimpleNamespace(kps=faces[0].keypoints)
    wanted = recognition.get(collins[0].mul(255).round().numpy().astype(np.uint8)[..., ::-1].copy(), theirs)
    assert recognizer.embed(collins, faces)[0] @ wanted / np.linalg.norm(wanted) > .98


def test_networks_are_opened_once_and_go_with_their_object(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path))

    class Analysis:
        models = {"recognition": SimpleNamespace(model_file=str(shared / "models" / "mobilefacenet_128.onnx"))}

    one, other = Analysis(), Analysis()
    recognizer = recognizer_of(one)
    assert recognizer_of(one) is recognizer and recognizer_of(other) is not recognizer
    gone = weakref.ref(recognizer)
    del recognizer, one
    gc.collect()
    assert gone() is None


def test_objects_that_lack_something():
    with pytest.raises(FaceLoomError, match="has no recognition network"):
        recognizer_of(SimpleNamespace(models={}))
    with pytest.raises(FaceLoomError, match="has no detection network"):
        detector_of(object())
    with pytest.raises(FaceLoomError, match="is not a file on this machine"):
        detector_of(SimpleNamespace(models={"detection": SimpleNamespace(model_file="/nowhere/det_10g.onnx")}))


def save_double(path, name: str, size: int, values: int) -> None:
    """A network for pictures of 0..255 whose answer is the mean colours, over and over, in 0..1."""
    onnx = pytest.importorskip("onnx")
    port, weight = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    nodes = [onnx.helper.make_node("Sub", ["data", "none"], ["less"], name="_minusscalar0"),  # by which insightface knows 0..255
             onnx.helper.make_node("Mul", ["less", "scale"], ["parts"], name="_mulscalar0"),
             onnx.helper.make_node("ReduceMean", ["parts"], ["mean"], axes=[2, 3], keepdims=0),
             onnx.helper.make_node("MatMul", ["mean", "spread"], ["fc1"])]
    weights = [weight(np.float32([0]), "none"), weight(np.float32([1 / 255]), "scale"),
               weight(np.tile(np.eye(3, dtype=np.float32), values)[:, :values], "spread")]
    graph = onnx.helper.make_graph(nodes, name, [port("data", onnx.TensorProto.FLOAT, [None, 3, size, size])],
                                   [port("fc1", onnx.TensorProto.FLOAT, [1, values])], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))


@pytest.fixture
def analysis(shared, tmp_path, monkeypatch):
    """insightface's own object, from a pack folder."""
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))
    app = pytest.importorskip("insightface.app")
    pack = tmp_path / "models" / "small"
    pack.mkdir(parents=True)
    for name in ("scrfd_2.5g_bnkps", "mobilefacenet_128"):
        shutil.copy(shared / "models" / f"{name}.onnx", pack)
    save_double(pack / "genderage.onnx", "genderage", 96, 3)
    save_double(pack / "2d106det.onnx", "landmarks", 192, 212)
    made = app.FaceAnalysis("small", root=str(tmp_path), providers=["CPUExecutionProvider"])
    made.prepare(-1, det_size=(640, 640))
    assert set(made.models) == {"detection", "recognition", "genderage", "landmark_2d_106"}
    return made


@pytest.fixture
def runs(monkeypatch):
    """Names of the networks that ran, one per call."""
    names, run_once = [], OnnxModel.run_once
    monkeypatch.setattr(OnnxModel, "run_once", lambda self, feeds: names.append(self.name) or run_once(self, feeds))
    return names


def test_nothing_of_a_pack_runs_that_nobody_asked_for(analysis, collins, runs):
    faces = detect_faces(collins, detector_of(analysis))
    assert set(runs) == {"scrfd_2.5g_bnkps.onnx"} and faces[0].sex is None and not faces[0].embeddings
    (theirs,) = analysis.get(collins[0].mul(255).round().numpy().astype(np.uint8)[..., ::-1].copy())
    assert np.abs(faces[0].keypoints - theirs.kps).max() < 3
    runs.clear()
    recognizer_of(analysis).embed(collins, faces)
    assert runs == ["mobilefacenet_128.onnx"]
    runs.clear()
    landmarks = landmarker_of(analysis)
    assert runs == [] and landmarker_of(analysis) is landmarks
    attributes = attributes_of(analysis)
    assert select_faces(faces, SelectionRule("index", index="0"), images=collins, attributes=attributes)[0][0].age is None
    assert runs == []
    chosen, rest = select_faces(faces, SelectionRule("sex", sex=("female", "male")[theirs.gender]), images=collins, attributes=attributes)
    assert runs == ["genderage.onnx"] and (len(chosen), len(rest)) == (1, 0)
    assert chosen[0].age == pytest.approx(theirs.age, abs=1.5)
    assert len(select_faces(chosen, SelectionRule("age", minimum=chosen[0].age - 1), images=collins, attributes=attributes)[0]) == 1
    assert runs == ["genderage.onnx"]  # known by now


def test_age_and_sex_need_the_picture(analysis, collins):
    faces = detect_faces(collins, detector_of(analysis))
    with pytest.raises(FaceLoomError, match="Reading the age of faces needs the image"):
        select_faces(faces, SelectionRule("age"), attributes=attributes_of(analysis))


def test_a_real_analysis_is_opened_once(analysis):
    opened = [weakref.ref(of(analysis)) for of in (detector_of, recognizer_of, attributes_of, landmarker_of)]
    assert detector_of(analysis) is opened[0]() and attributes_of(analysis) is opened[2]()
    analysis.models.clear()
    with pytest.raises(FaceLoomError, match="has no genderage network"):
        attributes_of(analysis)


def test_what_was_opened_goes_with_its_analysis(shared, tmp_path, monkeypatch):
    app = pytest.importorskip("insightface.app")
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))
    pack = tmp_path / "models" / "small"
    pack.mkdir(parents=True)
    shutil.copy(shared / "models" / "scrfd_2.5g_bnkps.onnx", pack)
    made = app.FaceAnalysis("small", root=str(tmp_path), providers=["CPUExecutionProvider"])
    gone = weakref.ref(detector_of(made))
    assert gone() is not None
    del made
    gc.collect()
    assert gone() is None
