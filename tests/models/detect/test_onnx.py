"""ONNX detectors: doubles that answer where they see red, and the real SCRFD beside insightface's own class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.detect import onnx as detect_onnx
from faceloom.models.detect.decode import DECODERS
from faceloom.models.detect.load import load_detector
from faceloom.models.detect.onnx import close_up_views, turned_views, whole_and_tile_views
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.catalogue import catalogue, rows
from faceloom.models.files.folders import Folders
from faceloom.models.options.detect import DetectSettings
from faceloom.models.pixels.affine import transform
from faceloom.models.pixels.sampling import sample_crops, warp
from faceloom.models.runtime.method import Loading
from faceloom.models.runtime.onnx import OnnxModel

onnx = pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT

EDGE = 640
# Sides and points of the box every double draws around a red cell, in strides.
SIDES = np.float32([1, 2, 3, 4])
POINTS = np.float32([-.5, -.25, .75, -.5, .25, .5, -.25, 1, .5, 1.25])


class Graph:
    """An ONNX graph being written."""

    def __init__(self) -> None:
        self.nodes, self.weights = [], []
        self.cells: dict[int, str] = {}

    def node(self, kind: str, *inputs, **attributes) -> str:
        names = [name if isinstance(name, str) else self.weight(name) for name in inputs]
        self.nodes.append(helper.make_node(kind, names, [f"t{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def weight(self, value) -> str:
        value = np.asarray(value)
        kind = np.int64 if value.ndim == 1 else np.float32
        self.weights.append(numpy_helper.from_array(value.astype(kind), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def redness(self, mean, std, red: int, stride: int) -> str:
        """``[N, 1, cells, cells]``: red minus the other colours, mean over a cell, in 0..1 terms."""
        if stride in self.cells:
            return self.cells[stride]
        picture = self.node("Add", self.node("Mul", "picture", np.full((1, 3, 1, 1), std)), np.full((1, 3, 1, 1), mean))
        signs = np.full((1, 3, 1, 1), -1.0)
        signs[0, red] = 1
        total = self.node("ReduceSum", self.node("Mul", picture, signs), np.int64([1]), keepdims=1)
        self.cells[stride] = self.node("AveragePool", total, kernel_shape=[stride] * 2, strides=[stride] * 2)
        return self.cells[stride]

    def save(self, path: Path, shape, outputs: dict[str, tuple[str, list]]) -> Path:
        for name, (source, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [source], [name]))
        ports = [helper.make_tensor_value_info(name, FLOAT, sizes) for name, (_, sizes) in outputs.items()]
        graph = helper.make_graph(self.nodes, "double", [helper.make_tensor_value_info("picture", FLOAT, shape)], ports, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        onnx.save(model, str(path))
        return path


def save_scrfd(path: Path, keypoints: bool = True) -> Path:
    graph, outputs = Graph(), {}
    for width, value in ((1, None), (4, SIDES), (10, POINTS))[:3 if keypoints else 2]:
        for stride in (8, 16, 32):
            cells = graph.redness(127.5 / 255, 128 / 255, 0, stride)
            cells = graph.node("Reshape", graph.node("Concat", cells, cells, axis=1), np.int64([0, 2, -1]))
            cells = graph.node("Reshape", graph.node("Transpose", cells, perm=[0, 2, 1]), np.int64([-1, 1]))
            if value is not None:
                cells = graph.node("Add", graph.node("Mul", cells, np.zeros((1, width))), value[None])
            outputs[f"out_{width}_{stride}"] = (cells, [None, width])
    return graph.save(path, [1, 3, None, None], outputs)


def save_yunet(path: Path) -> Path:
    graph, outputs = Graph(), {}
    for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            cells = graph.redness(0, 1 / 255, 2, stride)  # BGR
            cells = graph.node("Reshape", cells, np.int64([0, -1, 1]))
            if width > 1:  # centre offset and log size that give the same box
                low, high = SIDES[:2], SIDES[2:]
                value = POINTS if width == 10 else np.concatenate([(high - low) / 2, np.log(low + high)])
                cells = graph.node("Add", graph.node("Mul", cells, np.zeros((1, 1, width))), value[None, None])
            outputs[f"{name}_{stride}"] = (cells, [1, None, width])
    return graph.save(path, [1, 3, EDGE, EDGE], outputs)


def save_yolo(path: Path) -> Path:
    graph = Graph()
    scores = [graph.node("Reshape", graph.redness(0, 1, 0, stride), np.int64([0, 1, -1])) for stride in (8, 16, 32)]
    score = graph.node("Concat", *scores, axis=2)
    columns = []
    for stride in (8, 16, 32):
        side = EDGE // stride
        corner = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(np.float32) * stride
        low, high = corner - SIDES[:2] * stride, corner + SIDES[2:] * stride
        points = (corner[:, None] + POINTS.reshape(5, 2) * stride)
        points = np.concatenate([points, np.full((len(points), 5, 1), .9)], -1).reshape(-1, 15)
        columns.append(np.concatenate([(low + high) / 2, high - low, np.zeros((len(corner), 1)), points], 1))
    table = np.concatenate(columns).T[None]
    spread = np.zeros((1, 20, 1))
    spread[0, 4] = 1
    answer = graph.node("Add", graph.node("Mul", score, spread), table)
    return graph.save(path, [1, 3, EDGE, EDGE], {"output0": (answer, [1, 20, 8400])})


SAVERS = {"scrfd": save_scrfd, "yunet": save_yunet, "yolov8": save_yolo}
DETECTORS = [row.name for row in rows("detector") if row.contract and row.contract.family in DECODERS]


pytestmark = pytest.mark.usefixtures("one_thread")


def double(name: str, folder: Path) -> Path:
    row = catalogue()[name]
    return SAVERS[row.contract.family](folder / row.file)


def frame(column: int, row: int, colour=(1, 0, 0), height: int = EDGE, width: int = EDGE) -> torch.Tensor:
    """Black, with one cell of 8 pixels painted."""
    image = torch.zeros(1, height, width, 3)
    image[0, 8 * row:8 * row + 8, 8 * column:8 * column + 8] = torch.tensor(colour, dtype=torch.float32)
    return image


def expected(column: int, row: int) -> tuple[np.ndarray, np.ndarray]:
    corner = np.float32([column, row]) * 8
    return np.concatenate([corner - SIDES[:2] * 8, corner + SIDES[2:] * 8]), corner + POINTS.reshape(5, 2) * 8


def sees_red(detector) -> bool:
    found = detector.detect(torch.cat([frame(30, 21), frame(50, 44), frame(12, 60, (0, 0, 1))]), .5)
    if [len(faces) for faces in found] != [1, 1, 0]:
        return False
    for index, place in enumerate(((30, 21), (50, 44))):
        box, points = expected(*place)
        face = found[index][0]
        if np.abs(face.box - box).max() > 1e-3 or np.abs(face.keypoints - points).max() > 1e-3 or abs(face.score - 1) > .02:
            return False
        if face.frame != index:
            return False
    return True


def test_every_known_family_has_a_row():
    assert {catalogue()[name].contract.family for name in DETECTORS} == set(DECODERS)


@pytest.mark.parametrize("name", DETECTORS)
def test_row(name, tmp_path, monkeypatch):
    path = double(name, tmp_path)
    detector = load_detector(path)
    assert (detector.name, detector.edge) == (name, EDGE)
    assert sees_red(detector)
    monkeypatch.setattr(detect_onnx, "close_up_views", lambda *_: [])  # nothing more to see there, and it takes time
    monkeypatch.setattr(detect_onnx, "turned_views", lambda *_: [])
    contract = detector.contract
    other = "bgr" if contract.color == "rgb" else "rgb"
    slips = [{"color": other}, {"mean": (-.2, -.2, -.2)}, {"std": tuple(2.5 * value for value in contract.std)}]
    assert not [slip for slip in slips if sees_red(load_detector(path, Loading(contract=replace(contract, **slip))))]


@pytest.mark.parametrize("family", SAVERS)
def test_unknown_files_are_told_by_their_outputs(family, tmp_path):
    detector = load_detector(SAVERS[family](tmp_path / "mine.onnx"))
    assert (detector.name, detector.contract.family) == ("mine", family)
    assert sees_red(detector)


def test_frames_of_other_sizes(tmp_path):
    """A frame of half the size is shown at twice its size, so a cell of 8 pixels there is 4 here."""
    detector = load_detector(save_scrfd(tmp_path / "det_10g.onnx"))
    image = torch.zeros(1, 240, 320, 3)
    image[0, 100:104, 60:64, 0] = 1
    (face,), = detector.detect(image, .4)
    # The frame is centred in the square: 80 rows of black above, in network pixels 160 of them.
    corner = np.float64([(60 + .5) * 2 - .5, (100 + .5) * 2 - .5 + 80])
    cell = np.round(corner / 8)
    box = np.concatenate([cell - SIDES[:2], cell + SIDES[2:]]) * 8
    back = (box - [0, 80, 0, 80] + .5) / 2 - .5
    assert np.abs(face.box - back).max() < 1e-3


def test_all_looks_go_through_together(tmp_path, monkeypatch):
    detector = load_detector(save_scrfd(tmp_path / "det_10g.onnx"))
    calls = []
    run_once = OnnxModel.run_once
    monkeypatch.setattr(OnnxModel, "run_once", lambda self, feeds: calls.append(len(feeds["picture"])) or run_once(self, feeds))
    seen = []
    detector.detect(torch.cat([frame(20, 20)] * 3), .5, lambda done, total: seen.append((done, total)))
    assert calls == [3, 3]  # large and small
    assert seen[0] == (0, 3) and seen[-1] == (3, 3)
    calls.clear()
    detector.detect(frame(20, 20, (0, 1, 0)), .5)
    assert calls == [1, 1, 3, 3]  # whole and turned three ways, large and small


def test_large_frames_are_covered_by_tiles():
    height, width = 2160, 3840
    looks = whole_and_tile_views(height, width, EDGE)
    assert len(looks) == 1 + 2 * 4
    assert len(whole_and_tile_views(720, 1280, EDGE)) == 1
    points = np.random.default_rng(0).uniform((0, 0), (width - 1, height - 1), (500, 2))
    # A face of 60 pixels around any point lies whole in at least one tile.
    inside = [np.all((transform(points + shift, look) > -.5) & (transform(points + shift, look) < EDGE - .5), -1)
              for look in looks[1:] for shift in [0]]
    assert np.any(inside, 0).all()
    corners = np.array([[-30, -30], [30, 30]])
    whole = [np.all([np.all((transform(np.clip(points + c, 0, (width - 1, height - 1)), look) > -.5)
                            & (transform(np.clip(points + c, 0, (width - 1, height - 1)), look) < EDGE - .5), -1) for c in corners], 0)
             for look in looks[1:]]
    assert np.any(whole, 0).all()


@pytest.mark.parametrize("matrices", [close_up_views, turned_views])
def test_other_looks_show_the_whole_frame(matrices):
    corners = np.array([[-.5, -.5], [799.5, -.5], [-.5, 599.5], [799.5, 599.5]])
    for matrix in matrices(600, 800, EDGE):
        seen = transform(corners, matrix)
        assert seen.min() > -.5 - 1e-6 and seen.max() < EDGE - .5 + 1e-6
        assert np.allclose(seen.mean(0), (EDGE - 1) / 2)
    assert [tuple(np.sign(np.round(m[0, :2], 6))) for m in turned_views(600, 800, EDGE)] == [(0, -1), (0, 1), (-1, 0)]


def test_files_that_are_no_detectors(tmp_path):
    with pytest.raises(FaceLoomError, match="is a swap model, not a face detector"):
        load_detector(save_scrfd(tmp_path / "inswapper_128.onnx"))
    pointless = load_detector(save_scrfd(tmp_path / "scrfd_2.5g.onnx", keypoints=False))
    with pytest.raises(FaceLoomError, match="bnkps or kps"):
        pointless.detect(frame(9, 9))
    with pytest.raises(FaceLoomError, match="cannot read detectors of the dream family"):
        load_detector(save_scrfd(tmp_path / "det_10g.onnx"), Loading(contract=replace(catalogue()["det_10g"].contract, family="dream")))
    with pytest.raises(FaceLoomError, match="models get det_10g"):
        load_detector("det_10g", Loading(Folders((tmp_path / "models",))))


@pytest.mark.parametrize("rows", [5, 16])
def test_yolo_of_another_kind(rows, tmp_path):
    graph = Graph()
    cells = graph.node("Reshape", graph.redness(0, 1, 0, 8), np.int64([0, 1, -1]))
    path = graph.save(tmp_path / "face_yolo.onnx", [1, 3, EDGE, EDGE],
                      {"output0": (graph.node("Mul", cells, np.ones((1, rows, 1))), [1, rows, 6400])})
    with pytest.raises(FaceLoomError, match="five keypoints as SCRFD, YOLOv8-face and YuNet"):
        load_detector(path).detect(frame(9, 9))


def resized(path: Path, height: int, width: int) -> Path:
    model = onnx.load(str(path))
    for axis, size in ((2, height), (3, width)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    onnx.save(model, str(path))
    return path


def test_graphs_of_one_size(tmp_path, monkeypatch):
    detector = load_detector(resized(save_scrfd(tmp_path / "det_10g.onnx"), 320, 320))
    calls = []
    run_once = OnnxModel.run_once
    monkeypatch.setattr(OnnxModel, "run_once", lambda self, feeds: calls.append(feeds["picture"].shape[2:]) or run_once(self, feeds))
    (face,), = detector.detect(frame(20, 20, height=320, width=320))
    assert np.abs(face.box - expected(20, 20)[0]).max() < 1e-3
    assert calls == [(320, 320)]
    with pytest.raises(FaceLoomError, match="should take one square colour picture"):
        load_detector(resized(save_scrfd(tmp_path / "wide.onnx"), 480, 640))


@pytest.fixture(scope="module")
def scrfd(shared):
    return load_detector(shared / "models" / "scrfd_2.5g_bnkps.onnx")


def test_real_network_beside_insightface(shared, scrfd, collins, hopper):
    zoo = pytest.importorskip("insightface.model_zoo")
    theirs = zoo.get_model(str(shared / "models" / "scrfd_2.5g_bnkps.onnx"))
    theirs.prepare(-1, input_size=(EDGE, EDGE))
    for image in (collins, hopper):
        square = torch.zeros(1, EDGE, EDGE, 3)
        square[:, :image.shape[1], :image.shape[2]] = image
        boxes, points = theirs.detect(square[0].mul(255).round().numpy().astype(np.uint8)[..., ::-1].copy())
        (face,), = scrfd.detect(square, .5)
        assert len(boxes) == 1
        assert np.abs(face.box - boxes[0, :4]).max() < .01
        assert np.abs(face.keypoints - points[0]).max() < .01
        assert face.score == pytest.approx(boxes[0, 4], abs=1e-4)


def test_real_faces_turned_close_and_small(scrfd, collins):
    (upright,), = scrfd.detect(collins, .5)
    size = collins.shape[2] - 1
    for quarters in (1, 2, 3):
        (face,), = scrfd.detect(torch.rot90(collins, quarters, (1, 2)), .5)
        points = face.keypoints
        for _ in range(quarters):  # back by a quarter: (x, y) of the turned frame lies at (size - y, x) before
            points = np.stack([size - points[:, 1], points[:, 0]], -1)
        assert np.abs(points - upright.keypoints).max() < 2
    (close,), = scrfd.detect(collins[:, 50:190, 165:285], .5)
    assert np.abs(close.keypoints - upright.keypoints + (165, 50)).max() < 4
    large = torch.zeros(1, 700, 1700, 3)
    tiny = sample_crops(collins, [0], np.array([[[120 / 512, 0, 60 / 512 - .5], [0, 120 / 512, 60 / 512 - .5]]]), 120)
    for x in (40, 780, 1540):
        large[0, 400:520, x:x + 120] = tiny[0]
    faces = detect_faces(large, scrfd, DetectSettings(order="left-right"))
    wanted = [(np.array(x) + (upright.center[0] + .5) * 120 / 512) for x in (40, 780, 1540)]
    assert np.abs([face.center[0] for face in faces] - np.array(wanted)).max() < 3


def test_a_close_face_beside_small_ones(scrfd, collins, hopper):
    (large,), = scrfd.detect(hopper, .5)
    x0, y0 = (large.center - .6 * large.size).astype(int)
    edge = int(1.2 * large.size)
    close = sample_crops(hopper, [0], np.array([[[600 / edge, 0, -600 / edge * x0], [0, 600 / edge, -600 / edge * y0]]]), 600)
    small_ = sample_crops(collins, [0], np.array([[[100 / 512, 0, 0], [0, 100 / 512, 0]]]), 100)
    close[:, 5:105, 5:105] = small_
    found = sorted(scrfd.detect(close, .5)[0], key=lambda face: face.size)
    assert len(found) == 2
    assert np.abs(found[1].keypoints - (large.keypoints - (x0, y0)) * (600 / edge)).max() < 15
    assert np.abs(found[0].center - (224 * 100 / 512 + 5, 118 * 100 / 512 + 5)).max() < 8


def test_a_face_in_front_of_another(scrfd, collins, hopper):
    (behind,), = scrfd.detect(hopper, .5)
    picture = sample_crops(hopper, [0], np.array([[[2, 0, .5], [0, 2, .5]]]), 1024)
    x, y = (2 * behind.center + np.array([-.3, .3]) * 2 * behind.size - 70).astype(int)
    picture[:, y:y + 140, x:x + 150] = collins[:, 60:200, 150:300]
    small_, large = sorted(scrfd.detect(picture, .5)[0], key=lambda face: face.size)
    assert large.size > 2.5 * small_.size
    assert np.abs(small_.center - (x + 74, y + 58)).max() < 12


def test_the_small_look_spoils_no_points(scrfd, hopper):
    """It is surer of this face than the large one, but places the points worse."""
    (known,), = scrfd.detect(hopper, .5)
    zoom = 479 / 600
    matrix = np.array([[zoom, 0, 116], [0, zoom, 0]])
    picture = torch.zeros(1, 479, 641, 3)
    picture[:, :, 116:116 + 408] = sample_crops(hopper, [0], np.array([[[zoom, 0, 0], [0, zoom, 0]]]), 479)[:, :, :408]
    (face,), = scrfd.detect(picture, .5)
    away = np.linalg.norm(face.keypoints - transform(known.keypoints, matrix), axis=1).mean()
    assert away < .02 * known.size * zoom


def test_a_face_that_a_tile_cuts_is_found_whole(scrfd, hopper):
    """The tiles of a frame of 1400 pixels end at 120 and 1280; where the frame itself ends, nothing more can be seen."""
    (known,), = scrfd.detect(hopper, .5)
    for x, zoom in ((1290, 1), (120, 2), (30, 3)):
        matrix = np.array([[zoom, 0, x - zoom * known.center[0]], [0, zoom, 500 - zoom * known.center[1]]])
        (face,), = scrfd.detect(warp(hopper[0], matrix, 1000, 1400, "zeros").clamp(0, 1)[None], .5)
        assert np.linalg.norm(face.keypoints - transform(known.keypoints, matrix), axis=1).mean() < .06 * known.size * zoom
