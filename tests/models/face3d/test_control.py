from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrix
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.face3d.control import control_hints, draw_keypoints, draw_mesh, keypoint_pictures, mesh_points
from faceloom.models.face3d.fit import fit_face
from faceloom.models.faces import Face, Faces
from faceloom.models.options.detect import DetectSettings
from faceloom.models.pixels.affine import transform

COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)])


def defined(keypoints: np.ndarray, height: int, width: int) -> np.ndarray:
    """InstantID's drawing from its definition: convex polygons of whole-numbered points on an ellipse, their edges included; discs."""
    picture = np.zeros((height, width, 3))
    ys, xs = np.mgrid[:height, :width]
    for start in (0, 1, 3, 4):
        first, nose = keypoints[start], keypoints[2]
        middle = ((first + nose) / 2).astype(int)
        length = np.sqrt(((first - nose) ** 2).sum())
        angle = int(np.degrees(np.arctan2(first[1] - nose[1], first[0] - nose[0])))
        inside = np.ones((height, width), bool)
        turn = np.radians(np.arange(361))
        x, y = int(length / 2) * np.cos(turn), 4 * np.sin(turn)
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        corners = np.stack([middle[0] + x * c - y * s, middle[1] + x * s + y * c], 1)
        for (x0, y0), (x1, y1) in pairwise(corners):
            reach = 0.5 * np.hypot(x1 - x0, y1 - y0)  # OpenCV fills what the outline passes through
            inside &= (x1 - x0) * (ys - y0) - (y1 - y0) * (xs - x0) >= -reach
        picture[inside] = COLORS[start]
    picture = np.floor(picture * 0.6)
    for (x, y), color in zip(keypoints.astype(int), COLORS, strict=True):
        picture[(xs - x) ** 2 + (ys - y) ** 2 <= 100] = color
    return picture


def opencv(keypoints: np.ndarray, height: int, width: int) -> np.ndarray:
    cv2 = pytest.importorskip("cv2")
    picture = np.zeros((height, width, 3))
    for start in (0, 1, 3, 4):
        ends = keypoints[[start, 2]]
        (dx, dy), middle = ends[0] - ends[1], ends.mean(0)
        outline = cv2.ellipse2Poly((int(middle[0]), int(middle[1])), (int(np.hypot(dx, dy) / 2), 4), int(np.degrees(np.arctan2(dy, dx))),
                                   0, 360, 1)
        cv2.fillConvexPoly(picture, outline, COLORS[start].tolist())
    picture = (picture * 0.6).astype(np.uint8).astype(float)
    for (x, y), color in zip(keypoints, COLORS, strict=True):
        cv2.circle(picture, (int(x), int(y)), 10, color.tolist(), -1)
    return picture


@pytest.mark.parametrize("definition, agreement", [(defined, 0.97), (opencv, 0.95)])
@pytest.mark.parametrize("height, width", [(512, 512), (300, 420)])
def test_keypoints_are_instantids(definition, agreement, height, width):
    random = np.random.default_rng(1)
    for _ in range(2):
        keypoints = random.uniform(30, min(height, width) - 30, (5, 2))
        ours, wanted = (draw_keypoints(keypoints[None], height, width) * 255).numpy(), definition(keypoints, height, width)
        drawn, should = ours.any(-1), wanted.any(-1)
        assert (drawn & should).sum() > agreement * (drawn | should).sum()
        both = drawn & should
        assert (np.abs(ours - wanted).max(-1)[both] < 0.5).mean() > 0.97
        assert {tuple(color) for color in np.unique(ours.round().reshape(-1, 3), axis=0).astype(int)} <= {
            (0, 0, 0), *map(tuple, COLORS), *((int(r * .6), int(g * .6), int(b * .6)) for r, g, b in COLORS)}


def test_thickness_scales_the_strokes():
    keypoints = np.array([[[100, 100], [300, 100], [200, 200], [120, 300], [280, 300]]], float)
    thin, thick = draw_keypoints(keypoints, 400, 400), draw_keypoints(keypoints, 400, 400, 2.0)
    row = (thin[100, :, 0] == 1).sum(), (thick[100, :, 0] == 1).sum()
    assert row == (21, 41)


@pytest.fixture(scope="module")
def faces(collins):
    return detect_faces(collins, settings=DetectSettings(keep="first"))


@pytest.fixture(scope="module")
def crops(collins, faces):
    return crop_faces(collins, faces)


