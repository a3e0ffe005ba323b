"""Every option of ``swap`` changes what comes out, or is refused; nothing is taken and then forgotten.

All models are doubles that say in colours what they were told, so a run takes a fraction of a second.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from faceloom.cli import OK, SOME_FAILED, USER_ERROR, main, swap
from faceloom.cli.session import loading_of
from faceloom.models.detect import detect_faces
from faceloom.models.detect import load as detectors
from faceloom.models.files.picture import write_image
from faceloom.models.files.picture_metadata import Metadata
from faceloom.models.identity import load as recognizers
from faceloom.models.options.detect import DetectSettings
from faceloom.models.options.pipeline import BUILT_IN
from faceloom.models.options.swap import SwapSettings
from faceloom.models.parse import REGIONS
from faceloom.models.parse import load as parsers
from faceloom.models.restore import load as restorers
from faceloom.models.runtime.method import Method
from faceloom.models.runtime.options import Options, option
from faceloom.models.swap import load as engines
from faceloom.models.systems import load as systems
from faceloom.models.systems.engine import SystemEngine
from faceloom.models.systems.options import REFaceOptions

SPACES = {"dlib128": 0.1, "other": 0.7}


def colour(*numbers: float) -> torch.Tensor:
    """A colour that tells these numbers apart."""
    return torch.tensor([sum(numbers) % 1.0, sum(n * n for n in numbers) * 0.37 % 1.0, 0.5])


class Network:
    """A network that paints the middle of crops in the colour of all it was told."""

    name, size = "network", 64

    def __init__(self, tint: bool, providers: str) -> None:
        self.told = (0.21 * tint, 0.13 * len(providers))

    def prepare(self, identity):
        return sum(SPACES[space] for space in identity.embeddings)

    def swap(self, images, faces, source, settings=SwapSettings(), progress=None):  # noqa: B008
        edge = settings.edge(faces)
        crops = colour(source, settings.strength * 0.3, settings.pixel_boost * 0.11, *self.told).expand(len(faces), edge, edge, 3).clone()
        masks = torch.zeros(len(faces), edge, edge)
        masks[:, edge // 4:-edge // 4, edge // 4:-edge // 4] = 1
        return crops, masks


class System(SystemEngine):
    name, alignment, size = "system", "FFHQ quad", 64

    def __init__(self, options: REFaceOptions) -> None:
        self.options = options

    def paint_faces(self, images, faces, source, progress):
        told = self.options.steps * 0.01, self.options.seed * 0.07, self.options.cfg * 0.09
        return colour(*told).expand(len(faces), 64, 64, 3).clone(), torch.ones(len(faces), 64, 64)


@dataclass(frozen=True)
class NetworkOptions(Options):
    tint: bool = option(False, "Paints in another colour.")


class Detector:
    """Remembers the faces of the pictures by their size; ``moved``: some pixels to the right."""

    name = "remembered"

    def __init__(self, known: dict, moved: float = 0) -> None:
        self.known, self.moved = known, moved

    def detect(self, images, threshold, progress=None):
        faces = self.known.get(tuple(images.shape[1:3]), ())
        return [[replace(face, keypoints=face.keypoints + np.float32([self.moved, 0])) for face in faces if face.score >= threshold]]


class Recognizer:
    def __init__(self, space: str) -> None:
        self.space = space

    def embed(self, images, faces, progress=None):
        return np.tile(np.float32([[1, 0]]), (len(faces), 1))


class Parser:
    """Sees skin on the left and hair on the right."""

    name = "parser"

    def parse(self, crops, progress=None):
        labels = torch.full(crops.shape[:3], REGIONS.index("hair"), dtype=torch.uint8)
        labels[:, :, : crops.shape[2] // 2] = REGIONS.index("skin")
        return labels


class Occluder:
    """Says that the upper half of every face is hidden."""

    name = "occluder"

    def visible(self, images, faces, size, progress=None):
        visible = torch.ones(len(faces), size, size)
        visible[:, : size // 2] = 0
        return visible


class Restorer:
    name = "restorer"

    def restore(self, crops, fidelity, progress=None, points=None):
        return crops * (0.2 + 0.8 * fidelity)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, hopper, collins):
    """A folder: one face, two faces, none, and a subfolder; beside it the source and a mask; and the faces by the pictures' sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "photos" / "deeper").mkdir(parents=True)
    small = torch.nn.functional.avg_pool2d(hopper.permute(0, 3, 1, 2), 2)[0].permute(1, 2, 0)
    one = ((small[:192, 50:210] * 255).round() / 255).contiguous()
    face = detect_faces(one[None], settings=DetectSettings(keep="first"))[0]
    two = torch.cat([one, one.flip(1) * 0.9], 1)
    shift = np.float32([160, 0])
    other = replace(face, keypoints=face.keypoints + shift, points68=face.points68 + shift, box=face.box + np.float32([160, 0, 160, 0]))
    known = {(192, 160): (replace(face, score=0.9),), (192, 320): (replace(face, score=0.9), replace(other, score=0.7))}
    for name, picture in (("one.png", one), ("two.png", two), ("wall.png", torch.full((40, 50, 3), 0.5)), ("deeper/more.png", one)):
        write_image(folder / "photos" / name, picture, about=Metadata(text={"Author": "Ann"}))
    write_image(folder / "source.png", one)
    write_image(folder / "grey.png", one.mean(-1, keepdim=True).expand(-1, -1, 3).contiguous())
    mask = torch.zeros(96, 80, 3)
    mask[:, 40:] = 1
    write_image(folder / "mask.png", mask)
    return folder, known


