"""A method is one file and one row: pretend engines, a detector, a recognizer and a restorer from a temporary folder."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("onnx", reason="the files are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

from faceloom.cli import OK, USER_ERROR, main
from faceloom.models import pipeline
from faceloom.models.detect import detect_faces
from faceloom.models.detect.load import load_detector
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.catalogue import row_by_file_name
from faceloom.models.files.folders import Folders
from faceloom.models.files.picture import read_image, write_image
from faceloom.models.identity import make_identity
from faceloom.models.identity.load import load_recognizer
from faceloom.models.options.detect import DetectSettings
from faceloom.models.options.swap import SwapSettings
from faceloom.models.restore import restore_crops
from faceloom.models.restore.load import load_restorer
from faceloom.models.runtime.method import Loading
from faceloom.models.swap import swap_faces
from faceloom.models.swap.load import load_engine, options_by_method, with_options
from faceloom.models.systems.load import load_any_engine
from faceloom.models.systems.options import read_engine_options
from pretend_methods import FILES, add_methods, write_files

LOADERS = {"onnx_engine": load_engine, "torch_engine": load_engine, "detector": load_detector, "recognizer": load_recognizer,
           "restorer": load_restorer}
CLASSES = {"onnx_engine": "PainterEngine", "torch_engine": "BrightEngine", "detector": "MiddleDetector", "recognizer": "FrameRecognizer",
           "restorer": "NegativeRestorer"}


@pytest.fixture
def paths(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    add_methods(tmp_path / "modules", monkeypatch)
    return write_files(tmp_path / "models")


@pytest.fixture
def loading(tmp_path, paths) -> Loading:
    return Loading(Folders((tmp_path / "models",)))


@pytest.mark.parametrize("name", LOADERS)
def test_its_file_is_opened_by_its_path_and_by_its_name(name, paths, loading):
    file = FILES[name].rsplit("/", 1)[1]
    assert row_by_file_name(file) is None  # no row in the catalogue is needed; one would tell the licence
    for given in (paths[name], file, FILES[name].split("/", 1)[1]):
        assert type(LOADERS[name](given, loading)).__name__ == CLASSES[name]


@pytest.mark.parametrize("name", LOADERS)
def test_other_files_and_what_is_built_in_are_opened_as_before(name, paths, loading, tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(FaceLoomError, match=r"other\.onnx"):
        LOADERS[name](tmp_path / "other.onnx", loading)
    built_in = {"detector": "dlib", "recognizer": "dlib", "restorer": "match the photograph"}.get(name, "mesh")
    assert type(LOADERS[name](built_in, loading)).__name__ != CLASSES[name]


def test_they_work_together(paths, loading, hopper):
    faces = detect_faces(hopper, load_detector("middle.onnx", loading), DetectSettings(crop_size=64))
    identity, _ = make_identity(hopper, faces, load_recognizer("frames.onnx", loading))
    assert list(identity.embeddings) == ["frames"]
    painter, bright = load_engine("walls.onnx", loading, amount=1.0), load_engine("bright/lamp.pth", loading, stops=2)
    crops, masks = swap_faces(hopper, faces, identity, painter)
    assert torch.allclose(crops[0, :, :32], torch.tensor([.2, .4, .6]), atol=1e-6) and masks.mean() == .5
    own = swap_faces(hopper, faces, identity, painter, SwapSettings(), which="7")[0]
    lit, where = swap_faces(hopper, faces, identity, bright)
    inside = (where == 1) & (own.amax(-1) < .7)
    assert inside.any() and (lit - own)[inside].mean() == pytest.approx(.25, abs=.003)
    assert torch.allclose(restore_crops(crops, restorer=load_restorer("negative.pth", loading)), 1 - crops, atol=1e-6)


def test_options_are_changed_and_refused(paths, loading):
    assert list(options_by_method())[:2] == ["Bright", "Painter"]
    engine = load_engine("walls.onnx", loading)
    assert with_options(engine, "Painter", half="right").options.half == "right" and engine.options.half == "left"
    assert read_engine_options(["stops=3", "invert=on", "half=right"]) == {"stops": 3, "invert": True, "half": "right"}
    for word, sentence in (("stops=4", r"Stops must be a whole number from 0 to 3, not 4\."),
                           ("amount=1.5", r"Amount must be from 0 to 1, not 1\.5\."),
                           ("half=upper", r'Half must be one of left, right, not "upper"\.')):
        with pytest.raises(FaceLoomError, match=sentence):
            read_engine_options([word])
    with pytest.raises(FaceLoomError, match="Painter has no option stops; it has amount, half"):
        load_engine("walls.onnx", loading, stops=2)
    with pytest.raises(FaceLoomError, match="Amount must be from 0 to 1, not 7"):
        load_engine("walls.onnx", loading, amount=7)
    with pytest.raises(FaceLoomError, match="These are the options of Bright, but walls is Painter"):
        with_options(engine, "Bright", stops=2)


def test_the_command_line_tells_their_options_takes_them_and_refuses_others(paths, hopper, collins, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        main(["swap", "--help"])
    shown = capsys.readouterr().out
    for words in ("Painter       amount, half", "How much of the colour is painted.", "0 to 1 [0.5]", "left, right [left]",
                  "Bright        stops, invert", "0 to 3 [1]", "on, off [off]"):
        assert words in shown
    for name, picture in (("me", collins), ("you", hopper)):
        write_image(tmp_path / f"{name}.png", picture[0, ::2, ::2])
    opened = []
    monkeypatch.setattr(pipeline, "load_any_engine",
                        lambda *given, **options: opened.append(load_any_engine(*given, **options)) or opened[-1])

    def swap(*words):
        return main(["swap", str(tmp_path / "me.png"), str(tmp_path / "you.png"), str(tmp_path / "out.png"), "--restore", "0", "--quiet",
                     "--overwrite", *map(str, words)])

    assert swap("--engine", paths["onnx_engine"], "--option", "amount=0.9", "--option", "half=right") == OK
    assert swap("--engine", paths["torch_engine"], "--option", "stops=3") == OK
    assert [vars(engine.options) for engine in opened] == [{"amount": .9, "half": "right"}, {"stops": 3, "invert": False}]
    assert not torch.equal(read_image(tmp_path / "out.png"), read_image(tmp_path / "you.png"))
    capsys.readouterr()
    for words in (("amount=1.1",), ("stops=9",), ("half=upper",), ("colour=red",)):
        assert swap("--engine", paths["onnx_engine"], "--option", *words) == USER_ERROR
        assert capsys.readouterr().err.count("\n") == 1
    assert len(opened) == 2
