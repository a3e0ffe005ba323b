"""What pictures say about themselves is kept from every format to every format, true for the result; and all their frames are."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.exif import turned_upright, with_words
from faceloom.models.files.picture import (
    Frames,
    check_size,
    frames_in,
    picture_array,
    read_frames,
    read_picture_file,
    write_image,
    write_pictures,
)
from faceloom.models.files.picture_formats import is_read, why_not_read
from faceloom.models.files.picture_metadata import Metadata
from PIL import Image, PngImagePlugin, features

SIZE = 70, 50
PIXELS = np.random.default_rng(2).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
XMP = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="r"><rdf:Description tiff:Orientation="6" dc:rights="Ann"/>'
       b"<xmp:Thumbnails>OLD FACE</xmp:Thumbnails></rdf:RDF></x:xmpmeta>")
IPTC = b"\x1c\x02\x50\x00\x03Ann"
DATE, COPYRIGHT, LATITUDE = "2020:01:02 03:04:05", "(c) Ann", (48.0, 51.0, 29.5)
FULL = (".jpg", ".png", ".webp", ".tif", *([".avif"] if features.check("avif") else []))


def exif_data(order: str = "<", orientation: int = 6) -> bytes:
    """EXIF with date, camera, copyright, place, a maker's note that holds a preview, and a thumbnail."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x0112], exif[271], exif[306], exif[33432] = orientation, "Canon", DATE, COPYRIGHT
    exif.get_ifd(0x8769).update({36867: DATE, 0xA002: SIZE[0], 0xA003: SIZE[1], 0x927C: b"MAKER" + jpeg("blue") + b"NOTE"})
    exif.get_ifd(0x8825).update({1: "N", 2: LATITUDE, 3: "E", 4: (2.0, 17.0, 40.0)})
    data = bytearray(exif.tobytes()[6:])
    order = "<" if data[:2] == b"II" else ">"
    first = struct.unpack_from(order + "I", data, 4)[0]
    after = first + 2 + 12 * struct.unpack_from(order + "H", data, first)[0]
    data += bytes(len(data) % 2)
    struct.pack_into(order + "I", data, after, len(data))
    thumbnail = jpeg("red")
    entries = struct.pack(order + "HHII", 0x201, 4, 1, len(data) + 30) + struct.pack(order + "HHII", 0x202, 4, 1, len(thumbnail))
    return bytes(data + struct.pack(order + "H", 2) + entries + bytes(4) + thumbnail)


