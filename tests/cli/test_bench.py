"""The benchmark runs, measures the same things everywhere, and says what is missing. No test looks at how fast anything is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from faceloom.cli import bench, main
from faceloom.models.detect import detect_faces
from faceloom.models.geometry import template_matrix


@pytest.fixture(scope="module")
def report() -> dict:
    return bench.measure(["720p"], [1], 1)


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
    assert len(lines) == 2 + len(report["results"]) + len(report["notes"]) and lines[2].split()[:2] == ["720p", "1"]
    asked = []
    monkeypatch.setattr(bench, "measure", lambda *a: asked.append(a) or report)
    before = torch.get_num_threads()
    assert main(["bench", "--quick", "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == report and asked == [(["720p", "1080p"], [1], 3)]
    assert torch.get_num_threads() == before
    assert main(["bench", "--repeats", "2"]) == 0
    assert asked[1] == (["720p", "1080p", "4K"], [1, 8], 2) and "insightface" in capsys.readouterr().out


def test_without_insightface_ours_is_still_measured(monkeypatch):
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    alone = bench.measure(["720p"], [1], 1)
    assert not alone["insightface"] and "pip install insightface" in alone["notes"][0]
    assert "ratio" not in alone["results"][0]["paste"] and "-" in bench.table(alone).splitlines()[2].split()


def test_the_frame_holds_the_faces_it_claims(collins):
    face = detect_faces(collins)[0]
    images, faces = bench.build_frame(collins, face, (720, 1280), 3)
    assert images.shape == (1, 720, 1280, 3) and len(faces) == 3
    edges = [128 / np.sqrt(np.linalg.det(template_matrix(f.keypoints, "arcface_128", 128)[:, :2])) for f in faces]
    assert np.allclose(edges, bench.FACE, rtol=1e-3)
    found = detect_faces(images)
    assert len(found) == 3
    for face in faces:
        assert min(np.abs(other.keypoints - face.keypoints).mean() for other in found) < 0.06 * face.eye_distance


def test_insightface_swapper_pastes_the_stub(collins):
    pytest.importorskip("insightface")
    images, faces = bench.build_frame(collins, detect_faces(collins)[0], (720, 1280), 1)
    frame = (images[0].numpy() * 255).round().astype(np.uint8)
    before = frame.copy()
    tasks = bench.insightface_tasks(frame, faces)
    with pytest.warns(FutureWarning):
        for task in tasks.values():
            task()
    assert tasks.keys() == {"norm_crop", "get_crop", "get_paste"} and np.array_equal(frame, before)


def test_peak_memory_sees_a_large_array():
    peak = bench.peak_memory(lambda: np.ones(40 << 20, np.uint8).sum())
    assert peak is None or 35 < peak < 60


def test_peak_memory_is_none_where_it_cannot_be_read(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    assert bench.peak_memory(lambda: None) is None
