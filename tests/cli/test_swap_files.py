"""``faceloom swap`` and the files that people have: nothing is lost, changed or passed over without a word.

Detector and engine are doubles: every picture that is not plain has one face, and it is painted green.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.cli import INTERRUPTED, OK, SOME_FAILED, USER_ERROR, jobs, main
from faceloom.models import pipeline
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Faces
from faceloom.models.files.picture import frames_in, read_frames, read_image, read_picture_file, write_image
from faceloom.models.files.picture_metadata import Metadata
from faceloom.models.options.detect import DetectSettings
from faceloom.models.runtime.method import Method
from faceloom.models.swap import load
from PIL import Image

GREEN = torch.tensor([0.0, 1.0, 0.0])
POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX links and permissions")


class Painter:
    name = "painter"

    def prepare(self, identity):
        return identity

    def swap(self, images, faces, source, settings, progress=None):
        size = settings.edge(faces)
        masks = torch.zeros(len(faces), size, size)
        masks[:, size // 4:-size // 4, size // 4:-size // 4] = 1
        return GREEN.expand(len(faces), size, size, 3).clone(), masks


@pytest.fixture(scope="module")
def grace(hopper) -> torch.Tensor:
    """Grace Hopper's head, ``[192, 160, 3]``."""
    small = torch.nn.functional.avg_pool2d(hopper.permute(0, 3, 1, 2), 2)[0].permute(1, 2, 0)
    return (small[:192, 50:210] * 255).round() / 255


@pytest.fixture(scope="module")
def face(grace):
    return detect_faces(grace[None], settings=DetectSettings(keep="first"))[0]


@pytest.fixture(autouse=True)
def doubles(monkeypatch, face):
    def detect(image, detector, settings, progress=None):
        """One face, two in pictures that are wider than high, none in plain ones."""
        count = 0 if float(image.std()) < 0.02 else 2 if image.shape[2] > image.shape[1] else 1
        count = min(count, 1) if settings.keep == "first" else count
        faces = tuple(replace(face, keypoints=face.keypoints + np.float32([160 * i, 0])) for i in range(count))
        return Faces(faces, 1, image.shape[1], image.shape[2], settings.framing, settings.crop_size)

    monkeypatch.setattr(pipeline, "detect_faces", detect)
    monkeypatch.setattr(load, "ENGINES", (Method("mesh", label="painted", open=lambda file, loading: Painter()), *load.ENGINES[1:]))


@pytest.fixture
def me(tmp_path, grace) -> Path:
    path = tmp_path / "me" / "me.png"
    write_image(path, grace)
    return path


@pytest.fixture
def photo(tmp_path, grace) -> Path:
    path = tmp_path / "photos" / "photo.png"
    write_image(path, grace)
    return path


def call(*words) -> int:
    return main(["swap", *map(str, words), "--restore", "0", "--crop-size", "128", "--quiet"])


