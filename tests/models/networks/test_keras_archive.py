"""Whole autoencoders from ``.keras`` archives and from the ``.h5`` files before them."""

from __future__ import annotations

import zipfile

import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.interop.convert import convert
from faceloom.models.networks.keras_net import KerasNet, load_keras

pytest.importorskip("h5py", reason="Keras files are read with h5py (the keras extra)")
import deepfakes_files as files

SMALL = {"edge": 16, "convs": (4, 6), "dense": 8, "grid": 4, "inner": 6, "up": 5, "ups": (4,)}
GRAPHS = {"original": files.original(**SMALL, masks=True), "dlight": files.dlight(128, 2, 8, 64)}


def pictures(edge):
    random = torch.Generator().manual_seed(5)
    return [torch.rand(2, 3, edge, edge, generator=random) for _ in range(2)]


@pytest.fixture(params=GRAPHS)
def made(request):
    graph = GRAPHS[request.param]
    return graph, files.random_weights(graph), pictures(16 if request.param == "original" else 128)


@pytest.mark.parametrize(("write", "name"), [(files.write_keras, "a.keras"), (files.write_h5, "a.h5")])
def test_files_hold_what_was_written(made, write, name, tmp_path):
    graph, weights, given = made
    write(tmp_path / name, graph, weights)
    net = load_keras(tmp_path / name)
    assert net.weights().keys() == weights.keys()
    for key, value in net.weights().items():
        torch.testing.assert_close(value, weights[key], atol=0, rtol=0)
    want = KerasNet(graph, weights)(*given)
    for got, right in zip(net(*given), want, strict=True):
        torch.testing.assert_close(got, right, atol=1e-6, rtol=0)
    assert not any(torch.allclose(want[0], other, atol=.01) for other in want[1:] if other.shape == want[0].shape)


def test_converted_files_answer_alike(made, tmp_path):
    graph, weights, given = made
    files.write_keras(tmp_path / "a.keras", graph, weights)
    net = load_keras(convert(tmp_path / "a.keras"))
    for got, right in zip(net(*given), KerasNet(graph, weights)(*given), strict=True):
        torch.testing.assert_close(got, right, atol=1e-6, rtol=0)


def test_each_side_looks_at_its_own_picture_and_only_what_is_asked_for_is_computed(made, monkeypatch):
    graph, weights, (a, b) = made
    net = KerasNet(graph, weights)
    whole = net(a, b)
    half = len(whole) // 2
    computed = []
    compute = KerasNet._compute
    monkeypatch.setattr(KerasNet, "_compute", lambda self, layer, given: (computed.append(layer["name"]), compute(self, layer, given))[1])
    only = net(torch.zeros_like(a), b, outputs=range(half, 2 * half))
    for got, right in zip(only if half > 1 else (only,), whole[half:], strict=True):
        torch.testing.assert_close(got, right, atol=1e-6, rtol=0)
    names = {part["name"]: {layer["name"] for layer in part["config"]["layers"]}
             for part in graph["config"]["layers"] if part["class_name"] == "Functional"}
    assert not names["decoder_a"] & set(computed) and computed.count("dense") == 1
    assert names["decoder_b"] - set(computed) == {next(name for name in names["decoder_b"] if name.startswith("input_layer"))}


def rewritten(path, member, content):
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in (held | {member: content}).items():
            if value is not None:
                archive.writestr(name, value)


@pytest.mark.parametrize(("member", "content", "message"), [
    ("config.json", None, "not a whole Keras archive"),
    ("config.json", b"{", "not a whole Keras archive"),
    ("model.weights.h5", None, "not a whole Keras archive"),
    ("model.weights.h5", b"nonsense", "not a whole HDF5 file"),
])
def test_damaged_archives_are_told(member, content, message, tmp_path):
    graph = GRAPHS["original"]
    files.write_keras(tmp_path / "a.keras", graph, files.random_weights(graph))
    rewritten(tmp_path / "a.keras", member, content)
    with pytest.raises(FaceLoomError, match=rf"a\.keras is {message}"):
        load_keras(tmp_path / "a.keras")


def test_archives_without_all_weights_are_told(tmp_path):
    graph, weights = GRAPHS["original"], files.random_weights(GRAPHS["original"])
    files.write_keras(tmp_path / "a.keras", graph, {key: value for key, value in weights.items() if not key.startswith("face_out_b_0")})
    with pytest.raises(FaceLoomError, match=r"a\.keras lacks 2 of \d+ weights \(face_out_b_0_conv2d/kernel"):
        load_keras(tmp_path / "a.keras")


def test_two_layers_of_one_name_are_told(tmp_path):
    """Weights are found by their layers' names; a guess between two would show another person's mouth."""
    graph = files.original(**SMALL)
    decoder = next(layer for layer in graph["config"]["layers"] if layer["name"] == "decoder_b")["config"]
    last = decoder["output_layers"][0]
    for layer in decoder["layers"]:
        if layer["name"] == "face_out_b_0_conv2d":
            layer["name"] = layer["config"]["name"] = "face_out_a_0_conv2d"
        if layer["name"] == last:
            layer["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = "face_out_a_0_conv2d"
    files.write_keras(tmp_path / "a.keras", graph, files.random_weights(graph))
    with pytest.raises(FaceLoomError, match=r"two layers of one name \(face_out_a_0_conv2d/kernel\)"):
        load_keras(tmp_path / "a.keras")
