"""Clips written: the same frames at the same times, sound and subtitles bit for bit, and segments that join to an undisturbed run's
file."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError

av = pytest.importorskip("av")

from clips import TICKS, decoded, equal, make_clip, packets, picture  # noqa: E402
from faceloom.models.files.video import EncodeSettings, check_output, open_writer, probe, read_frames  # noqa: E402

CONSTANT = range(0, 512 * 24, 512)
VARIABLE = [int(at) for at in np.cumsum([0, 512, 700, 300, 1, 512, 2048, 333, 512, 97, 512, 1024, 640, 511, 513, 512])]
LATE = [at + 6400 for at in CONSTANT]
LOSSLESS = EncodeSettings(codec="ffv1")


def copy(source, target, settings=None, *, change=None, start=None, end=None, key=None, stop_after=None, **options):
    """Write a clip's frames as they are, or as ``change(frame)`` makes them."""
    with open_writer(target, source, probe(source), settings, window=(start, end), key=key) as writer:  # noqa: SIM117
        with read_frames(source, start, end, after=writer.last_pts, first_index=writer.frames_done, **options) as frames:
            for number, frame in enumerate(frames):
                if stop_after is not None and number == stop_after:
                    raise KeyboardInterrupt
                writer.write(frame, change(frame) if change else None)
    return target


def test_every_codec_goes_into_the_files_that_are_named_for_it(tmp_path):
    from faceloom.models.files.video.settings import _ENCODERS

    for codec, encoder in _ENCODERS.items():
        source = make_clip(tmp_path / f"{codec}.mkv", "ffv1", pts=[0, 512])
        for suffix in encoder.suffixes:
            assert len(decoded(copy(source, tmp_path / f"{codec}{suffix}.out{suffix}", EncodeSettings(codec=codec)))) == 2


def test_sound_that_a_file_refuses_at_its_end_only_is_refused_before_the_work(tmp_path):
    source = tmp_path / "in.avi"
    with av.open(str(source), "w") as file:
        video, sound = file.add_stream("mpeg4", rate=25), file.add_stream("pcm_s16le", rate=8000)  # AVI does not say where speakers stand
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        file.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 640), np.int16), format="s16", layout="stereo")
        samples.sample_rate = 8000
        file.mux([*sound.encode(samples), *video.encode(), *sound.encode()])
    info = probe(source)
    check_output(tmp_path / "out.mkv", source, info, EncodeSettings())
    with pytest.raises(FaceLoomError, match="cannot hold the source's audio"):
        check_output(tmp_path / "out.mp4", source, info, EncodeSettings())


def test_chapters_and_tags_come_along_unless_they_are_stripped(tmp_path):
    titled = make_clip(tmp_path / "in.mkv", sound=(440, 660), chapters=[(0, 0.4, "Sea"), (0.4, 0.96, "Hills")], title="Holiday")
    copy(titled, tmp_path / "whole.mp4")
    copy(titled, tmp_path / "part.mkv", start=0.3, end=0.6)
    copy(titled, tmp_path / "bare.mkv", EncodeSettings(keep_tags=False, tags={"Engine": "mesh"}))
    found = {}
    for name in ("whole.mp4", "part.mkv", "bare.mkv"):
        with av.open(str(tmp_path / name)) as file:
            chapters = [(float(each["start"] * each["time_base"]), float(each["end"] * each["time_base"]), each["metadata"].get("title"))
                        for each in file.chapters()]
            tags = {key.lower(): value for key, value in file.metadata.items()}
            found[name] = chapters, tags.get("title"), tags.get("engine"), [stream.language for stream in file.streams.audio]
    assert found["whole.mp4"] == ([(0, 0.4, "Sea"), (0.4, 0.96, "Hills")], "Holiday", None, ["eng", "deu"])
    assert found["part.mkv"][0] == [(0, 0.1, "Sea"), (0.1, 0.3, "Hills")]
    assert found["bare.mkv"] == ([], None, "mesh", ["eng", "deu"])


