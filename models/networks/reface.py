"""REFace's conditioner (Baliah et al., WACV 2025): one token for the UNet from source, target, identity and landmarks.

Module names are those of the published checkpoint's keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FaceLoomError
from ..runtime.input import normalize_channels
from . import build, conv3
from .psp import ir_se50_blocks

# The configuration of CLIP ViT-L/14.
CLIP_L: Mapping[str, int] = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                             "image_size": 224, "patch_size": 14, "projection_dim": 768}
_HEAD_CHANNELS = 64  # channels of one attention head of CLIP
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MAPPER_BLOCKS = 5
POINTS = 68
# The weights with which CLIP's, the identity's and the landmarks' vectors are averaged into the token.
CLIP_SHARE, IDENTITY_SHARE, LANDMARK_SHARE = 1.0, 10.0, 0.05
# The identity network gets these rows and columns of a picture of 256 pixels, resized to 112.
_PICTURE_SIZE, _ROWS, _COLUMNS, _FACE_SIZE = 256, (35, 223), (32, 220), 112


class IRSE50(nn.Module):
    """ArcFace's ResNet-50 with squeeze and excitation: ``[N, 3, 112, 112]`` RGB in [-1, 1] to unit vectors ``[N, 512]``."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(conv3(3, 64), nn.BatchNorm2d(64), nn.PReLU(64))
        self.body = ir_se50_blocks()
        last = nn.Linear(512 * 7 * 7, 512)
        self.output_layer = nn.Sequential(nn.BatchNorm2d(512), nn.Identity(), nn.Flatten(), last, nn.BatchNorm1d(512))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.output_layer(self.body(self.input_layer(x))))


class OneTokenAttention(nn.Module):
    """Self-attention of a single token: the result is its value, whatever query and key are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        return self.c_proj(F.linear(x, self.c_qkv.weight[2 * width :], self.c_qkv.bias[2 * width :]))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class MapperBlock(nn.Module):
    """A pre-normalised transformer block for one token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn, self.ln_1 = OneTokenAttention(width), nn.LayerNorm(width)
        self.mlp, self.ln_2 = FeedForward(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Mapper(nn.Module):
    """Maps tokens ``[N, 1, width]`` to tokens by a stack of transformer blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(MapperBlock(width) for _ in range(MAPPER_BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class PictureEncoder(nn.Module):
    """CLIP-normalised pictures ``[N, 3, 224, 224]`` to tokens ``[N, 1, width]``."""

    def __init__(self, clip: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
        except ImportError as error:
            raise FaceLoomError("REFace needs transformers; run: pip install faceloom[research].") from error
        self.model = CLIPVisionModelWithProjection(CLIPVisionConfig(**clip))
        self.mapper2 = Mapper(clip["projection_dim"])
        self.final_ln2 = nn.LayerNorm(clip["projection_dim"])

    def embedding(self, pictures: Tensor) -> Tensor:
        """Embed pictures by CLIP alone, without the mapper: ``[N, width]``."""
        return self.model(pixel_values=pictures).image_embeds

    def forward(self, pictures: Tensor) -> Tensor:
        return self.final_ln2(self.mapper2(self.embedding(pictures)[:, None]))


class FaceID(nn.Module):
    """The identity network for CLIP-normalised pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.facenet = IRSE50()

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed ``[N, 3, 224, 224]``, enlarged to 256 pixels, cut and shrunk to 112 by averaging: ``[N, 512]`` of length 1."""
        rows, columns = (pictures.new_tensor(_face_window(pictures.shape[-1], *part)) for part in (_ROWS, _COLUMNS))
        faces = rows @ from_clip(pictures) @ columns.T
        return self.facenet(faces * 2 - 1)


class Conditioner(nn.Module):
    """All of REFace's checkpoint but the UNet and the VAE. ``learnable_vector`` ``[1, 1, width]`` is the token of no condition."""

    def __init__(self, clip: Mapping[str, Any] = CLIP_L) -> None:
        super().__init__()
        width = clip["projection_dim"]
        self.learnable_vector = nn.Parameter(torch.zeros(1, 1, width))
        self.cond_stage_model = PictureEncoder(clip)
        self.face_ID_model = FaceID()
        self.proj_out_source, self.proj_out_target = nn.Linear(width, width), nn.Linear(width, width)
        self.ID_proj_out, self.landmark_proj_out = nn.Linear(512, width), nn.Linear(2 * POINTS, width)

    def forward(self, source: Tensor, targets: Tensor, points: Tensor) -> Tensor:
        """Compute the token of every target, ``[N, 1, width]``.

        source: ``[1 or N, 3, 224, 224]``, CLIP-normalised, 0 outside the face. targets: ``[N, 3, H, W]`` in [-1, 1], not masked.
        points: ``[N, 68, 2]``, landmarks in pixels of the target's crop of 512 pixels.
        """
        clip = self.proj_out_source(self.cond_stage_model(source)) + self.proj_out_target(self.cond_stage_model(self.for_clip(targets)))
        identity = self.ID_proj_out(self.face_ID_model(source))[:, None]
        landmarks = self.landmark_proj_out(points.flatten(1))[:, None]
        total = CLIP_SHARE * clip + IDENTITY_SHARE * identity + LANDMARK_SHARE * landmarks
        return total / (CLIP_SHARE + IDENTITY_SHARE + LANDMARK_SHARE)

    def for_clip(self, pictures: Tensor) -> Tensor:
        """Turn pictures in [-1, 1] into CLIP's input; they are shrunk without a filter, as in training."""
        size = cast(int, self.cond_stage_model.model.config.image_size)  # a pair only in networks for oblong pictures
        return F.interpolate(to_clip((pictures + 1) / 2), (size, size), mode="bilinear", align_corners=False)


def load_conditioner(weights: Mapping[str, Tensor], name: str) -> Conditioner:
    """Build the conditioner of a whole checkpoint, whose other parts are ignored. name: what errors call the file.

    It is always in float32, because it runs only once per face.
    """
    clip = clip_form(weights, name)
    with torch.device("meta"):
        wanted = Conditioner(clip).state_dict()
    net = build(lambda: Conditioner(clip), {key: weights[key] for key in wanted if key in weights}, name)
    embeddings: Any = net.cond_stage_model.model.vision_model.embeddings  # transformers types its buffer as no plain tensor
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]  # not in the file
    return net


