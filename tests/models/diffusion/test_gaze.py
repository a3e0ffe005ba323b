from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrix
from faceloom.models.detect import detect_faces
from faceloom.models.diffusion.gaze import GazeLoss, build_eyenet, eye_boxes, load_gaze_estimator
from faceloom.models.diffusion.guidance import STEP_SIZE, Guidance
from faceloom.models.diffusion.swap import GuidanceStrengths, make_guidance
from faceloom.models.errors import FaceLoomError
from faceloom.models.networks.eyenet import EyeNet
from faceloom.models.options.detect import DetectSettings
from faceloom.models.pixels.affine import transform
from safetensors.torch import save_file


def eyenet(stacks: int = 1, width: int = 8, points: int = 3) -> EyeNet:
    """A small one with weights that keep its answers apart, and its normalisations as after training."""
    torch.manual_seed(0)
    net = EyeNet(stacks, width, points)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    torch.nn.init.normal_(net.gaze_fc2.weight, 0, 0.5)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def portraits(collins, hopper):
    """Crops of 128 pixels and their faces."""
    found = [detect_faces(image, settings=DetectSettings(keep="first", crop_size=128)) for image in (collins, hopper)]
    crops = torch.cat([crop_faces(image, faces) for image, faces in zip((collins, hopper), found, strict=True)])
    return crops, replace(found[0], items=(found[0][0], found[1][0]))


@pytest.mark.parametrize("form", ["as published", "parallel training", "safetensors"])
def test_the_file_of_diffface(tmp_path, form):
    """A dictionary with the sizes beside the weights; the sizes are read from the weights."""
    net = eyenet(2, 8, 5)
    weights = net.state_dict()
    if form == "safetensors":
        path = tmp_path / "GazeEstimator.safetensors"
        save_file(weights, path)
    else:
        path = tmp_path / "GazeEstimator.pt"
        prefix = "module." if form == "parallel training" else ""
        torch.save({"nstack": 2, "nfeatures": 8, "nlandmarks": 5, "model_state_dict": {prefix + k: v for k, v in weights.items()}}, path)
    estimator = load_gaze_estimator(path)
    eyes = torch.rand(2, 96, 160)
    own = estimator.differentiable()
    assert torch.equal(own(eyes)[2], net(eyes)[2]) and own is not estimator.model.net
    assert "GazeEstimator" in repr(estimator)


def test_another_file_is_refused(tmp_path):
    torch.save({"model_state_dict": {"conv.weight": torch.zeros(3)}}, tmp_path / "GazeEstimator.pt")
    with pytest.raises(FaceLoomError, match="not DiffFace's gaze estimator"):
        load_gaze_estimator(tmp_path / "GazeEstimator.pt")
    weights = {key: value for key, value in eyenet().state_dict().items() if "gaze_fc1" not in key}
    with pytest.raises(FaceLoomError, match="lacks 2 of"):
        build_eyenet(weights, "GazeEstimator.pt")


@pytest.mark.parametrize("framing", [1.0, 1.6])
def test_boxes_hold_the_eyes(collins, framing):
    faces = detect_faces(collins, settings=DetectSettings(keep="first", crop_size=256, framing=framing))
    boxes = eye_boxes(1, 256, faces)[0]
    points = transform(faces[0].points68, crop_matrix(faces[0], 256, framing))
    for box, eye in zip(boxes, (points[36:42], points[42:48]), strict=True):
        assert (eye > box[:2] + 1).all() and (eye < box[2:] - 2).all()
        width, height = box[2:] - box[:2]
        assert 1.2 < width / np.ptp(eye[:, 0]) < 1.7 and 1.7 < width / height < 2.3


def test_boxes_without_faces_are_the_templates_and_stay_inside():
    boxes = eye_boxes(2, 128)
    assert boxes.shape == (2, 2, 4) and np.array_equal(boxes[0], boxes[1])
    assert np.abs(boxes[0, 0, [0, 2]].mean() - 47.7) < 1.5 and np.abs(boxes[0, 1, [1, 3]].mean() - 59.5) < 1.5