@pytest.mark.parametrize("pts", [CONSTANT, VARIABLE, LATE, CONSTANT[:1], CONSTANT[:2]], ids=["constant", "variable", "late", "one", "two"])
@pytest.mark.parametrize(
    "codec, suffix",
    [
        ("h264", ".mp4"),
        ("h264", ".mov"),
        ("h264", ".mkv"),
        ("hevc", ".mp4"),
        ("av1", ".mp4"),
        ("vp9", ".webm"),
        ("prores", ".mov"),
        ("ffv1", ".mkv"),
    ],
)
def test_every_frame_keeps_its_time(tmp_path, pts, codec, suffix):
    source = make_clip(tmp_path / "in.mp4", pts=pts, options={"bf": "3"})
    target = copy(source, tmp_path / f"out{suffix}", EncodeSettings(codec=codec, segment_frames=7))
    times = [at for at, _ in decoded(target)]
    wanted = [at * TICKS for at in pts]
    if suffix in (".mp4", ".mov"):
        assert times == wanted
    else:  # Matroska counts milliseconds, and two frames of the variable clip lie within one
        assert len(times) == len(wanted) and all(abs(a - b) <= Fraction(1, 1000) for a, b in zip(times, wanted))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("time_base", [Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 1_000_000)])
def test_time_bases_of_all_kinds(tmp_path, time_base):
    step = 1 if time_base.numerator > 1 else round(Fraction(1, 30) / time_base)
    source = make_clip(tmp_path / "in.mp4", pts=range(0, 12 * step, step), time_base=time_base)
    assert [at for at, _ in decoded(source)] == [at for at, _ in decoded(copy(source, tmp_path / "out.mp4"))]


@pytest.mark.parametrize(
    "fmt",
    [
        "yuv420p",
        "yuv422p",
        "yuv444p",
        "yuv420p10le",
        "yuv422p10le",
        "yuv444p12le",
        "yuv444p16le",
        "gbrp10le",
        "gray",
        "yuva420p",
        "yuva444p10le",
        "yuv440p",
        "yuv411p",
        "bgra",
        "bgr0",
    ],
)
def test_frames_that_were_not_touched_are_the_decoded_ones_bit_for_bit(tmp_path, fmt):
    source = tmp_path / "in.mkv"
    rng = np.random.default_rng(1)
    with av.open(str(source), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, fmt
        for number in range(3):
            frame = av.VideoFrame(64, 48, fmt)
            bits = frame.format.components[0].bits
            for plane in frame.planes:
                lines = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)
                lines[:] = rng.integers(0, 1 << bits, len(lines))
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    target = copy(source, tmp_path / "out.mkv", LOSSLESS)
    if fmt in ("bgra", "bgr0"):  # kept in planes: the same values in another order
        with av.open(str(source)) as one, av.open(str(target)) as other:
            for a, b in zip(one.decode(video=0), other.decode(video=0)):
                kind = "rgba" if fmt == "bgra" else "rgb24"
                assert np.array_equal(a.to_ndarray(format=kind), b.to_ndarray(format=kind))
    else:
        assert equal(decoded(source), decoded(target)) and probe(target).pixel_format == fmt