def clip_form(weights: Mapping[str, Tensor], name: str) -> dict[str, int]:
    """Read CLIP's configuration from its weights. name: what errors call the file."""
    prefix = "cond_stage_model.model."
    try:
        patches, positions, hidden, projection = (weights[prefix + key].shape for key in (
            "vision_model.embeddings.patch_embedding.weight", "vision_model.embeddings.position_embedding.weight",
            "vision_model.encoder.layers.0.mlp.fc1.weight", "visual_projection.weight"))
    except KeyError as error:
        raise FaceLoomError(f"{name} is not REFace's checkpoint; use the authors' last.ckpt.") from error
    layers = {key.split(".")[5] for key in weights if key.startswith(f"{prefix}vision_model.encoder.layers.")}
    width, patch = patches[0], patches[-1]
    return {"hidden_size": width, "intermediate_size": hidden[0], "num_hidden_layers": len(layers),
            "num_attention_heads": width // _HEAD_CHANNELS, "image_size": math.isqrt(positions[0] - 1) * patch, "patch_size": patch,
            "projection_dim": projection[0]}


def to_clip(pictures: Tensor) -> Tensor:
    """Normalise pictures ``[N, 3, H, W]`` 0..1 by CLIP's mean and deviation."""
    return normalize_channels(pictures, CLIP_MEAN, CLIP_STD)


def from_clip(pictures: Tensor) -> Tensor:
    """Turn CLIP-normalised pictures ``[N, 3, H, W]`` into pictures 0..1: the inverse of ``to_clip``."""
    mean, std = (pictures.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return pictures * std + mean


def _face_window(edge: int, first: int, last: int) -> np.ndarray:
    """Make the matrix ``[112, edge]`` that enlarges one axis to 256 pixels, cuts it from ``first`` to ``last`` and shrinks that to 112."""
    return _averaging(last - first, _FACE_SIZE) @ _averaging(edge, _PICTURE_SIZE)[first:last]


def _averaging(edge: int, to: int) -> np.ndarray:
    """Make the matrix ``[to, edge]`` whose rows are means of the pixels that each new pixel touches.

    It equals torch's adaptive pooling and also runs on devices that lack that.
    """
    start, stop = np.arange(to) * edge // to, -(-(np.arange(to) + 1) * edge // to)
    inside = (np.arange(edge) >= start[:, None]) & (np.arange(edge) < stop[:, None])
    return inside / inside.sum(1, keepdims=True)
