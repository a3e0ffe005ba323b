"""Clips read: every frame once, at its time, upright, in its own colours; what is damaged is said or kept."""

from __future__ import annotations

import gc
import io
import sys
import threading
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError

av = pytest.importorskip("av")

from clips import TICKS, decoded, make_clip, mean_error, picture, planes  # noqa: E402
from faceloom.models.files.video import count_frames, open_writer, probe, read_frames  # noqa: E402

CONSTANT = range(0, 512 * 24, 512)
VARIABLE = [0, 512, 1212, 1512, 1513, 2025, 4073, 4406]


@pytest.mark.parametrize("pts", [CONSTANT, VARIABLE, [at + 6400 for at in CONSTANT], [0]], ids=["constant", "variable", "late", "one"])
@pytest.mark.parametrize(
    "options", [{}, {"bf": "3", "g": "8"}, {"bf": "3", "g": "8", "x264-params": "open-gop=1"}], ids=["plain", "b", "open"]
)
def test_every_frame_once_and_at_its_time(tmp_path, pts, options):
    path = make_clip(tmp_path / "a.mp4", pts=pts, options=options)
    frames = list(read_frames(path))
    assert [frame.pts * frame.time_base for frame in frames] == [at * TICKS for at in pts] and [frame.index for frame in frames] == list(
        range(len(pts))
    )
    assert [frame.duration for frame in frames[:-1]] == list(np.diff(pts)) and count_frames(path) == len(pts)
    assert all(all(map(np.array_equal, planes(frame.native), other)) for frame, (_, other) in zip(frames, decoded(path)))


def test_what_a_clip_is(tmp_path):
    path = make_clip(
        tmp_path / "a.mkv",
        "libx265",
        "yuv420p10le",
        size=(96, 64),
        matrix=9,
        primaries=9,
        transfer=18,
        sound=(440, 550),
        subtitles=[(0.1, 0.2, "x")],
    )
    info = probe(path)
    assert (info.width, info.height, info.rate, info.time_base) == (96, 64, 25, Fraction(1, 1000))
    assert (info.pixel_format, info.bits, info.codec, info.hdr) == ("yuv420p10le", 10, "hevc", "HLG") and "matroska" in info.container
    assert (info.marks.primaries, info.marks.transfer, info.marks.matrix, info.marks.full_range) == (9, 18, 9, False)
    assert [(stream.kind, stream.codec) for stream in info.streams] == [("audio", "aac"), ("audio", "aac"), ("subtitle", "srt")]
    assert abs(info.duration - Fraction(24, 25)) < Fraction(1, 10) and not info.interlaced and not info.is_animation