@pytest.mark.parametrize(
    "fmt, full", [("yuv420p", False), ("yuv420p", True), ("yuv422p10le", False), ("yuv444p", True), ("gbrp10le", True)]
)
def test_only_changed_pixels_change(tmp_path, fmt, full):
    source = (
        make_clip(tmp_path / "in.mkv", "ffv1", fmt, full=full)
        if fmt[0] == "y"
        else copy(make_clip(tmp_path / "yuv.mkv", "ffv1", "yuv444p", pts=[0, 512]), tmp_path / "in.mkv", LOSSLESS)
    )

    def paint(frame):
        image = frame.image()
        image[11:40, 33:60] = torch.tensor([0.9, 0.2, 0.1])
        return image

    before, after = decoded(source), decoded(copy(source, tmp_path / "out.mkv", LOSSLESS, change=paint))
    for (_, old), (_, new) in zip(before, after):
        for number, (a, b) in enumerate(zip(old, new)):
            high, wide = 64 // a.shape[0], 96 // a.shape[1]
            outside = np.ones(a.shape, bool)
            outside[11 // high : -(-40 // high), 33 // wide : -(-60 // wide)] = False
            assert np.array_equal(a[outside], b[outside])
            assert number or (a != b)[11:40, 33:60].mean() > 0.9
    painted = next(iter(read_frames(tmp_path / "out.mkv"))).image()[22:28, 44:50]
    assert (painted - torch.tensor([0.9, 0.2, 0.1])).abs().max() < 2 / 255


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("fmt, most, mean", [("yuv444p", 1, 0.3), ("yuv444p10le", 4, 1.0), ("yuv420p", 1, 0.3), ("yuv420p10le", 4, 1.0)])
def test_a_frame_converted_there_and_back_keeps_its_values(tmp_path, matrix, full, fmt, most, mean):
    """Through RGB and back, all of it: within a level of 8 bits."""
    from faceloom.models.files.video.color import from_rgb
    from faceloom.models.files.video.pixel_formats import layout_of

    source = make_clip(
        tmp_path / "in.mkv", "ffv1", fmt, size=(95, 63) if "444" in fmt else (96, 64), matrix=matrix, full=full, pts=range(0, 1024, 512)
    )
    with read_frames(source) as frames:
        for (_, planes), frame in zip(decoded(source), frames):
            for a, b in zip(planes, from_rgb(frame.image(), layout_of(fmt), matrix, full)):
                difference = np.abs(a.astype(int) - b)
                assert difference.max() <= most and difference.mean() < mean


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_sound_and_subtitles_are_copied_bit_for_bit(tmp_path, suffix):
    texts = [(0.1, 0.5, "one"), (0.6, 0.9, "two")] if suffix == ".mkv" else []
    source = make_clip(tmp_path / f"in{suffix}", sound=(440, 660), subtitles=texts)
    target = copy(source, tmp_path / f"out{suffix}", EncodeSettings(segment_frames=10))
    for kind, tracks in (("audio", 2), ("subtitle", bool(texts))):
        old, new = packets(source, kind), packets(target, kind)
        assert len(old) == tracks and [[data for _, data in track] for track in old] == [[data for _, data in track] for track in new]
        assert np.allclose([at for track in old for at, _ in track], [at for track in new for at, _ in track], atol=0.0011)
    assert [stream.language for stream in probe(target).streams] == [stream.language for stream in probe(source).streams]
    assert [at for at, _ in decoded(source)] == [at for at, _ in decoded(target)]


def test_sound_can_be_left_out(tmp_path):
    source = make_clip(tmp_path / "in.mp4", sound=(440,))
    assert probe(copy(source, tmp_path / "out.mp4", EncodeSettings(streams="none"))).streams == ()


def test_a_section_begins_at_its_start_with_its_sound(tmp_path):
    source = make_clip(
        tmp_path / "in.mkv",
        pts=range(0, 512 * 75, 512),
        sound=(440,),
        subtitles=[(0.1, 0.3, "gone"), (0.2, 1.4, "early"), (2.1, 2.2, "late")],
        options={"g": "10", "bf": "3"},
    )
    target = copy(source, tmp_path / "out.mkv", LOSSLESS, start=1.0, end=2.0)
    old = [(at - 1, planes) for at, planes in decoded(source) if 1 <= at < 2]
    assert len(old) == 25 and equal(old, decoded(target))
    (sound,) = packets(target, "audio")
    wanted = [(at - 1, data) for at, data in packets(source, "audio")[0] if 1 <= at < 2]
    assert [data for _, data in sound] == [data for _, data in wanted] and np.allclose(
        [at for at, _ in sound], [at for at, _ in wanted], atol=0.0011
    )
    assert [(round(at, 2), data) for at, data in packets(target, "subtitle")[0]] == [(0.0, b"early")]


@pytest.mark.parametrize(
    "codec, suffix", [("h264", ".mp4"), ("hevc", ".mkv"), ("vp9", ".webm"), ("av1", ".mp4"), ("ffv1", ".mkv"), ("prores", ".mov")]
)
def test_a_broken_off_run_goes_on_and_its_file_is_that_of_an_undisturbed_one(tmp_path, codec, suffix):
    source = make_clip(tmp_path / "in.mp4", sound=(440,) if suffix != ".webm" else (), options={"bf": "3"})
    settings = EncodeSettings(codec=codec, segment_frames=5)
    whole = copy(source, tmp_path / f"whole{suffix}", settings)
    target = tmp_path / f"out{suffix}"
    for stop in (3, 13, 1):
        with pytest.raises(KeyboardInterrupt):
            copy(source, target, settings, key="run", stop_after=stop)
        assert not target.exists()
    assert len(list(tmp_path.glob(".out*.parts/*.json"))) >= 1
    (tmp_path / f".out{suffix}.run.parts" / "000009.json").write_text("{")  # damaged, as by a crash
    copy(source, target, settings, key="run")
    assert equal(decoded(whole), decoded(target)) and packets(whole, "audio") == packets(target, "audio")
    assert not list(tmp_path.glob(".*"))


def test_a_failed_run_without_a_key_leaves_nothing(tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    with pytest.raises(KeyboardInterrupt):
        copy(source, tmp_path / "out.mp4", EncodeSettings(segment_frames=2), stop_after=9)
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"in.mp4"}


@pytest.mark.parametrize("size", [(95, 63), (95, 64), (96, 63), (17, 33)])
@pytest.mark.parametrize(
    "codec, suffix", [("h264", ".mp4"), ("hevc", ".mp4"), ("av1", ".mp4"), ("vp9", ".webm"), ("prores", ".mov"), ("ffv1", ".mkv")]
)
def test_odd_sizes_come_out_whole(tmp_path, size, codec, suffix):
    if codec in ("hevc", "av1", "prores") and min(size) < 32:
        size = (65, 67)
    source = make_clip(tmp_path / "in.mkv", "ffv1", "yuv420p", size=size, pts=range(0, 2048, 512))
    target = copy(source, tmp_path / f"out{suffix}", EncodeSettings(codec=codec, quality=None if codec in ("prores", "ffv1") else 4))
    info = probe(target)
    assert (info.width, info.height) == size
    for old, new in zip(read_frames(source), read_frames(target)):
        assert (old.image() - new.image()).abs()[4:-4, 4:-4].mean() < 0.02
        assert (old.image() - new.image()).abs()[[0, -1]].mean() < 0.05 and (old.image() - new.image()).abs()[:, [0, -1]].mean() < 0.05


@pytest.mark.parametrize(
    "codec, suffix",
    [("h264", ".mp4"), ("h264", ".mkv"), ("hevc", ".mp4"), ("hevc", ".mkv"), ("av1", ".mp4"), ("ffv1", ".mkv"), ("prores", ".mov")],
)
@pytest.mark.parametrize("transfer", [16, 18])
def test_ten_bits_and_high_dynamic_range_stay(tmp_path, codec, suffix, transfer):
    params = "log-level=none:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"
    source = make_clip(
        tmp_path / "in.mp4", "libx265", "yuv420p10le", matrix=9, primaries=9, transfer=transfer, options={"x265-params": params}
    )
    info = probe(source)
    assert info.hdr == {16: "PQ", 18: "HLG"}[transfer] and info.bits == 10
    assert info.mastering == "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)" and info.light == "1000,400"
    made = probe(copy(source, tmp_path / f"out{suffix}", EncodeSettings(codec=codec)))
    assert made.marks == info.marks and made.bits == 10
    if codec in ("h264", "hevc", "av1"):
        assert made.light == info.light
        assert codec == "av1" or made.mastering == info.mastering


@pytest.mark.parametrize("codec, suffix", [("h264", ".mp4"), ("hevc", ".mp4"), ("vp9", ".webm"), ("ffv1", ".mkv"), ("av1", ".mkv")])
@pytest.mark.parametrize("marks", [(1, 1, 1, False), (5, 6, 5, True), (6, 6, 6, False), (9, 14, 9, False)])
def test_color_marks_stay(tmp_path, codec, suffix, marks):
    primaries, transfer, matrix, full = marks
    source = make_clip(tmp_path / "in.mp4", primaries=primaries, transfer=transfer, matrix=matrix, full=full, pts=range(0, 1536, 512))
    made, info = probe(copy(source, tmp_path / f"out{suffix}", EncodeSettings(codec=codec))), probe(source)
    assert made.marks == info.marks and (info.marks.matrix, info.marks.full_range) == (matrix, full)
    for old, new in zip(read_frames(source), read_frames(tmp_path / f"out{suffix}")):
        assert (old.image() - new.image()).abs().mean() < 0.015


@pytest.mark.parametrize(
    "codec, suffix, fmt",
    [("ffv1", ".mkv", "yuva420p"), ("vp9", ".webm", "yuva420p"), ("vp9", ".mkv", "yuva444p"), ("prores", ".mov", "yuva444p10le")],
)
def test_transparency_stays_where_the_container_has_it(tmp_path, codec, suffix, fmt):
    alpha = np.linspace(0, 1, 96)[None].repeat(64, 0)
    source = make_clip(tmp_path / "in.mkv", "ffv1", fmt, alpha=alpha)
    target = copy(source, tmp_path / f"out{suffix}", EncodeSettings(codec=codec, segment_frames=9))
    assert probe(target).alpha
    frames = list(read_frames(target))
    assert len(frames) == 24
    for frame in frames:
        assert (frame.alpha() - torch.from_numpy(alpha)).abs().mean() < 0.01


def test_without_transparency_the_frame_lies_on_white(tmp_path):
    alpha = np.zeros((64, 96))
    alpha[:, 48:] = 1
    source = make_clip(tmp_path / "in.mkv", "ffv1", "yuva444p", alpha=alpha, pts=[0, 512])
    frame = next(iter(read_frames(copy(source, tmp_path / "out.mp4", EncodeSettings(codec="h264", quality=5)))))
    assert frame.alpha() is None and frame.image()[:, :40].min() > 0.97
    assert (frame.image()[:, 56:] - torch.from_numpy(picture(0))[:, 56:]).abs().mean() < 0.02


def test_what_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    source = make_clip(tmp_path / "in.mkv", sound=(440,), subtitles=[(0.1, 0.2, "x")])
    info = probe(source)
    for name, settings, words in (
        ("out.avi", EncodeSettings(), "clips are written as .mp4"),
        ("out.webm", EncodeSettings(codec="h264"), "name the output .mp4 or .mov or .mkv"),
        ("out.mp4", EncodeSettings(codec="h264"), "cannot hold the source's subtitle"),
        ("out.webm", EncodeSettings(codec="vp9"), "cannot hold the source's audio"),
        ("out.mp4", EncodeSettings(codec="mpeg7"), "There is no codec 'mpeg7'"),
        ("out.mp4", EncodeSettings(codec="h264", quality=99), "between 0 and 51"),
        ("out.mp4", EncodeSettings(streams="maybe"), "can be 'copy' or 'none'"),
    ):
        with pytest.raises(FaceLoomError, match=words) as raised:
            open_writer(tmp_path / name, source, info, settings)
        assert "\n" not in str(raised.value)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FaceLoomError, match="Nothing can be written"):
        check_output(tmp_path / "file" / "out.mkv", source, info, EncodeSettings())
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5 << 20})())
    with pytest.raises(FaceLoomError, match="5 MB free"):
        check_output(tmp_path / "out.mkv", source, info, EncodeSettings())
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"in.mkv", "file"}


