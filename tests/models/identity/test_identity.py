"""Identities: the same person is alike, others are not, and several photos make one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.crops.transformed import transform_face
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.identity import make_identity
from faceloom.models.identity.blend import blend_identities, spherical_mean
from faceloom.models.identity.combine import combine, outliers, same_person_cosine, unit_vectors
from faceloom.models.identity.dlib import DlibRecognizer
from faceloom.models.identity.quality import frontality, photo_quality, resolution
from faceloom.models.options.detect import DetectSettings
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def photos(collins, hopper):
    """Three of Collins (as is, mirrored, darker and softer) and one of Hopper."""
    soft = F.avg_pool2d(collins.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1) * 0.7
    batch = torch.cat([collins, collins.flip(2), soft, hopper[:, 40:552]])
    return batch, detect_faces(batch, settings=DetectSettings(keep="first"))


@pytest.fixture(scope="module")
def vectors(photos):
    return DlibRecognizer().embed(*photos)


def test_same_and_other_person(vectors):
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[:3, :3].min() > 0.96
    assert cosines[3, :3].max() < 0.90
    assert 0.90 < same_person_cosine("dlib128") < 0.96
    assert same_person_cosine("unheard-of") == 0.30


def test_embedding_does_not_need_points_and_ignores_the_frame(photos, vectors):
    images, faces = photos
    bare = replace(faces, items=tuple(replace(face, points68=None) for face in faces))
    assert (DlibRecognizer().embed(images, bare) * vectors).sum(1).min() > 0.97
    double = F.interpolate(images[:1].permute(0, 3, 1, 2), scale_factor=2, mode="bicubic").permute(0, 2, 3, 1).clamp(0, 1)
    assert DlibRecognizer().embed(double, detect_faces(double))[0] @ vectors[0] > 0.985
    assert DlibRecognizer().embed(images, faces.take([])).shape == (0, 128)


def test_outlier_is_reported_and_handled(photos, vectors):
    images, faces = photos
    assert outliers(vectors, 0.91) == [3]
    made = {how: make_identity(images, faces, how=how, name="E. Collins") for how in ("average", "median", "quality-weighted")}
    for how, (identity, report) in made.items():
        assert "Photo 4 looks like another person" in report
        assert "1.000" in report
        assert identity.name == "E. Collins"
        assert identity.photos == 4
        assert len(identity.crops) == (3 if how == "quality-weighted" else 4)
    true = unit_vectors(vectors[:3].mean(0))
    closeness = {how: float(identity.embeddings["dlib128"] @ true) for how, (identity, _) in made.items()}
    assert closeness["average"] < closeness["median"]
    assert closeness["average"] < closeness["quality-weighted"]
    assert closeness["quality-weighted"] > 0.995
    # Hopper's photo is the sharpest and largest, and still comes last.
    assert photo_quality(images, faces).argmax() == 3
    assert made["average"][0].faces[-1].score == faces[3].score


def test_two_strangers(photos):
    images, faces = photos
    identity, report = make_identity(images, faces.take([0, 3]), how="quality-weighted")
    assert "more than one person" in report
    assert len(identity.crops) == 2


def test_crops_hold_the_head_at_its_own_size(photos):
    images, faces = photos
    identity, _ = make_identity(images, faces.take([3]))
    size = identity.crops.shape[1]
    face = identity.faces[0]
    assert size % 32 == 0
    assert size >= 256
    assert face.eye_distance == pytest.approx(faces[3].eye_distance, rel=0.12)
    centre = (face.keypoints[:2].mean(0) + 0.5) / size
    wanted = ((TEMPLATES["ffhq_512"] - 0.5) / identity.framing + 0.5)[:2].mean(0)
    assert centre == pytest.approx(wanted, abs=0.03)
    again = detect_faces(torch.from_numpy(np.array(identity.crops)))[0]
    assert np.linalg.norm(again.points68 - face.points68, axis=1).mean() < 0.03 * face.eye_distance
    assert np.array_equal(identity.crops, np.rint(identity.crops * 255).astype(np.float32) / np.float32(255))


def test_points_go_through_a_matrix_together():
    rng = np.random.default_rng(0)
    face = Face(2, np.array([0, 0, 10, 20]), rng.uniform(0, 9, (5, 2)), mesh=rng.uniform(0, 9, (478, 3)))
    turned = transform_face(face, np.array([[0.0, -3, 5], [3, 0, 7]]))
    assert turned.keypoints == pytest.approx(face.keypoints[:, ::-1] * (-3, 3) + (5, 7), abs=1e-4)
    assert turned.mesh[:, 2] == pytest.approx(face.mesh[:, 2] * 3, rel=1e-5)
    assert turned.box == pytest.approx([-55, 7, 5, 37], abs=1e-4)
    assert turned.frame == 0


def test_quality_prefers_sharp_large_frontal(photos):
    images, faces = photos
    worth = photo_quality(images, faces)
    assert worth[2] < worth[0] < worth[3] <= 1
    assert worth[0] == pytest.approx(worth[1], rel=0.12)
    front = faces[3]
    assert frontality(front) > 0.9
    aside = np.array(front.keypoints)
    aside[2, 0] += 0.4 * front.eye_distance
    assert frontality(replace(front, keypoints=aside)) < 0.4
    assert resolution(front) == 1
    assert len(photo_quality(images, faces.take([]))) == 0


def test_embeddings_the_faces_bring_are_kept(photos):
    images, faces = photos
    own = np.eye(2, 512, dtype=np.float32)
    two = Faces(tuple(replace(faces[i], embeddings={"w600k": own[i]}) for i in (0, 1)), *(len(images), 512, 512))
    identity, _ = make_identity(images, two)
    assert identity.embeddings["w600k"][:2] == pytest.approx([0.5**0.5, 0.5**0.5])


def test_errors(photos):
    images, faces = photos
    with pytest.raises(FaceLoomError, match="no face to make an identity"):
        make_identity(images, faces.take([]))
    with pytest.raises(FaceLoomError, match="how must be"):
        make_identity(images, faces, how="mode")
    with pytest.raises(FaceLoomError, match="how must be"):
        combine(np.eye(2), "mode")
    with pytest.raises(FaceLoomError, match="come from"):
        make_identity(images[:1], faces)
    with pytest.raises(FaceLoomError, match="zero or not finite"):
        unit_vectors(np.zeros(3))


def test_combine_in_numbers():
    rows = unit_vectors(np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]]))
    assert combine(rows, "average") == pytest.approx(np.array([1, 2, 0]) / 5**0.5)
    assert combine(rows, "median") == pytest.approx([0, 1, 0])
    assert combine(rows, "quality-weighted", np.array([2, 1, 1])) == pytest.approx(np.array([1, 1, 0]) / 2**0.5)
    assert combine(rows, "quality-weighted", np.zeros(3)) == pytest.approx(combine(rows, "average"))


# Blends

ROW = st.lists(st.floats(-1, 1), min_size=8, max_size=8).filter(lambda v: np.linalg.norm(v) > 0.1)


@settings(max_examples=60)
@given(ROW, ROW, st.floats(0.05, 0.95))
def test_two_identities_are_a_slerp(first, second, share):
    first, second = unit_vectors(np.array(first)).astype(float), unit_vectors(np.array(second)).astype(float)
    angle = np.arccos(np.clip(first @ second, -1, 1))
    if not 0.01 < angle < 3.0:
        return
    mean = spherical_mean(np.stack([first, second]), np.array([1 - share, share]), rounds=400)
    wanted = (np.sin((1 - share) * angle) * first + np.sin(share * angle) * second) / np.sin(angle)
    assert mean == pytest.approx(wanted, abs=2e-3)


def test_blend(photos):
    images, faces = photos
    collins, _ = make_identity(images, faces.take([0, 1]), name="E")
    hopper, _ = make_identity(images, faces.take([3]), name="G")
    mixed = blend_identities([collins, hopper], [1, 3])
    assert mixed.name == "G + E"
    assert mixed.photos == 3
    assert mixed.crops.shape[1:] == hopper.crops.shape[1:]
    assert np.array_equal(mixed.crops[0], hopper.crops[0])
    zoom = hopper.crops.shape[1] / collins.crops.shape[1]
    assert mixed.faces[1].eye_distance == pytest.approx(collins.faces[0].eye_distance * zoom, rel=0.01)
    to_hopper, to_collins = (mixed.embeddings["dlib128"] @ one.embeddings["dlib128"] for one in (hopper, collins))
    assert to_hopper > 0.98 > to_collins
    assert blend_identities([collins, hopper], [1, 0]) is collins


def test_blend_errors(photos):
    one = Identity({"a": np.array([1.0, 0])}, np.zeros((0, 8, 8, 3)), ())
    other = Identity({"b": np.array([1.0, 0])}, np.zeros((0, 8, 8, 3)), ())
    both = Identity({"a": np.array([-1.0, 0]), "b": np.array([0, 1.0])}, np.zeros((0, 8, 8, 3)), ())
    with pytest.raises(FaceLoomError, match="no embedding in common"):
        blend_identities([one, other])
    with pytest.raises(FaceLoomError, match="exactly opposite"):
        blend_identities([one, both])
    with pytest.raises(FaceLoomError, match="1 weights"):
        blend_identities([one, other], [1])
    for weights in ([-1, 2], [0, 0], [np.nan, 1]):
        with pytest.raises(FaceLoomError, match="must not be negative"):
            blend_identities([one, other], weights)
    mixed = blend_identities([other, both])
    assert set(mixed.embeddings) == {"b"}
    assert len(mixed.crops) == 0
