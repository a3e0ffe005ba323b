"""ONNX files as they are read here, and which kind of network one holds."""

from __future__ import annotations

import contextlib
import pickle

import numpy as np
import pytest
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.kinds import channels_of, check_graph_kind, edge_of, kind_of_graph
from faceloom.models.files.onnx import Port, name_other_format, read_onnx
from faceloom.models.files.onnx_batch import with_free_batch
from faceloom.models.files.onnx_external import _is_inside, external_locations
from faceloom.models.runtime.onnx import open_session
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_bytes import DOUBLE, EMAP, FLOAT, HALF, SMALL, model, node, reference, swap_double  # noqa: E402


def test_ports_and_initializers_are_read_as_the_onnx_package_reads_them(shared):
    for path in sorted((shared / "models").glob("*.onnx")):
        ours, theirs = read_onnx(path), onnx.load(path)
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in theirs.graph.initializer}
        assert [tensor.name for tensor in ours.initializers] == list(stored)
        for tensor in ours.initializers:
            np.testing.assert_array_equal(tensor.array(), stored[tensor.name])
            assert tensor.shape == stored[tensor.name].shape and tensor.dtype == stored[tensor.name].dtype
        assert [port.name for port in ours.inputs] == [port.name for port in theirs.graph.input if port.name not in stored]
        assert [port.name for port in ours.outputs] == [port.name for port in theirs.graph.output]
        assert ours.operators == tuple(each.op_type for each in theirs.graph.node)


@pytest.mark.parametrize("array", [
    np.array([1.5, -2], np.float32), np.array([[1.5, -2]], np.float64), np.array([1.5, -2], np.float16), np.array([1, -2], np.int64),
    np.array([1, 200], np.uint8), np.array([-5, 7], np.int32), np.array([True, False]), np.float32(3)], ids=lambda a: str(a.dtype))
@pytest.mark.parametrize("raw", [True, False])
def test_initializers_of_every_kind(array, raw):
    tensor = numpy_helper.from_array(np.asarray(array), "t")
    if not raw:
        tensor = helper.make_tensor("t", tensor.data_type, np.shape(array), np.ravel(array).tolist())
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("y", FLOAT, [1])], [tensor])
    stored = read_onnx(helper.make_model(graph).SerializeToString()).initializers[0]
    np.testing.assert_array_equal(stored.array(), array)
    assert stored.array().dtype == np.asarray(array).dtype and stored.array().shape == np.shape(array)


def test_symbolic_and_unknown_shapes():
    file = read_onnx(model([node("Identity", "x", "y")], {"x": ["n", 3, None, 8], "k": ([], DOUBLE)}, {"y": (None, HALF)}))
    assert file.inputs == (Port("x", (None, 3, None, 8), np.dtype(np.float32)), Port("k", (), np.dtype(np.float64)))
    assert file.outputs == (Port("y", None, np.dtype(np.float16)),)


def test_inputs_that_are_initializers_are_no_inputs():
    data = model([node("Add", "x w", "y")], {"x": [1, 2], "w": [1, 2]}, {"y": [1, 2]}, [("w", np.ones((1, 2), np.float32))])
    assert [port.name for port in read_onnx(data).inputs] == ["x"]
    free = onnx.load_from_string(with_free_batch(read_onnx(data)))
    assert [port.type.tensor_type.shape.dim[0].dim_param for port in free.graph.input] == ["batch", ""]


def test_the_map_is_the_last_of_its_shape():
    two = model([node("Identity", "x", "y")], {"x": [1]}, {"y": [1]},
                [("a", EMAP), ("emap", EMAP + 1), ("c", np.zeros((512, 2), np.float32))])
    assert read_onnx(two).initializer((512, 512)).name == "emap" and read_onnx(two).initializer((3, 3)) is None


def test_weights_in_another_file_are_known(tmp_path):
    path = tmp_path / "big.onnx"
    onnx.save(onnx.load_from_string(swap_double()), path, save_as_external_data=True, location="big.data", size_threshold=1000)
    file = read_onnx(path)
    assert file.external and not read_onnx(swap_double()).external
    with pytest.raises(FaceLoomError, match="stored elsewhere"):
        file.initializer((512, 512)).array()
    network = open_session(path)
    target, source = np.zeros((2, 3, 16, 16), np.float32), np.ones((2, 512), np.float32)
    np.testing.assert_allclose(network.run({"target": target, "source": source})[0], reference(target, source), rtol=1e-5)
    assert not network.takes_batches(), "bytes in memory would not find the other file"
    (tmp_path / "big.data").rename(tmp_path / "renamed.data")
    with pytest.raises(FaceLoomError, match=r"^big\.onnx keeps its weights in big\.data, which is not beside it; put both into one fo"):
        open_session(path)


