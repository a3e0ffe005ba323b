"""Files that were made to fill the memory or to show other files: they are refused before a number is read."""

from __future__ import annotations

import json
import os
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.checkpoints import load_data, load_parts, load_weights
from faceloom.models.interop.convert import convert

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
TOO_MUCH = r"declares at least .* but has only .* so it is refused"
NUMBERS = torch.arange(9000.0)
DAMAGED = "is not a whole PyTorch checkpoint"


@pytest.fixture(autouse=True)
def little_memory():
    """What these files declare does not fit: a reader that believes them fails."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refused(path, words):
    """No reader of checkpoints takes the file, and nothing is converted."""
    for read in (load_weights, load_data, load_parts, convert):
        with pytest.raises(FaceLoomError, match=words) as raised:
            read(path)
        assert str(raised.value).startswith(path.name)
    assert not path.with_suffix(".safetensors").exists()


@FORMATS
@pytest.mark.parametrize("tensors", [
    {"a": torch.zeros(1).expand(1 << 36)},
    {"a": torch.zeros(1).expand(1 << 20)},
    {"a": torch.arange(9000.0).as_strided((8000, 1000), (1, 1))},
    {f"a{number}": NUMBERS[number:] for number in range(99)},
    {"state_dict": {"a": torch.zeros(1, 1).expand(9999, 99999)}},
], ids=["one number", "four megabytes", "steps of one", "views", "wrapped"])
def test_tensors_that_repeat_their_numbers(tmp_path, zipped, tensors):
    torch.save(tensors, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "net.pth", TOO_MUCH)


@FORMATS
@pytest.mark.parametrize("made", [
    Call(torch.FloatTensor, 1 << 33), Call(torch.Tensor, 1 << 20, 1 << 15), Call(bytearray, 1 << 40),
    Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (1 << 40,), (1,), False),
], ids=lambda call: call.call[0].__name__)
def test_numbers_that_no_file_has(tmp_path, zipped, made):
    torch.save({"a": made, "b": torch.zeros(3)}, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "net.pth", DAMAGED)


def test_a_pickle_that_numbers_its_objects_high(tmp_path):
    (tmp_path / "net.pth").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    refused(tmp_path / "net.pth", DAMAGED)


def rewritten(path, change, packing=zipfile.ZIP_STORED):
    """Write the entries of a zip file anew. change: takes their content by name and returns the pairs to write."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in change(held):
            archive.writestr(name, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("change", "packing", "words"), [
    (lambda held: held.items(), zipfile.ZIP_DEFLATED, TOO_MUCH),
    (lambda held: [*held.items(), ("NET/data/0", b"1234")], zipfile.ZIP_STORED, "holds two entries named NET/data/0"),
    (lambda held: (held | {"net/data/0": bytes(8)}).items(), zipfile.ZIP_STORED, DAMAGED),
    (lambda held: [(name, content) for name, content in held.items() if "pkl" not in name], zipfile.ZIP_STORED,
     "a zip file"),
], ids=["packed", "twice", "short", "no pickle"])
def test_archives_that_do_not_hold_what_they_say(tmp_path, change, packing, words):
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(1_000_000)}, path)
    rewritten(path, change, packing)
    refused(path, words)


