"""Regions from landmarks and from a parser's labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_matrices
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import MIRROR_68, Face, Faces, keypoints_from_68
from faceloom.models.options.regions import LANDMARK_PARTS, LANDMARK_REGIONS
from faceloom.models.parse import FACE_PARTS, REGIONS, MaskEdge, parse_preview, region_labels, region_mask
from faceloom.models.parse.landmarks import face_outline, mean_points68, region_outlines68, smooth_curve
from faceloom.models.pixels.affine import transform
from hypothesis import given, settings
from hypothesis import strategies as st

SIZE = 256


def person(angle: float = 0, scale: float = 300, center=(200.0, 220.0), points: np.ndarray | None = None, **extra) -> Face:
    """The average face turned by ``angle`` degrees in the picture plane."""
    turn = np.deg2rad(angle)
    points = ((mean_points68() if points is None else points) - 0.5) * scale
    points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + center
    return Face(0, [*points.min(0), *points.max(0)], keypoints_from_68(points), points68=points, **extra)


def group(*people: Face) -> Faces:
    return Faces(people, frames=1, height=440, width=400)


def turned(yaw: float) -> np.ndarray:
    """The average face as a 3-D half ellipsoid turned about the vertical axis, the far jaw line on the visible contour."""
    points = mean_points68() - 0.5
    depth = 0.34 * np.sqrt(np.maximum(0, 1 - (points[:, 0] / 0.275) ** 2)) - 0.12 * np.maximum(0, points[:, 1] - 0.2)
    depth[27:36] += 0.05
    turn = np.deg2rad(yaw)
    x = points[:, 0] * np.cos(turn) + depth * np.sin(turn)
    far = np.arange(9, 17)
    x[far] = np.maximum(x[far], np.sqrt((0.275 * np.cos(turn)) ** 2 + (0.34 * np.sin(turn)) ** 2) * np.linspace(0.55, 0.97, 8))
    return np.stack([x - x[27] * 0.5, points[:, 1]], -1) + 0.5


def value_at(mask: torch.Tensor, faces: Faces, points: np.ndarray) -> np.ndarray:
    """Mask values at image points of the first face."""
    x, y = transform(points, crop_matrices(faces, SIZE)[0]).round().astype(int).T
    return mask[0].numpy()[y, x]


def test_regions_express_all_classes_of_a_19_class_parser():
    classes = {"skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "left_ear", "right_ear", "earring", "nose", "mouth",
               "upper_lip", "lower_lip", "neck", "necklace", "cloth", "hair", "hat", "background"}
    assert len(classes) == 19 and classes < set(REGIONS) and REGIONS[0] == "background" and len(set(REGIONS)) == len(REGIONS)


def test_mean_face_is_symmetric():
    points = mean_points68()
    assert np.allclose(points[MIRROR_68] * (-1, 1) + (1, 0), points, atol=1e-9)
    assert sorted(MIRROR_68) == list(range(68)) and (points[:, 1] > 0.3).all()


@pytest.mark.parametrize("angle", [0, 30, -75, 180])
def test_each_region_holds_its_own_landmarks(angle):
    faces = group(person(angle))
    points = faces[0].points68
    middles = {"left_eye": points[36:42].mean(0), "right_eye": points[42:48].mean(0), "nose": points[29], "left_brow": points[19],
               "right_brow": points[24], "upper_lip": (points[51] + points[62]) / 2, "lower_lip": (points[57] + points[66]) / 2,
               "mouth": (points[62] + points[66]) / 2, "skin": (points[41] + points[48]) / 2}  # fmt: skip
    inside = {name: value_at(region_mask((name,), SIZE, faces=faces), faces, np.array(list(middles.values()))) for name in middles}
    for index, name in enumerate(middles):
        assert inside[name].tolist() == [float(i == index) for i in range(len(middles))], name
    assert value_at(region_mask(("face",), SIZE, faces=faces), faces, np.array(list(middles.values()))).min() == 1


@pytest.mark.parametrize("angle", [0, 30, 120])
def test_face_reaches_above_the_brows_and_follows_roll(angle):
    faces = group(person(angle))
    points = faces[0].points68.astype(float)
    up = points[27] - points[8]
    up = up / np.linalg.norm(up)
    brows, tall = points[17:27].mean(0), np.linalg.norm(points[8] - points[17:27].mean(0))
    mask = region_mask(("face",), SIZE, faces=faces)
    inside, outside = value_at(mask, faces, np.array([brows + 0.33 * tall * up, brows + 0.43 * tall * up]))
    assert inside == 1 and outside == 0
    assert value_at(mask, faces, np.array([points[8] + 0.03 * tall * up, points[8] - 0.03 * tall * up])).tolist() == [1, 0]


def test_masks_do_not_depend_on_the_roll():
    upright, rolled = (region_mask(("skin", "nose"), SIZE, faces=group(person(angle))) for angle in (0, 47))
    assert (upright - rolled).abs().max() < 0.02


@given(st.floats(-180, 180), st.floats(60, 900), st.floats(-200, 600))
@settings(max_examples=25, deadline=None)
def test_regions_are_disjoint_and_fill_the_face(angle, scale, shift):
    faces = group(person(angle, scale, (shift, 200.0)))
    face = region_mask(("face",), 128, faces=faces)
    parts = [region_mask((name,), 128, faces=faces) for name in ("skin", *LANDMARK_PARTS)]
    assert (torch.stack(parts).sum(0) - face).abs().max() < 0.02
    assert (region_mask(("skin", *LANDMARK_PARTS), 128, faces=faces) - face).abs().max() < 0.02
    assert torch.allclose(region_mask(("background",), 128, faces=faces), 1 - face)


@pytest.mark.parametrize("yaw", [20, 45, 65])
def test_half_profile_does_not_grow_behind_the_far_cheek(yaw):
    points = turned(yaw)
    outline = face_outline(points)
    width = np.ptp(points[:, 0])
    assert outline[:, 0].max() < max(points[:17, 0].max(), points[17:27, 0].max()) + 0.01 * width
    assert outline[:, 0].min() > min(points[:17, 0].min(), points[17:27, 0].min()) - 0.01 * width
    brow = points[17:27, 1].mean()
    assert brow - 0.42 * (points[8, 1] - brow) < outline[:, 1].min() < brow - 0.3 * (points[8, 1] - brow)
    mirrored = face_outline((points * (-1, 1) + (1, 0))[MIRROR_68])
    assert np.allclose(np.sort(1 - mirrored[:, 0])[::20], np.sort(outline[:, 0])[::20], atol=0.01)


def test_a_brow_beyond_the_jaw_line_stays_in_the_outline():
    points = mean_points68()
    points[16] = points[15] = (0.69, 0.5)
    points[0] = points[1] = (0.3, 0.5)
    outline = face_outline(points)
    assert outline[:, 0].max() >= points[26, 0] - 1e-9 and outline[:, 0].min() <= points[17, 0] + 1e-9


def test_mirroring_the_face_mirrors_the_masks():
    face = person(12)
    faces = group(face)
    flipped = (face.points68 * (-1, 1) + (399, 0))[MIRROR_68]
    mirror = group(Face(0, [0, 0, 9, 9], keypoints_from_68(flipped), points68=flipped))
    for name, twin in (("left_eye", "right_eye"), ("left_brow", "right_brow"), ("nose", "nose"), ("face", "face")):
        here, there = region_mask((name,), SIZE, faces=faces), region_mask((twin,), SIZE, faces=mirror)
        # The FFHQ template itself is not quite symmetric.
        assert float((here - there.flip(-1)).abs().mean()) < 0.01


def test_crop_size_and_framing_only_scale():
    faces = group(person(10))
    small, large = (region_mask(("face",), size, faces=faces) for size in (128, 512))
    assert (torch.nn.functional.avg_pool2d(large, 4) - small).abs().max() < 0.02
    wide = region_mask(("face",), 128, faces=replace(faces, framing=1.5))
    assert float(small.sum() / wide.sum()) == pytest.approx(2.25, rel=0.01)


def test_five_keypoints_alone_give_the_average_face():
    full = person(20)
    alone = group(Face(0, full.box, full.keypoints))
    assert (region_mask(("face", ), SIZE, faces=alone) - region_mask(("face",), SIZE, faces=group(full))).abs().max() < 0.01


def test_mesh_gives_the_eyes_and_lips():
    face = person()
    mesh = np.zeros((478, 3), np.float32)
    ring = [33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7]
    angle = np.linspace(np.pi, 3 * np.pi, 16, endpoint=False)
    center = face.points68[36:42].mean(0)
    mesh[:, :2] = face.points68[8]
    mesh[ring, :2] = center + 12 * np.stack([np.cos(angle), np.sin(angle)], -1)
    faces = group(replace(face, mesh=mesh))
    area = float(region_mask(("left_eye",), SIZE, faces=faces).sum())
    scale = float(np.sqrt(np.linalg.det(crop_matrices(faces, SIZE)[0][:, :2])))
    assert area == pytest.approx(np.pi * (12 * scale) ** 2, rel=0.02)


def test_curve_passes_through_its_points_smoothly():
    points = np.array([(0, 0), (1, 2), (3, 2.5), (4, 0), (4, 0), (6, -1.0)])
    curve = smooth_curve(points, samples=16)
    for point in points:
        assert np.abs(curve - point).sum(1).min() < 1e-9
    turns = np.diff(np.unwrap(np.arctan2(*np.diff(curve, axis=0).T[::-1])))
    assert np.abs(turns).max() < 0.5
    circle = np.stack([np.cos(a := np.arange(8) * np.pi / 4), np.sin(a)], -1)
    assert np.abs(np.linalg.norm(smooth_curve(circle, closed=True), axis=1) - 1).max() < 0.02
    assert len(smooth_curve(points[:2])) == 2


def test_a_closed_mouth_has_almost_no_inside():
    points = mean_points68()
    points[65:68] = points[[63, 62, 61]] + (0, 0.001)
    curves = region_outlines68(points)
    x, y = curves["mouth"].T
    assert abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2 < 0.0004


def test_grow_feather_and_occlusion_are_applied():
    faces = group(person(), person(5, center=(150.0, 200.0)))
    plain = region_mask(("face",), SIZE, faces=faces)
    grown, shrunk = (region_mask(("face",), SIZE, faces=faces, edge=MaskEdge(grow=pixels)) for pixels in (6, -6))
    assert grown.sum() > plain.sum() > shrunk.sum()
    inside = region_mask(("face",), SIZE, faces=faces, edge=MaskEdge(feather=20, side="inside"))
    assert bool((inside <= plain).all()) and inside.sum() < plain.sum()
    half = torch.zeros(1, 32, 32)
    half[:, :, 16:] = 1
    seen = region_mask(("face",), SIZE, faces=faces, occlusion=half)
    assert seen.shape == (2, SIZE, SIZE) and seen[:, :, :120].sum() == 0 and torch.equal(seen[:, :, 136:], plain[:, :, 136:])


def test_no_faces_give_one_empty_mask():
    empty = region_mask(("skin", "mouth"), 64, faces=group())
    assert empty.shape == (1, 64, 64) and not empty.any()


class StripeParser:
    """Labels every row of a crop with a different region."""

    name = "stripes"

    def parse(self, crops, progress=None):
        rows = torch.arange(len(REGIONS) - 1, dtype=torch.uint8).repeat_interleave(4)
        return rows[:, None].expand(len(crops), -1, 76)


def test_parser_labels_become_masks():
    crops = torch.zeros(2, 76, 76, 3)
    hair = region_mask(("hair",), 76, crops=crops, parser=StripeParser())
    row = REGIONS.index("hair") * 4
    assert hair.shape == (2, 76, 76) and hair[:, row : row + 4].min() == 1 and hair.sum() == 2 * 4 * 76
    face = region_mask("face", 152, crops=crops, parser=StripeParser())
    assert face.shape == (2, 152, 152) and float(face[0].mean()) == pytest.approx(len(FACE_PARTS) / 19, abs=0.01)


def test_errors_say_what_to_do():
    faces = group(person())
    with pytest.raises(FaceLoomError, match=r"hair, hat; connect a parser from Load Face Parser"):
        region_mask(("hair", "skin", "hat"), 64, faces=faces)
    with pytest.raises(FaceLoomError, match="no face region beard"):
        region_mask(("beard",), 64, faces=faces)
    with pytest.raises(FaceLoomError, match="at least one"):
        region_mask((), 64, faces=faces)
    with pytest.raises(FaceLoomError, match="Connect the faces"):
        region_mask(("skin",), 64)
    with pytest.raises(FaceLoomError, match="needs the crops"):
        region_mask(("skin",), 64, faces=faces, parser=StripeParser())


def test_progress_is_reported_and_may_interrupt():
    seen = []
    region_mask(("face",), 32, faces=group(person(), person()), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    with pytest.raises(KeyboardInterrupt):
        region_mask(("face",), 32, faces=group(person()), progress=lambda done, total: (_ for _ in ()).throw(KeyboardInterrupt()))


def test_labels_and_previews():
    faces = group(person())
    labels = region_labels(faces, 128)
    assert labels.dtype == torch.uint8
    for name in LANDMARK_REGIONS:
        if name not in ("face", "background"):
            share = region_mask((name,), 128, faces=faces)[0]
            assert int((labels[0] == REGIONS.index(name)).sum()) == pytest.approx(float(share.sum()), rel=0.1, abs=20)
    crops = torch.full((1, 128, 128, 3), 0.5)
    colored = parse_preview(crops, labels)
    eye = (labels[0] == REGIONS.index("left_eye")).nonzero().float().mean(0).round().long()
    red, green, blue = colored[0, eye[0], eye[1]].tolist()
    assert colored.shape == crops.shape and green > blue > red
    small = parse_preview(crops, labels[:, ::2, ::2].long())
    assert (small[0, eye[0], eye[1]] - colored[0, eye[0], eye[1]]).abs().max() < 0.01
    masks = region_mask(("face",), 128, faces=faces)
    shown = parse_preview(crops, masks)
    assert torch.equal(shown[0, 80, 64], crops[0, 80, 64]) and shown[0, 2, 2].max() < 0.35
    line = (shown[0] - torch.tensor([1.0, 0.85, 0.2])).abs().amax(-1) < 1e-6
    assert 150 < int(line.sum()) < 500