@pytest.mark.parametrize(("head", "words"), [
    (b"<!DOCTYPE html><html>", "a web page that was saved in its place"), (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    (b"PK\x03\x04....", "a zip file or a PyTorch checkpoint"), (pickle.dumps({"a": 1}), "a Python pickle"),
    (b"\x89HDF\r\n\x1a\n", "a Keras"), ((2).to_bytes(8, "little") + b"{}", "a safetensors file")])
def test_other_files_are_called_by_their_name(tmp_path, head, words):
    path = tmp_path / "model.onnx"
    path.write_bytes(head + bytes(100))
    with pytest.raises(FaceLoomError, match=rf"model\.onnx is not an ONNX model but .*{words}"):
        open_session(path)


def test_files_that_are_no_or_half_a_model(tmp_path):
    data, path = swap_double(), tmp_path / "model.onnx"
    for cut in (3, 200, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(FaceLoomError, match=r"model\.onnx is not (a whole|an) ONNX model"):
            open_session(path)
    no_answer = helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()
    for bad in (b"\x00" * 50, b"\x0f" * 50, b"\xff" * 50, b"\x08\x01", no_answer):
        path.write_bytes(bad)
        with pytest.raises(FaceLoomError, match=r"model\.onnx is not (a whole|an) ONNX model"):
            open_session(path)
    for other in (b"hello world\n" * 50, b'{"error": "not found"}', b"\x89PNG\r\n\x1a\n" + bytes(500)):
        path.write_bytes(other)
        with pytest.raises(FaceLoomError, match=r"^model\.onnx is not an ONNX model\.$"):
            open_session(path)
    path.write_bytes(b"")
    with pytest.raises(FaceLoomError, match="is empty"):
        open_session(path)
    with pytest.raises(FaceLoomError, match="There is no file"):
        open_session(tmp_path / "none.onnx")
    assert name_other_format(data[:64]) is None


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_a_damaged_file_never_fails_otherwise(place, flip):
    data = bytearray(SMALL)
    data[place % len(data)] ^= flip
    with contextlib.suppress(FaceLoomError):
        file = read_onnx(bytes(data))
        with_free_batch(file, reshapes=True)
        external_locations(file)
        for tensor in file.initializers:
            tensor.array()


def test_a_graph_that_onnxruntime_refuses():
    unknown = model([node("NoSuchOperator", "x", "y")], {"x": [1]}, {"y": [1]})
    with pytest.raises(FaceLoomError, match=r"odd cannot be opened by onnxruntime: .*NoSuchOperator"):
        open_session(unknown, name="odd")


# What kind it is


def ports(*shapes):
    return [Port(f"p{i}", shape, None) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("kind", "inputs", "outputs"), [
    ("swap", [(1, 3, 128, 128), (1, 512)], [(1, 3, 128, 128)]),
    ("swap", [(1, 512), (None, 3, 256, 256)], [(1, 3, 256, 256), (1, 1, 256, 256)]),
    ("swap", [(1, 3, 112, 112), (1, 3, 256, 256)], [(1, 3, 256, 256)]),
    ("swap", [(1, 224, 224, 3)], [(1, 224, 224, 1), (1, 224, 224, 3), (1, 224, 224, 1)]),
    ("restorer", [(1, 3, 512, 512), (1,)], [(1, 3, 512, 512)]),
    ("converter", [(1, 512)], [(1, 512)]),
    ("detector", [(1, 3, None, None)], [(None, 1)] * 9),
    ("detector", [(1, 3, 640, 640)], [(1, 20, 8400)]),
    ("parser", [(1, 3, 512, 512)], [(1, 19, 512, 512)]),
    ("occluder", [(1, 256, 256, 3)], [(1, 256, 256, 1)]),
    ("recognizer", [(None, 3, 112, 112)], [(1, 512)]),
    ("landmarker", [(None, 3, 192, 192)], [(1, 212)]),
    ("landmarker", [(1, 3, 256, 256)], [(1, 68, 3), (1, 68, 64, 64)]),
    ("attributes", [(None, 3, 96, 96)], [(1, 3)]),
    (None, [(1, 3, 64, 64)], [(1, 7, 7)]), (None, [(1, 4)], [(1, 2)]), (None, [None], [None]), (None, [(1, 3, 8, 8)], [None]),
    (None, [(1, 3, 8, 8)], [(1, 2)])])
def test_kinds_are_told_apart(kind, inputs, outputs):
    assert kind_of_graph(ports(*inputs), ports(*outputs)) == kind
    if kind:
        check_graph_kind("x.onnx", kind, ports(*inputs), ports(*outputs))
    if kind not in (None, "swap"):
        with pytest.raises(FaceLoomError, match=r"x\.onnx is an? .*, not a swap model"):
            check_graph_kind("x.onnx", "swap", ports(*inputs), ports(*outputs))


def test_pictures_in_both_layouts():
    assert [channels_of(port) for port in ports((1, 3, 9, 8), (1, 9, 8, 3), (1, 19, 4, 4))] == [3, 3, 19]
    assert [channels_of(port) for port in ports((1, None, 4, 4), (3, 4))] == [None, None]
    assert [edge_of(port) for port in ports((1, 3, 9, 8), (1, 9, 8, 3), (1, 3, None, 8), (3, 4))] == [9, 9, None, None]


def test_the_real_networks_are_known_and_refused_elsewhere(shared):
    folder = shared / "models"
    assert open_session(folder / "mobilefacenet_128.onnx", kind="recognizer").describe() == "mobilefacenet_128.onnx on cpu"
    with pytest.raises(FaceLoomError, match=r"scrfd_2\.5g_bnkps\.onnx is a face detector, not a swap model"):
        open_session(folder / "scrfd_2.5g_bnkps.onnx", kind="swap")


def _with_external(location: str, where: str) -> bytes:
    """A model whose tensor, an initializer or a constant in one of its graphs, lies in the file ``location``."""
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    whole = onnx.load_from_string(model([node("Add", "x w", "y")], {"x": [1]}, {"y": [1]}))
    if where == "initializer":
        whole.graph.initializer.append(tensor)
    elif where == "constant":
        whole.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    else:
        branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "b",
                                   [], [helper.make_tensor_value_info("c", FLOAT, [1])])
        whole.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        whole.graph.node.insert(0, helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch))
    return whole.SerializeToString()


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "sub/../../secret", "..\\secret", "C:\\secret", "link", "", "sub/link"])
def test_weights_outside_the_folder_are_refused(tmp_path, where, location):
    (tmp_path / "secret").write_bytes(bytes(4))
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to("../secret")
    (folder / "sub" / "link").symlink_to("../../secret")
    (folder / "m.onnx").write_bytes(_with_external(location, where))
    with pytest.raises(FaceLoomError, match=r"^m\.onnx takes weights from [^\n]*not in its folder"):
        open_session(folder / "m.onnx")


def test_weights_beside_the_model_and_in_a_download_cache(tmp_path):
    store, folder = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    folder.mkdir()
    (store / "a").write_bytes(_with_external("w.data", "initializer"))
    (store / "b").write_bytes(np.full(1, 3, np.float32).tobytes())
    (folder / "m.onnx").write_bytes((store / "a").read_bytes())
    with pytest.raises(FaceLoomError, match=r"keeps its weights in w\.data, which is not beside it"):
        open_session(folder / "m.onnx")
    (folder / "w.data").write_bytes((store / "b").read_bytes())
    assert open_session(folder / "m.onnx").run({"x": np.ones(1, np.float32)})[0] == 4
    (folder / "m.onnx").unlink()
    (folder / "w.data").unlink()
    (folder / "m.onnx").symlink_to(store / "a")
    (folder / "w.data").symlink_to(store / "b")
    with contextlib.suppress(FaceLoomError):  # some releases of onnxruntime refuse every link
        assert open_session(folder / "m.onnx").run({"x": np.ones(1, np.float32)})[0] == 4
    assert _is_inside("w.data", folder / "m.onnx")
    with pytest.raises(FaceLoomError, match="save it as one file"):
        open_session((store / "a").read_bytes())
