"""Blending per step, and guidance on portraits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.detect import detect_faces
from faceloom.models.diffusion.blending import ramp, step_mask
from faceloom.models.diffusion.guidance import STEP_SIZE, Guidance, IdentityLoss, ParserLoss, eye_crops, unit_direction
from faceloom.models.diffusion.parsing import differentiable_parser
from faceloom.models.diffusion.swap import GuidanceStrengths, make_guidance, rows_to_sample
from faceloom.models.diffusion.text import adam_step
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.catalogue import NetContract
from faceloom.models.identity.differentiable import align_crops, alignment_matrices, as_differentiable
from faceloom.models.identity.load import load_recognizer
from faceloom.models.options.detect import DetectSettings
from faceloom.models.runtime.method import Loading

MASK = torch.tensor([0.0, 0.2, 0.5, 0.6, 1.0])


@pytest.mark.parametrize("blending, progress, wanted", [
    ("soft", 0.0, [0, 0.2, 0.5, 0.6, 1]),
    ("hard", 0.0, [0, 0, 0, 1, 1]),
    ("target-preserving", 0.0, [0, 0, 0, 0, 0]),
    ("target-preserving", 0.3, [0, 0, 0, 0.5, 0.5]),
    ("target-preserving", 0.6, [0, 0, 0, 1, 1]),
    ("differential", 0.0, [0, 0, 0, 0, 1]),
    ("differential", 0.45, [0, 0, 0, 1, 1]),
    ("differential", 1.0, [0, 1, 1, 1, 1]),
])
def test_masks_of_a_step(blending, progress, wanted):
    assert torch.allclose(step_mask(MASK, progress, blending), torch.tensor(wanted, dtype=torch.float32))


def test_an_unknown_blending_is_named():
    with pytest.raises(FaceLoomError, match="blending must be one of soft"):
        step_mask(MASK, 0.5, "harsh")


def test_a_ramp_without_width_is_a_step():
    assert [ramp(p, 0.5, 0.5) for p in (0.49, 0.5, 1.0)] == [0, 1, 1]


def test_adam_step_is_torchs():
    values, gradient = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    leaf = values.clone().requires_grad_(True)
    leaf.grad = gradient.clone()
    torch.optim.Adam([leaf], lr=1e-2).step()
    assert (adam_step(values, gradient) - leaf.detach()).abs().max() < 1e-7


def test_direction_has_unit_size_inside_the_mask():
    gradient = torch.randn(2, 3, 8, 8) * torch.tensor([1e-6, 50.0])[:, None, None, None]
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    out = unit_direction(gradient, mask)
    assert torch.allclose(out[..., 2:6, 2:6].square().mean((1, 2, 3)), torch.ones(2), rtol=1e-4)
    assert not (out * (1 - mask)).any()
    assert not unit_direction(torch.zeros(1, 3, 4, 4)).any()


def test_a_step_has_the_size_that_the_strength_says():
    """On a linear loss all moves point one way."""
    latents = torch.randn(2, 4, 8, 8) * 3
    guidance = Guidance(lambda z: z, ((1.0, lambda p: p.sum((1, 2, 3))),), 0.5)
    moved = latents - guidance.apply(latents)
    assert torch.allclose(moved.square().mean((1, 2, 3)).sqrt(), 0.5 * STEP_SIZE * latents.flatten(1).std(1), rtol=1e-3)
    assert torch.equal(Guidance(lambda z: z, ((1.0, lambda p: p.sum((1, 2, 3))),), 0.0).apply(latents), latents)


def test_losses_pull_by_their_strengths_whatever_their_numbers():
    """Two linear losses, one a thousand times the other, on different channels."""
    latents = torch.randn(1, 2, 8, 8)
    small, large = (lambda p: p[:, 0].sum((1, 2))), (lambda p: 1000 * p[:, 1].sum((1, 2)))
    moved = latents - Guidance(lambda z: z, ((1.0, small), (2.0, large))).apply(latents)
    assert float(moved[:, 1].mean() / moved[:, 0].mean()) == pytest.approx(2, rel=1e-3)
    assert float(moved.square().mean().sqrt()) == pytest.approx(5**0.5 * STEP_SIZE * float(latents.std()), rel=1e-3)


@pytest.mark.parametrize("make, told", [
    (lambda: ParserLoss(lambda p: p.repeat(1, 7, 1, 1) * float("nan"), torch.rand(1, 3, 8, 8)), "^The parser returned NaN"),
    (lambda: (lambda p: (p * float("nan")).sum((1, 2, 3))), "^A loss of guidance is NaN"),
])
def test_what_answered_nan_is_named(make, told):
    with pytest.raises(FaceLoomError, match=told):
        Guidance(lambda z: z, ((1.0, make()),)).apply(torch.rand(1, 3, 8, 8))


def test_a_recognizer_that_answers_nan_is_named():
    contract = NetContract("arcface", 16)
    embedder = type("Broken", (), {"contract": contract, "__call__": lambda self, p: p.flatten(1)[:, :4] * float("nan")})()
    loss = IdentityLoss(embedder, torch.ones(4), np.eye(2, 3)[None])
    with pytest.raises(FaceLoomError, match=r"^The recognizer returned NaN; connect another one or set identity_strength to 0"):
        Guidance(lambda z: z, ((1.0, loss),)).apply(torch.rand(1, 3, 16, 16))


def test_eyes_of_a_picture():
    picture = torch.arange(64.0)[None, None, None].expand(1, 3, 64, 64)
    eyes = eye_crops(picture, [(0, 0, 32, 16), (32, 16, 64, 32)])
    assert eyes.shape == (1, 2, 96, 160)
    assert float(eyes[0, 0].mean()) == pytest.approx(15.5, abs=0.05) and float(eyes[0, 1].mean()) == pytest.approx(47.5, abs=0.05)
    both = eye_crops(torch.cat([picture, picture]), [[(0, 0, 32, 16), (32, 16, 64, 32)], [(32, 0, 64, 16), (0, 16, 32, 32)]])
    assert torch.equal(both[0], eyes[0]) and torch.equal(both[1], eyes[0].flip(0))


def test_adam_step_in_half_precision():
    """Tokens without a gradient, or one that half precision rounds away, stay as they are."""
    gradient = torch.tensor([0, 1e-8, 1e-4, -1], dtype=torch.float16)
    assert adam_step(torch.ones(4, dtype=torch.float16), gradient).tolist() == pytest.approx([1, 1, 0.99, 1.01], abs=1e-3)


def test_which_crops_are_sampled():
    crops, masks = torch.rand(3, 8, 8, 3), torch.zeros(3, 8, 8)
    with pytest.raises(FaceLoomError, match="The mask is empty"):
        rows_to_sample(crops, masks)
    assert rows_to_sample(crops * 0, masks) == [] == rows_to_sample(crops * 0, masks + 1)
    masks[2, 4, 4] = 0.1
    assert rows_to_sample(crops, masks) == [2]


@pytest.fixture(scope="module")
def recognizer(shared):
    return load_recognizer(shared / "models" / "mobilefacenet_128.onnx", Loading(providers="cpu"))


@pytest.mark.parametrize("strengths, sentence", [
    (GuidanceStrengths(identity=0.5), "Identity guidance needs an ArcFace recognizer; connect Load Face Recognizer or set "),
    (GuidanceStrengths(expression=0.5), "expression_strength needs a parser; connect one from Load Face Parser or set it to 0"),
    (GuidanceStrengths(gaze=0.5), "gaze_strength needs a gaze estimator; connect one from Load Gaze Estimator or set it to 0"),
])
def test_guidance_says_what_a_strength_lacks(strengths, sentence):
    with pytest.raises(FaceLoomError, match=sentence):
        make_guidance(strengths, lambda z: z, torch.zeros(1, 16, 16, 3))
    with pytest.raises(FaceLoomError, match=sentence):
        strengths.check(1, None, None, None, None)


def test_guidance_of_nobody_is_a_sentence():
    with pytest.raises(FaceLoomError, match="Identity guidance needs an identity; connect ArcFace Embed or set identity_strength to 0"):
        GuidanceStrengths(identity=0.5).check(1, None, SimpleNamespace(space="w600k"), None, None)


@pytest.fixture(scope="module")
def scene(recognizer, collins, hopper):
    faces = detect_faces(hopper, settings=DetectSettings(keep="first", crop_size=128))
    wanted = torch.from_numpy(recognizer.embed(collins, detect_faces(collins, settings=DetectSettings(keep="first"))))[0]
    return faces, crop_faces(hopper, faces), wanted, as_differentiable(recognizer)


class TestOnPortraits:
    @pytest.mark.slow
    def test_guidance_made_for_crops_raises_the_likeness(self, scene):
        faces, crops, wanted, embedder = scene
        guidance = make_guidance(GuidanceStrengths(identity=1.0, views=2), lambda z: z, crops, faces, embedder, wanted)
        pictures = guidance.apply(crops.movedim(-1, 1))
        matrices = alignment_matrices(1, 128, embedder.contract, faces.items, faces.framing)
        before, after = (float(embedder(align_crops(p, matrices, 112))[0] @ wanted) for p in (crops.movedim(-1, 1), pictures))
        assert after - before > 0.3
        assert float((pictures - crops.movedim(-1, 1)).square().mean().sqrt()) < 0.05  # a nudge, not another picture

    @pytest.mark.slow
    def test_more_views_see_more(self, scene):
        """What one view is fooled by the others are not: guided in four views, a fifth that guidance never had agrees better."""
        faces, crops, wanted, embedder = scene
        matrices = alignment_matrices(1, 128, embedder.contract, faces.items, faces.framing)
        unseen = IdentityLoss(embedder, wanted, matrices, 9, seed=5)
        losses = []
        for views in (1, 6):
            guidance = Guidance(lambda z: z, ((1.0, IdentityLoss(embedder, wanted, matrices, views)),))
            losses.append(float(unseen(guidance.apply(crops.movedim(-1, 1)))))
        assert losses[1] < losses[0]


def test_parsers_of_both_kinds_have_scores(tmp_path):
    """The torch BiSeNet, and an ONNX export with a Resize at its end: the loss is 0 on the target and has a gradient."""
    from types import SimpleNamespace

    from faceloom.models.files.catalogue import NetContract
    from faceloom.models.files.onnx import read_onnx
    from onnx import TensorProto, helper, numpy_helper

    contract = NetContract("bisenet", size=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    weight = np.random.default_rng(0).normal(size=(19, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
             helper.make_node("Resize", ["c", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="align_corners")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 19, 64, 64])],
                              [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32([1, 1, 2, 2]), "s")])
    file = read_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7).SerializeToString())
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 19, 3, 2, 1, bias=False),
                              torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
    net[0].weight.data = torch.from_numpy(weight)
    scores = [differentiable_parser(SimpleNamespace(model=model, contract=contract))
              for model in (SimpleNamespace(net=net), SimpleNamespace(file=file, name="parser.onnx"))]
    pictures = torch.rand(2, 3, 128, 128)
    assert (scores[0](pictures) - scores[1](pictures)).abs().max() < 1e-4
    loss = ParserLoss(scores[1], pictures)
    assert not loss(pictures).any()
    leaf = (pictures * 0.9).requires_grad_(True)
    assert torch.autograd.grad(loss(leaf).sum(), leaf)[0].abs().sum() > 0
    with pytest.raises(FaceLoomError, match="needs a parsing network"):
        differentiable_parser(object())
