"""``faceloom swap``: files and folders in, files and folders out, and nothing lost on the way.

The engine here paints the face green, so that what was swapped can be counted in pixels; the built-in engine has one test of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
from faceloom.cli import INTERRUPTED, OK, SOME_FAILED, USER_ERROR, main, swap
from faceloom.models import pipeline
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.detect import detect_faces
from faceloom.models.files.picture import read_image, read_picture_file, write_image
from faceloom.models.options.detect import ORDERS, DetectSettings
from faceloom.models.runtime.method import Method
from faceloom.models.swap import load
from faceloom.models.swap.research.ghost import GhostOptions
from faceloom.models.systems.options import options_by_engine
from PIL import Image

GREEN = torch.tensor([0.0, 1.0, 0.0])


class Painter:
    """An engine that paints the middle of the crop green and remembers whom it was given."""

    name = "painter"
    calls: list = []

    def prepare(self, identity):
        return identity

    def swap(self, images, faces, source, settings, progress=None):
        size = settings.edge(faces)
        self.calls.append((source, size, settings.strength))
        crops = GREEN.expand(len(faces), size, size, 3).clone()
        masks = torch.zeros(len(faces), size, size)
        masks[:, size // 4:-size // 4, size // 4:-size // 4] = 1
        return crops, masks


@pytest.fixture(autouse=True)
def painter(monkeypatch) -> type[Painter]:
    monkeypatch.setattr(Painter, "calls", [])
    mesh = Method("mesh", label="painted", open=lambda file, loading: Painter())
    monkeypatch.setattr(load, "ENGINES", (mesh, *load.ENGINES[1:]))
    return Painter


@pytest.fixture(scope="module")
def found() -> dict:
    return {}


@pytest.fixture(autouse=True)
def remembered(monkeypatch, found):
    """The same few photographs are searched by every test: once is enough."""
    def detect(image, detector, settings, progress=None):
        key = (image.shape, hash(image.numpy().tobytes()), detector.name, settings)
        if key not in found:
            found[key] = detect_faces(image, detector, settings)
        return found[key]

    monkeypatch.setattr(pipeline, "detect_faces", detect)


@pytest.fixture(scope="module")
def grace(hopper) -> torch.Tensor:
    """Grace Hopper's head, ``[192, 160, 3]``."""
    small = torch.nn.functional.avg_pool2d(hopper.permute(0, 3, 1, 2), 2)[0].permute(1, 2, 0)
    return (small[:192, 50:210] * 255).round() / 255


@pytest.fixture(scope="module")
def eileen(collins) -> torch.Tensor:
    """Eileen Collins' head, ``[192, 192, 3]``."""
    return collins[0, 20:212, 130:322]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, eileen, grace):
    """A folder of photographs: one face, two faces, no face."""
    path = tmp_path_factory.mktemp("photos")
    write_image(path / "hopper.png", grace)
    larger = torch.nn.functional.interpolate(grace.permute(2, 0, 1)[None], size=(288, 240), mode="bicubic")[0].permute(1, 2, 0)
    write_image(path / "both.png", torch.cat([torch.nn.functional.pad(eileen, (0, 0, 0, 0, 0, 96), value=0.5), larger], 1))
    write_image(path / "wall.png", torch.full((40, 50, 3), 0.5))
    return path


@pytest.fixture(scope="module")
def me(tmp_path_factory, eileen):
    path = tmp_path_factory.mktemp("me") / "collins.png"
    write_image(path, eileen)
    return path


def call(*words, quiet=True) -> int:
    return main(["swap", *map(str, words), "--restore", "0", *(["--quiet"] if quiet else [])])


def green(path) -> torch.Tensor:
    return (read_image(path) == GREEN).all(-1)