@pytest.fixture(autouse=True)
def doubles(monkeypatch, photographs):
    known = photographs[1]

    def built_in(name, make, **more):
        return Method(name, label=name, open=lambda file, loading, **options: make(loading, **options), **more)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engines, "ENGINES", (
        built_in("mesh", lambda loading, tint=False: Network(tint, loading.providers), options=NetworkOptions), *engines.ENGINES))
    monkeypatch.setattr(systems, "ENGINES", (
        built_in("system", lambda loading, **options: System(REFaceOptions(**options)), options=REFaceOptions),))
    monkeypatch.setattr("faceloom.models.systems.options.options_of_networks", lambda: {"mesh": NetworkOptions})
    monkeypatch.setattr(detectors, "DETECTORS", (
        built_in("dlib", lambda loading: Detector(known)), built_in("moved", lambda loading: Detector(known, 9))))
    monkeypatch.setattr(recognizers, "RECOGNIZERS", (
        built_in("dlib", lambda loading: Recognizer("dlib128")), built_in("other", lambda loading: Recognizer("other"))))
    monkeypatch.setattr(parsers, "PARSERS", (*parsers.PARSERS[:1], built_in("network", lambda loading: Parser())))
    monkeypatch.setattr(parsers, "OCCLUDERS", (built_in("network", lambda loading: Occluder()),))
    monkeypatch.setattr(restorers, "RESTORERS", (*restorers.RESTORERS[:1], built_in("network", lambda loading: Restorer())))


@dataclass(frozen=True)
class Case:
    """How an option is tried: its words, words of both runs, the target, and what the run with it ends with."""

    words: str
    both: str = ""
    target: str = "photos/one.png"
    code: int = OK
    out_is_there: bool = False


CASES = {
    "--faces": Case("--faces first", target="photos/two.png"),
    "--order": Case("--order right-left", "--faces first", "photos/two.png"),
    "--threshold": Case("--threshold 0.8", target="photos/two.png"),
    "--no-face": Case("--no-face copy", target="photos/wall.png"),
    "--detector": Case("--detector moved"),
    "--recognizer": Case("--recognizer other"),
    "--engine": Case("--engine system", "--framing 1"),
    "--option": Case("--option tint=on"),
    "--strength": Case("--strength 0.5"),
    "--pixel-boost": Case("--pixel-boost 2"),
    "--steps": Case("--steps 7", "--engine system"),
    "--seed": Case("--seed 5", "--engine system"),
    "--cfg": Case("--cfg 2", "--engine system"),
    "--device": Case("--device cuda", code=USER_ERROR),
    "--provider": Case("--provider cpu", "--provider auto"),
    "--regions": Case("--regions face"),
    "--parser": Case("--parser network", "--regions skin"),
    "--occluder": Case("--occluder network"),
    "--mask": Case("--mask mask.png"),
    "--color": Case("--color mean-std"),
    "--blend": Case("--blend multi-band"),
    "--feather": Case("--feather 0.2"),
    "--keep-gray": Case("--no-keep-gray", target="grey.png"),
    "--restore-model": Case("--restore-model network", "--restore 1"),
    "--restore": Case("--restore 0.4", "--restore-model network --restore 1"),
    "--fidelity": Case("--fidelity 0.1", "--restore-model network --restore 1"),
    "--framing": Case("--framing 1.5"),
    "--crop-size": Case("--crop-size 256"),
    "--recursive": Case("--recursive", "--no-face copy", "photos"),
    "--overwrite": Case("--overwrite", out_is_there=True),
    "--strip": Case("--strip"),
    "--provenance": Case("--provenance"),
    "--json": Case("--json"),
    "--quiet": Case("--quiet"),
}


def test_no_option_is_forgotten():
    parser = argparse.ArgumentParser(add_help=False)
    swap.add_arguments(parser)
    assert {action.option_strings[0] for action in parser._actions if action.option_strings} == set(CASES)


