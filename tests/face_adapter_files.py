"""Small files with all that Face-Adapter's have: names, keys, formats, and a 3-D face that lies where faces are aligned to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from faceloom.models.face3d.basel_model import CAMERA_DISTANCE, FOCAL_LENGTH, PICTURE_SIZE
from faceloom.models.face3d.fit import five_points, mean_face, points68_of_head
from faceloom.models.networks.face_adapter import AreaNet, CoefficientNet, ID2Token, Image2Token
from faceloom.models.networks.iresnet import IResNet
from faceloom.models.pixels.affine import similarity
from faceloom.models.systems.face_adapter import TEMPLATE
from ldm_files import filled
from torch import nn

WIDTH, LOOK = 96, 48  # of the prompts, and of what CLIP says


def save_face_adapter(folder: Path, width: int = WIDTH, look: int = LOOK) -> Path:
    """All files but the parser; answers net_id2token.pth."""
    others = folder / "third_party"
    others.mkdir(parents=True, exist_ok=True)
    tokens = {key: value.to(torch.bfloat16) for key, value in weights_of(lambda: ID2Token(512, width, hidden=64), 1).items()}
    torch.save(tokens, folder / "net_id2token.pth")
    torch.save(weights_of(lambda: Image2Token(look, width, hidden=64), 2), folder / "net_image2token.pth")
    area = weights_of(AreaNet, 3) | {"final_conv.bias": torch.tensor([0.16])}  # about half of a picture
    torch.save(area, folder / "net_seg_res18.pth")
    torch.save(weights_of(lambda: IResNet(18), 4), others / "insightface_glint360k.pth")
    torch.save({f"module.{key}": value for key, value in coefficients().items()}, others / "d3dfr_res50_nofc.pth")
    save_bfm(others / "BFM_model_front.mat")
    return folder / "net_id2token.pth"


def weights_of(make, seed: int) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        net: nn.Module = make()
    state = net.state_dict()
    weights = filled({key: tuple(value.shape) for key, value in state.items() if value.is_floating_point()}, seed)
    weights |= {key: torch.ones_like(value) for key, value in weights.items() if key.endswith("running_var")}
    return weights | {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items() if not value.is_floating_point()}


def coefficients() -> dict[str, torch.Tensor]:
    """D3DFR that tells faces apart, but sees all of them nearly straight, still and in the middle."""
    weights = weights_of(CoefficientNet, 5)
    damped = {key: value * 0.2 for key, value in weights.items() if key.endswith("bn3.weight")}
    return weights | damped | {key: value * 0.02 for key, value in weights.items() if key.startswith("fianl_layers")}


def save_bfm(path: Path) -> None:
    """The mean face of face3d/fit.py seen as D3DFR's camera sees it, with one more vertex that brings the mean to the origin."""
    from scipy.io import savemat

    head = mean_face().vertices
    to_picture = similarity(five_points(head)[:, :2], TEMPLATE)
    points = points68_of_head(head)
    scale = np.hypot(*to_picture[0, :2])
    pixels = points[:, :2] @ to_picture[:, :2].T + to_picture[:, 2]
    depth = (points[:, 2] - points[:, 2].mean()) * scale * CAMERA_DISTANCE / FOCAL_LENGTH
    x, y = (pixels - (PICTURE_SIZE / 2, PICTURE_SIZE / 2 - 1)).T * (CAMERA_DISTANCE + depth) / FOCAL_LENGTH
    shape = np.stack([x, -y, -depth], -1)
    shape = np.concatenate([shape, -shape.sum(0, keepdims=True)])
    random = np.random.default_rng(0)
    bases = {name: random.normal(0, 0.01, (shape.size, count)) for name, count in (("idBase", 80), ("exBase", 64))}
    savemat(path, {"meanshape": shape.reshape(1, -1), "keypoints": np.arange(1, 69)[None]} | bases)


def save_vision(folder: Path, look: int = LOOK) -> Path:
    """A CLIP vision model as transformers keeps one, with the keys of the release the authors used."""
    from safetensors.torch import load_file, save_file
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(hidden_size=look, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=56,
                                     patch_size=14, hidden_act="gelu")).save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = {f"vision_model.{key.removeprefix('vision_model.')}": value for key, value in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    return folder
