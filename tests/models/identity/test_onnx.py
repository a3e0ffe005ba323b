"""ArcFace-shaped recognizers: a double of every row of the catalogue, and a real network beside insightface's own class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.crops.templates import template_matrix
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces
from faceloom.models.files.catalogue import catalogue, rows
from faceloom.models.files.folders import Folders
from faceloom.models.identity import make_identity
from faceloom.models.identity.load import load_recognizer
from faceloom.models.options.detect import DetectSettings
from faceloom.models.pixels.sampling import sample_crops
from faceloom.models.runtime.method import Loading

onnx = pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")
helper, TensorProto, numpy_helper = onnx.helper, onnx.TensorProto, onnx.numpy_helper

V1 = np.array([[39.73, 51.138], [72.27, 51.138], [56, 68.493], [42.463, 87.01], [69.537, 87.01]]) / 112
V2 = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) / 112
FFHQ = np.array([[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
                 [313.08905, 371.15118]]) / 512
HALF = ((.5, .5, .5), (.5, .5, .5))
IMAGENET = ((.485, .456, .406), (.229, .224, .225))
TRUTHS = {
    "w600k_r50": (V2, HALF, "w600k"), "arcface_w600k_r50": (V2, HALF, "w600k"), "w600k_mbf": (V2, HALF, "w600k_mbf"),
    "glintr100": (V2, HALF, "glint360k"), "simswap_arcface_model": (V1, IMAGENET, "simswap"), "ghost_arcface_backbone": (V1, HALF, "ghost"),
    "cscs_arcface_model": (FFHQ, HALF, "cscs"), "cscs_id_adapter": (FFHQ, HALF, "cscs_adapter"),
}
READ_OUT = np.random.default_rng(3).normal(0, 1, (48, 512)).astype(np.float32)

WIDTH, HEIGHT = 260, 240
GRID = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).astype(np.float64)


def scene(points: np.ndarray) -> np.ndarray:
    x, y = points[..., 0] / WIDTH, points[..., 1] / HEIGHT
    return np.stack([.2 + .6 * x, .15 + .7 * y, .85 - .4 * x - .3 * y], -1)


def face_at(center: tuple[float, float], angle: float, eyes: float, frame: int = 0) -> Face:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ((V2 - .5) / .31 * eyes + [[0, 1], [1, 0], [2, 1], [-1, 0], [0, 2]]) @ turn.T + center
    return Face(frame, [0, 0, 1, 1], points)


IMAGES = torch.from_numpy(np.stack([scene(GRID)] * 2)).to(torch.float32)
FACES = Faces((face_at((120, 110), .1, 34), face_at((140, 120), -.3, 30, 1)), 2, HEIGHT, WIDTH)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the pictures are too small for more
    yield
    torch.set_num_threads(threads)


def save_double(path: Path, normalisation, *, scales_itself: bool = False, width: int = 512) -> Path:
    """A recognizer whose vector is a fixed linear picture of 4 × 4 block means of the RGB 0..1 picture it was shown."""
    mean, std = (np.float32(part).reshape(1, 3, 1, 1) for part in normalisation)
    steps = [("Mul", ["input", "std"], "scaled"), ("Add", ["scaled", "mean"], "picture")]
    if scales_itself:  # as MXNet's exports do: 0..255 in, the first two nodes bring it to -1..1
        mean, std = np.float32([127.5]), np.float32([1 / 127.5])
        steps = [("Sub", ["input", "mean"], "centred"), ("Mul", ["centred", "std"], "picture")]
    names = ("_minusscalar0", "_mulscalar0") if scales_itself else ("a", "b")
    nodes = [helper.make_node(kind, inputs, [output], name=name) for name, (kind, inputs, output) in zip(names, steps, strict=True)]
    nodes += [helper.make_node("AveragePool", ["picture"], ["blocks"], kernel_shape=[28, 28], strides=[28, 28]),
              helper.make_node("Flatten", ["blocks"], ["flat"]), helper.make_node("MatMul", ["flat", "read_out"], ["output"])]
    stored = {"mean": mean, "std": std, "read_out": READ_OUT[:, :width]}
    weights = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    ports = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 112, 112]),
             helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, width])]
    graph = helper.make_graph(nodes, "double", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def expected(face: Face, template: np.ndarray) -> np.ndarray:
    """The vector by least squares and the scene's own formula."""
    points, onto = np.float64(face.keypoints), template * 112
    x, y = points.T
    one, zero = np.ones(5), np.zeros(5)
    system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(system, np.concatenate([onto[:, 0], onto[:, 1]]), rcond=None)[0]
    back = np.linalg.inv([[a, -b, c], [b, a, d], [0, 0, 1]])[:2]
    centers = np.stack(np.meshgrid(np.arange(4) * 28 + 13.5, np.arange(4) * 28 + 13.5), -1)
    return scene(centers @ back[:, :2].T + back[:, 2]).transpose(2, 0, 1).reshape(-1) @ READ_OUT


