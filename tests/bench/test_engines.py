"""The benchmark of network engines: what its networks cost, that everybody swaps the same faces, and that its sums are right."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError

from bench import engines as bench_swap
from bench import report as bench
from bench.doubles import save_full_cost, save_trivial

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def report() -> dict:
    return bench.measure(["720p"], [1], 1, sections=["engines"], engine_counts={"trivial": [1, 2], "full cost": []}, device="cpu")


@pytest.fixture
def opened(tmp_path, monkeypatch, collins):
    """A double on a small frame with two faces: engine, the others' session, double, frame, faces, clock."""
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path))
    double = save_trivial(tmp_path / "inswapper_128 trivial.onnx")
    clock = bench_swap.Clock()
    engine, session = bench_swap._open(double, "cpu", clock)
    images, faces = bench_swap.build_frame(collins, detect_faces(collins)[0], (400, 800), 2)
    return engine, session, double, images, faces, clock


@pytest.mark.slow
def test_the_network_of_real_cost_has_inswappers_size(tmp_path):
    """Against 138.3 M parameters and 174.7 GFLOP, counted here from the written graph and its inferred shapes."""
    double = save_full_cost(tmp_path / "full.onnx")
    graph = onnx.shape_inference.infer_shapes(onnx.load(double.path)).graph
    sizes = {weight.name: list(weight.dims) for weight in graph.initializer}
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.value_info}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    parameters = sum(int(np.prod(sizes[name])) for node in layers for name in node.input[1:])
    products = sum(int(np.prod(sizes[node.input[1]])) * int(np.prod(shapes[node.output[0]][2:])) for node in layers)
    assert (parameters, products) == (double.parameters, double.multiply_adds)
    assert parameters == pytest.approx(138.3e6, rel=0.01) and products == pytest.approx(174.7e9, rel=0.01)
    assert list(graph.initializer[-1].dims) == [512, 512]


def test_ports_are_inswappers(tmp_path):
    graph = onnx.load(save_trivial(tmp_path / "trivial.onnx").path).graph
    ports = {port.name: [d.dim_value for d in port.type.tensor_type.shape.dim] for port in (*graph.input, *graph.output)}
    assert ports == {"target": [1, 3, 128, 128], "source": [1, 512], "output": [1, 3, 128, 128]}


def test_every_engine_is_there_and_the_sums_are_right(report):
    pytest.importorskip("insightface")
    assert [entry["faces"] for entry in report["engines"]] == [1, 2] and report["notes"] == [] and "results" not in report
    for entry in report["engines"]:
        assert (entry["double"], entry["device"], entry["provider"], entry["frame"], entry["face_pixels"]) == (
            "trivial", "cpu", "cpu", "720p", 300)
        for name in ("ours", "ours_one_by_one", "insightface", "facefusion_like"):
            figures = entry[name]
            assert figures["ms_per_face"] == pytest.approx(figures["network_ms_per_face"] + figures["overhead_ms_per_face"])
            assert 0 < figures["network_ms_per_face"] < figures["ms_per_face"]
        ours, theirs = entry["ours"], entry["insightface"]
        assert 0 < entry["copy_ms_per_face"] < ours["overhead_ms_per_face"], "it is a part of it"
        assert theirs["ratio"] == round(theirs["ms_per_face"] / ours["ms_per_face"], 1)
        assert theirs["overhead_ratio"] == round(theirs["overhead_ms_per_face"] / ours["overhead_ms_per_face"], 1)
    lines = bench.table(report).splitlines()
    head, row = (line.split("  ") for line in (lines[2], lines[3]))
    head, row = ([cell.strip() for cell in cells if cell.strip()] for cells in (head, row))
    assert len(head) == len(row) and row[head.index("copy")] == f"{report['engines'][0]['copy_ms_per_face']:.2f}"
    assert row[head.index("crops")] == f"{report['engines'][0]['crops_ms_per_face']:.2f}"
    assert len(lines) == 3 + 2 and lines[-1].split()[:4] == ["trivial", "cpu", "720p", "2"] and "0.0 M parameters" in lines[1]
    assert json.loads(json.dumps(report)) == report


def test_everybody_swaps_every_face(opened):
    """The double answers the negative: where a face was its picture turns round, by all four ways alike."""
    pytest.importorskip("insightface")
    engine, session, double, images, faces, clock = opened
    frame = (images[0].numpy()[..., ::-1] * 255).round().astype(np.uint8)
    before = frame.copy()
    ours = {name: task()[0].numpy() for name, task in bench_swap.our_tasks(engine, images, faces).items()}
    with pytest.warns(FutureWarning):
        theirs = {name: task()[..., ::-1] / 255 for name, task in bench_swap.their_tasks(double, session, frame, faces).items()}
    assert np.array_equal(frame, before) and clock.seconds > 0
    assert np.allclose(ours["ours"], ours["ours_one_by_one"], atol=1e-6)
    for face in faces:
        x, y = face.keypoints[2].round().astype(int)
        nose = np.s_[y - 6 : y + 7, x - 6 : x + 7]
        expected = 1 - images[0].numpy()[nose].mean((0, 1))
        for name, picture in {**ours, **theirs}.items():
            assert np.allclose(picture[nose].mean((0, 1)), expected, atol=0.12), name
    assert np.array_equal(ours["ours"][:20], images[0, :20].numpy())


def test_the_clock_counts_only_the_network():
    class Slow:
        inputs = "its own"

        def run(self, outputs, feed):
            time.sleep(0.02)
            return feed

        def run_with_iobinding(self, binding):
            time.sleep(0.02)

    clock = bench_swap.Clock()
    session = bench_swap.ClockedSession(Slow(), clock)
    time.sleep(0.02)
    assert session.run(None, 5) == 5 and session.run(None, 6) == 6 and session.inputs == "its own"
    session.run_with_iobinding("bound")
    assert clock.seconds >= 0.06
    total, network = bench_swap._timed(lambda: (time.sleep(0.03), session.run(None, 1)), clock, torch.device("cpu"))
    assert 0.02 <= network <= total - 0.03


def test_without_onnx_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr(bench_swap, "find_spec", lambda name: None if name == "onnx" else object())
    skipped = bench.measure(["720p"], [1], 1, sections=["engines"], engine_counts={"trivial": [1]})
    assert skipped["engines"] == [] and "pip install insightface" in skipped["notes"][-1]
    assert bench.table(skipped).splitlines()[-1] == skipped["notes"][-1]


def test_devices():
    assert bench_swap.available_devices("cpu") == ["cpu"] and bench_swap.available_devices("auto")[0] == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(FaceLoomError, match="--device cpu"):
            bench_swap.available_devices("cuda")


def test_the_facefusion_like_paste_keeps_what_lies_outside():
    pytest.importorskip("cv2")
    frame = np.full((60, 80, 3), 100, np.uint8)
    matrix = np.array([[2.0, 0, -40], [0, 2.0, -20]])  # the crop's 64 pixels lie on 20..52 across and 10..42 down
    out = bench_swap.paste_like_facefusion(frame, np.full((64, 64, 3), 200.9, np.float32), np.ones((64, 64), np.float32), matrix)
    assert (frame == 100).all() and (out[12:40, 22:50] == 200).all()
    out[10:42, 20:52] = 100
    assert (out == 100).all()
