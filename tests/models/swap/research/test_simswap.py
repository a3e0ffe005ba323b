"""SimSwap from its authors' files: the two published sizes, the pickled ArcFace, alignment, ranges and mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.cli import main
from faceloom.models.crops.crop import crop_faces
from faceloom.models.crops.templates import template_matrix
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.identity import make_identity
from faceloom.models.networks.arcface_se import ArcFaceSE
from faceloom.models.networks.faceshifter import FaceShifterNet, FixerNet, fixer_form
from faceloom.models.networks.simswap import SimSwapNet
from faceloom.models.parse import REGIONS
from faceloom.models.paste import paste
from faceloom.models.pixels.sampling import sample_crops
from faceloom.models.runtime.devices import TorchModel
from faceloom.models.swap.load import load_engine, with_options
from faceloom.models.swap.research.ghost_engine import nearest_template
from faceloom.models.swap.research.simswap_engine import SimSwapEngine, SimSwapNets, simswap_engine
from swapping import swapped
from torch import nn


@pytest.fixture(scope="module")
def scene(collins, hopper):
    images = torch.cat([collins, collins.flip(2)])
    identity, _ = make_identity(hopper, detect_faces(hopper))
    return images, detect_faces(images), identity


@pytest.fixture(scope="module")
def weights():
    """Of one block and a shallow ArcFace: the published form, less of it."""
    torch.manual_seed(0)
    return {large: SimSwapNet(512, 1, large=large).eval().state_dict() for large in (False, True)}, ArcFaceSE((1, 1, 1, 1)).eval()


class Margin(nn.Module):
    """What training left in the file beside the network."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3))


@pytest.mark.parametrize("large, count", [(False, 55.1), (True, 55.1)])
def test_layers_are_the_published_ones(large, count):
    with torch.device("meta"):
        shapes = {key: list(value.shape) for key, value in SimSwapNet(large=large).state_dict().items()}
    first = 32 if large else 64
    assert shapes["first_layer.1.weight"] == [first, 3, 7, 7] and shapes["last_layer.1.weight"] == [3, first, 7, 7]
    assert shapes["BottleNeck.8.style2.linear.weight"] == [1024, 512] and shapes["down3.0.weight"] == [512, 256, 3, 3]
    assert shapes["up1.2.running_var"] == [64] and shapes["up3.1.weight"] == [256, 512, 3, 3]
    assert {key.split(".")[0] for key in shapes} == {"first_layer", "BottleNeck", "last_layer",
                                                     *(f"{way}{n}" for way in ("down", "up") for n in range(0 if large else 1, 4))}
    assert sum(int(np.prod(shape)) for shape in shapes.values()) / 1e6 == pytest.approx(count, abs=.1)
    assert ("up0.1.weight" in shapes) is large and (not large or shapes["up0.1.weight"] == [32, 64, 3, 3])


@pytest.mark.parametrize("form", ["in training", "bare"])
def test_the_pickled_arcface_is_refused_and_converted(tmp_path, capsys, weights, form):
    generators, arcface = weights
    torch.save({f"module.{key}": value for key, value in generators[False].items()}, tmp_path / "latest_net_G.pth")
    with pytest.raises(FaceLoomError, match=r"latest_net_G\.pth needs SimSwap's ArcFace \(arcface_checkpoint\.tar, non-commercial\)"):
        load_engine(tmp_path / "latest_net_G.pth")
    whole = {"epoch": 3, "model": nn.DataParallel(arcface), "metric_fc": nn.DataParallel(Margin())} if form == "in training" else arcface
    torch.save(whole, tmp_path / "arcface_checkpoint.tar")
    with pytest.raises(FaceLoomError, match=r"refused; convert it once: `python -m faceloom models convert .*arcface_checkpoint\.tar`"):
        load_engine(tmp_path / "latest_net_G.pth")
    assert main(["models", "convert", str(tmp_path / "arcface_checkpoint.tar")]) == 0
    capsys.readouterr()
    engine = load_engine(tmp_path / "latest_net_G.pth")  # the pickle is still there
    assert isinstance(engine, SimSwapEngine) and engine.size == 224
    for key, value in arcface.state_dict().items():
        assert torch.equal(engine.model.net.arcface.state_dict()[key], value)


