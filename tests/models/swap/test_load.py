"""Which file is which swap model, and what is said of files that are none."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

from doubles import EMAP, TRUTHS, V1, Truth, call, edited, save, save_converter, save_double
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.catalogue import catalogue
from faceloom.models.files.folders import Folders
from faceloom.models.runtime.method import Loading
from faceloom.models.swap import contracts
from faceloom.models.swap.helpers import recognizer_name
from faceloom.models.swap.load import load_engine
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders((tmp_path / "models",))


def place(folders: Folders) -> Path:
    return folders.roots[0] / "faceloom" / "swap"


def net(path: Path, inputs: dict[str, list], outputs: dict[str, list]) -> Path:
    """A network of these shapes that answers zeros."""
    first = next(iter(inputs))
    nodes = [helper.make_node("Identity", [first], ["copy"])]
    for name in outputs:
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
        nodes.append(helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=value))
    weights = [helper.make_tensor(f"{name}_shape", TensorProto.INT64, [len(shape)], shape) for name, shape in outputs.items()]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()] for side in (inputs, outputs)]
    return save(path, nodes, *ports, weights)


def test_by_catalogue_name(folders):
    save_double("inswapper_128", place(folders))
    for name in ("inswapper_128", "inswapper_128.onnx", "INSWAPPER_128.onnx"):
        engine = load_engine(name, Loading(folders))
        assert (engine.name, engine.size) == ("inswapper_128", 128)


def test_by_what_the_name_begins_with(folders, tmp_path):
    path = shutil.copy(save_double("simswap_256", tmp_path), tmp_path / "SimSwap-256 (my export).onnx")
    save_converter("crossface_simswap", place(folders))
    engine = load_engine(path, Loading(folders))
    assert engine.name == "simswap_256" and engine.contract == catalogue()["simswap_256"].contract


BY_GRAPH = ["inswapper_128", "reswapper_256", "uniface_256", "blendswap_256", "simswap_512_unoff", "cscs_256", "deepfacelive"]


@pytest.mark.parametrize("name", BY_GRAPH)
def test_by_its_graph(name, folders, tmp_path):
    engine = load_engine(shutil.copy(save_double(name, tmp_path), tmp_path / "thing.onnx"), Loading(folders))
    assert engine.name == "thing"
    assert engine.contract == replace(catalogue()[name].contract, size=TRUTHS[name].size)


@pytest.mark.parametrize(("name", "candidates"), [
    ("hyperswap_1b_256", "hyperswap_1a_256, hififace_unofficial_256"),
    ("ghost_1_256", "simswap_256, ghost_1_256, alphaface_256"),
    ("ghost_unet_2_block", "simswap_256, ghost_1_256, ghost_unet_2_block, alphaface_256"),
])
def test_graphs_that_look_alike(name, candidates, folders, tmp_path):
    path = shutil.copy(save_double(name, tmp_path), tmp_path / "thing.onnx")
    with pytest.raises(FaceLoomError, match=f"thing.onnx could be any of {candidates}; rename the file"):
        load_engine(path, Loading(folders))


def test_a_renamed_file_is_known_by_its_hash(folders, tmp_path, monkeypatch):
    path = shutil.copy(save_double("hyperswap_1b_256", tmp_path), tmp_path / "thing.onnx")
    row = replace(catalogue()["hyperswap_1b_256"], sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest())
    monkeypatch.setattr(contracts, "row_by_hash", lambda digest: row if digest == row.sha256 else None)
    engine = load_engine(path, Loading(folders))
    assert engine.name == "hyperswap_1b_256" and engine.contract == row.contract


def test_two_pictures_of_one_size_need_their_names(folders, tmp_path):
    path = edited(save_double("uniface_256", tmp_path), call(input0="x", input1="y"))
    with pytest.raises(FaceLoomError, match=r"uniface_256\.onnx should take pictures called target and source, but takes x \(1×3×256"):
        load_engine(path, Loading(folders))


def test_another_export_of_another_name_is_told_to_be_renamed(folders, tmp_path):
    path = edited(save_double("inswapper_128", tmp_path), call(input0="x", input1="y"), "thing.onnx")
    with pytest.raises(FaceLoomError, match=r"thing\.onnx is no swap model FaceLoom knows.*rename the file so that it begins with"):
        load_engine(path, Loading(folders))
    assert load_engine(path.rename(tmp_path / "inswapper_128 mine.onnx"), Loading(folders)).name == "inswapper_128"


def test_ports_of_no_stated_shape_are_told_by_their_names(folders, tmp_path):
    def forget(graph):
        for port in graph.input:
            port.type.tensor_type.ClearField("shape")

    assert load_engine(edited(save_double("inswapper_128", tmp_path), forget), Loading(folders)).size == 128
    assert load_engine(edited(save_double("uniface_256", tmp_path), forget), Loading(folders)).size == 256


def test_the_emap_is_the_matrix_that_the_graph_does_not_use(folders, tmp_path):
    """Tools that tidy graphs put initializers in another order, and networks have weights of 512×512 too."""
    def tidy(graph):
        graph.initializer.append(numpy_helper.from_array(np.eye(512, dtype=np.float32), "dense"))
        product = next(node for node in graph.node if node.op_type == "MatMul")
        graph.node.insert(0, helper.make_node("MatMul", [product.input[0], "dense"], ["same"]))
        product.input[0] = "same"

    engine = load_engine(edited(save_double("inswapper_128", tmp_path), tidy), Loading(folders))
    np.testing.assert_array_equal(engine._latents.emap, EMAP)


def test_size_of_a_dfm_is_the_graphs(folders, tmp_path):
    truth = replace(TRUTHS["deepfacelive"], size=160)
    assert load_engine(save_double("deepfacelive", tmp_path, truth=truth), Loading(folders)).size == 160


def test_a_graph_that_contradicts_its_name(folders, tmp_path):
    small = save_double("inswapper_128", tmp_path)
    with pytest.raises(FaceLoomError, match=r"reswapper_256\.onnx should take pictures of 3×256×256, but takes target \(1×3×128×128\)"):
        load_engine(shutil.copy(small, tmp_path / "reswapper_256.onnx"), Loading(folders))
    with pytest.raises(FaceLoomError, match=r"should take two pictures, but takes target \(1×3×128×128\), source \(1×512\)"):
        load_engine(shutil.copy(small, tmp_path / "blendswap_256.onnx"), Loading(folders))
    lost = save_double("inswapper_128", tmp_path / "lost", truth=Truth(V1, 128))
    with pytest.raises(FaceLoomError, match="holds no 512×512 identity map"):
        load_engine(lost, Loading(folders))
    short = net(tmp_path / "alphaface_256.onnx", {"target": [1, 3, 256, 256], "source": [1, 256]}, {"output": [1, 3, 256, 256]})
    with pytest.raises(FaceLoomError, match=r"should take a vector of 512 numbers, but takes source \(1×256\)"):
        load_engine(short, Loading(folders))
    inputs = {"target": [1, 3, 256, 256], "source": [1, 512], "noise": [1]}
    many = net(tmp_path / "hyperswap_1a_256.onnx", inputs, {"output": [1, 3, 256, 256]})
    with pytest.raises(FaceLoomError, match=r"takes more than its kind of model does"):
        load_engine(many, Loading(folders))


OTHER_KINDS = [
    ({"input": [1, 3, 112, 112]}, {"output": [1, 512]}, "a face recognizer"),
    ({"input": [1, 3, 512, 512]}, {"output": [1, 3, 512, 512]}, "a face restorer"),
    ({"input": [1, 3, 512, 512]}, {"output": [1, 19, 512, 512]}, "a face parser"),
    ({"input": [1, 256, 256, 3]}, {"output": [1, 256, 256, 1]}, "an occlusion model"),
    ({"images": [1, 3, 640, 640]}, {"output0": [1, 20, 8400]}, "a face detector"),
    ({"data": [1, 3, 96, 96]}, {"fc1": [1, 3]}, "an age and sex model"),
    ({"input": [1, 512]}, {"output": [1, 512]}, "an embedding converter"),
]


@pytest.mark.parametrize(("inputs", "outputs", "kind"), OTHER_KINDS)
def test_a_file_of_another_kind_is_called_by_it(inputs, outputs, kind, folders, tmp_path):
    path = net(tmp_path / "thing.onnx", inputs, outputs)
    with pytest.raises(FaceLoomError, match=rf"thing\.onnx is {kind}, not a swap model"):
        load_engine(path, Loading(folders))


def test_a_graph_like_no_other(folders, tmp_path):
    path = net(tmp_path / "thing.onnx", {"a": [1, 3, 64, 64], "b": [1, 512]}, {"out": [1, 3, 64, 64]})
    with pytest.raises(FaceLoomError, match=r"thing\.onnx is no swap model FaceLoom knows: it takes a \(1×3×64×64\), b \(1×512\)"):
        load_engine(path, Loading(folders))


def test_another_models_name(folders, tmp_path):
    path = shutil.copy(save_double("inswapper_128", tmp_path), tmp_path / "w600k_r50.onnx")
    with pytest.raises(FaceLoomError, match=r"w600k_r50\.onnx is a face recognizer, not a swap model"):
        load_engine(path, Loading(folders))


def test_missing_converter_is_named_when_the_engine_is_loaded(folders, tmp_path):
    with pytest.raises(FaceLoomError, match=r"crossface_ghost\.onnx .* models get crossface_ghost"):
        load_engine(save_double("ghost_1_256", tmp_path), Loading(folders))


def test_recognizers_on_disk_come_first(folders):
    assert recognizer_name("w600k", folders) == "w600k_r50"
    own = folders.roots[0] / "faceloom" / "recognizers" / "arcface_w600k_r50.onnx"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"x")
    assert recognizer_name("w600k", folders) == "arcface_w600k_r50"
    with pytest.raises(FaceLoomError, match="makes nobody embeddings"):
        recognizer_name("nobody", folders)


def test_a_recognizer_file_is_opened_only_when_it_is_needed(folders, tmp_path):
    engine = load_engine(save_double("inswapper_128", tmp_path), Loading(folders))
    with pytest.raises(FaceLoomError, match=r"w600k_r50.onnx .* models get w600k_r50"):
        engine._latents.recognizer_of("w600k")
    place_of_it = folders.roots[0] / "insightface" / "models" / "buffalo_l"
    place_of_it.mkdir(parents=True)
    net(place_of_it / "w600k_r50.onnx", {"input.1": [1, 3, 112, 112]}, {"683": [1, 512]})
    recognizer = engine._latents.recognizer_of("w600k")
    assert recognizer.space == "w600k" and engine._latents.recognizer_of("w600k") is recognizer
    assert recognizer.embed_crops(torch.zeros(2, 112, 112, 3)).shape == (2, 512)