def agrees(recognizer, template: np.ndarray) -> bool:
    wanted = np.stack([expected(face, template) for face in FACES])
    return bool(np.abs(recognizer.embed_raw(IMAGES, FACES) - wanted).max() < .02)


def test_doubles_cover_the_catalogue():
    assert set(TRUTHS) == {row.name for row in rows("recognizer")}


@pytest.mark.parametrize("name", TRUTHS)
def test_row(name, tmp_path):
    template, normalisation, space = TRUTHS[name]
    path = save_double(tmp_path / f"{name}.onnx", normalisation)
    recognizer = load_recognizer(path)
    assert recognizer.space == space
    assert agrees(recognizer, template)
    unit, raw = recognizer.embed(IMAGES, FACES), recognizer.embed_raw(IMAGES, FACES)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert np.allclose(unit * np.linalg.norm(raw, axis=1, keepdims=True), raw, rtol=1e-5)
    contract = catalogue()[name].contract
    other = "ffhq_512" if contract.template != "ffhq_512" else "arcface_112_v2"
    slips = [{"color": "bgr"}, {"mean": (.4, .5, .6)}, {"std": (1, 1, 1)}, {"template": other}, {"template": "arcface_128"}]
    assert not [slip for slip in slips if agrees(load_recognizer(path, Loading(contract=replace(contract, **slip))), template)]


def test_a_file_of_ones_own(tmp_path):
    recognizer = load_recognizer(save_double(tmp_path / "my_people.onnx", HALF, width=128))
    assert recognizer.space == "my_people" and recognizer.embed(IMAGES, FACES).shape == (2, 128)
    assert np.abs(recognizer.embed_raw(IMAGES, FACES)[0] - expected(FACES[0], V2)[:128]).max() < .02


def test_networks_that_scale_themselves_get_0_to_255(tmp_path):
    recognizer = load_recognizer(save_double(tmp_path / "r100_mxnet.onnx", HALF, scales_itself=True))
    wanted = np.stack([expected(face, V2) for face in FACES])
    got = (recognizer.embed_raw(IMAGES, FACES) + READ_OUT.sum(0)) / 2
    assert np.abs(got - wanted).max() < .02


