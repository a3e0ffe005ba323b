"""The source's own light from one side is not carried onto the target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.face3d.fit import fit_face, mean_face
from faceloom.models.identity import make_identity
from faceloom.models.swap import swap_faces
from faceloom.models.swap.mesh.delight import even_light, mirrored_vertices


@pytest.fixture(scope="module")
def people(collins, hopper):
    return {"collins": (collins, detect_faces(collins)), "hopper": (hopper, detect_faces(hopper))}


def lit_from_one_side(image: torch.Tensor, face, side: int, factor: float = .35) -> torch.Tensor:
    """The picture, darkened on one half of the face with a soft border along its middle."""
    eyes, mouth = face.keypoints[:2].mean(0), face.keypoints[3:].mean(0)
    across = np.array([mouth[1] - eyes[1], eyes[0] - mouth[0]]) * side / np.linalg.norm(mouth - eyes)
    y, x = np.mgrid[: image.shape[1], : image.shape[2]]
    away = (x - eyes[0]) * across[0] + (y - eyes[1]) * across[1]
    shadow = 1 / (1 + np.exp(-away / (.12 * face.eye_distance)))
    return image * (1 - (1 - factor) * torch.from_numpy(shadow).float()[None, ..., None])


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("source, target", [("collins", "hopper"), ("hopper", "collins")])
def test_a_dark_half_of_the_source_is_hardly_seen_in_the_result(people, source, target, side):
    """25 to 29 levels of difference where the light was not taken out; 8 to 12 now."""
    photo, faces = people[source]
    image, wanted = people[target]
    shadowed = lit_from_one_side(photo, faces[0], side)
    (even, masks), (dark, _) = (swap_faces(image, wanted, make_identity(picture, faces)[0]) for picture in (photo, shadowed))
    inside = masks > .5
    assert float((even - dark).abs().mean(-1)[inside].mean()) * 255 < 13


def test_an_evenly_lit_face_stays_as_it_is(people):
    """A face and its mirror image side by side are one texture with the same light on both halves."""
    photo, faces = people["collins"]
    middle = int(faces[0].keypoints[:2, 0].mean())
    mirrored = torch.cat([photo[:, :, middle - 100 : middle], photo[:, :, middle - 100 : middle].flip(2)], 2)[:, 40:280]
    face = detect_faces(mirrored)[0]
    fit = fit_face(face)
    facing = np.ones(len(mean_face().vertices))
    image = torch.nn.functional.pad(mirrored[0].permute(2, 0, 1), (0, 40, 0, 0))[:, :240, :240]
    changed = even_light(image, fit, facing, facing)
    assert float((changed - image).abs().mean()) * 255 < 1.5


def test_nothing_is_compared_with_what_the_photo_does_not_show(people):
    photo, faces = people["collins"]
    image = photo[0].permute(2, 0, 1)
    facing = np.where(mean_face().vertices[:, 0] > 0, 1.0, 0.0)  # only one side is seen
    assert torch.equal(even_light(image, fit_face(faces[0]), np.ones_like(facing), facing), image)


def test_every_vertex_has_its_mirror_image():
    mirror, vertices = mirrored_vertices(), mean_face().vertices
    assert np.abs(vertices[mirror[mirror]] - vertices).max() < 1e-6
    assert np.abs(vertices[mirror] - vertices * (-1, 1, 1)).max() < .6
