"""The benchmark of crop and paste measures the same things everywhere, and says what is missing. No test looks at how fast anything is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from faceloom.models.crops.templates import template_matrix
from faceloom.models.detect import detect_faces

from bench import measure
from bench import paste as bench_paste
from bench import report as bench


@pytest.fixture(scope="module")
def report() -> dict:
    return bench.measure(["720p"], [1], 1, sections=["paste"], engine_counts={})


def test_every_figure_is_there_and_consistent(report):
    entry = report["results"][0]
    assert (entry["frame"], entry["width"], entry["height"], entry["faces"]) == ("720p", 1280, 720, 1)
    assert min(entry["crop"]["ours_512_ms"], entry["paste"]["ours_ms"], entry["copy"]["ours_ms"], entry["swap"]["ours_ms"]) > 0
    if report["insightface"]:
        paste = entry["paste"]
        assert paste["ratio"] == round(paste["insightface_ms"] / paste["ours_ms"], 1) >= paste["ratio_with_copy"]
        assert report["notes"] == []
    assert report["machine"]["threads"] == torch.get_num_threads()


def test_the_table_has_a_line_per_result_and_the_json_is_the_report(report, capsys, monkeypatch):
    lines = bench.table(report).splitlines()
    assert len(lines) == 3 + len(report["results"]) + len(report["notes"]) and lines[3].split()[:2] == ["720p", "1"]
    asked = []
    monkeypatch.setattr(bench, "measure", lambda *a, **k: asked.append((*a, k)) or report)
    before = torch.get_num_threads()
    assert bench.main(["--quick", "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    quick = {"sections": ["paste", "engines", "video"],
             "engine_counts": {"trivial": [1], "full cost": []}, "device": "auto",
             "slow_repeats": 2, "systems": False}
    assert asked == [(["720p", "1080p"], [1], 3, quick)]
    assert torch.get_num_threads() == before
    assert bench.main(["--repeats", "2"]) == bench.main(["--full", "--only", "engines", "--device", "cpu"]) == 0
    assert asked[1][:3] == (["720p", "1080p", "4K"], [1, 8], 2) and "insightface" in capsys.readouterr().out
    assert asked[1][3]["engine_counts"] == {"trivial": [1, 8, 64], "full cost": [1, 8]}
    assert asked[2][3]["engine_counts"] == {"trivial": [1, 8, 64], "full cost": [1, 8, 64]}
    assert asked[1][3]["systems"] and asked[2][3]["sections"] == ["engines"] and asked[2][3]["device"] == "cpu"


def test_without_insightface_ours_is_still_measured(monkeypatch):
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    alone = bench.measure(["720p"], [1], 1, sections=["paste"], engine_counts={})
    assert not alone["insightface"] and "pip install insightface" in alone["notes"][0]
    assert "ratio" not in alone["results"][0]["paste"] and "-" in bench.table(alone).splitlines()[3].split()


def test_the_frame_holds_the_faces_it_claims(collins):
    face = detect_faces(collins)[0]
    images, faces = bench_paste.build_frame(collins, face, (720, 1280), 3)
    assert images.shape == (1, 720, 1280, 3) and len(faces) == 3
    edges = [128 / np.sqrt(np.linalg.det(template_matrix(f.keypoints, "arcface_128", 128)[:, :2])) for f in faces]
    assert np.allclose(edges, bench.FACE, rtol=1e-3)
    found = detect_faces(images)
    assert len(found) == 3
    for face in faces:
        assert min(np.abs(other.keypoints - face.keypoints).mean() for other in found) < 0.06 * face.eye_distance


def test_many_faces_do_not_overlap(collins):
    face = detect_faces(collins)[0]
    _, faces = bench_paste.build_frame(collins, face, (1080, 1920), 64)
    assert len(faces) == 64 and bench_paste.layout((1080, 1920), 64) == (11, 6) and bench_paste.face_edge((1080, 1920), 64) == 174
    edges = [128 / np.sqrt(np.linalg.det(template_matrix(f.keypoints, "arcface_128", 128)[:, :2])) for f in faces]
    assert np.allclose(edges, 174, rtol=1e-3)
    centers = np.array([f.keypoints.mean(0) for f in faces])
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1) + 1e9 * np.eye(64)
    assert apart.min() > 160 and centers.min() > 60 and (centers.max(0) < (1860, 1040)).all()


def test_insightface_swapper_pastes_the_stub(collins):
    pytest.importorskip("insightface")
    images, faces = bench_paste.build_frame(collins, detect_faces(collins)[0], (720, 1280), 1)
    frame = (images[0].numpy() * 255).round().astype(np.uint8)
    before = frame.copy()
    tasks = bench_paste.insightface_tasks(frame, faces)
    with pytest.warns(FutureWarning):
        for task in tasks.values():
            task()
    assert tasks.keys() == {"norm_crop", "get_crop", "get_paste"} and np.array_equal(frame, before)


def test_peak_memory_sees_a_large_array():
    peak = measure.peak_memory(lambda: np.ones(40 << 20, np.uint8).sum())
    assert peak is None or 35 < peak < 60


def test_peak_memory_is_none_where_it_cannot_be_read(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    assert measure.peak_memory(lambda: None) is None