@pytest.mark.parametrize("large", [False, True])
def test_from_the_image_to_the_pasted_result(scene, weights, large):
    images, faces, identity = scene
    generators, arcface = weights
    engine = simswap_engine(generators[large], arcface.state_dict())
    size = 512 if large else 224
    assert engine.size == size

    def square(given, keypoints):
        matrices = template_matrix(keypoints, "ffhq_512", 512) if large else nearest_template(keypoints)[0]
        return sample_crops(given, range(len(keypoints)), matrices, size).clamp(0, 1).permute(0, 3, 1, 2)

    photos = square(torch.from_numpy(np.array(identity.crops)), np.stack([face.keypoints for face in identity.faces]))
    rows = (torch.arange(112) * size / 112).long()  # pixels left out, not averaged
    mean, std = torch.tensor([[[.485]], [[.456]], [[.406]]]), torch.tensor([[[.229]], [[.224]], [[.225]]])
    small = (photos[:, :, rows][..., rows] - mean) / std
    with torch.inference_mode():
        vector = nn.functional.normalize(arcface(small))
        torch.testing.assert_close(engine.prepare(identity), vector.mean(0, keepdim=True), atol=1e-4, rtol=0)
        targets = square(images, faces.keypoints)
        net = SimSwapNet(512, 1, large=large).eval()
        net.load_state_dict(generators[large])
        right = (net(targets, engine.prepare(identity).expand(len(faces), -1)).tanh() + 1) / 2
    answered, masks = engine.run(targets.permute(0, 2, 3, 1), engine.prepare(identity).expand(len(faces), -1))
    torch.testing.assert_close(answered.permute(0, 3, 1, 2), right, atol=1e-4, rtol=0)
    assert masks is None

    crops, masks = swapped(engine, images, faces, identity, 256)
    own = crop_faces(images, faces, 256)
    assert torch.equal(crops[masks == 0], own[masks == 0]) and float((crops - own).abs()[masks > .9].mean()) > .05
    one, mask = swapped(engine, images, faces.take([1]), identity, 256)
    assert torch.allclose(one[0], crops[1], atol=1e-4) and torch.equal(mask[0], masks[1])
    result, area = paste(images, faces, crops, masks)
    assert torch.equal(result[area == 0], images[area == 0]) and not torch.equal(result, images)


class HalfSkin:
    """Sees skin in the left half of a picture and hair in the right."""

    name = "halves"

    def parse(self, crops, progress=None):
        regions = torch.full(crops.shape[:3], REGIONS.index("hair"), dtype=torch.uint8)
        regions[..., : crops.shape[2] // 2] = REGIONS.index("skin")
        return regions


def test_with_a_parser_the_mask_is_the_face_eroded_softly(weights):
    nets = SimSwapNets(nn.Identity(), weights[1])
    engine = SimSwapEngine("simswap", TorchModel("simswap", nets), 224, HalfSkin())
    targets = torch.rand(1, 3, 224, 224)
    nets.generator.forward = lambda pictures, vectors: pictures * 0
    pictures, mask = engine.generate(targets, torch.zeros(1, 512))
    assert float(pictures.mean()) == .5 and mask.shape == (1, 224, 224)
    assert float(mask[0, 112, 60]) == 1 and float(mask[0, 112, 112:].max()) < .5 and float(mask[0, 112, 150]) == 0
    assert "parser" not in engine.note and "parser" in SimSwapEngine("simswap", engine.model, 224).note
    plain = with_options(engine, "SimSwap", mask="face outline")
    assert plain.generate(targets, torch.zeros(1, 512))[1] is None
    with pytest.raises(FaceLoomError, match="options of MegaFS, but simswap is SimSwap"):
        with_options(engine, "MegaFS", refine=True)


@pytest.mark.parametrize("cells, shape", [(16, (56, 56)), (15, (38, 74))])
def test_fixernet_sees_the_part_its_file_was_trained_for(cells, shape):
    """The published 28, 56, 84, 112 (left, top, right, bottom) and the code's 19, 74, 93, 112."""
    net = FixerNet(64, cells, 18).eval()
    assert fixer_form(net.state_dict()) == {"features": 64, "cells": cells, "depth": 18}
    left, top, right, bottom = (28, 56, 84, 112) if cells == 16 else (19, 74, 93, 112)
    assert shape == (bottom - top, right - left)
    picture = torch.rand(1, 3, 112, 112)
    other = picture.clone()
    other[..., top:bottom, left:right] = 0
    moved = torch.rand(1, 3, 112, 112)
    moved[..., top:bottom, left:right] = picture[..., top:bottom, left:right]
    with torch.inference_mode():
        assert torch.equal(net(picture), net(moved)) and not torch.equal(net(picture), net(other))


def test_a_faceshifter_file_tells_its_own_fixernet():
    with torch.device("meta"):
        keys = FaceShifterNet(fixer={"features": 64, "cells": 15, "depth": 18}, depth=18).state_dict()
        assert not any(key.startswith("mouth_net") for key in FaceShifterNet(depth=18).state_dict())
    assert keys["mouth_net.backbone.fc.weight"].shape == (64, 15 * 512)
    assert 512 + 64 in {size for key, value in keys.items() if key.startswith("G.generator.") for size in value.shape[1:2]}


@pytest.mark.parametrize("part", ["picture", "mask"])
def test_what_is_no_number_is_said_by_the_engine(part, weights, scene, monkeypatch):
    engine = SimSwapEngine("simswap", TorchModel("simswap", SimSwapNets(nn.Identity(), weights[1])), 224)
    broken = torch.rand(1, 3, 224, 224), torch.rand(1, 224, 224)
    broken[part == "mask"].view(-1)[7] = float("nan")
    monkeypatch.setattr(engine, "generate", lambda targets, sources: [values.expand(len(targets), *values.shape[1:]) for values in broken])
    images, faces, identity = scene
    with pytest.raises(FaceLoomError, match="simswap returned NaN or infinite"):
        swapped(engine, images, faces, identity, 64)