def test_a_missing_encoder_is_named(tmp_path, monkeypatch):
    info = probe(make_clip(tmp_path / "in.mp4"))
    real = av.Codec

    def without(name, mode="r"):
        if name == "libx265":
            raise ValueError(name)
        return real(name, mode)

    monkeypatch.setattr(av, "Codec", without)
    with pytest.raises(FaceLoomError, match="no encoder libx265"):
        check_output(tmp_path / "out.mp4", None, info, EncodeSettings(codec="hevc"))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    """A write that fails on the encoder's thread ends the run at the next frame."""
    import errno

    from faceloom.models.files.video import segments

    source = make_clip(tmp_path / "in.mp4", pts=range(0, 512 * 60, 512))
    real, written = segments.SegmentEncoder._mux, []

    def full(self, made):
        written.extend(made)
        if len(written) > 10:
            raise av.error.FFmpegError(errno.ENOSPC, "No space left on device")
        real(self, made)

    monkeypatch.setattr(segments.SegmentEncoder, "_mux", full)
    with pytest.raises(FaceLoomError, match="The disk is full"):
        copy(source, tmp_path / "out.mkv", LOSSLESS)
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"in.mp4"}


@pytest.mark.parametrize("name, codec", [("out.mkv", "ffv1"), ("out.mp4", "h264"), ("out.gif", "auto"), ("out.webp", "auto")])
def test_a_file_that_cannot_grow_is_a_full_disk(tmp_path, name, codec):
    """The system's own refusal, wherever the write that meets it comes from."""
    resource = pytest.importorskip("resource")
    source = make_clip(tmp_path / "in.mp4", pts=range(0, 512 * 60, 512), size=(320, 240))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(FaceLoomError, match="The disk is full"):
            copy(source, tmp_path / name, EncodeSettings(codec=codec, segment_frames=30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"in.mp4"}


def test_an_image_of_another_size_is_refused(tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    with pytest.raises(FaceLoomError, match=r"give \[64, 96, 3\]"):
        copy(source, tmp_path / "out.mp4", change=lambda frame: torch.zeros(60, 96, 3))


def test_frames_from_memory(tmp_path):
    buffer = io.BytesIO()
    make_clip(buffer, container="mp4", sound=(440,))
    target = copy(buffer, tmp_path / "out.mp4")
    (tmp_path / "in.mp4").write_bytes(buffer.getvalue())
    assert [at for at, _ in decoded(target)] == [at * TICKS for at in CONSTANT]
    assert packets(target, "audio") == packets(tmp_path / "in.mp4", "audio")


@pytest.mark.parametrize("rows, columns", [((8, 40), (32, 72)), ((9, 39), (30, 71)), ((40, 64), (0, 96)), ((0, 0), (0, 0))])
def test_a_part_of_a_frame_is_as_good_as_all_of_it(tmp_path, rows, columns):
    source = make_clip(tmp_path / "in.mp4")
    part = slice(*rows), slice(*columns)
    for name in ("all.mkv", "part.mkv"):
        with read_frames(source) as frames, open_writer(tmp_path / name, source, frames.info, LOSSLESS) as writer:
            for frame in frames:
                image = frame.image()
                image[part] *= 0.5
                writer.write(frame, image[part] if name == "part.mkv" else image, part=part if name == "part.mkv" else None)
    assert equal(decoded(tmp_path / "all.mkv"), decoded(tmp_path / "part.mkv"))
    assert equal(decoded(source), decoded(tmp_path / "all.mkv")) == (rows == (0, 0))


def test_a_part_of_a_picture_of_an_animation(tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    for name in ("all.png", "part.png"):
        with read_frames(source, end=.2) as frames, open_writer(tmp_path / name, None, frames.info) as writer:
            for frame in frames:
                image = frame.image()
                image[9:40, 30:71] *= 0.5
                part = (slice(9, 40), slice(30, 71)) if name == "part.png" else None
                writer.write(frame, image if part is None else image[part], part=part)
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "part.png").read_bytes()
