"""Keras files run from their own graphs: what a graph needs follows from it, files that lack it are told so, and memory is freed early."""

from __future__ import annotations

import json
import os
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.networks.keras_graph import input_shapes, plan_calls
from faceloom.models.networks.keras_layers import instance_norm
from faceloom.models.networks.keras_net import KerasNet, channels_last, check_weights, load_keras, needed_weights
from golden_adapters.base import Golden
from safetensors.torch import save_file

GOLDEN = Path(os.environ.get("FACELOOM_GOLDEN", Path(__file__).parents[4] / "shared" / "golden"))
VECTORS = sorted(path.name.removesuffix(".model_config.json") for path in GOLDEN.glob("facedancer_*.model_config.json"))


def layer(kind, name, sources, **config):
    return {"class_name": kind, "name": name, "config": {"name": name} | config,
            "inbound_nodes": [[[source, 0, 0, {}] for source in sources]] if sources else []}


def conv(name, source, filters, edge=3, **config):
    usual = {"filters": filters, "kernel_size": [edge, edge], "strides": [1, 1], "padding": "same", "use_bias": True}
    return layer("Conv2D", name, [source], **(usual | config))


def norm(name, source, groups):
    return layer("Addons>InstanceNormalization", name, [source], groups=groups, epsilon=1e-3, scale=True, center=True)


def generator():
    """FaceDancer's kinds of layers, 16 pixels small: down, an identity, up, attention, an answer beside the picture."""
    layers = [
        layer("InputLayer", "picture", [], batch_input_shape=[None, 16, 16, 3]),
        layer("InputLayer", "who", [], batch_input_shape=[None, 8]),
        layer("Dense", "map", ["who"], units=6, use_bias=True, activation="linear"), layer("LeakyReLU", "mapped", ["map"], alpha=.2),
        conv("first", "picture", 4), norm("n0", "first", 4), layer("LeakyReLU", "l0", ["n0"], alpha=.2), conv("down", "l0", 6),
        layer("AveragePooling2D", "half", ["down"], pool_size=[2, 2], strides=[2, 2], padding="valid"), norm("n1", "half", 6),
        layer("AdaIN", "ada_in", ["n1", "mapped"]), conv("up", "ada_in", 4, groups=2),
        layer("UpSampling2D", "whole", ["up"], size=[2, 2], interpolation="bilinear"),
        layer("Concatenate", "both", ["first", "whole"], axis=-1),
        conv("16x16", "both", 4, 1, activation="sigmoid"), layer("AdaptiveAttention", "fused", ["16x16", "whole", "first"]),
        conv("out", "fused", 3), layer("Add", "final", ["out", "picture"]),
    ]
    return {"class_name": "Functional", "config": {"name": "model", "layers": layers, "output_layers": [["final", 0, 0]],
                                                   "input_layers": [["picture", 0, 0], ["who", 0, 0]]}}


SHAPES = {
    "map/kernel": [8, 6], "map/bias": [6], "first/kernel": [3, 3, 3, 4], "first/bias": [4], "n0/gamma": [4], "n0/beta": [4],
    "down/kernel": [3, 3, 4, 6], "down/bias": [6], "n1/gamma": [6], "n1/beta": [6], "ada_in/dense/kernel": [6, 6],
    "ada_in/dense/bias": [6], "ada_in/dense_1/kernel": [6, 6], "ada_in/dense_1/bias": [6], "up/kernel": [3, 3, 3, 4], "up/bias": [4],
    "16x16/kernel": [1, 1, 8, 4], "16x16/bias": [4], "out/kernel": [3, 3, 4, 3], "out/bias": [3],
}


def weights(shapes=None):
    random = torch.Generator().manual_seed(3)
    return {key: torch.randn(shape, generator=random) * .4 for key, shape in (shapes or SHAPES).items()}


def inputs(count=2):
    random = torch.Generator().manual_seed(4)
    return torch.randn(count, 3, 16, 16, generator=random), torch.randn(count, 8, generator=random)


