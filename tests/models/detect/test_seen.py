"""What a detector is shown: pictures in 0..1 as they are, HDR tone-mapped, nothing that transparency hides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.detect.seen import as_seen
from faceloom.models.errors import FaceLoomError


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.uint8])
def test_ordinary_pictures_are_shown_bit_for_bit(hopper, kind):
    image = (hopper * 255).round().to(kind) if kind == torch.uint8 else hopper.to(kind)
    wanted = image.to(torch.float32) / (255 if kind == torch.uint8 else 1)
    assert torch.equal(as_seen(image), wanted)
    if kind == torch.float32:
        assert as_seen(image) is image
    opaque = torch.cat([image, torch.full_like(image[..., :1], 255 if kind == torch.uint8 else 1)], -1)
    assert torch.equal(as_seen(opaque), wanted)


@pytest.mark.parametrize("who", ["collins", "hopper"])
@pytest.mark.parametrize("exposure", [1.3, 1.7, 2.0, 4.0, 16.0, 1000.0])
def test_a_face_is_found_at_every_exposure(request, who, exposure):
    image = request.getfixturevalue(who)
    wanted, = detect_faces(image)
    bright = image * exposure
    before = bright.clone()
    for face in (*detect_faces(bright), *detect_faces(as_seen(bright))):
        assert np.linalg.norm(face.keypoints - wanted.keypoints, axis=1).mean() < 0.05 * wanted.eye_distance
    assert len(detect_faces(bright)) == 1
    assert torch.equal(bright, before)


def test_only_the_bright_frame_is_changed(hopper):
    pair = torch.cat([hopper, hopper * 3])
    seen = as_seen(pair)
    assert torch.equal(seen[0], hopper[0])
    assert seen.min() >= 0
    assert seen.max() <= 1
    lamp = hopper.clone()
    lamp[:, :9, :9] = 500  # a lamp in an ordinary picture
    assert len(detect_faces(lamp)) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_numbers(hopper, value):
    bad = hopper.clone()
    bad[0, 3, 3, 1] = value
    with pytest.raises(FaceLoomError, match="NaN or infinite"):
        as_seen(bad)


def hidden(image, alpha_of_hidden, face):
    alpha = torch.ones_like(image[..., :1])
    x0, y0, x1, y1 = (int(v) for v in face.box)
    alpha[:, max(0, y0 - 60):y1 + 60, max(0, x0 - 60):x1 + 60] = alpha_of_hidden
    return alpha


@pytest.mark.parametrize("channel", [True, False])
@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_a_face_under_alpha_0_is_not_found(collins, channel, kind):
    pair = torch.cat([collins, collins.flip(2)], 2)
    left = min(detect_faces(pair), key=lambda face: face.center[0])
    alpha = hidden(pair, 0, left)
    if channel:
        image = torch.cat([pair, alpha], -1)
        image = (image * 255).round().to(kind) if kind == torch.uint8 else image
        found = detect_faces(as_seen(image))
    else:
        found = detect_faces(as_seen(pair, alpha[0, ..., 0]))
    assert len(found) == 1
    assert found[0].center[0] > 512


def test_half_transparent_faces_are_seen(collins):
    face, = detect_faces(collins)
    assert len(detect_faces(as_seen(torch.cat([collins, hidden(collins, 0.5, face)], -1)))) == 1


def test_an_empty_alpha_channel_hides_nothing(collins):
    face, = detect_faces(collins)
    pair = torch.cat([torch.cat([collins, torch.zeros_like(collins[..., :1])], -1), torch.cat([collins, hidden(collins, 0, face)], -1)])
    assert torch.equal(as_seen(pair)[0], collins[0])
    assert detect_faces(as_seen(pair)).frame_indices.tolist() == [0]
