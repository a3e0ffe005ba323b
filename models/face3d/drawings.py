"""Landmarks drawn as lines: a control image, or laid over a photograph."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..pixels.drawing import _to_tensor

# iBUG 68 polylines: (first, last, closed) and a colour each.
LINES_68: tuple[tuple[int, int, bool, tuple[int, int, int]], ...] = (
    (0, 16, False, (86, 180, 233)), (17, 21, False, (230, 159, 0)), (22, 26, False, (230, 159, 0)), (27, 30, False, (240, 228, 66)),
    (30, 35, False, (240, 228, 66)), (36, 41, True, (0, 200, 140)), (42, 47, True, (0, 200, 140)), (48, 59, True, (230, 110, 170)),
    (60, 67, True, (255, 170, 210)),
)  # fmt: skip

# Lines are drawn this many times larger and averaged down: PIL's own lines are not anti-aliased.
_FINE = 4


def draw_landmarks(points: np.ndarray, height: int, width: int, image: torch.Tensor | None = None) -> torch.Tensor:
    """``[height, width, 3]``: the iBUG polylines of ``[..., 68, 2]`` points on black (a control image), or over ``image`` ``[H, W, 3]``."""
    points = np.asarray(points, np.float64).reshape(-1, 68, 2)
    canvas = Image.new("RGB", (width * _FINE, height * _FINE))
    cover = Image.new("L", canvas.size)
    color_draw, cover_draw = ImageDraw.Draw(canvas), ImageDraw.Draw(cover)
    line = max(1.5, min(height, width) / 256) * _FINE
    for face in (points + 0.5) * _FINE - 0.5:
        for first, last, closed, color in LINES_68:
            part = face[first : last + 1]
            part = np.concatenate([part, part[:1]]) if closed else part
            path = [tuple(p) for p in part.tolist()]
            for draw, ink in ((color_draw, color), (cover_draw, 255)):
                draw.line(path, fill=ink, width=round(line), joint="curve")
                for x, y in path:
                    draw.ellipse((x - line * .75, y - line * .75, x + line * .75, y + line * .75), fill=ink)
    drawn = _to_tensor(canvas.reduce(_FINE))
    if image is None:
        return drawn
    share = torch.from_numpy(np.array(cover.reduce(_FINE), np.float32) / 255)[..., None]
    return image.to(torch.float32).cpu() * (1 - share) + drawn