def test_interlaced_and_oblong_pixels_are_said(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.options = {"x264-params": "tff=1"}
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        for _ in range(4):
            file.mux(stream.encode(av.VideoFrame(96, 64, "yuv420p")))
        file.mux(stream.encode(None))
    assert probe(path).interlaced and probe(path).sample_aspect == Fraction(16, 15)


@pytest.mark.parametrize(
    "start, end", [(0.3, None), (None, 0.5), (0.3, 0.7), (0.96, None), (Fraction(1, 25), Fraction(2, 25)), (2.0, 2.12), (2.96, None)]
)
@pytest.mark.parametrize(
    "suffix, options",
    [(".mp4", {"bf": "3", "g": "12"}), (".mkv", {"bf": "3", "g": "12"}), (".mp4", {"bf": "3", "x264-params": "open-gop=1:keyint=9"})],
)
def test_a_section_holds_what_the_whole_clip_holds_there(tmp_path, start, end, suffix, options):
    path = make_clip(tmp_path / f"a{suffix}", pts=range(0, 512 * 75, 512), options=options)
    wanted = [
        pair
        for pair in decoded(path)
        if (start is None or pair[0] >= Fraction(start).limit_denominator(1000))
        and (end is None or pair[0] < Fraction(end).limit_denominator(1000))
    ]
    found = [(frame.pts * frame.time_base, planes(frame.native)) for frame in read_frames(path, start, end)]
    assert [at for at, _ in found] == [at for at, _ in wanted] and len(found) > 0
    assert all(all(map(np.array_equal, a, b)) for (_, a), (_, b) in zip(found, wanted))


def test_a_run_goes_on_after_a_frame(tmp_path):
    path = make_clip(tmp_path / "a.mp4")
    frames = list(read_frames(path, after=512 * 10, first_index=11))
    assert [(frame.index, frame.pts) for frame in frames] == [(number, 512 * number) for number in range(11, 24)]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("fmt, size", [("yuv420p", (96, 64)), ("yuv422p", (96, 64)), ("yuv444p", (95, 63))])
def test_a_rotation_mark_is_honoured(tmp_path, rotation, fmt, size):
    path = make_clip(tmp_path / "a.mov", fmt=fmt, size=size, rotation=rotation, pts=CONSTANT[:3], options={"crf": "4"})
    info = probe(path)
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
        turns = round(frame.rotation / 90)
    assert (info.width, info.height) == (size if turns % 2 == 0 else size[::-1]) and (turns % 2 == 1) == (rotation in (90, 270))
    for frame in read_frames(path):
        assert mean_error(frame.image(), np.rot90(picture(frame.index, *size), turns)) < 3
    with read_frames(path) as frames, open_writer(tmp_path / "out.mp4", path, frames.info) as writer:
        for frame in frames:
            writer.write(frame)
    assert probe(tmp_path / "out.mp4").rotation == 0
    for frame in read_frames(tmp_path / "out.mp4"):
        assert mean_error(frame.image(), np.rot90(picture(frame.index, *size), turns)) < 4


@pytest.mark.parametrize("fmt", ["yuv444p", "yuv420p", "yuvj420p", "yuv422p10le", "yuv444p12le"])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
@pytest.mark.parametrize("full", [False, True])
def test_colors_are_read_by_matrix_and_range(tmp_path, fmt, matrix, full):
    """Within 2.2 levels everywhere for full chroma; another matrix or range would be off by 10 and more."""
    full = full or "j" in fmt  # the format says so
    codec = "ffv1" if "j" not in fmt else "libx264"
    path = make_clip(
        tmp_path / "a.mkv", codec, fmt, matrix=matrix, full=full, pts=[0, 512], options={} if codec == "ffv1" else {"crf": "1"}
    )
    for frame in read_frames(path):
        wanted = picture(frame.index)
        if "444" in fmt:
            assert (frame.image() - torch.from_numpy(wanted)).abs().max() * 255 < (2.2 if "12" not in fmt else 0.6)
        assert mean_error(frame.image(), wanted) < 1.5


@pytest.mark.parametrize("size, expected", [((640, 480), 6), ((1280, 720), 1), ((720, 576), 6), ((1920, 800), 1)])
def test_an_unmarked_matrix_follows_the_size(size, expected):
    from faceloom.models.files.video.info import ClipInfo, effective_matrix

    assert effective_matrix(ClipInfo(*size, Fraction(1, 1000), Fraction(25))) == expected


def test_ten_bits_stay_ten_bits(tmp_path):
    """A ramp of 1,024 values, and each of them comes out apart from its neighbours."""
    path = tmp_path / "a.mkv"
    ramp = np.arange(64, 940, dtype=np.uint16)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = len(ramp), 8, "yuv444p10le"
        frame = av.VideoFrame(len(ramp), 8, "yuv444p10le")
        for number, plane in enumerate(frame.planes):
            np.frombuffer(plane, np.uint16).reshape(8, -1)[:, : len(ramp)] = ramp if number == 0 else 512
        frame.pts = 0
        file.mux([*stream.encode(frame), *stream.encode(None)])
    image = next(iter(read_frames(path))).image()[0, :, 1]
    assert len(image.unique()) == len(ramp) and (image.double() - torch.from_numpy((ramp - 64) / 876)).abs().max() < 0.0006


def test_pixels_do_not_depend_on_the_width(tmp_path):
    """Widths that no vector instruction divides give the same pixels each time, and the same as a wider picture has there."""
    wide = picture(0, 160, 64)
    for width in (31, 33, 65, 97, 130):
        path = tmp_path / f"{width}.mkv"
        make_clip(path, "ffv1", "yuv444p", size=(width, 64), pts=[0])
        images = [next(iter(read_frames(path))).image() for _ in range(4)]
        assert all(torch.equal(images[0], image) for image in images) and mean_error(images[0], picture(0, width, 64)) < 1
    assert wide.shape == (64, 160, 3)


def test_only_frames_that_are_asked_for_are_converted(tmp_path):
    path = make_clip(tmp_path / "a.mp4")
    with read_frames(path, first_index=3, convert=lambda number: number % 2 == 1) as frames:
        assert [frame.pixels is not None for frame in frames] == [number % 2 == 0 for number in range(24)]
    with read_frames(path, convert=False) as frames:
        frame = next(frames)
        assert frame.pixels is None and frame.image().shape == (64, 96, 3) and frame.image().dtype == torch.float32


def test_of_a_part_that_is_asked_for_no_more_is_kept(tmp_path):
    path = make_clip(tmp_path / "a.mkv", pts=[0, 512])
    part, inner, outer = (slice(8, 40), slice(16, 80)), (slice(10, 20), slice(30, 50)), (slice(0, 20), slice(0, 50))
    with read_frames(path, convert=lambda number: part if number else False) as some, read_frames(path) as whole:
        (bare, other), (first, second) = list(some), list(whole)
    assert bare.pixels is None and bare.kept is None and torch.equal(bare.image(), first.image())
    assert other.pixels is None and other.kept[0].shape == (32, 64, 3) and other.size == (64, 96)
    for asked in (part, inner):
        assert torch.equal(other.image(asked), second.image(asked)) and other.pixels is None
    assert torch.equal(other.image(outer), second.image(outer)) and torch.equal(other.image(), second.image())  # converted again


def test_reading_can_be_broken_off(tmp_path):
    path = make_clip(tmp_path / "a.mp4", pts=range(0, 512 * 200, 512))
    before = threading.active_count()
    with read_frames(path) as frames:
        next(frames)
        with pytest.raises(StopIteration):
            frames.close()
            next(frames)
    assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [1, 4])
