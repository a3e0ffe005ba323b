"""Picture files and connected tensors: every kind that people have, and what is refused."""

from __future__ import annotations

import contextlib
import os
import random
import stat

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.cache import check_writable, replace_file
from faceloom.models.files.picture import read_image, read_picture_file, write_image
from faceloom.models.pixels.tensors import as_crops, as_images, check_images, expand_rgb, to_pil, to_uint8
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

RAMP = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3) * 2


@pytest.fixture
def ramp() -> torch.Tensor:
    return torch.from_numpy(RAMP.astype(np.float32) / 255)


def saved(path, mode="RGB", **options):
    Image.fromarray(RAMP).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.bfloat16, torch.uint8])
def test_as_images_takes_every_form(channels, dtype):
    value = 51 if dtype == torch.uint8 else 0.2
    image = torch.full((2, 4, 5, channels), value, dtype=dtype)
    out = as_images(image)
    assert out.shape == (2, 4, 5, 3) and out.dtype == torch.float32
    assert torch.allclose(out, torch.tensor(0.2), atol=1e-3)
    assert as_images(image[0]).shape == (1, 4, 5, 3)


def test_as_images_drops_alpha_clips_and_leaves_its_input(ramp):
    image = torch.cat([ramp * 3 - 1, torch.zeros(5, 7, 1)], -1)
    before = image.clone()
    assert torch.equal(as_images(image)[0], (ramp * 3 - 1).clamp(0, 1))
    assert torch.equal(image, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_as_images_refuses_what_is_no_number(bad):
    image = torch.zeros(1, 3, 3, 3)
    image[0, 2, 1, 1] = bad
    with pytest.raises(FaceLoomError, match="target contains NaN"):
        as_images(image, "target")


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4, 2), (1, 0, 4, 3), (0, 4, 4, 3), (1, 1, 4, 4, 3)])
def test_as_images_refuses_other_shapes(shape):
    with pytest.raises(FaceLoomError, match="picture batch"):
        as_images(torch.zeros(shape))


def test_one_pixel_pictures():
    assert as_images(torch.ones(1, 1, 1, 1)).shape == (1, 1, 1, 3)
    assert as_images(torch.ones(1, 9, 1, 4)).shape == (1, 9, 1, 3)


def test_a_picture_that_is_as_it_should_be_is_returned_itself_and_looked_at_again_each_time():
    """Another node may write in it between two of ours."""
    image = torch.rand(2, 6, 5, 3)
    assert as_images(image) is image and as_images(image) is image
    image[1, 2, 3, 0] = 1.5
    assert float(as_images(image).max()) == 1 and float(image.max()) == 1.5
    image[1, 2, 3, 0] = float("nan")
    with pytest.raises(FaceLoomError, match="NaN"):
        as_images(image)


def test_only_the_windows_that_are_read_are_searched():
    image = torch.rand(2, 6, 5, 3)
    image[0, 5, 4, 2] = float("nan")
    assert as_images(image, within=lambda: [(slice(0, 1), slice(0, 3), slice(None)), (slice(1, 2), slice(0, 6), slice(0, 5))]) is image
    assert as_images(image, within=list) is image
    image[0, 2, 4, 2] = -1
    assert float(as_images(image, within=lambda: [(slice(0, 1), slice(0, 3), slice(None))])[0, 2, 4, 2]) == 0
    with pytest.raises(FaceLoomError, match="NaN"):
        as_images(image, within=lambda: [(slice(0, 1), slice(5, 6), slice(None))])


def test_as_crops_refuses_what_is_no_crop():
    with pytest.raises(FaceLoomError, match="crops contains NaN"):
        as_crops(torch.full((1, 64, 64, 3), torch.nan))
    with pytest.raises(FaceLoomError, match="Crops must be square, not 60×64"):
        as_crops(torch.zeros(1, 64, 60, 3))
    assert as_crops(torch.zeros(2, 64, 64, 1)).shape == (2, 64, 64, 3)


@pytest.mark.parametrize("odd", [torch.zeros(4, 4, 3), torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 1), torch.zeros(1, 4, 4, 3).half(),
                                 torch.zeros(1, 4, 4, 3, dtype=torch.uint8)])
def test_what_was_not_brought_to_form_is_a_sentence(odd):
    with pytest.raises(FaceLoomError, match="photo must be a float32 tensor"):
        check_images(odd, "photo")
    check_images(as_images(odd))


def test_expand_rgb_does_not_copy(ramp):
    assert expand_rgb(ramp).data_ptr() == ramp.data_ptr()
    grey = torch.rand(2, 3, 1)
    assert expand_rgb(grey).data_ptr() == grey.data_ptr() and expand_rgb(grey).shape == (2, 3, 3)


