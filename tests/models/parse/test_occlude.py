"""Every occluder of the catalogue against a double of its network; masks from elsewhere; SAM with a stand-in for its library."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

from contracts import other_templates, unnoticed
from faceloom.models.crops.crop import crop_faces, crop_matrices
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces
from faceloom.models.files.catalogue import catalogue, rows
from faceloom.models.files.folders import Folders
from faceloom.models.parse import region_mask
from faceloom.models.parse.load import load_occluder, load_parser
from faceloom.models.parse.occlude import MaskOccluder, OnnxOccluder, draw_mask, faces_in_crops, occlusion_mask
from faceloom.models.parse.sam import SamOccluder, box_in_square
from faceloom.models.pixels.masks import feather_mask, grow_mask
from faceloom.models.runtime.method import Loading
from faceloom.models.runtime.onnx import open_session
from graphs import A128, DFL, FFHQ, PLAIN, Graph, apply, fit, grid, inverse
from smallest import SMALLEST_ONNX

pytestmark = pytest.mark.usefixtures("one_thread")

STEP = 1 / 255
SIZE = 96
FRAMING = 1.15
HEIGHT, WIDTH = 300, 340
WEIGHTS = np.array([.3, .15, .05])


@dataclass(frozen=True)
class Truth:
    """What the authors of one network expect."""

    template: np.ndarray
    input: str
    output: str
    nhwc: bool = False
    bgr: bool = True
    logits: bool = False


XSEG = Truth(DFL, "input", "output", nhwc=True)
TRUTHS = {
    "xseg_1": XSEG,
    "xseg_2": XSEG,
    "xseg_3": XSEG,
    "xseg_visomaster": Truth(DFL, "in_face:0", "out_mask:0"),
    "occluder_visomaster": Truth(A128, "img", "output", bgr=False, logits=True),
}


def save_occluder(name: str, path: Path, *, half: bool = False, rows_: int | str = 1, size: int | str = 256, channels: int | str = 3,
                  extra: bool = False) -> Path:
    """A network that answers a weighted sum of the colours and a ramp over its own pixels."""
    truth, graph = TRUTHS[name], Graph(half)
    picture = graph.input(truth.input, [rows_, size, size, channels] if truth.nhwc else [rows_, channels, size, size])
    picture = graph.picture(picture, PLAIN, nhwc=truth.nhwc, bgr=truth.bgr)
    value = graph.node("Conv", picture, graph.weight(WEIGHTS.reshape(1, 3, 1, 1)))
    u = grid(256, 256) / 256
    value = graph.node("Add", value, graph.weight((.25 * u[..., 0] + .2 * u[..., 1])[None, None]))
    if truth.logits:  # the inverse of the sigmoid
        value = graph.node("Log", graph.node("Div", value, graph.node("Sub", graph.weight([1]), value)))
    shape = [rows_, 1, 256, 256]
    if truth.nhwc:
        value, shape = graph.node("Transpose", value, perm=[0, 2, 3, 1]), [rows_, 256, 256, 1]
    graph.output(truth.output, value, shape)
    if extra:
        graph.output("further", graph.node("Neg", value), shape)
    return graph.save(path)


def scene(points: np.ndarray) -> np.ndarray:
    x, y = points[..., 0] / WIDTH, points[..., 1] / HEIGHT
    return np.stack([.1 + .6 * x, .15 + .7 * y, .95 - .4 * x - .3 * y], -1)


def keypoints_at(center: tuple[float, float], angle: float, eyes: float) -> np.ndarray:
    shape = (FFHQ - .5) / .246 * eyes + np.array([[0, 2], [1, -1], [3, 1], [-2, 0], [1, 3]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return shape @ turn.T + center


IMAGES = torch.from_numpy(np.stack([scene(grid(HEIGHT, WIDTH))] * 2)).to(torch.float32)
FACES = Faces(
    tuple(Face(frame, [center[0] - 50, center[1] - 60, center[0] + 50, center[1] + 60], keypoints_at(center, angle, eyes))
          for frame, center, angle, eyes in ((0, (165., 150.), .2, 40.), (1, (172., 147.), -.3, 36.))),
    2, HEIGHT, WIDTH, FRAMING, SIZE,
)


def to_crop(face: Face, size: int = SIZE, framing: float = FRAMING) -> np.ndarray:
    """Image → canonical crop, by this file's own account."""
    return fit(np.float64(face.keypoints), ((FFHQ - .5) / framing + .5) * size - .5)


