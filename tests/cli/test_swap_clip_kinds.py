"""Clips of all kinds through the command line, with models that cost nothing: what is not the face comes out as it went in, and what
cannot be is one sentence."""

from __future__ import annotations

import errno
import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from faceloom.cli import OK, SOME_FAILED, USER_ERROR, main

av = pytest.importorskip("av")

from clips import decoded, make_clip, packets  # noqa: E402
from faceloom.models.files.video import probe, read_frames, segments  # noqa: E402

pytestmark = pytest.mark.usefixtures("doubles")
SIZE = (320, 192)  # of the frames in which the detector remembers two faces
TIMES = [0, 512, 900, 1024, 2600, 2601, 3072, 4000]  # no steady rate


@pytest.fixture
def swap(photographs, capsys):
    """Runs ``swap`` on a clip with the double's source: exit code, record of the clip, stderr."""

    def run(target, out, *more):
        code = main(["swap", str(photographs[0] / "source.png"), str(target), str(out), "--restore", "0", "--crop-size", "128", "--quiet",
                     "--json", *more])
        captured = capsys.readouterr()
        return code, json.loads(captured.out)["clips"][0] if captured.out else {}, captured.err

    return run


def changed(target: Path, out: Path) -> list[float]:
    """For each frame which share of it changed clearly."""
    with read_frames(target) as before, read_frames(out) as after:
        return [float(((old.image() - new.image()).abs().amax(-1) > 0.12).float().mean()) for old, new in zip(before, after, strict=True)]


