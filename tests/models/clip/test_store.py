"""What pass one found, written and read again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.clip.find import FoundFaces
from faceloom.models.clip.store import load_found, save_found
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces

RANDOM = np.random.default_rng(4)


def found() -> FoundFaces:
    faces = (Face(0, RANDOM.random(4), FFHQ_TEMPLATE * 31.7, .25, points68=RANDOM.random((68, 2)), mesh=RANDOM.random((478, 3)),
                  embeddings={"dlib128": RANDOM.random(128).astype(np.float32)}, sex="female", age=31.5, track=3),
             Face(7, RANDOM.random(4), FFHQ_TEMPLATE * 90, 0.0, square=RANDOM.random((2, 3)), track=0),
             Face(7, RANDOM.random(4), FFHQ_TEMPLATE))
    return FoundFaces(Faces(faces, 9, 90, 160, 1.25, 384, cuts=frozenset({2, 5})), {3: torch.rand(128, 128, 3)}, 4,
                      tuple(i / 3 for i in range(9)))


def test_everything_comes_back_bit_for_bit(tmp_path):
    before = found()
    save_found(before, tmp_path / "faces.safetensors")
    after = load_found(tmp_path / "faces.safetensors")
    for one, other in zip(before.faces, after.faces, strict=True):
        for name in ("box", "keypoints", "points68", "mesh", "square"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.frame, one.score, one.sex, one.age, one.track) == (other.frame, other.score, other.sex, other.age, other.track)
        assert one.embeddings.keys() == other.embeddings.keys()
        assert all(np.array_equal(one.embeddings[space], other.embeddings[space]) for space in one.embeddings)
    for name in ("frames", "height", "width", "framing", "crop_size", "cuts"):
        assert getattr(before.faces, name) == getattr(after.faces, name)
    assert after.searched == 4 and after.times == before.times and torch.equal(after.views[3], before.views[3])


def test_a_clip_without_faces_comes_back(tmp_path):
    save_found(FoundFaces(Faces((), 5, 90, 160), {}, 5), tmp_path / "none.safetensors")
    after = load_found(tmp_path / "none.safetensors")
    assert len(after.faces) == 0 and after.faces.frames == 5 and not after.views


@pytest.mark.parametrize("damage", [
    lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data.replace(b"keypoints", b"keypoynts"),
    lambda data: data.replace(b"faceloom-clip-faces-1", b"faceloom-clip-faces-2")])
def test_a_damaged_file_is_one_sentence(tmp_path, damage):
    path = tmp_path / "faces.safetensors"
    save_found(found(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FaceLoomError, match="delete it to begin anew"):
        load_found(path)


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FaceLoomError, match="cannot be written"):
        save_found(found(), tmp_path / "file" / "faces.safetensors")