def write_h5(path, graph=None, tensors=None):
    """As ``model.save`` of Keras 2 does: a group per layer, in it the weights by their own names."""
    h5py = pytest.importorskip("h5py", reason="Keras files are read with h5py (the keras extra)")
    tensors = weights() if tensors is None else tensors
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(graph or generator())
        file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", "2.9.0"
        top = file.create_group("model_weights")
        for name in dict.fromkeys(key.split("/")[0] for key in tensors):
            group = top.create_group(name)
            keys = [key for key in tensors if key.split("/")[0] == name]
            group.attrs["weight_names"] = [f"{key}:0".encode() for key in keys]
            for key in keys:
                group[f"{key}:0"] = tensors[key].numpy()
    return path


def write_safetensors(path, dtype=torch.float32):
    """As ``models convert`` makes one of an ``.h5``: Keras' names and layouts, the graph in the metadata."""
    tensors = {key: value.to(dtype) for key, value in weights().items()}
    save_file(tensors, path, {"model_config": json.dumps(generator())})
    return path


def test_what_a_graph_needs_follows_from_the_graph():
    needed, answers = needed_weights(generator())
    assert needed == SHAPES and answers == [(3, 16, 16)]
    assert input_shapes(generator()["config"]) == [(16, 16, 3), (8,)]