def refused(capsys, *words) -> str:
    assert call(*words) == USER_ERROR
    err = capsys.readouterr().err
    assert err.startswith("faceloom: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_options_reach_the_engine(tmp_path, me, folder, monkeypatch):
    given = []
    monkeypatch.setattr(pipeline, "load_any_engine", lambda name, loading, **options: given.append((name, options)) or Painter())
    words = "enhance=as published", "blur_x=2.5", "shrink=-3", "align=off", "shrink=4"
    flags = [part for word in words for part in ("--option", word)]
    assert call(me, folder / "hopper.png", tmp_path / "out.png", "--engine", "G.pth", *flags) == OK
    assert given == [("G.pth", {"enhance": "as published", "blur_x": 2.5, "shrink": 4, "align": False})]
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize(("word", "sentence"), [
    ("mask", 'An engine option is written NAME=VALUE, such as "mask=face outline", not "mask".'),
    ("size=3", "No engine has an option size; there are enhance, templates, mask, shrink, blur_x, blur_y, align, stretch, refine, hair, "
               "grow, swap, erode, color, centering, coverage, steps, seed, cfg, start_from_target, base, target_guidance, shape, "
               "organ_source, repeats, weights."),
    ("shrink=2.5", 'Shrink must be a whole number, not "2.5".'), ("blur_x=wide", 'Blur x must be a number, not "wide".'),
    ("blur_y=nan", 'Blur y must be a number, not "nan".'), ("align=maybe", 'Align must be on or off, not "maybe".'),
    ("mask=face outline", "The engine mesh is built in and has no options; leave mask out, or name a model's file."),
])
def test_options_that_are_none(tmp_path, me, folder, capsys, word, sentence):
    assert refused(capsys, me, folder / "hopper.png", tmp_path / "out.png", "--option", word) == f"faceloom: {sentence}\n"
    assert not list(tmp_path.iterdir())


def test_options_of_another_engine_and_unknown_choices(tmp_path, me, folder, capsys, monkeypatch):
    options = GhostOptions()
    monkeypatch.setattr(pipeline, "load_any_engine", lambda name, loading, **values: options.changed("ghost", **values))
    words = me, folder / "hopper.png", tmp_path / "out.png", "--engine", "G.pth", "--option"
    assert "ghost has no option stretch; it has enhance, templates, mask" in refused(capsys, *words, "stretch=off")
    assert 'Templates must be one of five, frontal, not "six".' in refused(capsys, *words, "templates=six")


def test_help_lists_the_options_of_every_system(capsys):
    with pytest.raises(SystemExit):
        main(["swap", "--help"])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    for system, kind in options_by_engine().items():
        assert [system, ", ".join(field.name for field in dataclasses.fields(kind))] in lines


def test_one_photograph(tmp_path, me, folder, grace, capsys):
    out = tmp_path / "new" / "out.png"
    assert call(me, folder / "hopper.png", out) == OK
    changed = (read_image(out) != grace).any(-1)
    face = detect_faces(grace[None], settings=DetectSettings(keep="first"))[0]
    ys, xs = np.nonzero(changed.numpy())
    assert abs(xs.mean() - face.keypoints[:, 0].mean()) < 0.25 * face.eye_distance
    assert abs(ys.mean() - face.keypoints[:, 1].mean()) < 0.5 * face.eye_distance
    assert green(out).sum() > 0.8 * changed.sum()
    assert capsys.readouterr().out == f"1 swapped → {out}\n"
    assert sorted(os.listdir(tmp_path / "new")) == ["out.png"]


def test_out_may_be_a_folder_for_one_photograph(tmp_path, me, folder):
    assert call(me, folder / "hopper.png", tmp_path) == OK
    assert call(me, folder / "hopper.png", tmp_path / "fresh") == OK
    assert (tmp_path / "hopper.png").is_file() and (tmp_path / "fresh" / "hopper.png").is_file()


def test_options_may_stand_anywhere(tmp_path, me, folder, painter):
    assert call("--strength", "0.25", me, "--crop-size", "128", folder / "hopper.png", "--faces", "first", tmp_path / "o.png") == OK
    (_, size, strength), = painter.calls
    assert (size, strength) == (128, 0.25)


def test_a_folder_with_every_fate(tmp_path, me, folder, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(folder, photos)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    (photos / "notes.txt").write_text("not even one by name")
    (photos / ".hidden.png").write_bytes(b"")
    assert call(me, photos, out, "--json") == SOME_FAILED
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    fates = {os.path.basename(picture["target"]): picture for picture in report["pictures"]}
    assert {name: fate["status"] for name, fate in fates.items()} == {
        "both.png": "swapped", "broken.jpg": "failed", "hopper.png": "swapped", "wall.png": "copied"}
    assert report["counts"] == {"swapped": 2, "copied": 1, "skipped": 0, "failed": 1}
    assert fates["both.png"]["faces"] == 2 and fates["hopper.png"]["faces"] == 1
    assert "broken.jpg cannot be read as a picture" in fates["broken.jpg"]["error"] and fates["broken.jpg"]["error"] in captured.err
    assert sorted(os.listdir(out)) == ["both.png", "hopper.png", "wall.png"]
    assert (out / "wall.png").read_bytes() == (photos / "wall.png").read_bytes()
    assert report["engine"] == "painter" and report["identity"]["photos"] == 1 and report["milliseconds"]["detect"] > 0


@pytest.mark.parametrize(("policy", "code", "written"), [("copy", OK, True), ("skip", OK, False), ("error", SOME_FAILED, False)])
def test_no_face(tmp_path, me, folder, policy, code, written, capsys):
    out = tmp_path / "out.png"
    assert call(me, folder / "wall.png", out, "--no-face", policy) == code
    assert "face in" in capsys.readouterr().err
    assert out.exists() == written
    assert not written or torch.equal(read_image(out), read_image(folder / "wall.png"))


def test_no_face_in_the_one_photograph_is_a_failure_unless_said_otherwise(tmp_path, me, folder, capsys):
    assert call(me, folder / "wall.png", tmp_path / "out.png") == SOME_FAILED
    assert "There is no face in" in capsys.readouterr().err


def test_no_face_copied_into_another_format(tmp_path, me, folder):
    assert call(me, folder / "wall.png", tmp_path / "out.bmp", "--no-face", "copy") == OK
    assert torch.equal(read_image(tmp_path / "out.bmp"), read_image(folder / "wall.png"))


@pytest.mark.parametrize(("faces", "order", "left", "right"), [
    ("all", "large-small", True, True), ("largest", "left-right", False, True), ("first", "left-right", True, False),
    ("first", "right-left", False, True), ("1", "left-right", False, True), ("0,1", "left-right", True, True)])
def test_which_faces(tmp_path, me, folder, faces, order, left, right):
    out = tmp_path / "out.png"
    assert call(me, folder / "both.png", out, "--faces", faces, "--order", order) == OK
    painted = green(out)
    assert (bool(painted[:, :192].any()), bool(painted[:, 192:].any())) == (left, right)


def test_several_sources_of_different_sizes_make_one_identity(tmp_path, me, folder, eileen, painter):
    small = tmp_path / "small.png"
    write_image(small, eileen[8:180, 10:170])
    target, out = folder / "hopper.png", tmp_path / "out.png"
    photos = tmp_path / "photos of her"
    photos.mkdir()
    for name in (me, small):
        shutil.copy(name, photos)
    assert call(me, small, target, out) == OK
    assert call(f"{me},{small}", target, out, "--overwrite") == OK
    assert call(photos, target, out, "--overwrite") == OK
    identities = [identity for identity, _, _ in painter.calls]
    assert [identity.photos for identity in identities] == [2, 2, 2]
    vectors = [identity.embeddings["dlib128"] for identity in identities]
    assert np.allclose(vectors[0], vectors[1], atol=1e-6) and np.allclose(vectors[0], vectors[2], atol=1e-5)


def test_cutting_out_the_surroundings_does_not_change_the_identity(collins):
    from faceloom.models.identity import make_identity

    faces = detect_faces(collins, settings=DetectSettings(keep="first"))
    whole, _ = make_identity(collins, faces)
    image, moved = pipeline.surroundings(collins, faces)
    assert image.shape[1] < 512 and image.shape[2] < 512
    cut, _ = make_identity(image, moved)
    assert float(whole.embeddings["dlib128"] @ cut.embeddings["dlib128"]) > 0.999
    assert np.abs(np.asarray(whole.crops) - cut.crops).max() <= 1 / 255 + 1e-6


def test_a_saved_identity_as_the_source(tmp_path, eileen, folder, painter):
    from faceloom.models.identity import make_identity
    from faceloom.models.identity.files import save_identity

    identity, _ = make_identity(eileen[None], detect_faces(eileen[None], settings=DetectSettings(keep="first")), name="Eileen")
    save_identity(identity, tmp_path / "eileen.safetensors")
    assert call(tmp_path / "eileen.safetensors", folder / "hopper.png", tmp_path / "out.png") == OK
    assert painter.calls[0][0].name == "Eileen"


def test_a_face_under_alpha_0_is_neither_counted_nor_swapped(tmp_path, me, eileen, grace, capsys):
    rows = min(len(eileen), len(grace))
    pair, alpha = torch.cat([eileen[:rows], grace[:rows]], 1), torch.ones(rows, eileen.shape[1] + grace.shape[1])
    alpha[:, :eileen.shape[1]] = 0
    write_image(tmp_path / "t.png", pair, alpha=alpha)
    assert call(me, tmp_path / "t.png", tmp_path / "out.png", "--json", "--faces", "all") == OK
    assert json.loads(capsys.readouterr().out)["pictures"][0]["faces"] == 1
    changed = (read_image(tmp_path / "out.png") != read_image(tmp_path / "t.png")).any(-1)
    assert changed[:, eileen.shape[1]:].any() and not changed[:, :eileen.shape[1]].any()


def test_transparency_profile_and_depth(tmp_path, me, grace, capsys):
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha = torch.ones(grace.shape[:2])
    alpha[:16] = 0
    write_image(tmp_path / "t.png", grace, alpha=alpha, icc=icc)
    assert call(me, tmp_path / "t.png", tmp_path / "out.png") == OK
    picture = read_picture_file(tmp_path / "out.png")
    assert torch.equal(picture.alpha, alpha) and picture.icc == icc
    assert torch.equal(picture.image[:16], grace[:16])
    grey = np.asarray(Image.fromarray((grace.numpy() * 255).astype(np.uint8)).convert("L"), np.uint16) * 257
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert call(me, tmp_path / "deep.png", tmp_path / "deep_out.png") == OK
    assert "16 bits per channel" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_provenance_is_written_when_asked_for(tmp_path, me, folder, suffix):
    out = tmp_path / f"out{suffix}"

    def text():
        with Image.open(out) as file:
            return " ".join(file.text.values()) if suffix == ".png" else file.getexif().get(0x010E, "")

    assert call(me, folder / "hopper.png", out) == OK
    assert text() == ""
    assert call(me, folder / "hopper.png", out, "--provenance", "--overwrite") == OK
    assert "Face swap: 1 face(s)" in text() and "painter" in text() and "collins" in text()


def test_subfolders_and_a_destination_inside_the_target(tmp_path, me, folder):
    photos = tmp_path / "photos"
    (photos / "trip").mkdir(parents=True)
    shutil.copy(folder / "hopper.png", photos / "trip" / "a.png")
    shutil.copy(folder / "hopper.png", photos / "b.png")
    out = photos / "swapped"
    assert call(me, photos, out) == OK
    assert sorted(os.listdir(out)) == ["b.png"]
    assert call(me, photos, out, "--recursive", "--overwrite") == OK
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == ["b.png", os.path.join("trip", "a.png")]


def test_refused_before_anything_is_written(tmp_path, me, folder, capsys):
    target, out = folder / "hopper.png", tmp_path / "out.png"
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    shutil.copy(me, tmp_path / "there.png")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert "The source nobody.png does not exist" in refused(capsys, "nobody.png", target, out)
    assert "The target nothing.png does not exist" in refused(capsys, me, "nothing.png", out)
    assert "has no picture in it" in refused(capsys, tmp_path / "empty", target, out)
    assert "has no picture in it" in refused(capsys, me, tmp_path / "empty", tmp_path / "o")
    assert "OUT must be a folder" in refused(capsys, me, folder, out)
    assert "OUT must be a folder" in refused(capsys, me, folder, tmp_path / "file")
    assert "OUT is TARGET itself" in refused(capsys, me, folder, folder)
    assert "is one of the files that are read" in refused(capsys, me, target, target, "--overwrite")
    assert "is one of the files that are read" in refused(capsys, me, target, me, "--overwrite")
    assert "is there already; pass --overwrite" in refused(capsys, me, target, tmp_path / "there.png")
    assert "pictures are written as" in refused(capsys, me, target, tmp_path / "out.xyz")
    assert "no room for provenance" in refused(capsys, me, target, tmp_path / "out.bmp", "--provenance")
    assert "Nothing can be written" in refused(capsys, me, target, tmp_path / "file" / "out.png")
    assert "There is no face in" in refused(capsys, folder / "wall.png", target, out)
    assert "cannot be read as a picture" in refused(capsys, tmp_path / "file", target, out)
    assert "SOURCE is empty" in refused(capsys, ",", target, out)
    assert "either photos or one identity file" in refused(capsys, me, _touch(tmp_path / "a.safetensors"), target, out)
    assert "--engine" not in refused(capsys, me, target, out, "--engine", "no_such_engine_at_all")
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([*before, "a.safetensors"])


def _touch(path):
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize("words", ["--threshold 2", "--crop-size big", "--restore x", "--order sideways", "--nonsense"])
def test_bad_options_are_usage_errors(tmp_path, me, folder, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(me, folder / "hopper.png", tmp_path / "out.png", *words.split())
    assert stopped.value.code == USER_ERROR and "usage: python -m faceloom swap" in capsys.readouterr().err


def test_a_defect_of_ours_costs_one_picture_and_is_shown_in_full(tmp_path, me, folder, monkeypatch, capsys):
    real = Painter.swap

    def fails_on_two(self, images, faces, *rest, **options):
        if len(faces) == 2:
            raise RuntimeError("out of memory")
        return real(self, images, faces, *rest, **options)

    monkeypatch.setattr(Painter, "swap", fails_on_two)
    assert call(me, folder, tmp_path / "out") == SOME_FAILED
    err = capsys.readouterr().err
    assert "Traceback" in err and "both.png: RuntimeError: out of memory" in err
    assert sorted(os.listdir(tmp_path / "out")) == ["hopper.png", "wall.png"]


def test_interruption_keeps_what_is_done_and_leaves_no_half_file(tmp_path, me, folder, monkeypatch, capsys):
    real, count = Image.Image.save, iter(range(9))

    def interrupted(self, file, *rest, **options):
        if next(count) == 1:
            file.write(b"half")
            raise KeyboardInterrupt
        return real(self, file, *rest, **options)

    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert call(me, folder, tmp_path / "out", "--json") == INTERRUPTED
    captured = capsys.readouterr()
    assert json.loads(captured.out)["interrupted"] is True and "interrupted" in captured.err
    assert os.listdir(tmp_path / "out") == ["both.png"]


def test_progress_goes_to_stderr_only(tmp_path, me, folder, capsys):
    assert call(me, folder / "hopper.png", tmp_path / "o.png", "--json", quiet=False) == OK
    captured = capsys.readouterr()
    assert "picture" in captured.err and json.loads(captured.out)["counts"]["swapped"] == 1


def test_crop_size_follows_the_photograph(grace):
    faces = detect_faces(grace[None], settings=DetectSettings(keep="first"))
    assert pipeline.fitting_crop_size(faces) == 512
    assert pipeline.fitting_crop_size(faces.take([])) == 512
    template_eyes = 0.62285697 - 0.37691676
    for eyes, edge in ((150, 640), (200, 832), (2000, 1024)):
        keypoints = (TEMPLATES["ffhq_512"] * eyes / template_eyes).astype(np.float32)
        large = dataclasses.replace(faces, items=(dataclasses.replace(faces[0], keypoints=keypoints),))
        assert pipeline.fitting_crop_size(large) == edge


def test_choices_are_those_of_the_models():
    from faceloom.models.options.paste import BLENDS, COLORS

    parser = argparse.ArgumentParser()
    swap.add_arguments(parser)
    choices = {action.dest: action.choices for action in parser._actions}
    assert choices["order"] == tuple(ORDERS) and choices["color"] == COLORS and choices["blend"] == BLENDS