def test_two_names_of_one_tensor_and_packed_weights_are_no_harm(tmp_path):
    weight = torch.rand(3000)
    for zipped in (True, False):
        tied = {"a": weight, "b": weight, "turned": weight.view(30, 100).T}
        torch.save(tied, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(load_weights(tmp_path / "net.pth")["turned"], tied["turned"])
    torch.save({"a": weight}, tmp_path / "net.pth")
    rewritten(tmp_path / "net.pth", dict.items, zipfile.ZIP_DEFLATED)
    assert torch.equal(load_data(tmp_path / "net.pth")["a"], weight)


def test_a_parameter_with_attributes(tmp_path):
    weight = torch.nn.Parameter(torch.rand(50))
    weight.rate = 2.0
    torch.save({"a": weight}, tmp_path / "net.pth")
    assert torch.equal(load_weights(tmp_path / "net.pth")["a"], weight)


@pytest.fixture
def keras(tmp_path):
    """A function that makes ``net.h5``, whose one weight ``fill`` puts into the group."""
    h5py = pytest.importorskip("h5py", reason="Keras files are read with h5py (the keras extra)")
    graph = {"config": {"name": "m", "input_layers": [["in", 0, 0]], "output_layers": [["dense", 0, 0]], "layers": [
        {"class_name": "InputLayer", "name": "in", "config": {"batch_input_shape": [None, 100], "name": "in"}, "inbound_nodes": []},
        {"class_name": "Dense", "name": "dense", "config": {"name": "dense", "units": 100, "use_bias": False},
         "inbound_nodes": [[["in", 0, 0, {}]]]}]}}

    def make(fill, config=None):
        with h5py.File(tmp_path / "net.h5", "w") as file:
            file.attrs["model_config"] = json.dumps(graph) if config is None else config
            group = file.create_group("model_weights/dense")
            group.attrs["weight_names"] = ["dense/kernel:0"]
            fill(group)
        return tmp_path / "net.h5"

    return make


def whole(group):
    group["dense/kernel:0"] = np.arange(10000, dtype="f4").reshape(100, 100)


def link_of_links(group):
    import h5py

    group["other"] = h5py.ExternalLink("other.h5", "/")
    group["dense/kernel:0"] = h5py.SoftLink("/model_weights/dense/other/x")


def link(group):
    import h5py

    group["dense/kernel:0"] = h5py.ExternalLink("other.h5", "/x")


def virtual(group):
    import h5py

    layout = h5py.VirtualLayout((100, 100), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (100, 100), "f4")
    group.create_virtual_dataset("dense/kernel:0", layout)


@pytest.mark.parametrize(("fill", "words"), [
    (lambda group: group.create_dataset("dense/kernel:0", (100, 100), "u1", external=[("/etc/passwd", 0, 10000)]), "from another file"),
    (link, "from another file"),
    (link_of_links, "from another file"),
    (virtual, "from another file"),
    (lambda group: group.create_dataset("dense/kernel:0", (1 << 38,), "f4", chunks=(1 << 16,)), TOO_MUCH),
    (lambda group: group.create_dataset("dense/kernel:0", (1 << 38,), "f4"), TOO_MUCH),
    (lambda group: group.create_dataset("dense/kernel:0", (9,), "f4", maxshape=(None,), chunks=(1 << 28,)), TOO_MUCH),
    (lambda group: group.create_dataset("dense/kernel:0", data=np.zeros(1 << 20, "f4"), compression="gzip"), TOO_MUCH),
    (lambda group: group.create_dataset("dense/kernel:0", data=["a", "b"]), "something else than numbers"),
    (lambda group: group.create_group("dense/kernel:0"), "not a whole HDF5 file"),
    (lambda group: None, "not a whole HDF5 file"),
], ids=["external", "link", "link to a link", "virtual", "chunks", "a terabyte", "a chunk", "packed", "texts", "a group", "nothing"])
def test_hdf5_files(keras, tmp_path, fill, words):
    import h5py

    (tmp_path / "other.h5").unlink(missing_ok=True)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros((100, 100), "f4")
    path = keras(fill)
    with pytest.raises(FaceLoomError, match=rf"^net\.h5 .*{words}"):
        convert(path)
    assert not path.with_suffix(".safetensors").exists()


def test_a_dataset_with_many_names_is_counted_for_each(keras):
    def fill(group):
        whole(group)
        for number in range(99):
            group[f"again{number}"] = group["dense/kernel:0"]
        group.attrs["weight_names"] = ["dense/kernel:0", *(f"again{number}" for number in range(99))]

    with pytest.raises(FaceLoomError, match=TOO_MUCH):
        convert(keras(fill))


def test_soft_links_and_packed_weights_are_no_harm(keras):
    import h5py

    def fill(group):
        group.create_dataset("mine", data=np.arange(10000, dtype="f4").reshape(100, 100), compression="gzip", shuffle=True)
        group["dense/kernel:0"] = h5py.SoftLink("/model_weights/dense/mine")

    assert load_weights(convert(keras(fill)))["dense/kernel"][2, 3] == 203


@pytest.mark.parametrize(("config", "words"), [
    ("not json", "is no JSON"), ("[1, 2]", "is a list"), ("5", "is a number"), ("[" * 100_000, "nested more deeply"), (7, "is no text"),
    (b"\xff\xfe{", "is no JSON"), ("{}", "in another way than Keras"), ('{"config": {"layers": 3}}', "in another way than Keras"),
    ('{"config": {"layers": [], "input_layers": [], "output_layers": [["x", 0, 0]]}}', "in another way than Keras"),
])
def test_graphs_that_are_none(keras, config, words):
    with pytest.raises(FaceLoomError, match=rf"^net\.h5 .*{words}"):
        convert(keras(whole, config))


def test_a_layer_larger_than_any_memory(keras, tmp_path):
    path = keras(whole)
    with pytest.raises(FaceLoomError, match=r"^net\.h5 "):
        convert(keras(whole, json.dumps({"config": json.loads(_config(path).replace('"units": 100', f'"units": {1 << 45}'))["config"]})))


def _config(path):
    import h5py

    with h5py.File(path) as file:
        return file.attrs["model_config"]


def test_archives_of_keras_are_measured_unpacked(tmp_path):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(50_000_000))
    with pytest.raises(FaceLoomError, match=rf"^net\.keras {TOO_MUCH}"):
        convert(path)


def test_safetensors_are_measured_too(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FaceLoomError, match=r"^net\.safetensors is not a whole safetensors file"):
        load_weights(tmp_path / "net.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="modes of another kind")
@pytest.mark.parametrize("mode", [0o640, 0o600, 0o644, 0o755])
def test_a_converted_file_is_readable_for_whom_the_original_was(tmp_path, mode):
    torch.save({"a": torch.zeros(3)}, tmp_path / "net.pth")
    os.chmod(tmp_path / "net.pth", mode)
    assert convert(tmp_path / "net.pth").stat().st_mode & 0o777 == mode & 0o666