def expected(truth: Truth) -> np.ndarray:
    """``[2, SIZE, SIZE]``."""
    out = []
    for face in FACES:
        places = apply(inverse(to_crop(face)), grid(SIZE, SIZE))
        square = fit(np.float64(face.keypoints), truth.template * 256)
        own = np.clip(apply(square, places), 0, 255)  # beyond its square its border goes on
        out.append(scene(apply(inverse(square), own)) @ WEIGHTS + (own / 256) @ (.25, .2))
    return np.array(out)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    root = tmp_path_factory.mktemp("models")
    for name in TRUTHS:
        save_occluder(name, root / "faceloom" / "parsers" / catalogue()[name].file)
    return Folders((root,))


def off_by(occluder, name: str) -> float:
    return float(np.abs(occluder.visible(IMAGES, FACES, SIZE).numpy() - expected(TRUTHS[name])).max())


def test_doubles_cover_the_catalogue():
    assert set(TRUTHS) == {row.name for row in rows("occluder") if row.file.endswith(".onnx")}


@pytest.mark.parametrize("name", TRUTHS)
def test_row(name, folders):
    occluder = load_occluder(name, Loading(folders))
    assert occluder.name == name and off_by(occluder, name) < STEP
    assert expected(TRUTHS[name]).min() > .15 and expected(TRUTHS[name]).max() < .95, "the double must not saturate"


@pytest.mark.parametrize("name", TRUTHS)
def test_every_slip_is_noticed(name, tmp_path):
    contract = catalogue()[name].contract
    model = open_session(save_occluder(name, tmp_path / "open.onnx", rows_="n", channels="c", size="s"))  # tells nothing
    slips = [{"color": "rgb" if contract.color == "bgr" else "bgr"}, {"layout": "nchw" if contract.layout == "nhwc" else "nhwc"},
             {"mean": (.05, .05, .05)}, {"std": (1.1, 1.1, 1.1)}, {"size": 128}, {"mean": (.5, .5, .5), "std": (.5, .5, .5)},
             {"family": "xseg" if contract.family == "occluder" else "occluder"}]
    slips += other_templates(contract)
    assert not unnoticed(contract, lambda slipped: off_by(OnnxOccluder("mutant", model, slipped), name) < STEP, slips)


def test_fp16_extra_outputs_and_a_batch(tmp_path):
    wanted = expected(XSEG)
    for label, how in {"half": {"half": True}, "free": {"rows_": "n"}, "extra": {"extra": True}}.items():
        occluder = load_occluder(save_occluder("xseg_3", tmp_path / label / "xseg_3.onnx", **how))
        got = occluder.visible(IMAGES, FACES, SIZE)
        assert np.abs(got.numpy() - wanted).max() < STEP
        singles = torch.cat([occluder.visible(IMAGES, FACES.take([i]), SIZE) for i in (1, 0, 1, 0)])
        together = occluder.visible(IMAGES, FACES.take([1, 0, 1, 0]), SIZE)
        assert torch.allclose(together, singles, atol=1e-6)


