"""Faces that usual detectors miss: every one found, once, with its keypoints in place."""

from __future__ import annotations

import numpy as np
import pytest
from faceloom.models.detect import detect_faces
from PIL import Image
from scenes import backdrop, batch_of, box_overlap, bytes_of, nearest, place, the_face, turn_and_scale

PEOPLE = ("collins", "hopper")


@pytest.fixture(scope="module")
def people(collins, hopper):
    return {"collins": (bytes_of(collins), the_face(collins)), "hopper": (bytes_of(hopper), the_face(hopper))}


def found_once(picture, truth, matrix, error=0.08, overlap=0.5):
    faces = detect_faces(batch_of(picture))
    assert len(faces) == 1
    face, mistake = nearest(faces, truth, matrix)
    assert mistake < error
    assert box_overlap(face, truth, matrix) > overlap


def cut_out(people, who, left, up, right, down, zoom=1):
    """Frame from the face's middle, in face sizes."""
    picture, truth = people[who]
    low = np.clip(np.rint(truth.center - truth.size * np.array([left, up])).astype(int), 0, None)
    high = np.rint(truth.center + truth.size * np.array([right, down])).astype(int)
    part = picture[low[1]:high[1], low[0]:high[0]]
    matrix = np.array([[zoom, 0, (zoom - 1) / 2 - zoom * low[0]], [0, zoom, (zoom - 1) / 2 - zoom * low[1]]], float)
    return np.asarray(Image.fromarray(part).resize((part.shape[1] * zoom, part.shape[0] * zoom), Image.Resampling.BICUBIC)), truth, matrix


@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("cut", [(0.6, 0.6, 0.6, 0.6), (0.45, 0.35, 0.45, 0.45), (0.5, 0.6, 0.5, 0.38), (0.42, 0.36, 0.42, 0.4)],
                         ids=["fills", "forehead cut", "chin cut", "both cut"])
@pytest.mark.parametrize("zoom", [1, 4])
def test_close_up(people, who, cut, zoom):
    found_once(*cut_out(people, who, *cut, zoom))


@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("degrees", [-30, 45, 90, 180])
def test_turned(people, who, degrees):
    picture, truth = people[who]
    matrix = turn_and_scale(picture.shape[1], picture.shape[0], degrees, 1, (400, 400))
    found_once(place(backdrop(800, 800), picture, matrix), truth, matrix)


@pytest.mark.slow
@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("degrees", range(0, 360, 15))
def test_any_angle(people, who, degrees):
    picture, truth = people[who]
    matrix = turn_and_scale(picture.shape[1], picture.shape[0], degrees, 1, (400, 400))
    found_once(place(backdrop(800, 800), picture, matrix), truth, matrix)


@pytest.mark.parametrize("who", ["hopper", pytest.param("collins", marks=pytest.mark.slow)])
def test_partly_outside(people, who):
    picture, truth = people[who]
    for edge in ("left", "right", "top", "bottom"):
        aim = {"left": (0.3, None), "right": (-0.3, None), "top": (None, 0.3), "bottom": (None, -0.3)}[edge]
        matrix = turn_and_scale(picture.shape[1], picture.shape[0], 0, 1, (350, 350))
        middle = truth.center + matrix[:, 2]
        for axis in (0, 1):
            wanted = 350 if aim[axis] is None else aim[axis] * truth.size + (0 if aim[axis] > 0 else 700)
            matrix[axis, 2] += wanted - middle[axis]
        found_once(place(backdrop(700, 700), picture, matrix), truth, matrix)


@pytest.mark.slow
@pytest.mark.parametrize(("who", "scale"), [("hopper", 1), ("hopper", 6), ("collins", 3)])
def test_four_k(people, who, scale):
    picture, truth = people[who]
    matrix = turn_and_scale(picture.shape[1], picture.shape[0], 0, scale, (2300, 1000))
    found_once(place(backdrop(2160, 3840), picture, matrix), truth, matrix)


@pytest.mark.slow
@pytest.mark.parametrize(("who", "scale"), [("hopper", 0.2), ("hopper", 0.5), ("collins", 0.3), ("collins", 8)])
def test_four_k_small_and_huge(people, who, scale):
    picture, truth = people[who]
    matrix = turn_and_scale(picture.shape[1], picture.shape[0], 0, scale, (2300, 1000 if scale < 8 else 2100))
    found_once(place(backdrop(2160, 3840), picture, matrix), truth, matrix)


