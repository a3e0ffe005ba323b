"""Several people in one picture become several others in one graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch


def test_each_twin_becomes_their_own_person_in_one_swap(nodes, twins, source):
    """The right face becomes Hopper, the left one the same picture with other colours; each is what a swap of its own gives."""
    from faceloom.models.crops.crop import crop_faces

    faces, _ = twins(256)
    faces = replace(faces, items=tuple(sorted(faces, key=lambda face: face.center[0])))
    other = replace(source, crops=source.crops[..., ::-1].copy(), name="other")
    photo = torch.rand(1, faces.height, faces.width, 3, generator=torch.Generator().manual_seed(1)) * .2 + .4
    left = faces.take([0])
    (assigned,) = nodes["FaceAssign"].execute(faces, left, other).args
    assert [face.identity and face.identity.name for face in assigned] == ["other", None]
    swap = nodes["OneShotSwap"].execute
    both, _ = swap(photo, assigned, source, 1.0, "all", 1).args
    first, _ = swap(photo, left, other, 1.0, "all", 1).args
    second, _ = swap(photo, faces.take([1]), source, 1.0, "all", 1).args
    assert torch.equal(both[0], first[0]) and torch.equal(both[1], second[0])
    assert not torch.allclose(both[0], crop_faces(photo, left)[0], atol=.05)


def test_chosen_faces_of_another_picture_are_refused(nodes, twins, source):
    from faceloom.models.errors import FaceLoomError

    faces, _ = twins(256)
    with pytest.raises(FaceLoomError, match="another picture"):
        nodes["FaceAssign"].execute(faces, replace(faces, height=faces.height + 1), source)
    moved = replace(faces, items=tuple(replace(face, keypoints=face.keypoints + np.float32(2)) for face in faces))
    with pytest.raises(FaceLoomError, match="not among the faces"):
        nodes["FaceAssign"].execute(faces, moved, source)


def test_no_identity_is_needed_where_every_face_has_its_own(nodes, twins, source):
    from faceloom.models.errors import FaceLoomError

    faces, _ = twins(256)
    photo = torch.full((1, faces.height, faces.width, 3), .5)
    (assigned,) = nodes["FaceAssign"].execute(faces, faces, source).args
    one, mask = nodes["OneShotSwap"].execute(photo, assigned).args
    other, other_mask = nodes["OneShotSwap"].execute(photo, faces, source).args
    assert torch.equal(one, other) and torch.equal(mask, other_mask)
    left = replace(assigned, items=(assigned[0], faces[1]))
    crops, masks = nodes["OneShotSwap"].execute(photo, left).args
    assert torch.equal(crops[0], one[0]) and not masks[1].any() and float((crops[1] - .5).abs().max()) < 1e-6
    with pytest.raises(FaceLoomError, match="Connect the identity"):
        nodes["OneShotSwap"].execute(photo, faces)