@given(st.integers(0, 255))
def test_to_uint8_rounds_and_returns_every_level(level):
    assert to_uint8(torch.tensor([level / 255, (level + 0.4) / 255, (level - 0.4) / 255])).tolist() == [level] * 3


def test_to_uint8_clips():
    assert to_uint8(torch.tensor([-3.0, 7.0])).tolist() == [0, 255]
    assert to_pil(torch.full((2, 3, 3), 0.5)).getpixel((2, 1)) == (128, 128, 128)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp"])
def test_lossless_files_read_exactly(tmp_path, suffix, ramp):
    path = saved(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    picture = read_picture_file(path)
    assert torch.equal(picture.image, ramp)
    assert picture.image.dtype == torch.float32 and picture.alpha is None and picture.bits == 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    inverse = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
               5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
               8: Image.Transpose.ROTATE_270}
    upright = Image.fromarray(RAMP)
    stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(RAMP.astype(np.float32) / 255))


def test_sixteen_bit_grey_keeps_its_depth(tmp_path):
    levels = np.array([[0, 1, 257], [32768, 65534, 65535]], np.uint16)
    for suffix in (".png", ".tif"):
        Image.fromarray(levels).save(tmp_path / f"a{suffix}")
        picture = read_picture_file(tmp_path / f"a{suffix}")
        assert picture.bits == 16
        assert torch.allclose(picture.image[..., 1] * 65535, torch.from_numpy(levels.astype(np.float32)), atol=0.01)


def test_sixteen_bit_colour_is_read_and_told(tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">6H", 65535, 0, 0x8080, 0x1234, 0x5678, 0x9ABC)
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b""))
    picture = read_picture_file(path)
    assert picture.bits == 16
    assert np.allclose(picture.image[0].numpy() * 255, [[255, 0, 128], [0x12, 0x56, 0x9A]], atol=1)


def test_float_and_integer_tiff(tmp_path):
    Image.fromarray(np.array([[0.25, 2.0]], np.float32)).save(tmp_path / "f.tif")
    assert read_image(tmp_path / "f.tif")[0, :, 0].tolist() == [0.25, 1.0]
    Image.fromarray(np.array([[np.nan, 0]], np.float32)).save(tmp_path / "n.tif")
    with pytest.raises(FaceLoomError, match="NaN"):
        read_image(tmp_path / "n.tif")
    Image.fromarray(np.array([[70000, 3]], np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(FaceLoomError, match="32-bit integer"):
        read_image(tmp_path / "i.tif")


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
def test_grey_and_palette_become_rgb(tmp_path, mode):
    path = saved(tmp_path / "a.png", mode)
    expected = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    assert np.array_equal(read_image(path).numpy(), expected)


def test_alpha_is_kept_apart_and_opaque_alpha_is_none(tmp_path, ramp):
    alpha = np.linspace(0, 255, 35).round().astype(np.uint8).reshape(5, 7, 1)
    Image.fromarray(np.concatenate([RAMP, alpha], -1)).save(tmp_path / "a.png")
    picture = read_picture_file(tmp_path / "a.png")
    assert torch.equal(picture.image, ramp)
    assert np.array_equal(to_uint8(picture.alpha), alpha[..., 0])
    saved(tmp_path / "opaque.png", "RGBA")
    assert read_picture_file(tmp_path / "opaque.png").alpha is None


def test_transparent_palette_colour(tmp_path):
    Image.fromarray(RAMP[..., 0]).convert("P").save(tmp_path / "a.gif", transparency=0)
    picture = read_picture_file(tmp_path / "a.gif")
    assert picture.alpha is not None and picture.alpha[0, 0] == 0 and picture.alpha[4, 6] == 1


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[1, 1].tolist() == [1, 0, 0]


def test_cmyk_without_and_with_a_damaged_profile(tmp_path):
    Image.new("CMYK", (3, 2), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, 0].tolist() == [1, 0, 0]
    Image.new("CMYK", (3, 2), (0, 255, 255, 0)).save(tmp_path / "b.tif", icc_profile=b"no profile at all")
    picture = read_picture_file(tmp_path / "b.tif")
    assert picture.image[0, 0].tolist() == [1, 0, 0] and picture.icc is None


def test_missing_folder_text_and_empty_files(tmp_path):
    with pytest.raises(FaceLoomError, match="There is no file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for path in (tmp_path, tmp_path / "text.png", tmp_path / "empty.jpg"):
        with pytest.raises(FaceLoomError, match="cannot be read as a picture") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "RGB"), (".jpg", "RGB"), (".jpg", "CMYK"), (".webp", "RGB"), (".tif", "RGB"),
                                              (".gif", "P"), (".bmp", "RGB")])
