"""Models that say in colours what they were told, so that a swap on the command line takes a fraction of a second; and what it swaps."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from faceloom.cli import main
from faceloom.models.detect import detect_faces
from faceloom.models.detect import load as detectors
from faceloom.models.files.picture import write_image
from faceloom.models.files.picture_metadata import Metadata
from faceloom.models.identity import load as recognizers
from faceloom.models.options.detect import DetectSettings
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


MARK = torch.tensor([1.0, 0.0, 1.0])  # the second pixel of frames whose first pixel says what the detector does


class Detector:
    """Remembers the faces of the pictures by their size; ``moved``: some pixels to the right. In frames with a mark the first pixel's red
    moves faces by up to 8 pixels, and where it is full none is found."""

    name = "remembered"

    def __init__(self, known: dict, moved: float = 0) -> None:
        self.known, self.moved = known, moved

    def detect(self, images, threshold, progress=None):
        faces = self.known.get(tuple(images.shape[1:3]), ())
        red = float(images[0, 0, 0, 0]) if torch.equal(images[0, 0, 1], MARK) else 0
        if red == 1:
            return [[]]
        return [[replace(face, keypoints=face.keypoints + np.float32([self.moved + 8 * red, 0]))
                 for face in faces if face.score >= threshold]]


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
    if find_spec("av"):
        write_clips(folder, two)
    return folder, known


# Of the frames of the clip: the red that says what the detector does. Two people appear in the third frame, tremble, and are missed once.
REDS = (255, 255, 0, 90, 0, 90, 255, *(0, 90) * 6)


def write_clips(folder, picture: torch.Tensor) -> None:
    """A clip of two faces with sound and a title, one that is cut off, and one without a face."""
    import av

    for name, reds in (("clip.mov", REDS), ("cut.avi", REDS), ("empty.mov", (255,) * 3)):
        with av.open(str(folder / name), "w") as file:
            file.metadata["title"] = "Holiday"
            video = file.add_stream("png", rate=25)
            video.height, video.width, video.pix_fmt = *picture.shape[:2], "rgb24"
            sound = None if name == "cut.avi" else file.add_stream("pcm_s16le", rate=8000)
            for number, red in enumerate(reds):
                pixels = (picture * 255).round().byte().numpy()
                pixels[0, :3] = (red, 0, 0), MARK.numpy() * 255, (number, 0, 0)  # no two frames are equal
                file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            file.mux(video.encode())
            if sound is not None:
                samples = av.AudioFrame.from_ndarray((np.arange(640 * len(reds), dtype=np.int16) % 400)[None], "s16", "stereo")
                samples.sample_rate = 8000
                file.mux([*sound.encode(samples), *sound.encode()])
    whole = (folder / "cut.avi").read_bytes()
    (folder / "cut.avi").write_bytes(whole[: len(whole) * 2 // 3])


@pytest.fixture
def doubles(monkeypatch, photographs):
    known = photographs[1]

    def built_in(name, make, **more):
        return Method(name, label=name, open=lambda file, loading, **options: make(loading, **options), **more)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("faceloom.cli.people.SEARCH_EVERY", 1)  # the detector knows faces by the size of the whole frame
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


def run(words: list[str], out, capsys, there: bool = False):
    """The exit code, what was written, and what was said."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if there:
        for name in ("one.png", "clip.mov"):
            (out / name).write_bytes(b"before")
    try:
        code = main(["swap", *words])
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return code, files, captured.out, "picture" in captured.err or "frames" in captured.err
