"""Every restorer of the catalogue against a double of its network, and spandrel's descriptors."""

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

from contracts import other_templates, refuses_broken, unnoticed
from faceloom.models.crops.crop import crop_matrix
from faceloom.models.crops.squares import align_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces
from faceloom.models.files.catalogue import NetContract, catalogue, rows
from faceloom.models.files.folders import Folders
from faceloom.models.parse.load import load_parser
from faceloom.models.restore import restore_crops
from faceloom.models.restore.descriptor import restorer_from_descriptor
from faceloom.models.restore.load import load_restorer
from faceloom.models.restore.onnx import OnnxRestorer
from faceloom.models.runtime.method import Loading
from faceloom.models.runtime.onnx import OnnxModel, open_session
from graphs import A128, FFHQ, HALF, Graph, apply, fit, grid
from onnx import TensorProto

pytestmark = pytest.mark.usefixtures("one_thread")

STEP = 1 / 255
SIZE = 96
GAINS = np.array([.5, .4, .3])
FIDELITY = .15  # how much brighter full fidelity is


@dataclass(frozen=True)
class Truth:
    """What the authors of one network expect. fidelity: the input's name, type and shape."""

    size: int = 512
    template: np.ndarray | None = None
    fidelity: tuple[str, int, list] | None = None


TRUTHS = {name: Truth() for name in ("gfpgan_1.2", "gfpgan_1.3", "gfpgan_1.4", "gpen_bfr_512", "restoreformer_plus_plus")} | {
    "codeformer": Truth(fidelity=("weight", TensorProto.DOUBLE, [1])),
    "codeformer_fp16": Truth(fidelity=("w", TensorProto.DOUBLE, [])),
    "vqfr_v2": Truth(fidelity=("fidelity_ratio", TensorProto.FLOAT, [1])),
    "gpen_bfr_256": Truth(256, A128),
    "gpen_bfr_1024": Truth(1024),
    "gpen_bfr_2048": Truth(2048),
}


def ramp(places: np.ndarray) -> np.ndarray:
    """``[..., 3]`` for positions as shares of the network's edge."""
    u, v = places[..., 0], places[..., 1]
    return np.stack([.2 * u, .2 * v, .1 * (u + v)], -1)


def save_restorer(name: str, path: Path, *, half: bool = False, rows_: int | str = 1, size: int | str | None = None,
                  channels: int | str = 3, extra: bool = False, mixes: bool = False) -> Path:
    """A network that answers its colours, dimmed, with a ramp over its own pixels and light by its fidelity."""
    truth, graph = TRUTHS[name], Graph(half)
    edge = truth.size
    shape = [rows_, channels, size or edge, size or edge]
    value = graph.node("Mul", graph.picture(graph.input("input", shape), HALF), graph.planes(GAINS))
    if mixes:
        value = graph.node("Add", value, graph.node("ReduceMean", graph.node("Mul", value, graph.weight([.1])), axes=[0], keepdims=1))
    value = graph.node("Add", value, graph.weight(ramp((grid(edge, edge) + .5) / edge).transpose(2, 0, 1)[None]))
    if truth.fidelity:
        fidelity = graph.node("Cast", graph.input(truth.fidelity[0], truth.fidelity[2], truth.fidelity[1]), to=graph.kind)
        value = graph.node("Add", value, graph.node("Mul", fidelity, graph.weight([FIDELITY])))
    value = graph.node("Div", graph.node("Sub", value, graph.planes(HALF[0])), graph.planes(HALF[1]))
    if extra:
        graph.output("features", graph.node("ReduceMean", value, axes=[1], keepdims=1), [rows_, 1, edge, edge])
    graph.output("output", value, [rows_, 3, edge, edge])
    return graph.save(path)