def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path, suffix, mode):
    data = saved(tmp_path / f"good{suffix}", mode).read_bytes()
    random_ = random.Random(7)
    path = tmp_path / f"bad{suffix}"
    for length in (1, 10, len(data) // 4, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(FaceLoomError, match="cannot be read"):
            read_image(path)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(3):
            broken[random_.randrange(len(broken))] = random_.randrange(256)
        path.write_bytes(broken)
        with contextlib.suppress(FaceLoomError):
            assert read_image(path).shape[-1] == 3


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    saved(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(FaceLoomError, match="exceeds limit"):
        read_image(tmp_path / "a.png")


def test_large_pictures_are_read_without_a_warning(tmp_path, monkeypatch, recwarn):
    saved(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert read_image(tmp_path / "a.png").shape == (5, 7, 3)
    assert not recwarn.list


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_written_pictures_read_back_exactly(tmp_path, suffix, ramp):
    path = tmp_path / "new" / "folder" / f"a{suffix}"
    write_image(path, ramp)
    assert torch.equal(read_image(path), ramp)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_files_stay_close(tmp_path, suffix):
    smooth = torch.linspace(0.2, 0.8, 64)[None, :, None].expand(48, 64, 3).contiguous()
    write_image(tmp_path / f"a{suffix}", smooth)
    assert (read_image(tmp_path / f"a{suffix}") - smooth).abs().max() < 4 / 255


def test_values_are_rounded_and_clipped(tmp_path):
    write_image(tmp_path / "a.png", torch.tensor([[[0.5, 1.7, -0.2]]]))
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[[128, 255, 0]]]


def test_alpha_is_written_or_laid_on_white(tmp_path, ramp):
    alpha = torch.zeros(5, 7)
    alpha[:, 3:] = 1
    write_image(tmp_path / "a.png", ramp, alpha=alpha)
    picture = read_picture_file(tmp_path / "a.png")
    assert torch.equal(picture.image, ramp) and torch.equal(picture.alpha, alpha)
    write_image(tmp_path / "a.bmp", ramp, alpha=alpha)
    flat = read_image(tmp_path / "a.bmp")
    assert torch.equal(flat[:, 3:], ramp[:, 3:]) and bool((flat[:, :3] == 1).all())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_colour_profile_survives(tmp_path, suffix, ramp):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_image(tmp_path / f"a{suffix}", ramp, icc=icc)
    assert read_picture_file(tmp_path / f"a{suffix}").icc == icc


def test_grey_profile_is_not_put_on_rgb_pixels(tmp_path):
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    icc[16:20] = b"GRAY"
    saved(tmp_path / "a.png", "L", icc_profile=bytes(icc))
    assert read_picture_file(tmp_path / "a.png").icc is None


def test_metadata_in_png_and_exif(tmp_path, ramp):
    write_image(tmp_path / "a.png", ramp, {"Provenance": "face swap · mesh"})
    assert Image.open(tmp_path / "a.png").text["Provenance"] == "face swap · mesh"
    for suffix in (".jpg", ".webp", ".tif"):
        write_image(tmp_path / f"a{suffix}", ramp, {"Provenance": "face swap", "Engine": "mesh"})
        exif = Image.open(tmp_path / f"a{suffix}").getexif()
        assert exif[0x010E] == "Provenance: face swap; Engine: mesh" and exif[0x0131] == "FaceLoom"
    with pytest.raises(FaceLoomError, match="no room for provenance"):
        write_image(tmp_path / "a.bmp", ramp, {"Provenance": "face swap"})


def test_unknown_suffix_is_refused_before_anything_is_written(tmp_path, ramp):
    with pytest.raises(FaceLoomError, match=r"written as \.png"):
        write_image(tmp_path / "a.xyz", ramp)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, ramp, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", lambda self, file, **_: (file.write(b"half"), (_ for _ in ()).throw(OSError("disk full"))))
    with pytest.raises(FaceLoomError, match="disk full"):
        write_image(path, ramp)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.png"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), replace_file(tmp_path / "a.png") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_files_get_the_permissions_that_new_files_get(tmp_path, ramp):
    before = os.umask(0o027)
    try:
        write_image(tmp_path / "a.png", ramp)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


def test_check_writable_makes_the_folder_and_leaves_it_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())


def test_check_writable_finds_a_file_in_the_way(tmp_path):
    (tmp_path / "a").write_text("")
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(FaceLoomError, match="Nothing can be written"):
            check_writable(folder)
    with pytest.raises(FaceLoomError, match="cannot be written"):
        write_image(tmp_path / "a" / "b.png", torch.zeros(2, 2, 3))
