"""A clip on the command line: the same frames at the same times with the new face, and its sound."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.cli import main
from PIL import Image

av = pytest.importorskip("av")
COUNT, EDGE = 14, 320
TIMES = [0, 40, 80, 120, 200, 240, 280, 320, 360, 440, 480, 520, 560, 600]  # milliseconds; two frames last longer


@pytest.fixture(scope="module")
def portraits(tmp_path_factory, collins, hopper) -> tuple[Path, Path, Path]:
    """A photo of Grace Hopper, and a clip of Eileen Collins: the camera moves, three frames show no face, sound goes with it."""
    folder = tmp_path_factory.mktemp("clip")
    source, clip = folder / "hopper.png", folder / "clip.mkv"
    Image.fromarray((hopper[0] * 255).byte().numpy()).save(source)
    photo = (collins[0] * 255).byte().numpy()
    with av.open(str(clip), "w") as file:
        video = file.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt, video.time_base = EDGE, EDGE, "bgr0", Fraction(1, 1000)
        video.codec_context.time_base = Fraction(1, 1000)
        sound = file.add_stream("pcm_s16le", rate=8000)
        for i, pts in enumerate(TIMES):
            part = photo[: EDGE, 80 + 4 * i : 80 + 4 * i + EDGE] if not 9 <= i < 12 else np.full((EDGE, EDGE, 3), 90, np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(part), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            file.mux(video.encode(frame))
        samples = av.AudioFrame.from_ndarray((np.arange(4800, dtype=np.int16) % 400)[None], format="s16", layout="mono")
        samples.sample_rate, samples.pts = 8000, 0
        file.mux(sound.encode(samples))
        file.mux(video.encode())
        file.mux(sound.encode())
    return source, clip, folder


def frames_of(path: Path) -> tuple[list[float], np.ndarray]:
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
        return [round(float(frame.time), 3) for frame in frames], np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


@pytest.mark.slow
def test_a_clip_is_swapped_with_its_times_and_its_sound(portraits, capsys):
    source, clip, folder = portraits
    out = folder / "out.mkv"
    assert main(["swap", str(source), str(clip), str(out), "--json", "--quiet", "--restore", "0"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["frames"], report["frames_with_a_face"]) == (COUNT, COUNT - 3) and len(report["people"]) == 1
    (times, before), (new_times, after) = frames_of(clip), frames_of(out)
    assert new_times == times and after.shape == before.shape and sound_of(out) == sound_of(clip)
    changed = np.abs(after.astype(int) - before).max(-1)
    for i in range(COUNT):
        share = float((changed[i] > 20).mean())
        assert share < .001 if 9 <= i < 12 else share > .03
    assert np.median(changed[:9, :40]) <= 4  # beside the face only what encoding does
    assert [path.name for path in folder.iterdir() if "part" in path.name] == []


def test_what_cannot_be_is_refused_before_the_work(portraits, capsys, tmp_path):
    source, clip, folder = portraits
    for words, said in (([str(tmp_path / "out.png")], "so OUT must be one"), ([str(clip)], "one of the files that are read"),
                        ([str(tmp_path / "out.mp4"), "--provenance"], "leave them out for a clip")):
        assert main(["swap", str(source), str(clip), *words]) == 2
        assert said in capsys.readouterr().err
    (folder / "there.mp4").write_bytes(b"x")
    assert main(["swap", str(source), str(clip), str(folder / "there.mp4")]) == 2 and "--overwrite" in capsys.readouterr().err
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no clip")
    assert main(["swap", str(source), str(broken), str(tmp_path / "o.mp4")]) == 2 and "broken.mp4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_clip_without_a_face_is_said(portraits, capsys, tmp_path):
    source, _, folder = portraits
    clip = folder / "plain.mp4"
    with av.open(str(clip), "w") as file:
        video = file.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        for _ in range(3):
            file.mux(video.encode(av.VideoFrame.from_ndarray(torch.full((64, 64, 3), 90, dtype=torch.uint8).numpy(), format="rgb24")))
        file.mux(video.encode())
    assert main(["swap", str(source), str(clip), str(folder / "o.mp4"), "--quiet"]) == 2
    assert "There is no face in" in capsys.readouterr().err and not (folder / "o.mp4").exists()