def run(words: list[str], out, capsys, there: bool = False):
    """The exit code, what was written, and what was said."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if there:
        (out / "one.png").write_bytes(b"before")
    try:
        code = main(["swap", *words])
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return code, files, captured.out, "picture" in captured.err


@pytest.mark.parametrize("option", CASES)
def test_every_option_changes_the_result_or_is_refused(option, photographs, tmp_path, capsys):
    case, folder, out = CASES[option], photographs[0], tmp_path / "out"
    words = [str(folder / "source.png"), str(folder / case.target), str(out), "--restore", "0"]
    words += [] if option in ("--crop-size", "--engine") or "system" in case.both else ["--crop-size", "128"]
    added = [str(folder / word) if word == "mask.png" else word for word in case.words.split()]
    before = run([*words, *case.both.split()], out, capsys, case.out_is_there)
    after = run([*words, *case.both.split(), *added], out, capsys, case.out_is_there)
    assert after[0] == case.code, after
    assert before != after
    if option not in ("--json", "--quiet", "--device"):
        assert before[1] != after[1]  # a picture
    assert before[0] == {"--overwrite": USER_ERROR, "--no-face": SOME_FAILED}.get(option, OK)
    if case.code == OK:
        assert after == run([*words, *case.both.split(), *added], out, capsys, case.out_is_there) or option == "--json"


@pytest.mark.parametrize("words", [
    "--threshold 1.01", "--threshold nan", "--strength -0.1", "--strength inf", "--strength 2.1", "--feather 0.51", "--feather -1",
    "--feather nan", "--fidelity 2", "--restore -1", "--restore nan", "--pixel-boost 0", "--pixel-boost 9", "--pixel-boost 1.5",
    "--framing 0.4", "--framing inf", "--crop-size 63", "--crop-size 5000", "--crop-size x", "--steps x", "--seed 1.5", "--cfg x",
    "--steps 0 --engine system", "--steps 1001 --engine system", "--seed -1 --engine system", "--cfg nan --engine system",
    "--cfg inf --engine system", "--steps 3", "--seed 3", "--cfg 3", "--option nothing=1", "--option tint=maybe", "--faces second",
    "--faces 0;1", "--faces first,0", "--regions hair", "--regions elbow", "--regions ,", "--engine no_such_engine", "--detector nobody",
    "--recognizer nobody", "--parser nobody", "--occluder nobody", "--restore-model nobody", "--mask nothing.png", "--provider gpu",
    "--device cuda", "--engine system --strength 0.5", "--engine system --pixel-boost 2", "--engine system --framing 2",
    "--engine system --crop-size 256", "--fidelity 0.2",
])
def test_refused_once_before_any_picture_is_read(words, photographs, tmp_path, capsys, monkeypatch):
    """One sentence and exit code 2, though the folder has four pictures, the source is no picture and nothing may be read."""
    folder = photographs[0]
    (tmp_path / "source.png").write_bytes(b"not a picture")
    code, files, _, progress = run_and_say([str(tmp_path / "source.png"), str(folder / "photos"), str(tmp_path / "out"), *words.split()],
                                           tmp_path, capsys)
    assert code == USER_ERROR and not files and not progress


def run_and_say(words, tmp_path, capsys):
    try:
        code = main(["swap", *words])
    except SystemExit as stopped:
        code = stopped.code
    err = capsys.readouterr().err
    said = [line for line in err.splitlines() if not line.startswith("usage:")]
    assert len(said) == 1 and "Traceback" not in err and "source.png" not in err, err
    return code, list((tmp_path / "out").rglob("*.png")), err, "picture/s" in err


def test_sampling_options_are_named_where_an_engine_lacks_them(photographs, tmp_path, capsys):
    words = [str(photographs[0] / "source.png"), str(photographs[0] / "photos" / "one.png"), str(tmp_path / "o.png"), "--steps", "5"]
    assert main(["swap", *words]) == USER_ERROR
    assert capsys.readouterr().err == "faceloom: mesh has no option steps; it has tint.\n"


def test_built_in_models_are_those_of_the_tables(monkeypatch):
    monkeypatch.undo()
    from faceloom.models.runtime.method import built_in_method

    for methods, name in ((engines.ENGINES, BUILT_IN.engine), (detectors.DETECTORS, BUILT_IN.detector),
                          (recognizers.RECOGNIZERS, BUILT_IN.recognizer), (parsers.PARSERS, BUILT_IN.parser),
                          (restorers.RESTORERS, BUILT_IN.restorer)):
        assert built_in_method(methods, name).name == name


def test_options_that_are_listed_are_those_of_the_rows(monkeypatch):
    from faceloom.models.systems.diffface import PRESETS
    from faceloom.models.systems.options import OPTIONS, WEIGHTS

    monkeypatch.undo()
    assert {method.name: method.options for method in systems.ENGINES} == dict(OPTIONS) and tuple(PRESETS) == WEIGHTS


def test_devices(monkeypatch):
    assert (str(loading_of("auto", "auto").devices.device), loading_of("auto", "cpu").half) == ("cpu", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, there, half in (("auto", "cuda", True), ("cuda", "cuda", True), ("cpu", "cpu", False)):
        loading = loading_of(device, "tensorrt")
        assert (str(loading.devices.device), loading.half, loading.providers) == (there, half, "tensorrt")