def jpeg(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(data, "JPEG")
    return data.getvalue()


def photograph(path, order: str = "<"):
    """A photograph on its side with all metadata that its format has."""
    exif = b"Exif\0\0" + exif_data(order)
    options: dict = {"exif": exif, "xmp": XMP, "dpi": (300, 200)}
    if path.suffix == ".tif":
        tags = Image.Exif()
        tags.load(exif)
        for tag in (0x8769, 0x8825):
            tags.get_ifd(tag)
        tags[700] = XMP
        options["exif"] = tags
    if path.suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
        options["pnginfo"].add_text("parameters", "a cat")
    if path.suffix == ".jpg":
        resource = b"8BIM\x04\x0c\0\0" + struct.pack(">I", 8) + b"OLD FACE" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
        marker = b"Photoshop 3.0\0" + resource
        options |= {"comment": b"by Ann", "extra": struct.pack(">BBH", 0xFF, 0xED, 2 + len(marker)) + marker}
    Image.fromarray(PIXELS).save(path, **options)
    return path


def described(path) -> dict:
    """What a reader of the file at ``path`` finds."""
    with Image.open(path) as file:
        exif = file.getexif()
        inner, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        file.load()
        xmp = file.info.get("xmp") or getattr(file, "text", {}).get("XML:com.adobe.xmp", "").encode()
        return {"camera": exif.get(271), "date": exif.get(306), "copyright": exif.get(33432), "taken": inner.get(36867),
                "width": inner.get(0xA002), "latitude": place.get(2), "orientation": exif.get(0x0112, 1), "rights": b"Ann" in xmp,
                "turned": b'Orientation="6"' in xmp, "maker": (inner.get(0x927C) or b"")[:5], "second": dict(exif.get_ifd(1)),
                "description": exif.get(270), "dpi": file.info.get("dpi"), "upright": file.size}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("source", FULL)
def test_everything_is_kept_from_every_format_to_every_format(source, order, tmp_path):
    picture = read_picture_file(photograph(tmp_path / f"a{source}", order))
    assert picture.image.shape[:2] == (SIZE[0], SIZE[1]) and not picture.notes  # upright
    for target in FULL:
        for statement in (None, {"Provenance": "a swap"}):
            out = tmp_path / f"out{target}"
            lost = write_image(out, picture.image, statement, about=picture.metadata)
            found = described(out)
            assert found["camera"] == "Canon" and found["date"] == found["taken"] == DATE and found["copyright"] == COPYRIGHT, found
            assert found["latitude"] == LATITUDE and found["maker"] == b"MAKER" and found["width"] == SIZE[1]
            assert found["orientation"] == 1 and found["rights"] and not found["turned"] and found["second"] == {}
            assert found["upright"] == (SIZE[1], SIZE[0])
            if source in (".jpg", ".png", ".tif"):
                assert read_picture_file(out).metadata.dpi == pytest.approx((200, 300), abs=0.01)
            if statement and target != ".png":
                assert found["description"] == "Provenance: a swap"
            assert lost == (["IPTC"] if source == ".jpg" and target not in (".jpg", ".tif") else [])
            raw = out.read_bytes()
            assert b"OLD FACE" not in raw and jpeg("red")[20:200] not in raw and jpeg("blue")[20:200] not in raw


def test_iptc_comments_and_texts(tmp_path):
    picture = read_picture_file(photograph(tmp_path / "a.jpg"))
    write_image(tmp_path / "b.jpg", picture.image, about=picture.metadata)
    again = read_picture_file(tmp_path / "b.jpg").metadata
    assert again.iptc == IPTC and again.comment == b"by Ann"
    write_image(tmp_path / "b.tif", picture.image, about=picture.metadata)
    assert read_picture_file(tmp_path / "b.tif").metadata.iptc == IPTC
    picture = read_picture_file(photograph(tmp_path / "a.png"))
    write_image(tmp_path / "b.png", picture.image, {"Software": "ours"}, about=picture.metadata)
    with Image.open(tmp_path / "b.png") as file:
        assert file.text["parameters"] == "a cat" and file.text["Software"] == "ours"


@pytest.mark.parametrize("suffix", [".bmp", ".gif"])
def test_what_a_format_has_no_room_for_is_told(suffix, tmp_path):
    picture = read_picture_file(photograph(tmp_path / "a.jpg"))
    assert write_image(tmp_path / f"b{suffix}", picture.image, about=picture.metadata) == ["EXIF", "XMP", "IPTC"]


def test_data_that_is_too_long_for_a_jpeg_is_told_and_not_an_error(tmp_path):
    about = Metadata(exif=with_words(exif_data(), {270: "x" * 70000}), xmp=b"x" * 70000, iptc=b"x" * 70000)
    assert write_image(tmp_path / "a.jpg", torch.rand(9, 9, 3), about=about) == ["EXIF", "XMP", "IPTC"]
    assert write_image(tmp_path / "a.webp", torch.rand(9, 9, 3), about=about) == ["IPTC"]


def test_damaged_exif_never_costs_the_picture(tmp_path):
    good, chance = exif_data(), random.Random(3)
    for number in range(150):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(4 if number % 3 else 0, len(data))] = chance.randrange(256)
        data = data[: chance.randrange(8, len(data))] if number % 2 else data
        try:
            upright = turned_upright(bytes(data), 5, 7)
            assert len(upright) <= len(data)
        except FaceLoomError:
            pass
        Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + bytes(data))
        picture = read_picture_file(tmp_path / "a.jpg")
        for suffix in FULL[:4]:
            write_image(tmp_path / f"b{suffix}", picture.image, {"Provenance": "x"} if number % 5 else None, about=picture.metadata)
            assert read_picture_file(tmp_path / f"b{suffix}").image.shape == picture.image.shape


@pytest.mark.parametrize("missing", [1, 2, 30, 400])
def test_a_jpeg_whose_end_is_missing_is_taken_with_a_note(missing, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:-missing])
    whole, cut = read_picture_file(tmp_path / "whole.jpg"), read_picture_file(tmp_path / "cut.jpg")
    assert torch.equal(whole.image[:16], cut.image[:16]) and whole.notes == ()
    assert cut.notes == (() if missing <= 0 else (f"{tmp_path / 'cut.jpg'} is cut short; what is missing at its end is grey.",)), cut.notes


