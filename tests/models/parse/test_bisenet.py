"""BiSeNet against reference vectors of the original, and against itself through ONNX."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.networks.bisenet import BiSeNet, build_bisenet
from faceloom.models.networks.resnet import Basic, ResNet
from faceloom.models.parse.load import load_parser

MEAN, STD = (torch.tensor(values)[:, None, None] for values in ((.485, .456, .406), (.229, .224, .225)))


@pytest.fixture(scope="module")
def golden(shared: Path):
    """The folder's helper module, and a reader of its descriptions."""
    folder = shared / "golden"
    if not (folder / "fill.py").is_file():
        pytest.skip(f"no reference vectors in {folder}")
    spec = importlib.util.spec_from_file_location("golden_fill", folder / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    return fill, lambda name: (json.loads((folder / f"{name}.json").read_text()), np.load(folder / f"{name}.npz"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def filled(fill, described: dict) -> dict[str, torch.Tensor]:
    """The state dict of a description, from its names and shapes alone."""
    weights = {key: torch.zeros(shape, dtype=getattr(torch, kind)) for key, (shape, kind) in described["state_dict"].items()}
    fill.fill(weights, described["fill_rules"])
    return weights


@pytest.fixture(scope="module")
def checkpoint(golden, tmp_path_factory) -> Path:
    """A file like 79999_iter.pth."""
    fill, read = golden
    path = tmp_path_factory.mktemp("parsers") / "79999_iter.pth"
    torch.save(filled(fill, read("diffface_parser")[0]), path)
    return path


def test_names_and_shapes_are_those_of_the_checkpoint(golden):
    described, _ = golden[1]("diffface_parser")
    ours = {key: list(value.shape) for key, value in BiSeNet().state_dict().items()}
    assert ours == {key: shape for key, (shape, _) in described["state_dict"].items()}


def test_scores_are_those_of_the_original(golden):
    fill, read = golden
    described, arrays = read("diffface_parser")
    net = build_bisenet(filled(fill, described), "golden").eval()
    picture = torch.from_numpy(fill.make_input(described["inputs"]["face01"]))
    with torch.inference_mode():
        scores = net.heads(((picture - MEAN) / STD - 0.5) / 0.5, 2)  # that system normalises twice
    for name, got in zip(("logits", "logits16"), scores, strict=True):
        assert fill.compare(fill.take(got, described["outputs"][name]["stored"][0]["sub"]), arrays[name])["rel_std"] < 1e-4, name


def test_scores_under_faceswaps_names(golden):
    fill, read = golden
    described, arrays = read("faceswap_mask_bisenet_fp")
    net = build_bisenet(filled(fill, described), "bisenet_face_parsing_v4.pth").eval()
    picture = torch.from_numpy(fill.make_input(described["inputs"]["x"]))
    with torch.inference_mode():
        got, reversed_channels = net(picture), net(picture.flip(1))
    sub = described["outputs"]["out"]["stored"][0]["sub"]
    assert fill.compare(fill.take(got, sub), arrays["out"])["rel_std"] < 1e-4
    assert fill.compare(fill.take(reversed_channels, sub), arrays["out"])["rel_std"] > 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the newer exporter needs onnxscript
def test_both_loaders_agree(checkpoint, hopper, tmp_path):
    """The same weights as a checkpoint and as an ONNX export, on real pictures at another size than the network's."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from_torch = load_parser(checkpoint)
    path = tmp_path / "bisenet_resnet_18.onnx"
    torch.onnx.export(from_torch.model.net, (torch.zeros(1, 3, 512, 512),), str(path), dynamo=False, input_names=["input"],
                      output_names=["output"], opset_version=13)
    from_onnx = load_parser(path)
    crops = torch.stack([hopper[0, 40:340, 100:400], hopper[0, 200:500, 120:420]])
    ours, theirs = from_torch.parse(crops), from_onnx.parse(crops)
    assert ours.shape == (2, 300, 300) and ours.dtype == torch.uint8 and len(ours.unique()) > 5
    assert (ours != theirs).float().mean() < 1e-3  # a tie may fall either way
    assert torch.equal(from_torch.parse(crops[1:]), ours[1:])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_both_loaders_agree_on_resnet_34(hopper, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    net, random = BiSeNet(), torch.Generator().manual_seed(0)
    net.cp.resnet = ResNet(Basic, (3, 4, 6, 3))
    for module in net.eval().modules():
        if isinstance(module, torch.nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=random) * fan**-.5
    torch.save(net.state_dict(), tmp_path / "resnet34.pth")
    torch.onnx.export(net, (torch.zeros(1, 3, 512, 512),), str(tmp_path / "bisenet_resnet_34.onnx"), dynamo=False, input_names=["input"],
                      output_names=["output"], opset_version=13)
    crops = hopper[:, 40:340, 100:400]
    ours, theirs = (load_parser(tmp_path / name).parse(crops) for name in ("resnet34.pth", "bisenet_resnet_34.onnx"))
    assert len(ours.unique()) > 3 and (ours != theirs).float().mean() < 1e-3


def test_faults_of_checkpoints(golden, tmp_path):
    fill, read = golden
    weights = filled(fill, read("diffface_parser")[0])
    with pytest.raises(FaceLoomError, match="labels 5 classes"):
        build_bisenet(weights | {"conv_out.conv_out.weight": torch.zeros(5, 256, 1, 1)}, "v5.pth")
    with pytest.raises(FaceLoomError, match="on ResNet-18 or ResNet-34; use"):
        build_bisenet(weights | {"cp.resnet.conv1.weight": torch.zeros(64, 3, 3, 3)}, "other.pth")
    del weights["ffm.conv2.weight"]
    with pytest.raises(FaceLoomError, match=r"ffm\.conv2\.weight is not in it"):
        build_bisenet(weights, "part.pth")
