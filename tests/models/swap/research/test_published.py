"""Engines around the research systems' networks: alignment, colour order, masks, strength, batches, and what wrong files are told.

The generators here are doubles that show what they were given; the networks themselves are held to golden vectors elsewhere.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrices
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Faces, Identity
from faceloom.models.identity import make_identity
from faceloom.models.networks import build
from faceloom.models.networks.iresnet import IResNet
from faceloom.models.paste import paste
from faceloom.models.pixels.affine import compose, invert, similarity, transform
from faceloom.models.runtime.devices import TorchModel
from faceloom.models.swap import swap_faces
from faceloom.models.swap.pixel_boost import finer
from faceloom.models.swap.research import ghost_engine as published
from faceloom.models.swap.research.ghost_engine import TEMPLATES, GhostEngine, GhostNets, nearest_template
from faceloom.models.swap.research.ghost_mask import blend_mask
from swapping import swapped
from torch import nn


class Arc(nn.Module):
    """Says the mean colour of each quarter of a picture, as 512 numbers of about ArcFace's length."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x)
        quarters = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return nn.functional.pad(20 * quarters, (0, 500))


class Gan(nn.Module):
    """Answers the target moved by a colour."""

    def __init__(self, moved=(0, 0, 0), by_identity: float = 0) -> None:
        super().__init__()
        self.moved, self.by_identity = torch.tensor(moved, dtype=torch.float32)[:, None, None], by_identity
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, target, identity):
        self.calls.append((target, identity))
        return target + self.moved + self.by_identity * identity[:, :1, None, None], []


def engine(gan=None, **options) -> GhostEngine:
    return GhostEngine("ghost", TorchModel("ghost", GhostNets(gan or Gan(), Arc())), **options)


@pytest.fixture(scope="module")
def scene(collins, hopper):
    faces = detect_faces(collins)
    identity, _ = make_identity(hopper, detect_faces(hopper))
    return collins, faces, identity


def test_a_generator_that_changes_nothing_gives_the_target_back(scene):
    images, faces, identity = scene
    crops, masks = swapped(engine(), images, faces, identity, 256)
    own = crop_faces(images, faces, 256)
    assert .15 < float(masks.mean()) < .6 and float(masks[0, 128, 128]) == 1
    assert torch.equal(crops[masks == 0], own[masks == 0])
    assert float((crops - own).abs().mean()) < .01  # resampled once more, nothing moved
    shifted = (crops[:, 1:] - own[:, :-1]).abs().mean()
    assert float((crops - own).abs().mean()) < .5 * float(shifted)


def test_colours_are_red_green_blue_and_in_the_published_range(scene):
    images, faces, identity = scene
    gan = Gan((.4, 0, -.4))
    crops, masks = swapped(engine(gan), images, faces, identity, 256)
    target, vector = gan.calls[0]
    assert target.shape == (len(faces), 3, 256, 256) and -1 <= float(target.min()) < -.5 < .5 < float(target.max()) <= 1
    own = crop_faces(images, faces, 256)
    inside = (masks == 1) & (own.amin(-1) > .25) & (own.amax(-1) < .75)
    change = (crops - own)[inside].mean(0)
    assert np.allclose(change, (.2, 0, -.2), atol=.01)
    assert float(vector.norm()) > 1  # not made unit


def test_the_source_is_seen_by_arcface_in_its_own_alignment(scene):
    images, faces, identity = scene
    net = engine()
    swapped(net, images, faces, identity, 64)
    (seen,) = net.model.net.arcface.seen
    assert seen.shape == (len(identity.crops), 3, 112, 112)
    photo = Faces(tuple(identity.faces), 1, *identity.crops.shape[1:3])
    right = net.encode_faces(torch.from_numpy(np.array(identity.crops)), photo).mean(0)
    assert torch.allclose(net.prepare(identity)[0], right)


def test_five_templates_and_the_one_that_fits():
    turned = similarity(np.array([[0., 0], [1, 0]]), np.array([[100., 50], [103, 52]]))
    for number, template in enumerate(TEMPLATES):
        matrices, best = nearest_template(transform(template, turned)[None])
        assert best[0] == number
        assert np.allclose(transform(transform(template, turned), matrices[0]), template, atol=1e-6)
    # A square of 224 pixels and one of 256 show the same: their corners, half a pixel out, are the same points.
    wide = finer(np.array([[1., 0, 0], [0, 1, 0]]), 256 / 224)
    assert np.allclose(transform(np.array([[-.5, -.5], [223.5, 223.5]]), wide), [[-.5, -.5], [255.5, 255.5]])


def test_strength_goes_from_the_targets_own_vector_to_the_sources(scene):
    images, faces, identity = scene
    given = {}
    for strength in (.001, 1):
        gan = Gan()
        net = engine(gan)
        swapped(net, images, faces, identity, 64, strength=strength)
        given[strength] = gan.calls[0][1]
    own = net.encode_faces(images, faces)
    assert torch.allclose(given[.001], own, atol=.1) and torch.allclose(given[1][:1], net.prepare(identity))
    crops, masks = swapped(net, images, faces, identity, 64, strength=0)
    assert torch.equal(crops, crop_faces(images, faces, 64)) and not masks.any()


