"""Engines in half precision from the image to the pasted result: the picture is the one of full precision, and so is what is left alone.

A processor's float16 is as exact as a graphics card's. Systems that were published in full precision and are not proven in half are
loaded in full whatever is asked for.
"""

from __future__ import annotations

import pytest
import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.detect import detect_faces
from faceloom.models.files.contents import Contents
from faceloom.models.files.find import FoundFile
from faceloom.models.identity import make_identity
from faceloom.models.networks.aei import AEINet
from faceloom.models.networks.arcface_se import ArcFaceSE
from faceloom.models.networks.iresnet import IResNet
from faceloom.models.networks.keras_net import KerasNet
from faceloom.models.networks.simswap import SimSwapNet
from faceloom.models.paste import paste
from faceloom.models.runtime.method import Loading
from faceloom.models.swap.research.facedancer_engine import facedancer_engine
from faceloom.models.swap.research.ghost_engine import ghost_engine
from faceloom.models.swap.research.simswap_engine import simswap_engine
from faceloom.models.swap.torch_engine import common_settings
from swapping import swapped

from bench.keras_graphs import generator, identity_graph
from bench.systems import Disc, keras, randomized


@pytest.fixture(scope="module")
def scene(collins, hopper):
    images = torch.cat([collins, collins.flip(2)])
    identity, _ = make_identity(hopper, detect_faces(hopper))
    return images, detect_faces(images), identity


def ghost(dtype):
    weights = randomized(lambda: AEINet("unet", 1)).state_dict(), randomized(lambda: IResNet(18)).state_dict()
    return ghost_engine(*weights, dtype=dtype)


def simswap(dtype):
    weights = randomized(lambda: SimSwapNet(512, 2)).state_dict(), randomized(lambda: ArcFaceSE((1, 1, 1, 1))).state_dict()
    return simswap_engine(*weights, parser=Disc(), dtype=dtype)


def facedancer(dtype):
    return facedancer_engine(keras(generator(width=8)), keras(identity_graph()), dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("make", [ghost, simswap, facedancer])
def test_half_precision_from_the_image_to_the_pasted_result(scene, make):
    images, faces, identity = scene
    whole, half = make(torch.float32), make(torch.float16)
    assert next(half.model.net.parameters()).dtype == torch.float16
    vectors = whole.prepare(identity), half.prepare(identity)
    assert vectors[1].dtype == torch.float32
    assert float((vectors[1] - vectors[0]).norm() / vectors[0].norm()) < .02
    want, masks = swapped(whole, images, faces, identity, 256)
    got, own = swapped(half, images, faces, identity, 256)
    assert got.dtype == torch.float32 and bool(got.isfinite().all())
    inside = masks > .5
    off = (got - want)[inside]
    assert 0 < float(off.square().mean().sqrt() / want[inside].std()) < .03 and float((own - masks).abs().max()) < .01
    assert torch.equal(got[own == 0], crop_faces(images, faces, 256)[own == 0])
    result, area = paste(images, faces, got, own)
    assert torch.equal(result[area == 0], images[area == 0]) and not torch.equal(result, images)
    one, _ = swapped(half, images, faces.take([1]), identity, 256)
    assert float((one[0] - got[1]).abs().max()) < .02


def test_systems_that_are_not_proven_in_half_stay_whole(tmp_path):
    file = Contents(FoundFile(tmp_path / "any.pth", None))
    assert common_settings(file, Loading(half=True))["dtype"] == torch.float32
    assert common_settings(file, Loading(half=True), half=True)["dtype"] == torch.float16
    assert common_settings(file, Loading(), half=True)["dtype"] == torch.float32


def test_keras_weights_may_be_half_in_the_file():
    graph = generator(("concat",) * 6, width=8, size=64, vector=6, mapping=10)
    net = keras(graph)
    half = KerasNet(graph, {key: value.half() for key, value in net.weights().items()})
    picture, vector = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 6)
    with torch.inference_mode():
        want, got = net(picture, vector), half(picture.half(), vector.half()).float()
    assert 0 < float((got - want).square().mean().sqrt() / want.std()) < .02