def group(people, height, width, columns, rows, scale):
    """A grid of both people, each a little different, and where they are."""
    canvas, truths = backdrop(height, width), []
    rng = np.random.default_rng(7)
    for i in range(columns * rows):
        picture, truth = people[PEOPLE[i % 2]]
        head = picture[:330, 70:430] if i % 2 == 0 else picture[60:460, 60:460]
        offset = np.array([70, 0]) if i % 2 == 0 else np.array([60, 60])
        own = scale * (1.6 if i % 2 == 0 else 0.9)
        target = ((i % columns + 0.5) * width / columns, (i // columns + 0.5) * height / rows)
        matrix = turn_and_scale(head.shape[1], head.shape[0], float(rng.uniform(-12, 12)), own, target)
        canvas = place(canvas, head, matrix)
        full = matrix.copy()
        full[:, 2] -= matrix[:, :2] @ offset
        truths.append((truth, full))
    return canvas, truths


def all_found(picture, truths, error):
    faces = detect_faces(batch_of(picture))
    assert len(faces) == len(truths)
    for truth, matrix in truths:
        assert nearest(faces, truth, matrix)[1] < error


def test_group(people):
    all_found(*group(people, 720, 1280, 4, 2, 0.5), error=0.12)


@pytest.mark.slow
def test_forty_faces_in_four_k(people):
    all_found(*group(people, 2160, 3840, 8, 5, 0.55), error=0.12)


@pytest.mark.parametrize(("large", "small"), [("collins", "hopper"), ("hopper", "collins")])
@pytest.mark.parametrize("edges", [(395, 51), (500, 45), (300, 60), (250, 70)], ids=str)
def test_small_face_beside_a_large_one(people, large, small, edges):
    """The large one is found without doubt, which must not end the search."""
    canvas, truths = backdrop(800, 1200), []
    for who, edge, target in ((large, edges[0], (400, 400)), (small, edges[1], (1000, 300))):
        picture, truth = people[who]
        reach = 0.9 * truth.size
        corner = np.maximum(0, truth.center - reach).astype(int)
        head = picture[corner[1]:int(truth.center[1] + reach), corner[0]:int(truth.center[0] + reach)]
        matrix = turn_and_scale(head.shape[1], head.shape[0], 0, edge / truth.size, target)
        canvas = place(canvas, head, matrix)
        full = matrix.copy()
        full[:, 2] -= matrix[:, :2] @ corner
        truths.append((truth, full))
    all_found(canvas, truths, error=0.15)


@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("damage", ["dark", "gray", "soft", "noisy"])
def test_poor_pictures(people, who, damage):
    picture, truth = people[who]
    from PIL import ImageFilter

    changed = {
        "dark": lambda: (picture * 0.06).astype(np.uint8),
        "gray": lambda: np.repeat(np.asarray(Image.fromarray(picture).convert("L"))[..., None], 3, -1),
        "soft": lambda: np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(truth.size / 60))),
        "noisy": lambda: np.clip(picture + np.random.default_rng(0).normal(0, 20, picture.shape), 0, 255).astype(np.uint8),
    }[damage]()
    found_once(changed, truth, np.eye(2, 3))


SLOW_NAMES = [pytest.param(name, marks=pytest.mark.slow) for name in ("rocket", "brick", "coins", "moon")]


@pytest.mark.parametrize("name", ["coffee", "chelsea", *SLOW_NAMES])
def test_no_face_where_none_is(name):
    from skimage import data

    picture = getattr(data, name)()
    picture = np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture
    assert len(detect_faces(batch_of(picture))) == 0


@pytest.mark.parametrize("who", PEOPLE)
def test_mirrored_points_agree(people, who):
    picture, truth = people[who]
    mirrored = detect_faces(batch_of(picture[:, ::-1]))[0].keypoints.copy()
    mirrored[:, 0] = picture.shape[1] - 1 - mirrored[:, 0]
    away = np.linalg.norm(mirrored[[1, 0, 2, 4, 3]] - truth.keypoints, axis=1) / truth.eye_distance
    assert away.mean() < 0.03


@pytest.mark.parametrize(("width", "height", "at"), [(2560, 1707, (1900, 900)), (3840, 2160, (3300, 1700))])
def test_a_small_face_beside_a_large_one_in_a_wide_picture(people, width, height, at):
    """A face of 50 pixels beside one of many hundred, in pictures that are shrunk for the usual scan."""
    picture, truth = people["collins"]
    large = turn_and_scale(picture.shape[1], picture.shape[0], 0, 0.25 * height / truth.size, (0.3 * width, 0.45 * height))
    small = turn_and_scale(picture.shape[1], picture.shape[0], 0, 50 / truth.size, at)
    faces = detect_faces(batch_of(place(place(backdrop(height, width), picture, large), picture, small)))
    assert len(faces) == 2
    for matrix in (large, small):
        face, mistake = nearest(faces, truth, matrix)
        assert mistake < 0.1 and box_overlap(face, truth, matrix) > 0.5
