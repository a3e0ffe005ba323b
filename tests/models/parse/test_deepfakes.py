"""faceswap's mask networks as occluders: what they are shown, which of their answers is the face, and files that are none of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_matrices
from faceloom.models.crops.faceswap_square import square_matrix
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.kinds import kind_of_weights
from faceloom.models.networks.bisenet import BiSeNet
from faceloom.models.networks.deepfakes_masks import FaceFCN, FaceUNet
from faceloom.models.parse.deepfakes import FaceNetOccluder, mask_net_from
from faceloom.models.parse.load import load_occluder, load_parser
from faceloom.models.pixels.affine import compose, invert, transform
from faceloom.models.pixels.sampling import sample_crops
from torch import nn

EDGES = {1: 256, 2: 300, 21: 500}


class Double(nn.Module):
    """Answers a face that begins in the middle of the square and gets surer to the right, and keeps what it was shown."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.shown, self.anything = classes, [], nn.Parameter(torch.zeros(1))

    def forward(self, x):
        self.shown.append(x)
        face = ((torch.arange(x.shape[-1]) / (x.shape[-1] - 1) - .5).clamp(min=0) * 2).expand(len(x), 1, *x.shape[-2:])
        if self.classes == 1:
            return face
        rest = (1 - face) if self.classes == 2 else torch.cat([1 - face, face * .25], 1)
        others = face if self.classes == 2 else (face * .75 / 19).expand(-1, 19, -1, -1)
        return torch.cat([rest, others], 1)


@pytest.fixture(scope="module")
def scene(collins):
    images = torch.cat([collins, collins.flip(2)])
    return images, detect_faces(images)


@pytest.mark.parametrize("classes", EDGES)
def test_networks_see_bgr_in_the_mean_faces_square_and_answer_the_face(scene, classes):
    images, faces = scene
    net, size = Double(classes), 128
    seen = FaceNetOccluder("it", net).visible(images, faces, size)
    matrices = np.stack([square_matrix(face.points68.astype(np.float64), "legacy", EDGES[classes]) for face in faces])
    squares = sample_crops(images, faces.frame_indices, matrices, EDGES[classes]).clamp(0, 1)
    wanted = torch.stack([squares[..., 2], squares[..., 1], squares[..., 0]], 1)
    if classes > 1:
        wanted = wanted * 255
        wanted = wanted - wanted.mean((2, 3), keepdim=True)
        assert wanted.abs().max() > 50
    assert torch.allclose(torch.cat(net.shown), wanted, atol=1e-3)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2)
    to_square = compose(matrices, invert(crop_matrices(faces, size)))
    for mask, matrix in zip(seen, to_square, strict=True):
        place = transform(grid, matrix)[:, 0].reshape(size, size) / (EDGES[classes] - 1)
        assert np.abs(mask.numpy() - (np.clip(place, .5, 1) - .5) * 2).max() < .03
    assert FaceNetOccluder("it", net).visible(images, faces.take([]), size).shape == (0, size, size)


def meta(net):
    with torch.device("meta"):
        return net().state_dict()


@pytest.mark.parametrize(("make", "classes"), [(FaceUNet, 1), (lambda: FaceFCN(2, "_r"), 2), (lambda: FaceFCN(21), 21)])
def test_files_are_told_by_what_is_in_them(make, classes):
    weights = meta(make)
    net = mask_net_from(weights, "file.pth")
    assert net.classes == classes and isinstance(net, FaceUNet if classes == 1 else FaceFCN)
    assert kind_of_weights(weights) == "occluder"
    weights.pop(next(iter(weights)))
    with pytest.raises(FaceLoomError, match=r"file\.pth lacks 1 of"):
        mask_net_from(weights, "file.pth")


def test_a_network_of_other_classes_is_told(tmp_path):
    torch.save({"upscore8.weight": torch.zeros(5, 5, 16, 16)}, tmp_path / "other.pth")
    with pytest.raises(FaceLoomError, match=r"other\.pth tells 5 classes apart; use Nirkin_300"):
        load_occluder(tmp_path / "other.pth")
    torch.save({"upscore8_r.weight": torch.zeros(2, 2, 16, 16)}, tmp_path / "Nirkin_300_softmax_v2.pth")
    with pytest.raises(FaceLoomError, match="lacks"):
        load_occluder(tmp_path / "Nirkin_300_softmax_v2.pth")
    with pytest.raises(FaceLoomError, match="an occlusion model, not a face parser"):
        load_parser(tmp_path / "Nirkin_300_softmax_v2.pth")


def test_faceswaps_bisenet_is_the_parser(tmp_path, collins):
    """Its file names a layer of the heads otherwise, and holds the same weights."""
    torch.manual_seed(0)
    state = BiSeNet().state_dict()
    torch.save(state, tmp_path / "79999_iter.pth")
    names = {key: key.replace(".conv.", ".conv1.", 1) if key.startswith("conv_out") else key for key in state}
    torch.save({names[key]: value for key, value in state.items()}, tmp_path / "bisenet_face_parsing_v4.pth")
    assert sum(names[key] != key for key in state) == 18
    crop = collins[:, :256, :256]
    first, second = (load_parser(tmp_path / name).parse(crop) for name in ("79999_iter.pth", "bisenet_face_parsing_v4.pth"))
    assert torch.equal(first, second) and len(first.unique()) > 1
