"""Whom each crop is pulled towards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.diffusion.guidance import identity_loss
from faceloom.models.diffusion.swap import GuidanceStrengths, wanted_embeddings
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces, Identity


def person(axis: int, space: str = "arc") -> Identity:
    return Identity({space: np.eye(4, dtype=np.float32)[axis]}, np.zeros((0, 8, 8, 3)), ())


FACES = Faces(tuple(Face(0, (0, 0, 9, 9), FFHQ_TEMPLATE * 9, identity=who) for who in (None, person(1), person(2))), 1, 9, 9)


def test_every_crop_has_its_own_person_and_the_others_the_one_that_is_connected():
    wanted = wanted_embeddings(3, person(0), FACES, "arc")
    assert torch.equal(wanted, torch.eye(4)[:3])
    assert torch.equal(wanted_embeddings(2, person(3), None, "arc"), torch.eye(4)[[3, 3]])
    torch.testing.assert_close(identity_loss(torch.eye(4)[None, [0, 1, 0]], wanted), torch.tensor([0., 0., 1.]))


def test_a_face_without_anybody_or_with_another_space_is_one_sentence():
    with pytest.raises(FaceLoomError, match="needs an identity"):
        wanted_embeddings(3, None, FACES, "arc")
    assert len(wanted_embeddings(2, None, FACES.take([1, 2]), "arc")) == 2
    other = replace(FACES, items=(replace(FACES[0], identity=person(0, "other")), *FACES.items[1:]))
    with pytest.raises(FaceLoomError, match="no embedding of arc"):
        GuidanceStrengths(identity=1).check(3, None, type("R", (), {"space": "arc"}), None, other)
