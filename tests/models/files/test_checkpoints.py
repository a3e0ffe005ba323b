"""Torch checkpoints, and who moves networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.checkpoints import load_weights
from faceloom.models.runtime.devices import PlainDevices, TorchModel

WEIGHTS = {"a.weight": torch.arange(4.0), "a.bias": torch.ones(2, dtype=torch.float16)}


def same(loaded: dict, expected: dict = WEIGHTS) -> bool:
    return list(loaded) == list(expected) and all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("wrap", [
    lambda w: w, lambda w: {"state_dict": w}, lambda w: {"params": {"a.weight": torch.zeros(1)}, "params_ema": w},
    lambda w: {"module." + name: value for name, value in w.items()}, lambda w: {"state_dict": {"model_state_dict": w}, "epoch": 3},
    lambda w: {**w, "steps": 7}])
def test_wrappers_are_taken_off(tmp_path, wrap):
    path = tmp_path / "net.pth"
    torch.save(wrap(WEIGHTS), path)
    assert same(load_weights(path))
    torch.save(wrap(WEIGHTS), path, _use_new_zipfile_serialization=False)
    assert same(load_weights(path))


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "net.safetensors"
    save_file(WEIGHTS, path)
    assert same(dict(sorted(load_weights(path).items(), reverse=True)))
    renamed = path.rename(tmp_path / "net.pth")
    assert set(load_weights(renamed)) == set(WEIGHTS)
    renamed.write_bytes(renamed.read_bytes()[:20])
    with pytest.raises(FaceLoomError, match="not a whole safetensors file"):
        load_weights(renamed)


def test_parts_of_a_file_with_several_networks(tmp_path):
    path = tmp_path / "ftm_final.pth"
    torch.save({"e": WEIGHTS, "s": {"x": torch.zeros(1)}}, path)
    assert same(load_weights(path, key="e"))
    with pytest.raises(FaceLoomError, match=r"ftm_final\.pth holds no weights at its top level, only the parts e, s\."):
        load_weights(path)
    with pytest.raises(FaceLoomError, match="has no part called z"):
        load_weights(path, key="z")
    torch.save([1, 2], path)
    with pytest.raises(FaceLoomError, match="holds no weights"):
        load_weights(path)


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/faceloom-pwned"),))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_refused_unread(tmp_path, zipped):
    path = tmp_path / "arcface_checkpoint.tar"
    for thing in (torch.nn.Linear(2, 2), {"state_dict": WEIGHTS, "hook": Payload()}):
        torch.save(thing, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(FaceLoomError, match=r"holds Python objects.*refused; convert it once.*convert \S*arcface_checkpoint\.tar"):
            load_weights(path)
    assert not Path("/tmp/faceloom-pwned").exists()


def test_files_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "net.pth"
    with pytest.raises(FaceLoomError, match="There is no file"):
        load_weights(path)
    path.write_bytes(b"<html>" + bytes(80))
    with pytest.raises(FaceLoomError, match=r"net\.pth is not a PyTorch checkpoint but a web page"):
        load_weights(path)
    torch.save(WEIGHTS, path)
    whole = path.read_bytes()
    for bad, what in ((whole[: len(whole) // 2], "whole"), (b"", "but empty"), (b"nonsense" * 9, "whole"), (whole[:100], "whole")):
        path.write_bytes(bad)
        with pytest.raises(FaceLoomError, match=rf"is not a .*{what}.*; fetch it again"):
            load_weights(path)


def test_others_may_decide_where_a_network_lives():
    class Manager:
        def __init__(self):
            self.calls = []

        def adopt(self, net):
            self.calls.append(net)
            return "handle"

        def ready(self, handle, memory):
            self.calls.append((handle, memory))
            return torch.device("cpu")

    manager, net = Manager(), torch.nn.Linear(2, 2)
    holder = TorchModel("linear", net, manager)
    assert holder.ready(1000) == (net, torch.device("cpu")) and manager.calls == [net, ("handle", 1000)]
    assert not net.training and not net.weight.requires_grad and holder.describe() == "linear on cpu"
    moved = TorchModel("linear", torch.nn.Linear(2, 2), PlainDevices("meta"))
    assert moved.ready()[1] == moved.net.weight.device == torch.device("meta")
