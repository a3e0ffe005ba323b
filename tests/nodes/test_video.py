"""The nodes for clips: faces found and followed, people chosen, the clip written."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

FRAMES, EDGE = 20, 320


@pytest.fixture(scope="module")
def film(pack, collins) -> torch.Tensor:
    """Collins, moving by a pixel a frame, ``[20, 320, 320, 3]``."""
    return torch.stack([collins[0, 20 : 20 + EDGE, 70 + i : 70 + i + EDGE] for i in range(FRAMES)])


@pytest.fixture(scope="module")
def path(pack, film, tmp_path_factory) -> Path:
    """The film as H.264 with sound."""
    from faceloom.models.files.video import EncodeSettings, open_writer, probe, read_frames, write_lossless

    folder = tmp_path_factory.mktemp("film")
    sound = torch.sin(torch.arange(40000) * .05)[None] * .2
    write_lossless(folder / "film.mkv", film, Fraction(25), sound=(sound, 48000))
    source = folder / "film.mkv"
    with open_writer(folder / "film.mp4", source, probe(source), EncodeSettings("h264")) as writer, read_frames(source) as frames:
        for frame in frames:
            writer.write(frame)
    return folder / "film.mp4"


@pytest.fixture(scope="module")
def video(pack, path):
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(path))


@pytest.fixture(scope="module")
def found(nodes, video):
    return nodes["FaceDetectVideo"].execute(video, .5, "large-small", "all", 0, 8, 12, 1.0)


def swap(nodes, video, faces, **more):
    given = dict(strength=1.0, fade=0, restore=0.0, codec={"codec": "auto"}, container="auto", pixel_boost=1, crop_size=0, regions="",
                 color_match="none", blend="feather", feather=0.0, fidelity=.5) | more
    return nodes["SwapVideo"].execute(video, faces, **given)


def read(source):
    from faceloom.models.files.video import read_frames

    with read_frames(source) as frames:
        return [(frame.time, frame.image()) for frame in frames]


def packets(source, kind: str) -> list[bytes]:
    import av

    with av.open(source) as file:
        return [bytes(packet) for packet in file.demux(next(stream for stream in file.streams if stream.type == kind)) if packet.size]


def test_everybody_is_found_in_every_frame_and_shown(found):
    faces, who, count = found.args
    assert (faces.frames, faces.height, faces.width) == (FRAMES, EDGE, EDGE) and count == 1
    assert [(face.frame, face.track) for face in faces] == [(i, 0) for i in range(FRAMES)]
    moved = faces.keypoints[-1].mean(0) - faces.keypoints[0].mean(0)
    np.testing.assert_allclose(moved, [-(FRAMES - 1), 0], atol=1.5)
    assert who.shape[0] == 1 and who.shape[3] == 3 and float(who.amax()) <= 1
    assert found.ui["text"][0].splitlines() == [f"1 person in {FRAMES} frames", "person 0: 0:00.0 to 0:00.8, 100% of the frames"]


def test_the_swapped_video_is_a_file_with_the_same_sound_and_times(nodes, video, path, found, source):
    faces = found.args[0]
    (out,) = swap(nodes, video, faces, identity=source).args
    before, after = read(str(path)), read(out.get_stream_source())
    assert [at for at, _ in before] == [at for at, _ in after] and packets(str(path), "audio") == packets(out.get_stream_source(), "audio")
    for face, (_, one), (_, other) in zip(faces, before, after, strict=True):
        x, y = face.keypoints[2].astype(int)
        assert (one[y - 12 : y + 12, x - 12 : x + 12] - other[y - 12 : y + 12, x - 12 : x + 12]).abs().mean() > .02
        assert (one[-40:, :40] - other[-40:, :40]).abs().mean() < .01


def test_save_video_copies_the_streams(nodes, video, found, source, tmp_path):
    (out,) = swap(nodes, video, found.args[0], identity=source).args
    out.save_to(str(tmp_path / "saved.mp4"))
    for kind in ("video", "audio"):
        assert packets(str(tmp_path / "saved.mp4"), kind) == packets(out.get_stream_source(), kind)


def test_a_trimmed_video_is_trimmed(nodes, video, path, source):
    trimmed = video.as_trimmed(.2, .4)
    faces, _, _ = nodes["FaceDetectVideo"].execute(trimmed, .5, "large-small", "all", 0, 8, 12, 1.0).args
    assert faces.frames == 10
    (out,) = swap(nodes, trimmed, faces, identity=source).args
    assert len(read(out.get_stream_source())) == 10


def test_frames_that_were_made_in_the_graph(nodes, film, found, source):
    from comfy_api.latest import InputImpl, Types

    parts = Types.VideoComponents(images=film, frame_rate=Fraction(25), audio={"waveform": torch.zeros(1, 2, 40000), "sample_rate": 48000})
    made = InputImpl.VideoFromComponents(parts)
    faces, _, count = nodes["FaceDetectVideo"].execute(made, .5, "large-small", "all", 0, 8, 12, 1.0).args
    assert count == 1 and np.abs(faces.keypoints - found.args[0].keypoints).max() < 4
    (out,) = swap(nodes, made, faces, identity=source).args
    assert len(read(out.get_stream_source())) == FRAMES and out.get_container_format().startswith("mov")
    assert packets(out.get_stream_source(), "audio")


def test_a_video_in_memory(nodes, path, found, source):
    from comfy_api.latest import InputImpl

    inside = InputImpl.VideoFromFile(io.BytesIO(path.read_bytes()))
    faces = nodes["FaceDetectVideo"].execute(inside, .5, "large-small", "all", 0, 8, 12, 1.0).args[0]
    assert np.array_equal(faces.keypoints, found.args[0].keypoints)
    assert len(read(swap(nodes, inside, faces, identity=source).args[0].get_stream_source())) == FRAMES


def test_faces_go_through_select_smooth_and_assign_without_a_picture(nodes, video, found, source):
    faces = found.args[0]
    holes = faces.take([i for i in range(len(faces)) if i not in (5, 6, 7)])
    smooth = nodes["FaceSmooth"].execute(faces=holes, method={"method": "running mean", "reach": 2, "jump": 0.0}, gap=0, fill=6)
    steady, crops = smooth.args
    assert [face.frame for face in steady] == list(range(FRAMES)) and crops.shape == (1, 512, 512, 3)
    assert smooth.ui["text"] == (f"{FRAMES} faces of 1 track, 3 filled in",) and [face.score for face in steady.items[5:8]] == [0, 0, 0]
    chosen, rest = nodes["FaceSelect"].execute(steady, {"rule": "person", "person": "0"}).args
    assert len(chosen) == FRAMES and len(rest) == 0
    alike, _ = nodes["FaceSelect"].execute(steady, {"rule": "same-person", "identity": source, "similarity": 0.0, "one_per_frame": True,
                                                    "margin": 0.0}).args
    assert len(alike) == 0
    (assigned,) = nodes["FaceAssign"].execute(steady, chosen, source).args
    (out,) = swap(nodes, video, assigned).args
    one = read(swap(nodes, video, steady, identity=source).args[0].get_stream_source())
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(read(out.get_stream_source()), one, strict=True))


def test_what_is_missing_or_does_not_fit_is_one_sentence(nodes, video, found, source):
    from faceloom.models.errors import FaceLoomError

    faces = found.args[0]
    with pytest.raises(FaceLoomError, match="Connect the identity"):
        swap(nodes, video, faces)
    with pytest.raises(FaceLoomError, match="faces were found in"):
        swap(nodes, video, replace(faces, frames=FRAMES + 3), identity=source)
    with pytest.raises(FaceLoomError, match="cannot be written to a .webm"):
        swap(nodes, video, faces, identity=source, codec={"codec": "h264", "quality": 20.0}, container="webm")
    with pytest.raises(FaceLoomError, match="The input video of Face Detect"):
        nodes["FaceDetectVideo"].execute(torch.zeros(1, 8, 8, 3), .5, "large-small", "all", 0, 8, 12, 1.0)


@pytest.mark.parametrize("codec, container, suffix", [
    ({"codec": "auto"}, "auto", ".mp4"), ({"codec": "ffv1"}, "auto", ".mkv"), ({"codec": "h264", "quality": 30.0}, "mkv", ".mkv"),
    ({"codec": "auto"}, "mov", ".mov")])
def test_the_encoder_that_is_asked_for(nodes, video, found, source, codec, container, suffix):
    from faceloom.models.files.video import probe

    (out,) = swap(nodes, video, found.args[0].take([3]), identity=source, codec=codec, container=container).args
    assert Path(out.get_stream_source()).suffix == suffix
    assert probe(out.get_stream_source()).codec == (codec["codec"] if codec["codec"] != "auto" else "h264")


def test_cancel_ends_within_a_frame_and_the_next_run_goes_on(nodes, video, path, found, source, monkeypatch):
    """Segments of eight frames: what was written before the work was stopped is not swapped again, and the clip is the same."""
    import comfy.model_management
    from faceloom.models.clip.swap import ClipSwapper
    from faceloom.models.files import video as files

    module = __import__(nodes["SwapVideo"].__module__, fromlist=["x"])
    monkeypatch.setattr(module, "EncodeSettings", lambda codec, quality=None: files.EncodeSettings(codec, quality, segment_frames=8))
    whole = read(swap(nodes, video, found.args[0], identity=source).args[0].get_stream_source())
    hidden = SimpleNamespace(prompt={"5": {"class_type": "SwapVideo", "inputs": {}}}, unique_id="5")
    monkeypatch.setattr(nodes["SwapVideo"], "hidden", hidden, raising=False)
    drawn, stopped = [], []
    draw = ClipSwapper.draw
    monkeypatch.setattr(ClipSwapper, "draw", lambda self, images, first, *more: drawn.append(first) or draw(self, images, first, *more))

    class Stop(Exception):
        pass

    def interrupt():
        stopped.append(1)
        if len(drawn) == 3:
            raise Stop

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt)
    with pytest.raises(Stop):
        swap(nodes, video, found.args[0], identity=source)
    assert drawn == [0, 8, 16]
    drawn.clear()
    stopped.clear()
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", lambda: None)
    (out,) = swap(nodes, video, found.args[0], identity=source).args
    assert drawn == [8, 16] or drawn == [0, 8, 16]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(read(out.get_stream_source()), whole, strict=True))