def test_crops_alone_do_where_they_show_what_the_network_sees(folders):
    """In the middle, that is: XSeg's square is a tenth narrower than a crop but reaches out of it where the face leans."""
    size = 256
    crops, own = crop_faces(IMAGES, FACES, size), faces_in_crops(FACES, size)
    assert (own.frames, own.height, own.width, own.framing) == (2, size, size, FRAMING)
    assert np.allclose(crop_matrices(own, size), [[1, 0, 0], [0, 1, 0]], atol=1e-3)
    occluder = load_occluder("xseg_3", Loading(folders))
    whole, part = occlusion_mask(IMAGES, FACES, size, occluder), occlusion_mask(crops, own, size, occluder)
    middle = slice(size // 4, -size // 4)
    assert (whole - part)[:, middle, middle].abs().max() < STEP


def test_no_faces(folders):
    nobody = Faces((), 2, HEIGHT, WIDTH, 1.0, SIZE)
    assert load_occluder("xseg_3", Loading(folders)).visible(IMAGES, nobody, SIZE).shape == (0, SIZE, SIZE)
    assert torch.equal(occlusion_mask(IMAGES, nobody, SIZE), torch.zeros(1, SIZE, SIZE))


def test_a_foreign_file_and_both_kinds(tmp_path, folders):
    occluder = load_occluder(save_occluder("xseg_1", tmp_path / "mine.onnx"))
    assert occluder.name == "mine" and off_by(occluder, "xseg_1") < STEP
    assert load_occluder(save_occluder("xseg_1", tmp_path / "xseg_2 of a friend.onnx")).name == "xseg_2"
    with pytest.raises(FaceLoomError, match="is an occlusion model, not a face parser"):
        load_parser("xseg_1", Loading(folders))
    with pytest.raises(FaceLoomError, match="is a face restorer, not an occlusion model"):
        path = tmp_path / "gfpgan_1.4.onnx"
        path.write_bytes(SMALLEST_ONNX)
        load_occluder(path)


def test_an_answer_that_is_no_mask(tmp_path):
    graph = Graph()
    graph.output("out", graph.node("ReduceMean", graph.input("input", [1, 256, 256, 3]), axes=[1], keepdims=0), ["a", "b", "c"])
    with pytest.raises(FaceLoomError, match="one mask per picture"):
        load_occluder(graph.save(tmp_path / "xseg_3.onnx")).visible(IMAGES, FACES, SIZE)


# Masks from elsewhere

def bar(points: np.ndarray) -> np.ndarray:
    """A soft diagonal bar across both faces, linear so that resampling leaves it alone."""
    return np.clip(.5 + .004 * (points[..., 0] - 150) + .002 * (points[..., 1] - 150), 0, 1)


def test_a_mask_is_sampled_into_every_crop():
    mask = torch.from_numpy(bar(grid(HEIGHT, WIDTH))).to(torch.float32)
    seen = MaskOccluder(mask).visible(IMAGES, FACES, SIZE)
    wanted = np.array([1 - bar(apply(inverse(to_crop(face)), grid(SIZE, SIZE))) for face in FACES])
    assert np.abs(seen.numpy() - wanted).max() < STEP
    per_frame = torch.stack([mask, torch.zeros_like(mask)])
    second = MaskOccluder(per_frame).visible(IMAGES, FACES, SIZE)
    assert torch.equal(second[0], seen[0]) and torch.equal(second[1], torch.ones(SIZE, SIZE))
    half = torch.nn.functional.avg_pool2d(mask[None, None], 2)[0]
    assert (MaskOccluder(half).visible(IMAGES, FACES, SIZE) - seen).abs().max() < STEP


def test_outside_of_the_photograph_nothing_hides_a_face():
    corner = replace(FACES, items=(Face(0, [0, 0, 9, 9], keypoints_at((5, 5), 0, 40)),))
    seen = MaskOccluder(torch.ones(1, HEIGHT, WIDTH)).visible(IMAGES, corner, SIZE)
    assert float(seen[0, 0, 0]) == 1 and float(seen[0, -1, -1]) == 0


def test_what_is_hidden_is_hidden_beside_a_slanted_edge_too():
    """No look-up rings: a crop pixel whose four neighbours are hidden is hidden, in masks and in what networks answer."""
    places, size = grid(HEIGHT, WIDTH), 512
    mask = torch.from_numpy(places.sum(-1) >= 320).to(torch.float32)
    for face, seen in zip(FACES, MaskOccluder(mask).visible(IMAGES, FACES, size).numpy(), strict=True):
        at = apply(inverse(to_crop(face, size)), grid(size, size))
        hidden = (np.floor(at - 1e-3).sum(-1) >= 320) & ((at > 0) & (at < (WIDTH - 1, HEIGHT - 1))).all(-1)
        assert hidden.mean() > .2 and not seen[hidden].any()
    drawn = draw_mask(1 - mask[:, :HEIGHT], np.array([[1.6, 0, .3], [0, 1.6, .1]]), 480).numpy()
    hidden = np.floor((grid(480, 480) - (.3, .1)) / 1.6).sum(-1) >= 320
    assert hidden.mean() > .2 and not drawn[hidden].any() and drawn.max() == pytest.approx(1)


def test_placeholder_of_a_picture_without_alpha_hides_nothing():
    assert torch.equal(occlusion_mask(IMAGES, FACES, SIZE, mask=torch.zeros(1, 64, 64)), torch.ones(2, SIZE, SIZE))


def test_occluder_and_mask_together_and_the_region_they_leave(folders):
    occluder = load_occluder("xseg_3", Loading(folders))
    mask = torch.from_numpy(bar(grid(HEIGHT, WIDTH))).to(torch.float32)
    both = occlusion_mask(IMAGES, FACES, SIZE, occluder, mask)
    wanted = np.minimum(expected(XSEG), MaskOccluder(mask).visible(IMAGES, FACES, SIZE).numpy())
    assert np.abs(both.numpy() - wanted).max() < STEP
    face = region_mask(("face",), SIZE, faces=FACES)
    assert torch.allclose(region_mask(("face",), SIZE, faces=FACES, occlusion=both), face * both)


def test_growing_and_feathering_stay_off_what_hides_the_face():
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[:, 170:] = 1
    hard = occlusion_mask(IMAGES, FACES, SIZE, mask=mask)
    grown = occlusion_mask(IMAGES, FACES, SIZE, mask=mask, grow=4)
    soft = occlusion_mask(IMAGES, FACES, SIZE, mask=mask, grow=4, feather=10)
    assert torch.equal(soft, feather_mask(grow_mask(hard, -4), 10, "inside"))
    assert float(grown.sum()) < float(hard.sum()) and (soft <= hard + 1e-6).all()
    column = (hard[0, SIZE // 2] - grown[0, SIZE // 2]).sum()
    assert 3.5 < float(column) < 4.7  # the border moved by 4 pixels; it leans by 11 degrees


# SAM

class FakeSam(torch.nn.Module):
    def __init__(self, edge: int) -> None:
        super().__init__()
        self.image_encoder = torch.nn.Module()
        self.image_encoder.pos_embed = torch.nn.Parameter(torch.zeros(1, 2, 2, 768))
        self.image_encoder.img_size = edge


class FakePredictor:
    """Answers with everything left of the nose point and notes what it was asked."""

    asked: list[dict] = []

    def __init__(self, net: FakeSam) -> None:
        self.edge = net.image_encoder.img_size

    def set_torch_image(self, picture: torch.Tensor, size: tuple[int, int]) -> None:
        assert picture.shape == (1, 3, self.edge, self.edge) and size == (self.edge, self.edge)
        self.picture = picture

    def predict(self, point_coords, point_labels, box, multimask_output, return_logits):
        self.asked.append({"points": point_coords, "labels": point_labels, "box": box, "picture": self.picture})
        assert return_logits and not multimask_output
        logits = (point_coords[2, 0] - np.arange(self.edge)) * .2
        return np.broadcast_to(logits, (1, self.edge, self.edge)), np.ones(1), None


@pytest.fixture
def sam(monkeypatch):
    library = types.ModuleType("segment_anything")
    library.SamPredictor = FakePredictor
    library.sam_model_registry = {"vit_b": lambda: FakeSam(256)}
    monkeypatch.setitem(sys.modules, "segment_anything", library)
    FakePredictor.asked = []


def test_sam_is_shown_each_face_upright_with_its_own_points_and_box(sam):
    seen = SamOccluder("sam", FakeSam(256)).visible(IMAGES, FACES, SIZE)
    for face, asked, mask in zip(FACES, FakePredictor.asked, seen, strict=True):
        square = to_crop(face, 256, FRAMING * 1.3)
        assert np.allclose(asked["points"], apply(square, np.float64(face.keypoints[:3])), atol=1e-3)
        assert asked["labels"].tolist() == [1, 1, 1]
        picture = asked["picture"][0].permute(1, 2, 0).numpy() / 255
        inner = slice(60, 200)
        assert np.abs(picture - scene(apply(inverse(square), grid(256, 256))))[inner, inner].max() < STEP
        center = apply(square, np.float64(face.center))
        assert np.allclose((asked["box"][:2] + asked["box"][2:]) / 2, center, atol=1e-3)
        places = apply(square, apply(inverse(to_crop(face)), grid(SIZE, SIZE)))
        wanted = 1 / (1 + np.exp(-(asked["points"][2, 0] - places[..., 0]) * .2))
        assert np.abs(mask.numpy() - wanted).max() < .03


def test_box_of_a_face_at_the_edge_stays_in_the_picture():
    box = box_in_square(np.array([-50., 10, 80, 90]), np.array([[2., 0, 0], [0, 2, 0]]), 128)
    assert box.tolist() == [0, 20, 127, 127]


def test_sam_from_a_checkpoint(sam, tmp_path, monkeypatch):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(FakeSam(256).state_dict(), path)
    assert load_occluder(path).name == "sam_vit_b" and isinstance(load_occluder(path), SamOccluder)
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 768), "more": torch.zeros(1)}, path)
    with pytest.raises(FaceLoomError, match="not a whole Segment Anything"):
        load_occluder(path)
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 100)}, path)
    with pytest.raises(FaceLoomError, match="use sam_vit_b"):
        load_occluder(path)
    torch.save(FakeSam(256).state_dict(), path)
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(FaceLoomError, match="pip install segment-anything"):
        load_occluder(path)
    torch.save({"cp.resnet.conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(FaceLoomError, match="is a face parser, not an occlusion model"):
        load_occluder(path)