def test_a_batch_is_its_faces_one_by_one(collins, scene):
    *_, identity = scene
    images = torch.cat([collins, collins.flip(2)])
    both = detect_faces(images)
    net = engine(Gan(by_identity=.01))
    crops, masks = swapped(net, images, both, identity, 128)
    assert len(both) >= 2
    for i in range(len(both)):
        crop, mask = swapped(net, images, both.take([i]), identity, 128)
        assert torch.equal(crop[0], crops[i]) and torch.equal(mask[0], masks[i])


def test_fine_tiles_show_the_same_face(scene):
    images, faces, identity = scene
    gan = Gan((.2, .2, .2))
    crops, masks = swapped(engine(gan), images, faces, identity, 256, pixel_boost=2)
    assert sum(len(target) for target, _ in gan.calls) == 4 * len(faces)
    plain, _ = swapped(engine(Gan((.2, .2, .2))), images, faces, identity, 256)
    assert float((crops - plain).abs()[masks > 0].mean()) < .02


def test_ghosts_own_mask_is_drawn_where_the_face_is(scene):
    images, faces, identity = scene
    angles = np.linspace(0, 2 * np.pi, 106, endpoint=False)
    ring = np.stack([112 + 50 * np.cos(angles), 120 + 60 * np.sin(angles)], -1)
    _, masks = swapped(engine(landmarker=lambda crops: np.repeat(ring[None], len(crops), 0)), images, faces, identity, 256)
    square = blend_mask(ring, ring)
    to_crop = compose(crop_matrices(faces, 256)[0], invert(nearest_template(faces.keypoints)[0][0]))
    wanted = transform(np.argwhere(square > .5)[:, ::-1].mean(0)[None], to_crop)[0]
    assert np.linalg.norm(np.argwhere(masks[0].numpy() > .5)[:, ::-1].mean(0) - wanted) < .5
    whole = float(square.sum())
    scale = np.sqrt(np.linalg.det(nearest_template(faces.keypoints)[0][0][:, :2]) / np.linalg.det(crop_matrices(faces, 256)[0][:, :2]))
    assert float(masks[0].sum()) * scale**2 == pytest.approx(whole, rel=.05)


def test_from_the_image_to_the_pasted_result(scene):
    images, faces, identity = scene
    crops, masks = swap_faces(images, faces, identity, engine(Gan((.5, 0, 0))))
    result, area = paste(images, faces, crops, masks)
    assert torch.equal(result[area == 0], images[area == 0])
    assert float((result - images)[area > .9].mean(0)[0]) > .1


def test_wrong_files_are_told_what_is_missing():
    weights = IResNet(18).state_dict()
    assert isinstance(build(lambda: IResNet(18), weights, "backbone.pth"), IResNet)
    part = {key: value for key, value in weights.items() if not key.startswith("layer4")}
    with pytest.raises(FaceLoomError, match=r"backbone.pth lacks \d+ of \d+ weights \(layer4.0.bn1.weight.*only part"):
        build(lambda: IResNet(18), part, "backbone.pth")
    with pytest.raises(FaceLoomError, match="holds 1 weights this network does not have"):
        build(lambda: IResNet(18), weights | {"more": torch.zeros(1)}, "backbone.pth")
    with pytest.raises(FaceLoomError, match=r"another variant of its model: fc.weight is 512×25088, not 256×25088"):
        build(lambda: IResNet(18, 256), weights, "backbone.pth")
    half = build(lambda: IResNet(18), weights, "backbone.pth", dtype=torch.float16)
    assert half.fc.weight.dtype == torch.float16


def test_sources_need_photos_and_options_their_networks(scene):
    images, faces, _ = scene
    bare = Identity({"w600k": np.ones(512)}, np.zeros((0, 8, 8, 3)), ())
    with pytest.raises(FaceLoomError, match="this identity has none"):
        swapped(engine(), images, faces, bare, 64)
    with pytest.raises(FaceLoomError, match="super-resolution network"):
        engine(enhance="eval")
    assert published.variant({"encoder.conv0.weight": torch.zeros(1)}) == ("resnet", 0)


def test_kernels_and_pictures_lie_alike_and_keep_their_values(scene):
    images, faces, identity = scene
    kernel = torch.rand(8, 3, 3, 3)
    for layout in (torch.channels_last, torch.contiguous_format):
        gan = Gan()
        gan.conv = nn.Conv2d(3, 8, 3)
        gan.conv.weight.data = kernel.clone()
        kind = type("Laid", (GhostEngine,), {"layout": layout})
        net = kind("ghost", TorchModel("ghost", GhostNets(gan, Arc())))
        swapped(net, images, faces, identity, 64)
        assert torch.equal(gan.conv.weight, kernel) and gan.conv.weight.is_contiguous(memory_format=layout)
        assert gan.calls[0][0].is_contiguous(memory_format=layout)


def test_no_face_is_no_work(collins, scene):
    *_, identity = scene
    gan = Gan()
    crops, masks = swapped(engine(gan), collins, Faces((), 1, *collins.shape[1:3]), identity, 64)
    assert len(crops) == len(masks) == 0 and not gan.calls
