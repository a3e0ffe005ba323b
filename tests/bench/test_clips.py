"""The benchmark of clips measures what it says. No test looks at how fast anything is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.options.detect import DetectSettings

pytest.importorskip("av")

from faceloom.models.files.video import probe, read_frames

from bench import clips, report

SIZE = (200, 320)


@pytest.fixture(scope="module")
def face(collins):
    return detect_faces(collins, settings=DetectSettings(keep="first"))[0]


def pictures(path) -> torch.Tensor:
    with read_frames(path) as frames:
        return torch.stack([frame.image() for frame in frames])


def test_a_clip_repeats_its_packets_and_its_faces_move_with_the_picture(collins, face, tmp_path):
    known = clips.make_clip(tmp_path / "a.mp4", collins, face, SIZE, 40, times=2)
    frames = pictures(tmp_path / "a.mp4")
    assert len(known) == len(frames) == 80 and probe(tmp_path / "a.mp4").frames == 80
    assert torch.equal(frames[3], frames[43])
    (first,), (later,) = known[0], known[20]
    assert np.allclose(later.keypoints - first.keypoints, 20)  # down and to the right
    assert float((frames[20, 30:180, 30:300] - frames[0, 10:160, 10:280]).abs().mean()) < 0.03


def test_every_way_swaps_the_same_face(collins, face, tmp_path):
    path, out = tmp_path / "a.mp4", tmp_path / "out.mp4"
    known = clips.make_clip(path, collins, face, SIZE, 10)
    before, results = pictures(path), {}
    faces = clips.find(path, known)
    assert len(faces) == 10 and {each.track for each in faces} == {0}
    for name, swap in (("ours", lambda: clips.swap(path, out, faces, clips.NOBODY)),
                       ("png", lambda: clips.through_files(path, out, known, clips.NOBODY, ".png")),
                       ("jpeg", lambda: clips.through_files(path, out, known, clips.NOBODY, ".jpg")),
                       ("batch", lambda: clips.as_batch(path, out, known, clips.NOBODY))):
        swap()
        results[name] = pictures(out)
        assert ((results[name] - before).abs().amax(-1) > 0.2).float().mean() > 0.05
    for name in ("png", "jpeg", "batch"):
        assert (results[name] - results["ours"]).abs().mean() < 0.03


@pytest.mark.slow
def test_all_figures_are_there(collins, face, monkeypatch):
    monkeypatch.setattr(clips, "measure_memory", lambda *words: {"costless": {32: 100.0}})
    monkeypatch.setattr(clips, "measure_built_in", lambda *words: {"clip_ms": 1.0, "pictures_ms": 2.0, "ratio": 2.0})
    found = clips.measure_clips(collins, face, clips.NOBODY, True, 1)
    assert found["loops"]["png_ratio"] == round(found["loops"]["clip_fps"] / found["loops"]["png_fps"], 1)
    assert min(value for part in ("loops", "overlap", "faceless") for value in found[part].values()) > 0
    text = "\n".join(report.clips.table_of(found))
    assert "2.0x" in text and "costless engine 100 MB with 32 frames" in text