def test_boxes_at_the_edge_are_not_empty(portraits):
    _, faces = portraits
    face = faces[0]
    moved = replace(faces, items=(replace(face, square=np.array([[1 / 20, 0, -5.0], [0, 1 / 20, -5.0]])),))  # both eyes lie outside
    low, high = np.split(eye_boxes(1, 64, moved)[0], 2, 1)
    assert (high - low >= 2).all() and (low >= 0).all() and (high <= 64).all()


class TestLoss:
    def test_none_on_the_target_and_one_per_picture(self, portraits):
        crops, faces = portraits
        pictures = crops.movedim(-1, 1)
        loss = GazeLoss(eyenet(), pictures, eye_boxes(2, 128, faces))
        assert loss(pictures).tolist() == [0, 0]
        changed = pictures.clone()
        changed[1] = changed[1].flip(-1)
        assert float(loss(changed)[0]) == 0 and float(loss(changed)[1]) > 1e-3

    def test_only_the_eyes_count(self, portraits):
        crops, faces = portraits
        pictures = crops.movedim(-1, 1)
        boxes = eye_boxes(2, 128, faces)
        loss = GazeLoss(eyenet(), pictures, boxes)
        noise = torch.rand(pictures.shape, generator=torch.Generator().manual_seed(1))
        for i, pair in enumerate(boxes):
            for x0, y0, x1, y1 in pair:
                noise[i, :, y0:y1, x0:x1] = pictures[i, :, y0:y1, x0:x1]
        assert loss(noise).tolist() == [0, 0]

    def test_guidance_brings_the_gaze_back(self, portraits):
        """From a picture whose eyes are mirrored, and nothing but the eyes moves."""
        crops, faces = portraits
        target = crops[:1].movedim(-1, 1)
        start = target.clone()
        (x0, y0, x1, y1), (u0, v0, u1, v1) = eye_boxes(1, 128, faces.take([0]))[0]
        for a, b, c, d in ((x0, y0, x1, y1), (u0, v0, u1, v1)):
            start[..., b:d, a:c] = start[..., b:d, a:c].flip(-1)
        loss = GazeLoss(eyenet(), target, eye_boxes(1, 128, faces.take([0])))
        moved = Guidance(lambda z: z, ((1.0, loss),), inner_steps=8).apply(start)
        assert float(loss(moved)) < 0.5 * float(loss(start))
        assert torch.equal(moved[..., 100:, :], start[..., 100:, :])

    def test_guidance_made_for_crops(self, portraits):
        crops, faces = portraits
        guidance = make_guidance(GuidanceStrengths(gaze=0.5), lambda z: z, crops, faces, eyes=eyenet())
        (strength, loss), = guidance.losses
        assert strength == guidance.strongest == 0.5 and loss(crops.movedim(-1, 1)).tolist() == [0, 0]

    def test_the_eyes_alone_move_no_more_than_a_whole_face(self, portraits):
        """At strength 1 the root mean square of the move is STEP of the picture's spread where the loss looks."""
        crops, faces = portraits
        pictures = crops.movedim(-1, 1)
        boxes = eye_boxes(2, 128, faces)
        start = pictures.flip(-1)
        moved = Guidance(lambda z: z, ((1.0, GazeLoss(eyenet(), pictures, boxes)),), inner_steps=1).apply(start) - start
        for i, pair in enumerate(boxes):
            inside = torch.cat([moved[i, :, y0:y1, x0:x1].flatten() for x0, y0, x1, y1 in pair])
            assert float(inside.square().mean().sqrt() / start[i].std()) == pytest.approx(STEP_SIZE, rel=1e-3)


def test_a_gaze_without_an_estimator_is_a_sentence():
    with pytest.raises(FaceLoomError, match="gaze_strength needs a gaze estimator; connect one from Load Gaze Estimator or set it to 0"):
        GuidanceStrengths(gaze=0.5).check(1, None, None, None, None)
    GuidanceStrengths(gaze=0.5).check(1, None, None, None, None, object())