def test_memory_does_not_grow_with_the_length(tmp_path, ahead):
    """The peak of 400 frames, copied into another file, is that of 100."""
    resource = pytest.importorskip("resource")
    del resource

    def peak(count):
        path = make_clip(tmp_path / f"{count}.mp4", pts=range(0, 512 * count, 512), size=(320, 192), options={"preset": "ultrafast"})
        gc.collect()
        tracemalloc.start()
        alive = 0
        with read_frames(path, ahead=ahead) as frames, open_writer(tmp_path / "out.mkv", path, frames.info) as writer:
            for frame in frames:
                image = frame.image()
                image[50:90, 50:90] = 0.5
                writer.write(frame, image)
                alive = max(alive, _resident())
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top, alive

    peak(20)
    (short, short_resident), (long, long_resident) = peak(100), peak(400)
    assert long < short * 1.1 + (1 << 18) and long_resident < short_resident + (24 << 20)


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def test_from_memory_and_from_path_objects(tmp_path):
    buffer = io.BytesIO()
    make_clip(buffer, container="mp4")
    buffer.seek(17)
    with read_frames(buffer) as one, read_frames(buffer) as other:  # two readers of one buffer
        assert [frame.pts for frame in one] == [frame.pts for frame in other] == list(CONSTANT)
    assert buffer.tell() == 17
    path = tmp_path / "a:b ü%20.mp4" if sys.platform != "win32" else tmp_path / "ü%20.mp4"
    path.write_bytes(buffer.getvalue())
    assert len(list(read_frames(path))) == len(list(read_frames(str(path)))) == 24


