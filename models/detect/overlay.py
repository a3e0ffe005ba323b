"""The numbered overlay: every face's box, number, score and keypoints drawn into its image."""

from __future__ import annotations

import torch
from PIL import ImageDraw

from ..faces import Face, Faces
from ..pixels.drawing import PALETTE, draw_badge, from_pil
from ..pixels.tensors import to_pil


def _caption(index: int, face: Face) -> str:
    parts = [f"{index}", f"{face.score:.2f}"]
    if face.sex is not None:
        parts.append(face.sex)
    if face.age is not None:
        parts.append(f"{face.age:.0f} y")
    return "  ".join(parts)


def draw_faces(images: torch.Tensor, faces: Faces) -> torch.Tensor:
    """Draw every face's box, index in ``faces``, score, sex and age if known, and five keypoints into a copy of ``[B, H, W, 3]`` 0..1.

    Lines and text grow with the image and stay readable on small faces; frames without faces come back as they are.
    """
    faces.check_image(images.shape)
    out = images.to(torch.float32, copy=True)
    for frame in sorted({face.frame for face in faces}):
        picture = to_pil(images[frame])
        draw = ImageDraw.Draw(picture)
        unit = max(1.0, min(picture.size) / 400)
        for index, face in enumerate(faces):
            if face.frame != frame:
                continue
            color = PALETTE[2 + index % 5]
            line = max(1, round(min(2 * unit, face.size / 20)))
            box = [round(float(v)) for v in face.box]
            draw.rectangle((min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])), outline=color, width=line)
            radius = max(1.0, min(1.5 * unit, face.size / 30))
            for x, y in face.keypoints.tolist():
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255), outline=color)
            draw_badge(draw, box[0], box[1], _caption(index, face), max(10, 11 * unit), color, picture.size)
        out[frame] = from_pil(picture).to(out.device)
    return out