def refused(capsys, *words) -> str:
    assert call(*words) == USER_ERROR
    err = capsys.readouterr().err
    assert err.startswith("faceloom: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def is_green(picture: torch.Tensor) -> bool:
    return bool(((picture - GREEN).abs().amax(-1) < 0.15).sum() > 200)


# Writing

@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("name", ["photo.jpg", "photo.png"])
def test_a_full_disk_is_a_failure_and_the_good_file_stays(name, plain, tmp_path, me, grace, monkeypatch, capsys):
    target, out = tmp_path / name, tmp_path / "out" / name
    write_image(target, torch.full((40, 50, 3), 0.5) if plain else grace)
    write_image(out, grace)
    good = out.read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert call(me, target, out, "--overwrite", "--no-face", "copy") == SOME_FAILED
    err = capsys.readouterr().err
    assert "cannot be written (No space left on device)" in err and "Traceback" not in err
    assert out.read_bytes() == good and os.listdir(out.parent) == [name]


@POSIX
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("words", [["models", "list"], ["models", "where"]])
def test_a_report_that_cannot_be_printed_is_a_sentence(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "faceloom", *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == SOME_FAILED
    assert done.stderr == "faceloom: What was to be printed cannot be written (No space left on device).\n"


@pytest.mark.parametrize("stem", ["私" * 83, "🙂" * 60, "a" * 251])
def test_long_names_are_written(stem, tmp_path, me, grace):
    write_image(tmp_path / "photos" / f"{stem}.png", grace)
    assert call(me, tmp_path / "photos", tmp_path / "out") == OK
    assert os.listdir(tmp_path / "out") == [f"{stem}.png"] and is_green(read_image(tmp_path / "out" / f"{stem}.png"))


@POSIX
def test_names_that_cannot_be_are_refused_before_the_work(tmp_path, me, photo, grace, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "detect_faces", None)
    assert "File name too long" in refused(capsys, me, photo, tmp_path / f"{'私' * 84}.png")
    assert "File name too long" in refused(capsys, me, photo, tmp_path / ("x" * 300) / "a.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert "symbolic links" in refused(capsys, me, photo, tmp_path / "loop.png")
    assert not list(tmp_path.glob("x*"))


def test_long_lists_of_sources(tmp_path, me, photo, grace):
    """A list of paths is no path, and may be longer than one can be."""
    paths = [tmp_path / f"me{i}" / ("x" * 100) / "me.png" for i in range(5)]
    for path in paths:
        write_image(path, grace)
    assert call(",".join(map(str, paths)), photo, tmp_path / "out.png") == OK


@POSIX
def test_out_that_is_a_link_stays_one(tmp_path, me, photo):
    real, link = tmp_path / "elsewhere" / "real.png", tmp_path / "link.png"
    real.parent.mkdir()
    link.symlink_to(real)
    assert call(me, photo, link) == OK
    assert call(me, photo, link, "--overwrite") == OK
    assert link.is_symlink() and is_green(read_image(real)) and os.listdir(real.parent) == ["real.png"]
    assert call(me, photo, link) == USER_ERROR


@POSIX
def test_a_read_only_file_is_refused_before_the_work(tmp_path, me, photo, capsys):
    out = tmp_path / "out.png"
    out.write_bytes(b"kept")
    out.chmod(0o444)
    assert "may not be written to" in refused(capsys, me, photo, out, "--overwrite")
    assert out.read_bytes() == b"kept"


@pytest.mark.parametrize("address", ["https://example.com/a.png", "s3://bucket/photos/", "file:///tmp/a.png"])
def test_addresses_are_no_files(address, tmp_path, me, photo, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert f"not the address {address}" in refused(capsys, me, photo, address)
    assert "is an address; download it first" in refused(capsys, me, address, "out.png")
    assert "is an address; download it first" in refused(capsys, address, photo, "out.png")
    assert sorted(tmp_path.rglob("*")) == before


@POSIX
def test_two_targets_that_become_one_file(tmp_path, me, photo, grace, capsys):
    write_image(tmp_path / "photos" / "second.png", grace)
    out = tmp_path / "out"
    out.mkdir()
    (out / "both.png").write_bytes(b"old")
    for name in ("photo.png", "second.png"):
        (out / name).symlink_to(out / "both.png")
    assert "would both become" in refused(capsys, me, tmp_path / "photos", out, "--overwrite")
    assert (out / "both.png").read_bytes() == b"old"


@pytest.mark.parametrize("names", [("Photo.png", "photo.png"), ("caf\u00e9.png", "cafe\u0301.png")])
def test_names_that_the_file_system_takes_for_the_same(names, tmp_path, monkeypatch):
    """On a file system that knows no case or composes letters, pretended here."""
    todo = [jobs.Job(tmp_path / "photos" / name, tmp_path / "out" / name) for name in names]
    jobs.check(todo, [], False, False)  # here they are two
    real = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: real(path) or str(path) == str(todo[1].out))
    monkeypatch.setattr(os.path, "samefile", lambda one, other: True)
    with pytest.raises(FaceLoomError, match="would both become"):
        jobs.check(todo, [], False, False)
    assert not list((tmp_path / "out").iterdir())


# Which files

def test_every_picture_of_a_folder_is_read_or_named(tmp_path, me, grace, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    picture = Image.fromarray((grace.numpy() * 255).astype(np.uint8))
    for name, kind in (("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("c.gif", "GIF"), ("d.JPG", "JPEG"), ("e.jp2", "JPEG2000"), ("f.tga", "TGA"),
                       ("f.png", "PNG"), ("g", "JPEG"), ("h.jpg.bak", "JPEG")):
        picture.save(photos / name, kind)
    for name in ("i.heic", "j.heic", "k.cr2"):
        (photos / name).write_bytes(b"anything")
    (photos / "notes.txt").write_text("no picture")
    (photos / ".hidden.heic").write_text("hidden")
    assert call(me, photos, out, "--json") == OK
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    left_out = {os.path.basename(item["path"]): item["reason"] for item in report["left_out"]}
    assert sorted(left_out) == ["g", "h.jpg.bak", "i.heic", "j.heic", "k.cr2"]
    assert left_out["i.heic"] == "install pillow-heif to read them"
    assert captured.err.count("left out") == 1 and all(name in captured.err for name in left_out)
    assert sorted(os.listdir(out)) == ["a.jfif", "b.jpe", "c.gif", "d.JPG", "e.png", "f.png", "f.tga.png"]
    assert all(is_green(read_image(out / name)) for name in os.listdir(out))


def test_a_folder_of_what_cannot_be_read_says_so(tmp_path, me, photo, capsys):
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.heic").write_bytes(b"")
    assert "install pillow-heif" in refused(capsys, me, tmp_path / "phone", tmp_path / "out")
    assert "install pillow-heif" in refused(capsys, tmp_path / "phone", photo, tmp_path / "out.png")


@POSIX
def test_linked_subfolders_and_links_to_nothing(tmp_path, me, photo, grace, capsys):
    write_image(tmp_path / "elsewhere" / "b.png", grace)
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "trip").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "gone.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(photos / "pipe.png")
    assert call(me, photos, out, "--recursive", "--json") == OK
    report = json.loads(capsys.readouterr().out)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == ["photo.png", "trip/b.png"]
    assert {os.path.basename(item["path"]): item["reason"] for item in report["left_out"]} == {
        "loop": "a link to a folder that it lies in", "gone.png": "a link to nothing",
        "pipe.png": "no file but a device or a pipe"}


# Frames and pages

@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_all_frames_are_swapped_and_keep_their_times(suffix, tmp_path, me, grace, capsys):
    target, out = tmp_path / f"a{suffix}", tmp_path / f"out{suffix}"
    shades = [Image.fromarray((grace.numpy() * 255 * share).astype(np.uint8)) for share in (1, 0.9, 0)]  # the last is black: no face
    shades[0].save(target, save_all=True, append_images=shades[1:], duration=[100, 200, 300], loop=2)
    assert call(me, target, out, "--json") == OK
    record = json.loads(capsys.readouterr().out)["pictures"][0]
    assert record["frames"] == 3 and record["faces"] == 2 and [len(boxes) for boxes in record["boxes"]] == [1, 1, 0]
    pictures = list(read_frames(out))
    assert [is_green(picture.image) for picture in pictures] == [True, True, False]
    assert [picture.milliseconds for picture in pictures] == [100, 200, 300] and frames_in(out).loop == 2


def test_pages_are_swapped_and_formats_that_hold_one_picture_are_refused(tmp_path, me, grace, capsys):
    pages = [Image.fromarray((grace.numpy() * 255 * share).astype(np.uint8)) for share in (1, 0.9)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=100)
    assert call(me, tmp_path / "a.tif", tmp_path / "out.tif") == OK
    assert [is_green(picture.image) for picture in read_frames(tmp_path / "out.tif")] == [True, True]
    assert "has 2 pages, which a .jpg file cannot hold; write .tif" in refused(capsys, me, tmp_path / "a.tif", tmp_path / "out.jpg")
    assert "has 2 frames, which a .bmp file cannot hold" in refused(capsys, me, tmp_path / "a.gif", tmp_path / "out.bmp")
    assert "has 2 frames, which a .tif file cannot hold" in refused(capsys, me, tmp_path / "a.gif", tmp_path / "out.tif")
    shutil.copy(tmp_path / "a.gif", tmp_path / "named_wrongly.jpg")
    assert call(me, tmp_path / "named_wrongly.jpg", tmp_path / "other.jpg") == SOME_FAILED
    assert "has 2 frames" in capsys.readouterr().err


def test_a_source_of_several_frames_is_noted(tmp_path, photo, grace, capsys):
    frames = [Image.fromarray((grace.numpy() * 255 * share).astype(np.uint8)) for share in (1, 0.5)]
    frames[0].save(tmp_path / "me.gif", save_all=True, append_images=frames[1:])
    assert call(tmp_path / "me.gif", photo, tmp_path / "out.png", "--json") == OK
    assert "holds 2 pictures; the first was taken" in json.loads(capsys.readouterr().out)["identity"]["report"]


# Metadata

@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_metadata_is_kept_unless_it_is_to_be_stripped(suffix, plain, tmp_path, me, grace):
    exif = Image.Exif()
    exif[271], exif[33432] = "Canon", "(c) Ann"
    about = Metadata(exif=exif.tobytes()[6:], xmp=b"<x:xmpmeta>Ann</x:xmpmeta>", dpi=(300, 300))
    target = tmp_path / f"a{suffix}"
    write_image(target, torch.full((40, 50, 3), 0.5) if plain else grace, about=about)
    for words in ([], ["--strip"], ["--strip", "--provenance"]):
        out = tmp_path / f"{len(words)}{suffix}"
        assert call(me, target, out, "--no-face", "copy", *words) == OK
        found = read_picture_file(out).metadata
        assert (b"Ann" in found.exif, b"Ann" in found.xmp, found.dpi is not None and found.dpi[0] > 200) == (not words,) * 3
        assert (b"Face swap" in out.read_bytes()) == ("--provenance" in words and not plain)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright_and_is_not_turned_again(orientation, tmp_path, me, grace):
    undo = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}
    upright = Image.fromarray((grace.numpy() * 255).round().astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    (upright.transpose(undo[orientation]) if undo[orientation] is not None else upright).save(tmp_path / "a.png", exif=exif)
    assert call(me, tmp_path / "a.png", tmp_path / "out.png") == OK
    with Image.open(tmp_path / "out.png") as file:
        assert file.size == upright.size and file.getexif().get(0x0112, 1) == 1
        assert np.array_equal(np.asarray(file)[:8], np.asarray(upright)[:8])


def test_a_photograph_that_is_cut_short_is_taken_with_a_note(tmp_path, me, photo, grace, capsys):
    write_image(tmp_path / "cut.jpg", grace)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-40])
    assert call(me, tmp_path / "cut.jpg", tmp_path / "out.jpg", "--json") == OK
    captured = capsys.readouterr()
    assert "cut short" in json.loads(captured.out)["pictures"][0]["note"] and "cut short" in captured.err


def test_a_picture_that_does_not_fit_its_format_fails_before_it_is_swapped(tmp_path, me, capsys, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (4, 17000, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "wide.png")
    monkeypatch.setattr(Painter, "swap", None)
    assert call(me, tmp_path / "wide.png", tmp_path / "out.webp") == SOME_FAILED
    assert "does not fit into its format" in capsys.readouterr().err


# Which faces

@pytest.mark.parametrize(("faces", "policy", "sentence"), [
    ("7", "error", "wide.png has 2 faces, and --faces 7 names none of them; they are counted from 0 to 1."),
    ("-3", "error", "wide.png has 2 faces, and --faces -3 names none of them"),
    ("5-9", "copy", "wide.png has 2 faces, none of them at --faces 5-9; copied unchanged."),
    ("7", "skip", "wide.png has 2 faces, none of them at --faces 7; left out."),
    ("1,7,9", "error", "wide.png has 2 faces; there is none at 7, 9 of --faces.")])
def test_positions_without_a_face_say_how_many_there_are(faces, policy, sentence, tmp_path, me, grace, capsys):
    write_image(tmp_path / "wide.png", torch.cat([grace, grace], 1))
    code = call(me, tmp_path / "wide.png", tmp_path / "out.png", f"--faces={faces}", "--no-face", policy)
    assert sentence in capsys.readouterr().err
    assert code == (SOME_FAILED if policy == "error" and "," not in faces else OK)


# Words

@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize("place", ["SOURCE", "TARGET", "OUT"])
def test_empty_words(place, empty, tmp_path, me, photo, capsys, monkeypatch):
    monkeypatch.chdir(me.parent)
    words = {"SOURCE": me, "TARGET": photo, "OUT": tmp_path / "out.png"} | {place: empty}
    assert f"{place} is empty" in refused(capsys, *words.values())
    assert os.listdir(me.parent) == ["me.png"]


def test_names_that_begin_with_a_dash(tmp_path, me, photo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-me.png", "-dash.png"):
        shutil.copy(me, tmp_path / name)
    words = ["--restore", "0", "--quiet", "--crop-size", "128"]
    assert main(["swap", *words, "--", "me/me.png", "-dash.png", "-o.png"]) == OK
    assert main(["swap", *words, "--", "-me.png", "me/me.png", "-dash.png", "o.png"]) == OK
    assert is_green(read_image(tmp_path / "-o.png")) and is_green(read_image(tmp_path / "o.png"))


@POSIX
@pytest.mark.parametrize("gap", [0.0, 0.3, 1.5])
def test_a_second_interrupt_says_nothing_more(gap):
    """The first one is raised where the work is; Python's own end takes its time here, as torch's does."""
    script = ("import atexit, time\nimport faceloom.cli as cli\natexit.register(time.sleep, 2.5)\n"
              "def work(*_):\n    print('ready', flush=True)\n    try:\n        time.sleep(60)\n    finally:\n        time.sleep(0.5)\n"
              "cli._run = work\nimport sys\nsys.argv = ['faceloom', 'demo']\ncli.run_program()")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:  # also where these tests ignore it
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(gap)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED and err == "faceloom: interrupted.\n"