def crops_of(count: int = 2) -> torch.Tensor:
    """Slopes, so that resampling leaves them alone: ``[count, SIZE, SIZE, 3]``."""
    x, y = np.moveaxis((grid(SIZE, SIZE) + .5) / SIZE, -1, 0)
    one = np.stack([.1 + .6 * x, .15 + .55 * y, .8 - .3 * x - .2 * y], -1)
    return torch.from_numpy(np.stack([one * (1 - .2 * i) for i in range(count)])).to(torch.float32)


def square_of(truth: Truth, framing: float) -> np.ndarray:
    """Crop → network, by this file's own account."""
    face = ((FFHQ - .5) / framing + .5) * SIZE - .5
    return fit(face, FFHQ * truth.size - .5 if truth.template is None else truth.template * truth.size)


def expected(truth: Truth, crops: torch.Tensor, square: np.ndarray, fidelity: float) -> tuple[np.ndarray, np.ndarray]:
    """Answers ``[N, SIZE, SIZE, 3]``, and how far inside the network's square every pixel lies, as a share of its edge."""
    own = (apply(square, grid(SIZE, SIZE)) + .5) / truth.size
    light = FIDELITY * fidelity if truth.fidelity else 0
    return crops.numpy() * GAINS + ramp(own) + light, (.5 - np.abs(own - .5)).min(-1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    root = tmp_path_factory.mktemp("models")
    for name in TRUTHS:
        save_restorer(name, root / "facerestore_models" / catalogue()[name].file)
    return Folders((root,))


def faces_of(framing: float, count: int = 2) -> Faces:
    return Faces(tuple(Face(0, [0, 0, 9, 9], FFHQ * 60) for _ in range(count)), 1, 64, 64, framing, SIZE)


def off_by(restorer, name: str, framing: float = 1.0, fidelity: float = .5, count: int = 2) -> float:
    """The largest error inside the network's square, and outside of it, where nothing may change."""
    return error_at(square_of(TRUTHS[name], framing), restorer, name, faces_of(framing, count), fidelity)


def error_at(square: np.ndarray, restorer, name: str, faces: Faces, fidelity: float = .5) -> float:
    """``off_by`` for a network that sees this square of the crops."""
    crops = crops_of(len(faces))
    got = restore_crops(crops, restorer=restorer, fidelity=fidelity, faces=faces).numpy()
    wanted, depth = expected(TRUTHS[name], crops, square, fidelity)
    edge = 5  # resampling bends slopes at the crop's own edge
    middle = np.zeros((SIZE, SIZE), bool)
    middle[edge:-edge, edge:-edge] = True
    inside = np.abs(got - wanted)[:, middle & (depth > .07)].max()
    outside = np.abs(got - crops.numpy())[:, depth < -.02]
    return float(max(inside, outside.max(initial=0)))


def test_doubles_cover_the_catalogue():
    assert set(TRUTHS) == {row.name for row in rows("restorer") if row.file.endswith(".onnx")}


@pytest.mark.parametrize("framing", [1.0, 1.4])
@pytest.mark.parametrize("name", TRUTHS)
def test_row(name, framing, folders):
    restorer = load_restorer(name, Loading(folders))
    assert restorer.name == name and restorer.has_fidelity == bool(TRUTHS[name].fidelity)
    assert off_by(restorer, name, framing, fidelity=.8, count=1 if TRUTHS[name].size > 512 else 2) < STEP


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if TRUTHS[name].size > 1024 else name for name in TRUTHS])
def test_every_slip_is_noticed(name, tmp_path):
    contract = catalogue()[name].contract
    model = open_session(save_restorer(name, tmp_path / "open.onnx", rows_="n", channels="c", size="s"))  # tells nothing
    slips = [{"color": "bgr"}, {"layout": "nhwc"}, {"size": contract.size // 2},
             {"mean": (0, 0, 0), "std": (1, 1, 1)}, {"output_mean": (0, 0, 0), "output_std": (1, 1, 1)}]
    slips += [{key: tuple(value * 1.05 for value in getattr(contract, key))} for key in ("mean", "std", "output_mean", "output_std")]
    slips += other_templates(contract)
    slips += [] if contract.fidelity else [{"fidelity": "weight"}]
    assert not unnoticed(contract, lambda slipped: off_by(OnnxRestorer("mutant", model, slipped), name, 1.1, count=1) < STEP, slips)


def test_the_square_fades_in(folders):
    """No seam where the network's square ends inside a wider crop."""
    crops = crops_of(1)
    got = restore_crops(crops, restorer=load_restorer("gfpgan_1.4", Loading(folders)), faces=faces_of(1.6, 1)).numpy()
    wanted, depth = expected(TRUTHS["gfpgan_1.4"], crops, square_of(TRUTHS["gfpgan_1.4"], 1.6), .5)
    share = np.clip(depth * 16, 0, 1)[None, ..., None]  # over a sixteenth of its edge, with a smooth start and end
    share = share * share * (3 - 2 * share)
    assert np.abs(got - (crops.numpy() * (1 - share) + wanted * share)).max() < 2 * STEP
    jump = np.abs(np.diff(got - crops.numpy(), axis=2)).max()
    assert jump < .3 * np.abs(wanted - crops.numpy()).max()


def tilted_face() -> Face:
    turn = np.deg2rad(35)
    points = (FFHQ - .5) * 60 @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + 40
    return Face(0, [20, 15, 58, 68], points)


@pytest.mark.parametrize("framing", [1.0, 1.3])
@pytest.mark.parametrize("name", ["gfpgan_1.4", "gpen_bfr_256"])
def test_crops_by_an_upright_square_are_aligned_by_their_face(name, framing, folders):
    """Face-Adapter's square is not turned with the face; the network must see the face upright nevertheless."""
    truth = TRUTHS[name]
    faces = align_faces(Faces((tilted_face(),), 1, 80, 80), "box", SIZE, framing)
    points = apply(crop_matrix(faces[0], SIZE, framing), faces[0].keypoints.astype(float))
    square = fit(points, FFHQ * truth.size - .5 if truth.template is None else truth.template * truth.size)
    restorer = load_restorer(name, Loading(folders))
    assert abs(np.degrees(np.arctan2(square[1, 0], square[0, 0]))) > 20
    assert error_at(square, restorer, name, faces) < STEP


def test_ffhqs_own_square_is_what_networks_were_trained_on(folders):
    """Taken whole, so that nothing is resampled."""
    restorer = load_restorer("gfpgan_1.4", Loading(folders))
    faces = align_faces(Faces((tilted_face(),), 1, 80, 80), "FFHQ quad", SIZE)
    assert torch.equal(restore_crops(crops_of(1), restorer=restorer, faces=faces), restore_crops(crops_of(1), restorer=restorer))


def test_faces_of_other_crops_are_refused(folders):
    with pytest.raises(FaceLoomError, match="2 crops but 3 faces"):
        restore_crops(crops_of(2), restorer=load_restorer("gfpgan_1.4", Loading(folders)), faces=faces_of(1.0, 3))


@pytest.mark.parametrize("name", ["codeformer", "codeformer_fp16", "vqfr_v2"])
def test_fidelity_reaches_the_network(name, folders):
    restorer = load_restorer(name, Loading(folders))
    low, high = (restorer.restore(crops_of(), fidelity) for fidelity in (.25, 1.0))
    assert torch.allclose(high - low, torch.tensor(.75 * FIDELITY), atol=1e-4)


def test_fp16_extra_outputs_and_a_batch(tmp_path):
    for label, how in {"half": {"half": True}, "free": {"rows_": "n"}, "extra": {"extra": True}, "mixes": {"mixes": True}}.items():
        restorer = load_restorer(save_restorer("gpen_bfr_512", tmp_path / label / "gpen_bfr_512.onnx", **how))
        if label != "mixes":
            assert off_by(restorer, "gpen_bfr_512") < STEP
        crops = crops_of(4)
        singles = torch.cat([restorer.restore(crop[None], .5) for crop in crops])
        assert torch.allclose(restorer.restore(crops, .5), singles, atol=1e-6)


def test_a_batch_goes_through_in_one_call(tmp_path, monkeypatch):
    seen_rows, told = [], []
    run_once = OnnxModel.run_once
    monkeypatch.setattr(OnnxModel, "run_once", lambda self, feeds: seen_rows.append(len(feeds["input"])) or run_once(self, feeds))
    restorer = load_restorer(save_restorer("gpen_bfr_256", tmp_path / "gpen_bfr_256.onnx"))
    restorer.restore(crops_of().repeat(5, 1, 1, 1), .5, lambda done, total: told.append((done, total)))
    assert seen_rows == [8, 2] and told == sorted(told) and told[-1] == (10, 10)


def test_only_faces_with_a_mask_are_shown_to_the_network(folders):
    restorer = load_restorer("gfpgan_1.4", Loading(folders))
    crops, shown = crops_of(3), []
    spy = types.SimpleNamespace(restore=lambda crops, *how: shown.append(len(crops)) or restorer.restore(crops, *how))
    masks = torch.zeros(3, SIZE, SIZE)
    masks[1, 20:60, 20:60] = 1
    got = restore_crops(crops, restorer=spy, masks=masks)
    changed = (got != crops).any(-1)
    assert shown == [1] and changed[1, 20:60, 20:60].all() and int(changed.sum()) == 1600
    assert torch.equal(restore_crops(crops, restorer=spy, masks=masks * 0), crops) and shown == [1]
    assert restorer.restore(crops[:0], .5).shape == (0, SIZE, SIZE, 3)


def test_a_foreign_file_keeps_its_own_size(tmp_path, folders):
    path = save_restorer("gpen_bfr_1024", tmp_path / "mine.onnx")
    restorer = load_restorer(path)
    assert restorer.name == "mine" and restorer.contract.size == 1024 and off_by(restorer, "gpen_bfr_1024", count=1) < STEP
    contract = replace(catalogue()["gpen_bfr_256"].contract)
    other = load_restorer(save_restorer("gpen_bfr_256", tmp_path / "other.onnx"), Loading(contract=contract))
    assert other.contract.template == "arcface_128"


def test_files_that_are_no_restorer(tmp_path, folders):
    with pytest.raises(FaceLoomError, match="512×512, but takes input"):
        load_restorer(save_restorer("gpen_bfr_256", tmp_path / "gfpgan_1.4.onnx"))
    with pytest.raises(FaceLoomError, match="has lost its fidelity input weight"):
        load_restorer(save_restorer("gfpgan_1.4", tmp_path / "codeformer.onnx"))
    with pytest.raises(FaceLoomError, match="is a face restorer, not a face parser"):
        load_parser("gfpgan_1.4", Loading(folders))
    with pytest.raises(FaceLoomError, match="choose one from the list"):
        load_restorer("../codeformer.onnx", Loading(folders))
    with pytest.raises(FaceLoomError, match=r"S-Lab.*models get codeformer"):
        load_restorer("codeformer", Loading(Folders((tmp_path / "empty",))))
    whole = (folders.roots[0] / "facerestore_models" / "gpen_bfr_256.onnx").read_bytes()
    refuses_broken(load_restorer, tmp_path, whole)
    refuses_broken(load_restorer, tmp_path, b"PK\x03\x04" + whole[:99], ".pth")
    vectors = Graph()
    value = vectors.node("Add", vectors.input("a", [1, 3, 128, 128]), vectors.node("ReduceMean", vectors.input("b", [1, 512])))
    vectors.output("out", value, [1, 3, 128, 128])
    with pytest.raises(FaceLoomError, match="is a swap model, not a face restorer"):
        load_restorer(vectors.save(tmp_path / "swapper.onnx"))
    many = Graph()
    value = many.node("Add", many.input("a", [1, 3, 64, 64]), many.node("Add", many.input("b", [1]), many.input("c", [1])))
    many.output("out", value, [1, 3, 64, 64])
    with pytest.raises(FaceLoomError, match="takes more than a face restorer does: a"):
        load_restorer(many.save(tmp_path / "many.onnx"))
    grey = Graph()
    value = grey.node("ReduceMean", grey.input("a", [1, 3, 512, 512]), axes=[1, 2, 3], keepdims=0)
    grey.output("out", value, [1])
    with pytest.raises(FaceLoomError, match="should return a colour picture"):
        load_restorer(grey.save(tmp_path / "gfpgan_1.3.onnx"))
    vague = Graph()
    vague.output("out", vague.node("ReduceMean", vague.input("a", [1, 3, 512, 512]), axes=[1], keepdims=0), ["a", "b", "c", "d"])
    with pytest.raises(FaceLoomError, match="one picture per face"):
        load_restorer(vague.save(tmp_path / "gfpgan_1.2.onnx")).restore(crops_of(), .5)


def test_a_graph_of_any_size_takes_the_catalogues(tmp_path):
    graph = Graph()
    graph.output("out", graph.node("Mul", graph.input("a", ["n", 3, "h", "w"]), graph.weight([.5])), ["n", 3, "h", "w"])
    restorer = load_restorer(graph.save(tmp_path / "mine.onnx"))
    assert restorer.restore(crops_of(), .5).shape == (2, 512, 512, 3)
    with pytest.raises(FaceLoomError, match="does not say how large"):
        load_restorer(tmp_path / "mine.onnx", Loading(contract=NetContract("mine")))
    with pytest.raises(FaceLoomError, match="no contract that a network of its kind can be held to"):
        load_restorer(tmp_path / "mine.onnx", Loading(contract=catalogue()["inswapper_128"].contract))


# Descriptors

class Net(torch.nn.Module):
    """Dims its input and answers twice as fine."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(.5))
        self.seen: list[tuple] = []

    def forward(self, pictures: torch.Tensor, **how) -> tuple[torch.Tensor]:
        assert pictures.is_contiguous(), "GFPGAN fails on anything else"
        self.seen.append((tuple(pictures.shape), float(pictures.min()), how))
        return (torch.nn.functional.interpolate(pictures * self.gain, scale_factor=2, mode="nearest"),)


class Descriptor:
    """What spandrel's ImageModelDescriptor shows of itself."""

    scale, input_channels = 2, 3

    def __init__(self, architecture: str, purpose: str) -> None:
        self.model, self.purpose = Net(), purpose
        self.architecture = types.SimpleNamespace(id=architecture, name=architecture)

    @torch.inference_mode()
    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.model(pictures)[0].clamp_(0, 1)


def test_face_networks_see_512_pixels_in_batches():
    descriptor = Descriptor("RestoreFormer", "FaceSR")
    told = []
    got = restorer_from_descriptor(descriptor).restore(crops_of(6), .5, lambda done, total: told.append((done, total)))
    assert got.shape == (6, 1024, 1024, 3) and not got.is_inference()
    assert [shape for shape, _, _ in descriptor.model.seen] == [(4, 3, 512, 512), (2, 3, 512, 512)] and told[-1] == (6, 6)
    assert torch.allclose(got[:, 512, 512], crops_of(6)[:, 48, 48] / 2, atol=STEP)


def test_other_networks_see_the_crop_as_it_is():
    descriptor = Descriptor("ESRGAN", "SR")
    restorer = restorer_from_descriptor(descriptor, name="4x")
    got = restorer.restore(crops_of(), .5, points=np.stack([FFHQ * 50 + 20] * 2))
    assert restorer.name == "4x" and not restorer.has_fidelity
    assert [shape for shape, _, _ in descriptor.model.seen] == [(1, 3, SIZE, SIZE)] * 2
    assert torch.allclose(got[:, ::2, ::2], crops_of() / 2, atol=1e-6)


@pytest.mark.parametrize(("name", "how"), [("GFPGAN", {"return_rgb": False, "randomize_noise": False}), ("CodeFormer", {"weight": .3})])
def test_networks_of_signed_colours(name, how):
    """They were trained on -1..1, whatever spandrel's own call feeds them."""
    descriptor = Descriptor(name, "FaceSR")
    restorer = restorer_from_descriptor(descriptor)
    crops = torch.full((1, 64, 64, 3), .1)
    got = restorer.restore(crops, .3)
    (_, low, told), = descriptor.model.seen
    assert abs(low - -.8) < 1e-5 and told == how and restorer.has_fidelity == (name == "CodeFormer")
    assert torch.allclose(got, torch.tensor(.3), atol=1e-5)


def test_devices_are_asked_before_every_call():
    asked = []

    class Devices:
        def adopt(self, net):
            return net

        def ready(self, handle, memory):
            asked.append(memory)
            return torch.device("cpu")

    restorer_from_descriptor(Descriptor("RestoreFormer", "FaceSR"), Devices()).restore(crops_of(), .5)
    assert asked == [2 * 512 * 512 * 3 * 4 * 2 * 384]


def test_inpainters_are_refused():
    with pytest.raises(FaceLoomError, match="does not turn one colour picture"):
        restorer_from_descriptor(Descriptor("LaMa", "Inpainting"))


@pytest.fixture
def spandrel(monkeypatch):
    """A stand-in for the library."""
    library = types.ModuleType("spandrel")

    class UnsupportedModelError(Exception):
        pass

    def load(self, weights):
        if "odd" in weights:
            raise UnsupportedModelError
        if "part" in weights:
            raise RuntimeError("size mismatch")
        return Descriptor("CodeFormer" if "position_emb" in weights else "GFPGAN", "FaceSR")

    library.UnsupportedModelError = UnsupportedModelError
    library.ModelLoader = type("ModelLoader", (), {"load_from_state_dict": load})
    monkeypatch.setitem(sys.modules, "spandrel", library)
    return library


def test_checkpoints(spandrel, tmp_path, monkeypatch):
    path = tmp_path / "GFPGANv1.4.pth"
    torch.save({"params_ema": {"toRGB.0.weight": torch.zeros(1)}}, path)
    restorer = load_restorer(path)
    assert restorer.name == "GFPGANv1.4" and restorer.restore(crops_of(), .5).shape == (2, 1024, 1024, 3)
    for weights, words in {"odd": "spandrel does not know", "part": "not a whole checkpoint"}.items():
        torch.save({weights: torch.zeros(1)}, path)
        with pytest.raises(FaceLoomError, match=words):
            load_restorer(path)
    torch.save({"cp.resnet.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(FaceLoomError, match="is a face parser, not a face restorer"):
        load_restorer(path)
    torch.save({"quantize.embedding.weight": torch.zeros(1), "position_emb": torch.zeros(1)}, tmp_path / "codeformer.pth")
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", None)
    with pytest.raises(FaceLoomError, match=r"pip install spandrel_extra_arches.*codeformer\.onnx"):
        load_restorer(tmp_path / "codeformer.pth")
    extra = types.ModuleType("spandrel_extra_arches")
    extra.install = lambda ignore_duplicates: None
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", extra)
    assert load_restorer(tmp_path / "codeformer.pth").has_fidelity
    torch.save({"w": torch.zeros(1)}, path)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(FaceLoomError, match="pip install spandrel"):
        load_restorer(path)


class Pickled:
    pass


def test_a_pickled_network_is_refused(tmp_path):
    torch.save(Pickled(), tmp_path / "GFPGANv1.3.pth")
    with pytest.raises(FaceLoomError, match=r"Python objects.*refused.*convert"):
        load_restorer(tmp_path / "GFPGANv1.3.pth")