KINDS = {
    "steps of time, two sounds and subtitles": ("mkv", {"sound": (440, 660), "subtitles": [(0.05, 0.2, "one"), (0.2, 0.3, "two")]}),
    "a phone's rotation": ("mov", {"size": SIZE[::-1], "rotation": 90, "sound": (440,)}),
    "ten bits of PQ": ("mp4", {"codec": "libx265", "fmt": "yuv420p10le", "matrix": 9, "primaries": 9, "transfer": 16}),
    "ten bits of HLG": ("mkv", {"codec": "libx265", "fmt": "yuv420p10le", "matrix": 9, "primaries": 9, "transfer": 18}),
    "full range": ("mp4", {"full": True, "matrix": 1, "primaries": 1, "transfer": 1}),
    "limited range of SD": ("mp4", {"matrix": 6, "primaries": 6, "transfer": 6}),
    "a late beginning": ("mp4", {"pts": [at + 64_000 for at in TIMES], "sound": (440,)}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_the_face_comes_out_as_it_went_in(kind, swap, tmp_path):
    suffix, words = KINDS[kind]
    target = make_clip(tmp_path / f"in.{suffix}", **{"size": SIZE, "pts": TIMES, **words})
    out = tmp_path / f"out.{suffix}"
    code, record, err = swap(target, out)
    assert code == OK and not err and record["frames"] == len(TIMES) and record["frames_swapped"] == len(TIMES)
    before, after = probe(target), probe(out)
    assert (after.width, after.height, after.rotation) == (*SIZE, 0) and (before.width, before.height) == SIZE
    assert (after.marks, after.bits, after.hdr, after.codec) == (before.marks, before.bits, before.hdr, before.codec)
    ticks = Fraction(1, 1000)  # Matroska's
    assert all(abs(one - other) <= ticks for (one, _), (other, _) in zip(decoded(target), decoded(out), strict=True))
    for track in ("audio", "subtitle"):
        old, new = ([[data for _, data in stream] for stream in packets(path, track)] for path in (target, out))
        assert old == new
    assert [stream.language for stream in after.streams] == [stream.language for stream in before.streams]
    assert all(0.01 < share < 0.6 for share in changed(target, out))


def test_odd_sizes_and_transparency(swap, photographs, tmp_path, monkeypatch):
    known = photographs[1]
    monkeypatch.setitem(known, (191, 319), known[192, 320])
    target = make_clip(tmp_path / "odd.mkv", "ffv1", "yuv444p", size=(319, 191), pts=TIMES)
    code, record, err = swap(target, tmp_path / "odd.mp4", "--codec", "h264")
    assert code == OK and not err and (probe(tmp_path / "odd.mp4").width, probe(tmp_path / "odd.mp4").height) == (319, 191)
    alpha = np.linspace(0.5, 1, SIZE[0])[None].repeat(SIZE[1], 0)
    target = make_clip(tmp_path / "alpha.mkv", "ffv1", "yuva420p", size=SIZE, pts=TIMES, alpha=alpha)
    code, record, err = swap(target, tmp_path / "alpha.webm", "--codec", "vp9")
    assert code == OK and record["frames_swapped"] == len(TIMES)
    with read_frames(tmp_path / "alpha.webm") as frames:
        for frame in frames:
            assert np.abs(frame.alpha().numpy() - alpha).mean() < 0.01


def test_an_interlaced_clip_is_said(swap, tmp_path):
    target = make_clip(tmp_path / "in.mkv", size=SIZE, pts=TIMES, options={"x264-params": "tff=1"})
    code, _, err = swap(target, tmp_path / "out.mkv")
    assert code == OK and "is interlaced and stays so" in err and err.count("\n") == 1


def test_a_section_in_minutes_counts_from_the_first_frame(swap, tmp_path):
    """The clip's own clock begins at five seconds, which no player shows."""
    target = make_clip(tmp_path / "in.mkv", size=SIZE, pts=[64_000 + 512 * i for i in range(20)], sound=(440,))
    code, record, _ = swap(target, tmp_path / "out.mkv", "--start", "0:00.2", "--end", "0:00:00.6")
    assert code == OK and record["frames"] == 10
    assert [round(float(at), 2) for at, _ in decoded(tmp_path / "out.mkv")] == [round(0.04 * i, 2) for i in range(10)]
    assert [person["first"] for person in record["people"]] == [0.2, 0.2]


def test_files_that_are_no_clips_are_refused_in_one_sentence(swap, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no clip " * 50)
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        track = file.add_stream("aac", rate=48000)
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        piece.sample_rate = 48000
        file.mux([*track.encode(piece), *track.encode(None)])
    for name, said in (("empty.mp4", "is empty"), ("text.mp4", "cannot be read as a clip"), ("sound.mp4", "has no video, only audio"),
                       ("missing.mp4", "does not exist")):
        code, _, err = swap(tmp_path / name, tmp_path / "out.mp4")
        assert code == USER_ERROR and said in err and name in err and err.count("\n") == 1
    assert not list(tmp_path.glob("*out*"))


def test_a_clip_that_breaks_off_fails_and_what_can_be_read_is_kept_if_one_asks(swap, tmp_path):
    whole = make_clip(tmp_path / "whole.mkv", size=SIZE, pts=range(0, 512 * 75, 512), options={"g": "10"})
    target = tmp_path / "cut.mkv"
    target.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    code, _, err = swap(target, tmp_path / "out.mkv")
    assert code == SOME_FAILED and "ask for what can be read of it" in err and err.count("\n") == 1
    assert not (tmp_path / "out.mkv").exists() and not list(tmp_path.glob(".*"))
    code, record, err = swap(target, tmp_path / "out.mkv", "--keep-damaged")
    assert code == OK and 20 < record["frames"] == len(decoded(tmp_path / "out.mkv")) < 75


def test_a_disk_that_fills_up_and_a_folder_that_may_not_be_written(swap, tmp_path, monkeypatch):
    target = make_clip(tmp_path / "in.mp4", size=SIZE, pts=range(0, 512 * 30, 512))
    (tmp_path / "file").write_bytes(b"")
    code, _, err = swap(target, tmp_path / "file" / "out.mp4")
    assert code == USER_ERROR and "Nothing can be written to" in err and err.count("\n") == 1
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
        code, _, err = swap(target, tmp_path / "out.mp4")
        assert code == USER_ERROR and "MB free" in err and err.count("\n") == 1

    def refuse(self, made):
        raise av.error.FFmpegError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(segments.SegmentEncoder, "_mux", refuse)
        code, _, err = swap(target, tmp_path / "out.mp4")
        assert code == SOME_FAILED and "The disk is full" in err and err.count("\n") == 1 and not (tmp_path / "out.mp4").exists()
    assert swap(target, tmp_path / "out.mp4")[0] == OK and not list(tmp_path.glob(".*"))