@pytest.mark.parametrize("name", VECTORS or [pytest.param(None, marks=pytest.mark.skip(f"no FaceDancer vectors in {GOLDEN}"))])
def test_published_graphs_need_the_published_weights(name):
    golden = Golden(GOLDEN, name)
    needed, _ = needed_weights(json.loads((GOLDEN / f"{name}.model_config.json").read_text()))
    assert needed == {key: shape for key, (shape, _) in golden.data["state_dict"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", VECTORS or [pytest.param(None, marks=pytest.mark.skip(f"no FaceDancer vectors in {GOLDEN}"))])
def test_graphs_answer_as_the_published_networks(name):
    golden = Golden(GOLDEN, name)
    listed = golden.data["state_dict"].items()
    tensors = {key: torch.from_numpy(golden.fill.value(key, shape, golden.rules[""], kind)) for key, (shape, kind) in listed}
    net = KerasNet(json.loads((GOLDEN / f"{name}.model_config.json").read_text()), tensors)
    with torch.inference_mode():
        answer = net(*(golden.input(key) for key in golden.inputs))
    for stored in golden.data["outputs"][next(iter(golden.data["outputs"]))]["stored"]:
        want = golden.arrays[stored["array"]]
        off = golden.fill.compare(np.reshape(golden.fill.take(answer.numpy(), stored["sub"]), want.shape), want)
        assert off["rel_std"] < 1e-4, (stored["array"], off)


def test_pictures_of_a_batch_do_not_see_each_other():
    net = KerasNet(generator(), weights())
    both, seen = net(*inputs(), layers=("16x16", "mapped"))
    for i in range(2):
        one, of_one = net(*(each[i : i + 1] for each in inputs()), layers=("16x16", "mapped"))
        torch.testing.assert_close(both[i : i + 1], one, atol=1e-5, rtol=0)
        for name, value in of_one.items():
            torch.testing.assert_close(seen[name][i : i + 1], value, atol=1e-5, rtol=0)


def test_tensors_go_after_their_last_use(monkeypatch):
    compute, living = KerasNet._compute, weakref.WeakValueDictionary()
    alive = {}

    def watch(self, step, arguments):
        del arguments
        alive[step["name"]] = set(living)

    def spy(self, step, arguments):
        answer = compute(self, step, arguments)
        watch(self, step, None)
        living[step["name"]] = answer
        return answer

    monkeypatch.setattr(KerasNet, "_compute", spy)
    KerasNet(generator(), weights())(*inputs())
    assert "first" in alive["16x16"] and "whole" in alive["16x16"]  # attention needs them again
    assert not {"down", "l0", "n0", "half", "up"} & alive["16x16"]
    assert "fused" in alive["out"] and not {"first", "whole", "both"} & alive["final"]


def test_a_plan_keeps_what_the_model_answers():
    graph = generator()["config"]
    graph["output_layers"].append(["first", 0, 0])
    dropped = [source[0] for step in plan_calls(graph) for source in step.released]
    assert "first" not in dropped and "final" not in dropped and len(dropped) == len(set(dropped))


def test_kernels_are_the_same_values_in_torchs_order():
    for shape in ((3, 5, 4, 6), (4, 6), (6,)):
        kernel = torch.randn(shape)
        laid = channels_last(kernel)
        assert torch.equal(laid, kernel) and laid.shape == kernel.shape
    kernel = channels_last(torch.randn(3, 5, 4, 6)).permute(3, 2, 0, 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert channels_last(torch.randn(4, 6)).t().is_contiguous()


def test_a_norm_holds_where_means_are_large_beside_deviations():
    x = (torch.randn(1, 8, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * .03 + 9).float()
    exact = x.double()
    want = (exact - exact.mean((2, 3), keepdim=True)) / (exact.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    got = instance_norm(x.contiguous(memory_format=torch.channels_last), None, None, 1e-5)
    assert float((got - want).abs().max()) < 1e-3


@pytest.mark.parametrize("write", [write_h5, write_safetensors])
def test_from_a_file_to_the_same_answer(tmp_path, write):
    net = load_keras(write(tmp_path / ("it.h5" if write is write_h5 else "it.safetensors")))
    assert not net.training
    for key, value in weights().items():
        assert torch.equal(net.weights()[key], value)
    torch.testing.assert_close(net(*inputs()), KerasNet(generator(), weights())(*inputs()), atol=1e-5, rtol=0)


def test_half_precision_is_nearly_the_same_answer(tmp_path):
    half = load_keras(write_safetensors(tmp_path / "half.safetensors", torch.float16))
    assert {value.dtype for value in half.weights().values()} == {torch.float16}
    whole = load_keras(tmp_path / "half.safetensors", torch.float32)
    want = whole(*inputs())
    got = half(*(each.half() for each in inputs())).float()
    assert 0 < float((got - want).square().mean().sqrt() / want.std()) < .01


def test_counted_on_dense_layers_of_ada_in(tmp_path):
    renamed = {key.replace("dense_1", "dense_10").replace("dense/", "dense_9/"): value for key, value in weights().items()}
    net = load_keras(write_h5(tmp_path / "later.h5", tensors=renamed))
    torch.testing.assert_close(net(*inputs()), KerasNet(generator(), weights())(*inputs()))


def test_files_are_told_what_they_lack(tmp_path):
    part = {key: value for key, value in weights().items() if not key.startswith(("up", "ada_in/dense_1"))}
    with pytest.raises(FaceLoomError, match=r"part.h5 lacks 4 of 20 weights \(ada_in/dense_1/kernel, ada_in/dense_1/bias, up/kernel …\)"):
        load_keras(write_h5(tmp_path / "part.h5", tensors=part))
    with pytest.raises(FaceLoomError, match=r"other.h5 holds weights of other shapes.*out/kernel is \[3, 3, 4, 2\], not \[3, 3, 4, 3\]"):
        load_keras(write_h5(tmp_path / "other.h5", tensors=weights() | {"out/kernel": torch.zeros(3, 3, 4, 2)}))
    check_weights(generator(), weights() | {"optimizer/step": torch.zeros(1)}, "more.h5")  # more than needed does no harm


@pytest.mark.parametrize("content", [b"", b"\x00\x01\0\0\0\0\0\0{\"a", b"\xff" * 40])
def test_half_a_safetensors_file(tmp_path, content):
    (tmp_path / "half.safetensors").write_bytes(content)
    with pytest.raises(FaceLoomError, match=r"^half\.safetensors is not a whole safetensors file; fetch it again\.$"):
        load_keras(tmp_path / "half.safetensors")


def test_files_that_are_no_keras_models(tmp_path):
    h5py = pytest.importorskip("h5py", reason="Keras files are read with h5py (the keras extra)")
    (tmp_path / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    with pytest.raises(FaceLoomError, match=r"broken\.h5 is not a whole HDF5 file"):
        load_keras(tmp_path / "broken.h5")
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_group("dense")
    with pytest.raises(FaceLoomError, match=r"weights\.h5 holds only weights"):
        load_keras(tmp_path / "weights.h5")


def test_without_h5py_the_way_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(FaceLoomError, match=r"pip install h5py, or convert the file to \.safetensors"):
        load_keras(tmp_path / "FaceDancer_config_x.h5")
    assert load_keras(write_safetensors(tmp_path / "it.safetensors")).weights().keys() == SHAPES.keys()
