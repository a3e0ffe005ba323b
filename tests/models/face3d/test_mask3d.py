from __future__ import annotations

import numpy as np
import pytest
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.face3d.mask3d import landmark_mask
from faceloom.models.faces import Faces
from faceloom.models.identity import make_identity
from faceloom.models.options.detect import DetectSettings
from faceloom.tests.models.face3d.test_fit import seen


def one(face) -> Faces:
    return Faces((face,), 1, 600, 600, crop_size=256)


def test_pose_mask_and_drawing_of_a_known_head():
    face, _ = seen(30, 4, 6)
    mask, drawing, pose = landmark_mask(one(face), 256)
    assert mask.shape == (1, 256, 256) and drawing.shape == (1, 256, 256, 3)
    assert pose[0] == pytest.approx([30, 4, 6], abs=0.6)
    assert drawing.amax() > 0.5 and 0.005 < (drawing.amax(-1) > 0.1).float().mean() < 0.2
    assert 0.15 < mask.mean() < 0.6


def test_a_profiles_mask_has_no_background_behind_the_far_cheek():
    """The silhouette of a head turned 50° reaches the visible horizon of its far cheek, not the hidden far jaw line."""
    from faceloom.models.crops.crop import crop_matrix
    from faceloom.models.pixels.affine import transform

    face, truth = seen(50)
    mask, _, _ = landmark_mask(one(face), 256)
    points = transform(truth.project()[:, :2], crop_matrix(face, 256))
    rightmost = np.nonzero(mask[0].numpy().max(0) > 0.5)[0].max()
    assert rightmost == pytest.approx(points[:, 0].max(), abs=2.5)


def test_union_covers_both_shapes_and_source_keeps_the_targets_pose(collins, hopper):
    source = detect_faces(collins, settings=DetectSettings(keep="first"))
    target = detect_faces(hopper, settings=DetectSettings(keep="first", crop_size=256))
    identity, _ = make_identity(collins, source)
    masks = {shape: landmark_mask(target, 256, shape, identity)[0] for shape in ("target", "source", "union")}
    assert (masks["union"] >= masks["source"] - 1e-6).all() and (masks["union"] >= masks["target"] - 1e-6).all()
    assert masks["source"].sum() != masks["target"].sum()
    inside = (masks["source"] * masks["target"]).sum() / masks["union"].sum()
    assert 0.85 < inside < 0.995


def test_grow_and_feather_are_in_crop_pixels():
    face, _ = seen()
    plain, grown, soft = (landmark_mask(one(face), 256, **kw)[0][0] for kw in ({}, {"grow": 6}, {"feather": 12}))
    row = slice(128, 129)
    assert (grown[row] > 0.5).sum() - (plain[row] > 0.5).sum() == pytest.approx(12, abs=1)
    assert ((soft[row] > 0.02) & (soft[row] < 0.98)).sum() == pytest.approx(2 * 10, abs=8)


def test_source_shape_needs_an_identity():
    face, _ = seen()
    with pytest.raises(FaceLoomError, match="ArcFace Embed"):
        landmark_mask(one(face), 128, "source")
    with pytest.raises(FaceLoomError, match="target, source, union"):
        landmark_mask(one(face), 128, "both")


def test_no_faces_give_empty_results():
    mask, drawing, pose = landmark_mask(Faces((), 1, 10, 10), 64)
    assert mask.shape == (0, 64, 64) and drawing.shape == (0, 64, 64, 3) and pose.shape == (0, 3)
