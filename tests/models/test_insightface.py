"""FaceAnalysis objects of other packs."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.insightface import detector_of, recognizer_of


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
