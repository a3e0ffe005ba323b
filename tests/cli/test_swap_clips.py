"""A clip on the command line: the same frames at the same times with the new face, and its sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.cli import SOME_FAILED, main
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
    (record,) = json.loads(capsys.readouterr().out)["clips"]
    assert (record["frames"], record["frames_with_a_face"]) == (COUNT, COUNT - 3) and len(record["people"]) == 1
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
    for words, said in (([str(tmp_path / "out.png")], "so OUT must be one"), ([str(clip)], "one of the files that are read")):
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
    assert main(["swap", str(source), str(clip), str(folder / "o.mp4"), "--quiet"]) == SOME_FAILED
    assert "There is no face in" in capsys.readouterr().err and not (folder / "o.mp4").exists()


# Runs the command in processes of its own, each of which is killed at the moment that a number of 0..1 says, of the time that it still
# needs; and then to its end. The seconds are those of the undisturbed run. Processes are forked when all is imported.
KILLED = """
import json, os, random, signal, sys, time
import faceloom.cli.clips, faceloom.cli.swap
from faceloom.cli import main

faceloom.cli.clips.SEGMENT_FRAMES = 8

def start(words):
    child = os.fork()
    if not child:
        os._exit(main(words))
    return child

def wait(child, most=None):
    end = time.monotonic() + (most or 1e9)
    while most is None or time.monotonic() < end:
        if os.waitpid(child, 0 if most is None else os.WNOHANG)[0]:
            return True
        time.sleep(.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False

words, calm, out, folder = json.loads(sys.argv[1])
began = time.monotonic()
wait(start([*words, calm]))
length, rolls, killed, finished, segments = time.monotonic() - began, random.Random(7), 0, 0, set()
while killed < 10:
    if wait(start([*words, out]), length * rolls.random()):
        finished += 1  # faster than its end was to come: once more from the beginning
        os.unlink(out)
    else:
        killed += 1
        assert not os.path.exists(out)
        segments |= {name for _, _, names in os.walk(folder) for name in names}
wait(start([*words, out]))
print(json.dumps({"killed": killed, "seen": sorted(segments)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_run_killed_at_ten_moments_gives_the_clip_of_an_undisturbed_one(portraits, tmp_path):
    source, clip, _ = portraits
    out, calm = tmp_path / "out" / "clip.mp4", tmp_path / "calm" / "clip.mp4"
    long = tmp_path / "long.mkv"
    repeat(clip, long, 3)
    words = ["swap", str(source), str(long), "--restore", "0", "--quiet", "--audio", "none"]
    command = [sys.executable, "-c", KILLED, json.dumps([words, str(calm), str(out), str(out.parent)])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] == 10 and {"faces.safetensors", "000001.mp4"} <= set(report["seen"]), done.stderr
    (times, frames), (new_times, new_frames) = frames_of(calm), frames_of(out)
    assert times == new_times and len(times) == 3 * COUNT and np.array_equal(frames, new_frames)
    assert os.listdir(out.parent) == ["clip.mp4"]


def repeat(clip: Path, path: Path, times: int) -> None:
    """Writes a clip's pictures several times over."""
    _, pictures = frames_of(clip)
    with av.open(str(path), "w") as file:
        video = file.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = EDGE, EDGE, "bgr0"
        for picture in [*pictures] * times:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
