"""GIF, APNG, animated WebP and TIFF: all frames, how long each is shown, how often the whole plays, and clips turned into them and back."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from PIL import Image, ImageSequence

av = pytest.importorskip("av")

from clips import make_clip, picture  # noqa: E402
from faceloom.models.files.video import EncodeSettings, count_frames, open_writer, probe, read_frames  # noqa: E402

MS = [40, 100, 250, 70, 1000]


def pictures(alpha=False, size=(40, 24)) -> list[Image.Image]:
    """Five pictures of few colours; with alpha a moving hole."""
    made = []
    for number in range(5):
        pixels = (picture(number, *size) * 7).round() / 7 * 255
        if alpha:
            cover = np.full((size[1], size[0], 1), 255.0)
            cover[5:15, 5 + 3 * number : 12 + 3 * number] = 0
            pixels = np.concatenate([pixels, cover], -1)
        made.append(Image.fromarray(pixels.round().astype(np.uint8)))
    return made


def saved(path, alpha=False, loop=0, **options):
    first, *rest = pictures(alpha)
    if path.suffix != ".gif":
        options["loop"] = loop
    elif loop != 1:  # GIF counts repetitions
        options["loop"] = max(loop - 1, 0)
    first.save(
        path, save_all=True, append_images=rest, duration=MS, **{"disposal": 2} if alpha and path.suffix == ".gif" else {}, **options
    )
    return path


def read_back(path) -> tuple[list[np.ndarray], list[int], int | None]:
    """Frames, milliseconds and repetitions of a file, by Pillow."""
    with Image.open(path) as file:
        frames = [(np.asarray(page.convert("RGBA")), page.info.get("duration")) for page in ImageSequence.Iterator(file)]
        return [pixels for pixels, _ in frames], [round(ms or 0) for _, ms in frames], file.info.get("loop")


OPTIONS = {".gif": {}, ".png": {}, ".webp": {"lossless": True, "exact": True}}


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize("loop", [0, 1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_an_animation_goes_through_unchanged(tmp_path, suffix, loop, alpha):
    path = saved(tmp_path / f"in{suffix}", alpha, loop, **OPTIONS[suffix])
    info = probe(path)
    assert (info.frames, info.loop, info.alpha, info.width, info.height) == (5, loop, alpha, 40, 24) and info.is_animation
    assert info.duration == Fraction(sum(MS), 1000) and count_frames(path) == 5
    with read_frames(path) as frames, open_writer(tmp_path / f"out{suffix}", path, info) as writer:
        for number, frame in enumerate(frames):
            assert (frame.pts, frame.duration, frame.time_base) == (sum(MS[:number]), MS[number], Fraction(1, 1000))
            assert (frame.alpha() is not None) == alpha and frame.image().shape == (24, 40, 3)
            writer.write(frame)
    old, new = read_back(path), read_back(tmp_path / f"out{suffix}")
    assert new[1:] == old[1:] and len(new[0]) == 5
    assert [frame.pts for frame in read_frames(tmp_path / f"out{suffix}")] == [sum(MS[:number]) for number in range(5)]
    for a, b in zip(old[0], new[0]):
        assert np.array_equal(a[..., 3], b[..., 3]) and np.array_equal(a[a[..., 3] > 0], b[a[..., 3] > 0])


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".webp", ".tif"])
def test_changed_frames_are_written(tmp_path, suffix):
    path = saved(tmp_path / "in.webp", lossless=True)
    with read_frames(path) as frames, open_writer(tmp_path / f"out{suffix}", path, frames.info) as writer:
        for frame in frames:
            image = frame.image()
            image[2:8, 3:9] = torch.tensor([0.2, 0.4, 0.6])
            writer.write(frame, image)
    for pixels, before in zip(read_back(tmp_path / f"out{suffix}")[0], read_back(path)[0]):
        assert np.array_equal(pixels[2:8, 3:9, :3], np.broadcast_to([51, 102, 153], (6, 6, 3))) and np.array_equal(pixels[8:], before[8:])


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_a_clip_becomes_an_animation_and_one_a_clip(tmp_path, suffix):
    clip = make_clip(tmp_path / "in.mp4", size=(95, 63), fmt="yuv444p", pts=[6400, 6912, 7424, 9000, 9513], options={"crf": "3"})
    with read_frames(clip) as frames, open_writer(tmp_path / f"out{suffix}", clip, frames.info) as writer:
        for frame in frames:
            writer.write(frame)
    frames, ms, loop = read_back(tmp_path / f"out{suffix}")
    assert len(frames) == 5 and loop == 0
    assert ms == ([40, 40, 120, 40, 40] if suffix == ".gif" else [40, 40, 123, 40, 40])
    for number, pixels in enumerate(frames):
        assert np.abs(pixels[..., :3] / 255 - picture(number, 95, 63)).mean() < (0.03 if suffix == ".gif" else 0.01)
    with (
        read_frames(tmp_path / f"out{suffix}") as frames,
        open_writer(tmp_path / "back.mp4", None, frames.info, EncodeSettings(quality=5)) as writer,
    ):
        for frame in frames:
            writer.write(frame)
    info = probe(tmp_path / "back.mp4")
    assert (info.width, info.height, info.frames, info.marks.matrix, info.marks.full_range) == (95, 63, 5, 1, False)
    times = [frame.time for frame in read_frames(tmp_path / "back.mp4")]
    assert np.allclose(times, np.cumsum([0, *ms[:-1]]) / 1000)
    assert (next(iter(read_frames(tmp_path / "back.mp4"))).image() - torch.from_numpy(picture(0, 95, 63))).abs().mean() < 0.04


def test_pages_of_a_tiff_keep_their_sizes(tmp_path):
    pages = [pictures(size=size)[0] for size in ((40, 24), (30, 50), (7, 5))]
    pages[0].save(tmp_path / "in.tif", save_all=True, append_images=pages[1:])
    with read_frames(tmp_path / "in.tif") as frames, open_writer(tmp_path / "out.tif", None, frames.info) as writer:
        for frame in frames:
            writer.write(frame)
    for old, new in zip(pages, read_back(tmp_path / "out.tif")[0], strict=True):
        assert np.array_equal(np.asarray(old), new[..., :3])
    info = probe(tmp_path / "in.tif")
    with pytest.raises(FaceLoomError, match="another size"), open_writer(tmp_path / "out.gif", None, info) as writer:
        for frame in read_frames(tmp_path / "in.tif"):
            writer.write(frame)
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"in.tif", "out.tif"}


def test_sixteen_bits_of_grey_are_not_cut(tmp_path):
    values = np.linspace(0, 65535, 40 * 24).round().astype(np.uint16).reshape(24, 40)
    Image.fromarray(values).save(tmp_path / "in.tif")
    image = next(iter(read_frames(tmp_path / "in.tif"))).image()
    assert (image[..., 1].double() - torch.from_numpy(values / 65535)).abs().max() < 1e-6


def test_a_file_turned_by_its_tag_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures()[0].save(tmp_path / "in.png", exif=exif)
    frame = next(iter(read_frames(tmp_path / "in.png")))
    assert probe(tmp_path / "in.png").width == 24 and np.array_equal(frame.convert(), np.rot90(np.asarray(pictures()[0]), -1))


def test_from_memory(tmp_path):
    data = BytesIO(saved(tmp_path / "in.gif").read_bytes())
    assert [frame.duration for frame in read_frames(data)] == MS and data.tell() == 0


def test_a_gif_of_many_colors_and_a_hole(tmp_path):
    pixels = np.concatenate([picture(0, 200, 120), np.ones((120, 200, 1))], -1)
    pixels[:30, :30, 3] = 0
    Image.fromarray((pixels * 255).astype(np.uint8)).save(tmp_path / "in.png")
    with read_frames(tmp_path / "in.png") as frames, open_writer(tmp_path / "out.gif", None, frames.info) as writer:
        for frame in frames:
            writer.write(frame)
    (made,), _, _ = read_back(tmp_path / "out.gif")
    assert not made[:30, :30, 3].any() and made[30:, :, 3].all() and np.abs(made[30:, :, :3] / 255 - pixels[30:, :, :3]).mean() < 0.03


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_a_file_that_breaks_off_is_one_sentence(tmp_path, suffix):
    data = saved(tmp_path / f"in{suffix}", **OPTIONS[suffix]).read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(FaceLoomError) as raised:
        list(read_frames(tmp_path / f"cut{suffix}"))
    assert f"cut{suffix}" in str(raised.value) and "\n" not in str(raised.value)
    kept = list(read_frames(tmp_path / f"cut{suffix}", keep_damaged=True)) if suffix != ".webp" else [1]
    assert 1 <= len(kept) < 5


def test_a_failed_animation_leaves_nothing(tmp_path):
    path = saved(tmp_path / "in.gif")
    for suffix in (".gif", ".png", ".webp", ".tif"):
        with pytest.raises(RuntimeError), read_frames(path) as frames, open_writer(tmp_path / f"out{suffix}", None, frames.info) as writer:
            writer.write(next(frames))
            raise RuntimeError
        with pytest.raises(FaceLoomError, match="no frame was given"):
            open_writer(tmp_path / f"out{suffix}", None, frames.info).finish()
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"in.gif"}
