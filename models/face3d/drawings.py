"""Landmarks drawn as lines, on black or over a photo."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..pixels.drawing import from_pil

# The lines through the 68 points: first and last point, whether they close, and a colour.
POINTS68_LINES: tuple[tuple[int, int, bool, tuple[int, int, int]], ...] = (
    (0, 16, False, (86, 180, 233)), (17, 21, False, (230, 159, 0)), (22, 26, False, (230, 159, 0)), (27, 30, False, (240, 228, 66)),
    (30, 35, False, (240, 228, 66)), (36, 41, True, (0, 200, 140)), (42, 47, True, (0, 200, 140)), (48, 59, True, (230, 110, 170)),
    (60, 67, True, (255, 170, 210)),
)  # fmt: skip

# Lines are drawn this many times as large and averaged down, because PIL's own lines are not anti-aliased.
_SUPERSAMPLING = 4


def draw_landmarks(points: np.ndarray, height: int, width: int, image: torch.Tensor | None = None) -> torch.Tensor:
    """Draw the lines of ``[..., 68, 2]`` points: ``[height, width, 3]`` 0..1, on black (a control image) or over ``image`` of that size."""
    points = np.asarray(points, np.float64).reshape(-1, 68, 2)
    canvas = Image.new("RGB", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    cover = Image.new("L", canvas.size)
    color_draw, cover_draw = ImageDraw.Draw(canvas), ImageDraw.Draw(cover)
    line = max(1.5, min(height, width) / 256) * _SUPERSAMPLING
    for face in (points + 0.5) * _SUPERSAMPLING - 0.5:
        for first, last, closed, color in POINTS68_LINES:
            part = face[first : last + 1]
            part = np.concatenate([part, part[:1]]) if closed else part
            path = [tuple(p) for p in part.tolist()]
            for draw, ink in ((color_draw, color), (cover_draw, 255)):
                draw.line(path, fill=ink, width=round(line), joint="curve")
                for x, y in path:
                    draw.ellipse((x - line * .75, y - line * .75, x + line * .75, y + line * .75), fill=ink)
    drawn = from_pil(canvas.reduce(_SUPERSAMPLING))
    if image is None:
        return drawn
    share = torch.from_numpy(np.array(cover.reduce(_SUPERSAMPLING), np.float32) / 255)[..., None]
    return image.to(torch.float32).cpu() * (1 - share) + drawn