def test_batches_are_the_same_as_one_by_one(tmp_path):
    recognizer = load_recognizer(save_double(tmp_path / "w600k_r50.onnx", HALF))
    many = replace(FACES, items=FACES.items * 40)
    seen = []
    together = recognizer.embed_raw(IMAGES, many, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (80, 80) and seen == sorted(seen)
    assert np.allclose(together, np.tile(recognizer.embed_raw(IMAGES, FACES), (40, 1)), atol=1e-5)
    assert recognizer.embed(IMAGES, FACES.take([])).shape == (0, 512)


def test_files_that_are_no_recognizers(tmp_path):
    path = save_double(tmp_path / "inswapper_128.onnx", HALF)
    with pytest.raises(FaceLoomError, match=r"inswapper_128\.onnx is a swap model, not a face recognizer"):
        load_recognizer(path)
    with pytest.raises(FaceLoomError, match="models get w600k_r50"):
        load_recognizer("w600k_r50", Loading(Folders((tmp_path / "models",))))
    wide = replace(catalogue()["w600k_r50"].contract, size=224)
    assert load_recognizer(save_double(tmp_path / "else.onnx", HALF), Loading(contract=wide)).contract.size == 112


def test_identity_keeps_the_length(tmp_path):
    recognizer = load_recognizer(save_double(tmp_path / "w600k_r50.onnx", HALF))
    identity, _ = make_identity(IMAGES, FACES, recognizer)
    raw = recognizer.embed_raw(IMAGES, FACES)
    assert identity.norms["w600k"] == pytest.approx(np.linalg.norm(raw, axis=1).mean(), rel=1e-5)
    assert np.linalg.norm(identity.embeddings["w600k"]) == pytest.approx(1, abs=1e-6)


@pytest.fixture(scope="module")
def portraits(collins, hopper) -> list[tuple[torch.Tensor, Faces]]:
    return [(image, detect_faces(image, settings=DetectSettings(keep="first"))) for image in (collins, hopper)]


def test_real_network_beside_insightface(shared, portraits):
    arcface = pytest.importorskip("insightface.model_zoo.arcface_onnx")
    path = shared / "models" / "mobilefacenet_128.onnx"
    recognizer = load_recognizer(path)
    theirs = arcface.ArcFaceONNX(str(path))
    for image, faces in portraits:
        crops = sample_crops(image, [0], template_matrix(faces.keypoints, "arcface_112_v2", 112), 112)
        eight_bit = crops.mul(255).round()
        wanted = theirs.get_feat(eight_bit[0].numpy().astype(np.uint8)[..., ::-1].copy())
        assert np.abs(recognizer.embed_crops(eight_bit / 255) - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_known_similarities(shared, portraits):
    recognizer = load_recognizer(shared / "models" / "mobilefacenet_128.onnx")
    assert recognizer.space == "mobilefacenet_128"
    vectors = []
    for image, faces in portraits:
        flipped = faces[0].keypoints[[1, 0, 2, 4, 3]] * (-1, 1) + (image.shape[2] - 1, 0)
        mirror = Faces((replace(faces[0], keypoints=flipped),), 1, *image.shape[1:3])
        own = recognizer.embed(image, faces)[0]
        assert .94 < own @ recognizer.embed(image.flip(2), mirror)[0] < .995
        assert .94 < own @ recognizer.embed(image * .6, faces)[0] < .995
        vectors.append(own)
    assert vectors[0] @ vectors[1] == pytest.approx(.16, abs=.06)


def test_graphs_that_are_not_what_they_are_called(tmp_path):
    pair = save_double(tmp_path / "plain.onnx", HALF)
    model = onnx.load(str(pair))
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 3, 112, 112]))
    onnx.save(model, str(pair))
    with pytest.raises(FaceLoomError, match="should take one image and return one vector"):
        load_recognizer(pair)
    wide = onnx.load(str(save_double(tmp_path / "w600k_r50.onnx", HALF)))
    for axis in (2, 3):
        wide.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 128
    onnx.save(wide, str(tmp_path / "w600k_r50.onnx"))
    with pytest.raises(FaceLoomError, match="should take pictures of 3×112×112, but takes 3×128×128"):
        load_recognizer(tmp_path / "w600k_r50.onnx")


def test_pictures_of_128_are_aligned_as_insightface_does(tmp_path):
    path = save_double(tmp_path / "mine.onnx", HALF)
    model = onnx.load(str(path))
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 128
    onnx.save(model, str(path))
    contract = load_recognizer(path).contract
    assert (contract.size, contract.template) == (128, "arcface_128")
    align = pytest.importorskip("insightface.utils.face_align")
    points = FACES[0].keypoints
    assert np.allclose(template_matrix(points, contract.template, 128), align.estimate_norm(points, 128), atol=1e-3)