def test_the_limit_on_pixels_and_how_to_raise_it(tmp_path, monkeypatch):
    Image.new("L", (3000, 2000)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(FaceLoomError, match=r"it has 6 megapixels, and up to 2 are read; .* FACELOOM_MAX_MEGAPIXELS to 7"):
        read_picture_file(tmp_path / "a.png")
    monkeypatch.setenv("FACELOOM_MAX_MEGAPIXELS", "7")
    assert read_picture_file(tmp_path / "a.png").image.shape == (2000, 3000, 3) and Image.MAX_IMAGE_PIXELS == 1_000_000
    monkeypatch.setenv("FACELOOM_MAX_MEGAPIXELS", "5")
    with pytest.raises(FaceLoomError, match="up to 5 are read"):
        read_picture_file(tmp_path / "a.png")
    for words in ("many", "nan", "0", "-3"):
        monkeypatch.setenv("FACELOOM_MAX_MEGAPIXELS", words)
        with pytest.raises(FaceLoomError, match="must be a number of megapixels"):
            read_picture_file(tmp_path / "a.png")


ANIMATED = (".gif", ".webp", ".png", *([".avif"] if features.check("avif") else []))


def moving(path, colours=((255, 0, 0), (0, 255, 0), (0, 0, 255)), alpha=(), **options):
    frames = [Image.new("RGBA" if alpha else "RGB", (40, 30), (*colour, *alpha[i : i + 1])) for i, colour in enumerate(colours)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


@pytest.mark.parametrize("loop", [None, 0, 3])
@pytest.mark.parametrize("target", ANIMATED)
@pytest.mark.parametrize("source", ANIMATED)
def test_frames_their_times_and_their_loop(source, target, loop, tmp_path):
    times = [100, 300, 50]
    options = {} if loop is None or source == ".avif" else {"loop": loop}
    path = moving(tmp_path / f"a{source}", duration=times, **options)
    frames, pictures = frames_in(path), list(read_frames(path))
    assert frames.count == 3 and frames.timed and [picture.milliseconds for picture in pictures] == times
    assert [picture.image[5, 5].round().tolist() for picture in pictures] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    out = tmp_path / f"out{target}"
    write_pictures(out, [picture_array(picture.image, picture.alpha, "") for picture in pictures],
                   milliseconds=[picture.milliseconds for picture in pictures], frames=frames)
    again = list(read_frames(out))
    assert [picture.milliseconds for picture in again] == times
    assert [picture.image[5, 5].round().tolist() for picture in again] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    if ".avif" not in (source, target) and source == target:
        assert frames_in(out).loop == frames.loop
    if source == ".gif" and loop is None and target in (".png", ".webp"):
        assert frames_in(out).loop == 1


@pytest.mark.parametrize("suffix", ANIMATED)
def test_transparent_frames_do_not_show_through(suffix, tmp_path):
    pictures = []
    for number in range(2):
        rgba = np.zeros((30, 40, 4), np.uint8)
        rgba[:, 20 * number : 20 * number + 20] = 255
        pictures.append(rgba)
    write_pictures(tmp_path / f"a{suffix}", pictures, milliseconds=[50, 50], frames=Frames(2, 0, timed=True))
    first, second = read_frames(tmp_path / f"a{suffix}")
    for picture, left in ((first, 1), (second, 0)):
        assert picture.alpha is not None and float(picture.alpha[15, 5]) == left and float(picture.alpha[15, 35]) == 1 - left


def test_a_first_picture_that_is_not_of_the_animation_stays_so(tmp_path):
    moving(tmp_path / "a.png", default_image=True, duration=[100, 200])
    frames, pictures = frames_in(tmp_path / "a.png"), list(read_frames(tmp_path / "a.png"))
    assert frames.count == 3 and frames.still_first
    write_pictures(tmp_path / "b.png", [picture_array(picture.image, None, "") for picture in pictures],
                   milliseconds=[picture.milliseconds for picture in pictures], frames=frames)
    again = list(read_frames(tmp_path / "b.png"))
    assert frames_in(tmp_path / "b.png") == frames and [picture.milliseconds for picture in again][1:] == [100, 200]


def test_pages_of_different_sizes_and_no_thumbnails(tmp_path):
    pages = [Image.new("RGB", (30, 20), "red"), Image.new("L", (10, 12), 77)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    frames, pictures = frames_in(tmp_path / "a.tif"), list(read_frames(tmp_path / "a.tif"))
    assert frames.count == 2 and not frames.timed
    write_pictures(tmp_path / "b.tif", [picture_array(picture.image, None, "") for picture in pictures], frames=frames,
                   about=Metadata(exif=turned_upright(exif_data(), 30, 20), dpi=(300, 300)))
    again = list(read_frames(tmp_path / "b.tif"))
    assert [tuple(picture.image.shape) for picture in again] == [(20, 30, 3), (12, 10, 3)]
    assert described(tmp_path / "b.tif")["taken"] == DATE
    small = Image.new("RGB", (8, 8))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(tmp_path / "c.tif", save_all=True, append_images=[small])
    assert len(list(read_frames(tmp_path / "c.tif"))) == 1


def test_a_picture_of_several_is_taken_with_a_note_where_one_is_wanted(tmp_path):
    assert read_picture_file(moving(tmp_path / "a.gif")).notes == (f"{tmp_path / 'a.gif'} holds 3 pictures; the first was taken.",)


@pytest.mark.parametrize(("name", "side"), [("a.webp", 16384), ("a.jpg", 65501)])
def test_pictures_too_large_for_their_format(name, side):
    with pytest.raises(FaceLoomError, match="does not fit into its format"):
        check_size(name, side, 10)
    check_size("a.png", side, 10)


def test_which_suffixes_are_read():
    assert all(is_read(suffix) for suffix in (".jfif", ".jpe", ".gif", ".png", ".apng", ".jp2", ".psd"))
    assert why_not_read(".heic") == "install pillow-heif to read them"
    assert why_not_read(".cr2") == "develop them to .tif or .jpg first" and why_not_read(".txt") is None