class TestKeypointPictures:
    @pytest.mark.parametrize("size", [0, 1024])
    def test_discs_lie_on_the_crops_keypoints(self, faces, size):
        picture = keypoint_pictures(faces, size)
        assert picture.shape == (1, size or 512, size or 512, 3)
        for (x, y), color in zip(transform(faces[0].keypoints, crop_matrix(faces[0], size or 512)), COLORS / 255, strict=True):
            assert np.allclose(picture[0, int(y), int(x)], color)

    def test_a_picture_for_every_frame(self, faces):
        beside = replace(faces[0], keypoints=faces[0].keypoints + np.array([150, 20]))
        clip = replace(faces, items=(faces[0], beside, replace(faces[0], frame=2)), frames=3)
        pictures = keypoint_pictures(clip, 256, "image")
        assert pictures.shape == (3, 256, 256, 3) and not pictures[1].any()
        one, two = (keypoint_pictures(replace(faces, items=(clip[i],)), 256, "image")[0] for i in range(2))
        assert torch.equal(pictures[2], one) and bool(((pictures[0] > 0) >= (two > 0)).all())
        x, y = ((faces[0].keypoints[2] + 0.5) / 2 - 0.5).astype(int)
        assert pictures[2, y, x].tolist() == [0, 0, 1]

    def test_frames_keep_their_shape(self, faces):
        tall = replace(faces, height=1000, width=500)
        assert keypoint_pictures(tall, 512, "image").shape == (1, 512, 256, 3)
        assert keypoint_pictures(tall, 0, "image").shape == (1, 1000, 500, 3)

    def test_no_face(self, faces):
        nobody = replace(faces, items=())
        assert keypoint_pictures(nobody).shape == (0, 512, 512, 3) and not keypoint_pictures(nobody, where="image").any()

    def test_interruption(self, faces):
        def stop(done, total):
            raise InterruptedError

        with pytest.raises(InterruptedError):
            keypoint_pictures(faces, progress=stop)

    def test_unknown_place(self, faces):
        with pytest.raises(FaceLoomError, match="where must be one of crop, image"):
            keypoint_pictures(faces, where="frame")


class TestMesh:
    def test_outlines_and_pupils(self, faces, crops):
        picture = control_hints(crops, faces, "mesh")[0]
        points = transform(mesh_points(faces[0]), crop_matrix(faces[0], 512))
        colors = (picture * 255).round().int()

        def around(index):
            x, y = points[index].round().astype(int)
            return {tuple(color) for color in colors[y - 1:y + 2, x - 1:x + 2].reshape(-1, 3).tolist()}

        for index, color in [(152, (10, 200, 10)), (61, (10, 180, 10)), (33, (180, 200, 10)), (263, (10, 200, 180)), (70, (180, 220, 10)),
                             (300, (10, 220, 180)), (13, (10, 180, 10))]:
            assert color in around(index)
        assert (colors == torch.tensor([250, 200, 10])).all(-1).sum() == 16 and (colors == torch.tensor([10, 200, 250])).all(-1).sum() == 16

    def test_lines_are_opencvs_to_a_pixel(self, faces):
        cv2 = pytest.importorskip("cv2")
        from faceloom.models.face3d.topology import FACE_OVAL

        points = transform(mesh_points(faces[0]), crop_matrix(faces[0], 512))
        ours = (draw_mesh(points, 512) * 255).round().numpy()
        wanted = np.zeros((512, 512), np.uint8)
        path = np.floor(points[list(FACE_OVAL)]).astype(np.int32)
        for start, end in zip(path, np.roll(path, -1, 0), strict=True):
            cv2.line(wanted, start.tolist(), end.tolist(), 255, 2)
        drawn = ((ours == (10, 200, 10)).all(-1)).astype(np.uint8)
        near = np.ones((3, 3), np.uint8)
        assert (cv2.dilate(wanted, near)[drawn > 0] > 0).all() and (cv2.dilate(drawn, near)[wanted > 0] > 0).mean() > 0.99
        assert 0.85 < drawn.sum() / (wanted > 0).sum() < 1.15

    def test_own_mesh_points_are_used(self, faces):
        mesh = np.zeros((478, 3), np.float32)
        mesh[:, :2] = mesh_points(faces[0]) + np.array([3, -2])
        assert np.allclose(mesh_points(replace(faces[0], mesh=mesh)), mesh_points(faces[0]) + np.array([3, -2]), atol=1e-3)

    def test_strokes_grow_with_the_crop(self, collins, faces):
        large = control_hints(crop_faces(collins, faces, 1024), faces, "mesh")[0]
        assert ((large * 255).round() == torch.tensor([250.0, 200, 10])).all(-1).sum() == 64