def test_files_that_are_no_clips_are_one_sentence(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no clip " * 50)
    (tmp_path / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(20_000))
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        track = file.add_stream("aac", rate=48000)
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        piece.sample_rate = 48000
        file.mux([*track.encode(piece), *track.encode(None)])
    make_clip(tmp_path / "whole.mp4")
    (tmp_path / "headless.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:3000])
    (tmp_path / "folder.mp4").mkdir()
    for name, words in (
        ("empty.mp4", "is empty"),
        ("text.mp4", "cannot be read as a clip"),
        ("noise.mkv", "cannot be read as a clip"),
        ("sound.mp4", "has no video, only audio"),
        ("headless.mp4", "cannot be read as a clip|has no video|cannot decode"),
        ("missing.mp4", "There is no file"),
        ("folder.mp4", "cannot be read"),
    ):
        for call in (probe, lambda path: list(read_frames(path)), count_frames):
            with pytest.raises(FaceLoomError, match=words) as raised:
                call(tmp_path / name)
            assert name in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 400
    with pytest.raises(FaceLoomError, match="The clip cannot be read"):
        probe(io.BytesIO(b"nothing" * 100))


def truncated(tmp_path, kind):
    """A clip of 75 frames that breaks off in the middle."""
    path = make_clip(
        tmp_path / f"whole.{kind}", pts=range(0, 512 * 75, 512), options={"g": "10"}, container={"mp4": "mp4", "mkv": "matroska"}[kind]
    )
    if kind == "mp4":  # with its index at the beginning, as it is sent over networks
        with av.open(str(path)) as source, av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
        path = tmp_path / "fast.mp4"
    data = path.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(data[: len(data) * 6 // 10])
    return cut


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_clip_that_breaks_off_is_said_or_kept(tmp_path, kind):
    cut = truncated(tmp_path, kind)
    with pytest.raises(FaceLoomError, match="ask for what can be read of it") as raised:
        list(read_frames(cut))
    assert "\n" not in str(raised.value)
    kept = list(read_frames(cut, keep_damaged=True))
    numbers = [round(frame.time * 25) for frame in kept]
    assert 5 < len(kept) < 70 and numbers == sorted(set(numbers))
    assert numbers[:-4] == list(range(len(kept) - 4))  # the last ones may be made from frames that are lost


@pytest.mark.parametrize(
    "codec, fmt, suffix",
    [("ffv1", "yuv420p", ".mkv"), ("libx264", "yuv420p", ".mp4"), ("prores_ks", "yuv422p10le", ".mov"), ("libsvtav1", "yuv420p", ".mp4")],
)
def test_a_clip_with_a_damaged_frame_is_said_or_kept(tmp_path, codec, fmt, suffix):
    options = {"g": "1", "x264-params": "mbtree=0"} if codec == "libx264" else {}
    path = make_clip(tmp_path / f"a{suffix}", codec, fmt, pts=range(0, 512 * 30, 512), options=options)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        position, size = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size][15]
    data[position + size // 4 : position + 3 * size // 4] = b"Z" * (3 * size // 4 - size // 4)
    path.write_bytes(data)
    with pytest.raises(FaceLoomError, match="is damaged") as raised:
        list(read_frames(path))
    assert "\n" not in str(raised.value) and "ask for what can be read" in str(raised.value)
    kept = list(read_frames(path, keep_damaged=True))
    assert len(kept) >= 29 and kept[-1].time == pytest.approx(29 / 25, abs=0.001)


def test_no_frame_in_the_section(tmp_path):
    with pytest.raises(FaceLoomError, match="no frame in the section"):
        list(read_frames(make_clip(tmp_path / "a.mp4"), 50.0))


def test_without_the_package_it_says_how_to_install_it(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(FaceLoomError, match="python -m pip install av"):
        probe(path)
