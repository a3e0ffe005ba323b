import json
from dataclasses import replace

import numpy as np
import pytest
from faceloom.models.crops.crop import crop_faces, crop_matrices, crop_matrix
from faceloom.models.crops.squares import ALIGNMENTS, align_faces, box_square, quad_square
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, keypoints_from_68
from faceloom.models.identity.crops import reference_crops
from faceloom.models.paste import paste
from faceloom.models.pixels.affine import invert, transform

UNIT = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float64)


def a_face(**changes) -> Face:
    return replace(Face(0, (90, 70, 210, 230), [[120, 130], [180, 126], [152, 160], [126, 196], [180, 192]]), **changes)


def some_faces(*items: Face) -> Faces:
    return Faces(items or (a_face(),), 1, 300, 320)


def test_the_quad_is_ffhqs(shared):
    golden = np.load(shared / "golden" / "reface_align.npz")
    face = Face(0, (0, 0, 1, 1), keypoints_from_68(golden["lm68"]))
    assert np.abs(transform(UNIT, invert(quad_square(face))) - golden["quad"]).max() < 1e-3


def test_the_quad_of_a_face_that_looks_straight():
    face = Face(0, (0, 0, 1, 1), [[80, 100], [120, 100], [100, 130], [85, 160], [115, 160]])  # 40 between the eyes, 60 to the mouth
    corners = transform(UNIT, invert(quad_square(face)))  # half edge max(2 * 40, 1.8 * 60) around (100, 100 + 6)
    assert np.allclose(corners, [[-8, -2], [-8, 214], [208, 214], [208, -2]], atol=1e-4)


def test_the_box_is_face_adapters(shared):
    arrays = np.load(shared / "golden" / "faceadapter_align.npz")
    box = json.loads((shared / "golden" / "faceadapter_align.json").read_text())["inputs"]["bbox"]
    face = a_face(box=box, square=None)
    matrix = crop_matrix(replace(face, square=box_square(face)), 512)
    assert np.abs(matrix - arrays["warpcrop512_f64"]).max() < 1e-4


@pytest.mark.parametrize("framing", [1.0, 1.5])
def test_a_square_is_the_crop_at_any_size(framing):
    square = quad_square(a_face())
    for size in (64, 512):
        matrix = crop_matrix(a_face(square=square), size, framing)
        inside = (transform(UNIT, invert(square)) - transform([[.5, .5]], invert(square))) * framing + transform([[.5, .5]], invert(square))
        assert np.allclose(transform(inside, matrix), UNIT * size - 0.5, atol=1e-9)


def test_faces_with_and_without_a_square_are_cropped_each_by_its_own():
    plain, squared = a_face(), a_face(square=box_square(a_face()))
    both = crop_matrices(some_faces(plain, squared), 128)
    assert np.array_equal(both[0], crop_matrix(plain, 128)) and np.array_equal(both[1], crop_matrix(squared, 128))
    assert np.abs(both[0] - both[1]).max() > 1


def test_back_to_ffhq_and_the_sizes():
    faces = align_faces(align_faces(some_faces(), "box", 256, 1.2), "FFHQ")
    assert faces[0].square is None and faces.crop_size == 256 and faces.framing == 1.0
    with pytest.raises(FaceLoomError, match="FFHQ quad"):
        align_faces(some_faces(), "other")


def test_paste_returns_what_another_alignment_took(collins):
    faces = Faces((Face(0, (170, 60, 290, 220), [[205, 115], [250, 112], [232, 140], [207, 162], [252, 160]]),), 1, 512, 512)
    for name in ALIGNMENTS:
        aligned = align_faces(faces, name, 512)
        crops = crop_faces(collins, aligned, 512)
        pasted, mask = paste(collins, aligned, 1 - crops)
        assert mask.max() > .9 and np.abs((pasted - collins).numpy()[mask.numpy() == 0]).max() == 0
        middle = tuple(int(v) for v in faces[0].keypoints[2][::-1])
        assert np.abs((pasted[0][middle] - (1 - collins[0][middle])).numpy()).max() < .1, name


def test_an_identitys_pictures_are_ffhqs(collins):
    faces = Faces((Face(0, (170, 60, 290, 220), [[205, 115], [250, 112], [232, 140], [207, 162], [252, 160]]),), 1, 512, 512)
    plain, other = reference_crops(collins, faces), reference_crops(collins, align_faces(faces, "box"))
    assert np.array_equal(plain[0], other[0]) and other[1][0].square is None


def test_degenerate_faces_are_a_sentence():
    with pytest.raises(FaceLoomError, match="one place"):
        quad_square(a_face(keypoints=np.ones((5, 2))))
    with pytest.raises(FaceLoomError, match="empty"):
        box_square(a_face(box=(5, 5, 5, 9)))
