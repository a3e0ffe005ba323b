"""Which faces are swapped, and what becomes of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.geometry import TEMPLATES, crop_faces
from faceloom.models.swap import ENGINES, swap_faces

IDENTITY = Identity({}, np.zeros((0, 8, 8, 3)), ())
IMAGES = torch.rand((2, 90, 110, 3), generator=torch.Generator().manual_seed(0))
PEOPLE = tuple(Face(frame, [0, 0, 9, 9], TEMPLATES["ffhq_512"] * 60 + (x, 12)) for frame, x in ((0, 5), (0, 30), (1, 20)))
FACES = Faces(PEOPLE, 2, 90, 110, 1.0, 24)


class Painter:
    """Paints every face it is given white, left half."""

    name = "painter"

    def __init__(self) -> None:
        self.asked: list = []

    def swap(self, images, faces, identity, size, *, strength=1.0, pixel_boost=1, progress=None):
        self.asked.append((len(faces), size, strength, pixel_boost))
        crops = crop_faces(images, faces, size)
        masks = torch.zeros(crops.shape[:3])
        crops[:, :, :size // 2] = 1
        masks[:, :, :size // 2] = 1
        return crops, masks


def test_chosen_faces_are_swapped_and_the_others_left():
    engine = Painter()
    crops, masks = swap_faces(IMAGES, FACES, IDENTITY, engine, which="2, 0", strength=.5, pixel_boost=2)
    assert engine.asked == [(2, 24, .5, 2)]
    own = crop_faces(IMAGES, FACES)
    assert torch.equal(crops[1], own[1]) and not masks[1].any()
    for i in (0, 2):
        assert (crops[i, :, :12] == 1).all() and torch.equal(crops[i, :, 12:], own[i, :, 12:])
        assert masks[i].mean() == .5


def test_size_and_pictures_of_other_forms():
    gray = IMAGES.mean(-1, keepdim=True)
    crops, masks = swap_faces(gray, FACES, IDENTITY, Painter(), size=16)
    assert crops.shape == (3, 16, 16, 3) and masks.shape == (3, 16, 16)
    engine = Painter()
    crops, masks = swap_faces(IMAGES, FACES.take([]), IDENTITY, engine)
    assert crops.shape == (0, 24, 24, 3) and masks.shape == (0, 24, 24) and engine.asked == []
    with pytest.raises(FaceLoomError, match="connect the image that went into Face Detect"):
        swap_faces(IMAGES[:1], FACES, IDENTITY, Painter())


def test_the_built_in_engine_is_the_mesh():
    assert list(ENGINES) == ["mesh"] and ENGINES["mesh"]().name == "mesh"
    with pytest.raises(FaceLoomError, match="no photograph"):
        swap_faces(IMAGES, FACES, IDENTITY)


@pytest.mark.parametrize(("which", "wanted"), [("all", [0, 1, 2]), ("", [0, 1, 2]), ("1", [1]), ("2,0", [0, 2]), ("1-2", [1, 2]),
                                               ("-1", [2]), ("0,0,7", [0]), ("-9", [])])
def test_which(which, wanted):
    _, masks = swap_faces(IMAGES, FACES, IDENTITY, Painter(), which=which)
    assert [i for i in range(3) if masks[i].any()] == wanted


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.5])
def test_only_the_surroundings_of_faces_are_looked_through(bad):
    """A frame is not searched for values that nothing reads; where a face is they are found, and clipped or refused."""
    face = Face(0, [0, 0, 9, 9], TEMPLATES["ffhq_512"] * 60 + (200, 100))
    faces, images = Faces((face,), 1, 300, 400, 1.0, 24), torch.rand((1, 300, 400, 3), generator=torch.Generator().manual_seed(1))
    clean = swap_faces(images, faces, IDENTITY, Painter())[0]
    images[0, :60] = bad
    assert torch.equal(swap_faces(images, faces, IDENTITY, Painter())[0], clean)
    images[0, 80:180, 180:280] = bad
    if bad == 1.5:
        assert torch.allclose(swap_faces(images, faces, IDENTITY, Painter())[0], torch.tensor(1.0), atol=1e-6)
    else:
        with pytest.raises(FaceLoomError, match="NaN or infinite"):
            swap_faces(images, faces, IDENTITY, Painter())