class TestSurface:
    def test_depth_is_the_fits(self, faces, crops):
        picture = control_hints(crops, faces, "depth")[0, ..., 0]
        points = fit_face(faces[0]).project()
        points[:, :2] = transform(points[:, :2], crop_matrix(faces[0], 512))
        assert picture.max() == 1 and picture[0].max() == 0
        tip = np.unravel_index(int(picture.argmax()), picture.shape)
        assert np.hypot(tip[1] - points[4, 0], tip[0] - points[4, 1]) < 12
        forward = [4, 1, 9, 50, 280, 205, 425]  # skin that looks at the camera
        shades = np.array([float(picture[round(y), round(x)]) for x, y, _ in points[forward]])
        share = (shades - shades[0]) / (points[forward, 2] - points[4, 2] + 1e-9)
        assert np.allclose(share[2:], share[2], rtol=0.1) and share[2] < 0

    def test_normals_point_left_up_and_to_the_viewer(self, faces, crops):
        picture = control_hints(crops, faces, "normal")[0]
        normals = picture * 2 - 1
        assert np.allclose(normals.norm(dim=-1), 1, atol=1e-5)
        assert picture[0, 0].tolist() == [0.5, 0.5, 1]
        points = fit_face(faces[0]).project()
        points[:, :2] = transform(points[:, :2], crop_matrix(faces[0], 512))

        def at(index):
            return normals[round(points[index, 1]), round(points[index, 0])]

        assert at(116)[0] > 0.4 and at(345)[0] < -0.4  # cheekbones
        assert at(10)[1] > 0.15 and at(200)[1] < at(10)[1]  # forehead and chin
        assert at(9)[2] > 0.8 and abs(float(at(9)[0])) < 0.25

    def test_a_turned_head_turns_its_normals(self, faces, crops):
        fit = fit_face(faces[0])
        turn = np.radians(30)
        rotation = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]]) @ fit.rotation
        camera = fit.head @ rotation.T * fit.scale
        mesh = np.zeros((478, 3), np.float32)
        mesh[:468] = camera[:468]
        mesh[:468, :2] += fit.shift
        turned = replace(faces, items=(replace(faces[0], mesh=mesh),))
        mean = [float((control_hints(crops, chosen, "normal")[0, ..., 0] - 0.5).sum()) for chosen in (faces, turned)]
        assert mean[1] < mean[0] - 1000  # looks to the viewer's right: less red


class TestHints:
    @pytest.mark.parametrize("kind", ["canny", "mesh", "depth", "normal"])
    def test_a_batch_is_its_singles(self, hopper, collins, kind):
        found = [detect_faces(image, settings=DetectSettings(keep="first", crop_size=128)) for image in (collins, hopper)]
        both = replace(found[0], items=(found[0][0], found[1][0]))
        crops = torch.cat([crop_faces(image, faces) for image, faces in zip((collins, hopper), found, strict=True)])
        batch = control_hints(crops, both, kind)
        assert batch.shape == (2, 128, 128, 3) and batch.min() >= 0 and batch.max() <= 1
        for i in range(2):
            assert torch.equal(control_hints(crops[i:i + 1], both.take([i]), kind)[0], batch[i])

    def test_keypoints_are_enough_for_all_but_better_points(self, faces, crops):
        bare = replace(faces, items=(Face(0, faces[0].box, faces[0].keypoints),))
        assert all(control_hints(crops, bare, kind).any() for kind in ("mesh", "depth", "normal"))

    def test_thresholds_reach_canny(self, crops):
        assert control_hints(crops, None, "canny", low=20, high=60).sum() > 1.3 * control_hints(crops, None, "canny").sum()

    def test_no_face_is_black(self):
        nobody = Faces((), 1, 512, 512)
        for kind in ("mesh", "depth", "normal"):
            assert not control_hints(torch.zeros(1, 64, 64, 3), nobody, kind).any()

    def test_sentences(self, faces, crops):
        with pytest.raises(FaceLoomError, match="mesh hint is drawn from the faces; connect"):
            control_hints(crops, None, "mesh")
        with pytest.raises(FaceLoomError, match="2 crops but 1 faces"):
            control_hints(torch.cat([crops, crops]), faces, "depth")
        with pytest.raises(FaceLoomError, match="kind must be one of canny"):
            control_hints(crops, faces, "pose")
