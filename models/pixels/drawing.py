"""Pictures for people to look at, drawn with PIL: labels, coloured regions, outlined masks and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..errors import FaceLoomError
from .tensors import to_pil

# Colours that stay apart on skin and from each other (Okabe & Ito 2008, then lighter and darker steps).
PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0), (240, 200, 160), (213, 94, 0), (230, 159, 0), (0, 158, 115), (86, 180, 233), (0, 114, 178), (240, 228, 66), (255, 255, 255),
    (204, 121, 167), (150, 60, 120), (160, 110, 70), (200, 150, 100), (110, 70, 160), (40, 60, 130), (140, 170, 90), (110, 120, 130),
    (255, 215, 0), (255, 140, 200), (220, 220, 220),
)  # fmt: skip


def from_pil(picture: Image.Image) -> torch.Tensor:
    """Turn a PIL picture into ``[H, W, 3]`` float32 0..1."""
    return torch.from_numpy(np.array(picture.convert("RGB"), np.float32) / 255)


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(8, round(size)))


def draw_badge(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: float, fill: tuple[int, int, int],
           limit: tuple[int, int]) -> None:
    """Draw text on a filled box whose lower left corner is (x, y), moved so that it lies inside ``limit`` (width, height)."""
    font = _font(size)
    pad = size * 0.3
    width, height = font.getlength(text) + 2 * pad, size * 1.4
    x, y = max(0, min(x, limit[0] - width)), max(height, min(y, limit[1]))
    draw.rectangle((x, y - height, x + width, y), fill=fill)
    light = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 140
    draw.text((x + pad, y - height / 2), text, font=font, fill=(0, 0, 0) if light else (255, 255, 255), anchor="lm")


def color_regions(crops: torch.Tensor, labels: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Tint crops ``[N, S, S, 3]`` 0..1 by labels ``[N, S, S]`` in the colours of ``PALETTE``, with a legend: ``[N, S, S, 3]``.

    Label 0 is not tinted, borders between regions are dark. names: of the labels, in order; the legend lists those that are present.
    """
    index = labels.to(torch.int64)
    colors = torch.tensor(PALETTE, dtype=torch.float32, device=crops.device) / 255
    tint = colors[index.to(crops.device)]
    share = (index > 0).to(crops.device, torch.float32)[..., None] * 0.55
    out = crops.to(torch.float32) * (1 - share) + tint * share
    edge = torch.zeros_like(index, dtype=torch.bool)
    edge[:, :, 1:] |= index[:, :, 1:] != index[:, :, :-1]
    edge[:, 1:] |= index[:, 1:] != index[:, :-1]
    out[edge.to(crops.device)] *= 0.35
    return torch.stack([_with_legend(out[i], sorted(set(index[i].unique().tolist()) - {0}), names) for i in range(len(out))])


def _with_legend(image: torch.Tensor, labels: Sequence[int], names: Sequence[str]) -> torch.Tensor:
    """Draw the names of ``labels`` in their colours in the upper left corner of ``[H, W, 3]``."""
    picture = to_pil(image)
    draw = ImageDraw.Draw(picture)
    size = max(9.0, min(picture.size) / 40)
    y = 0.0
    for label in labels:
        y += size * 1.5
        draw_badge(draw, 0, y, names[label].replace("_", " "), size, PALETTE[label], picture.size)
    return from_pil(picture).to(image.device)


def outline_masks(crops: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Show masks ``[N, S, S]`` on crops ``[N, S, S, 3]``: dim and bluish where they are 0, a bright line where they pass 0.5."""
    share = masks.to(crops.device, torch.float32)[..., None]
    dimmed = crops * 0.35 + crops.new_tensor([0.02, 0.05, 0.12])
    out = crops * share + dimmed * (1 - share)
    inside = masks.to(crops.device) >= 0.5
    radius = max(1, round(min(masks.shape[-2:]) / 400))
    widened = torch.nn.functional.max_pool2d(inside[:, None].to(torch.float32), 2 * radius + 1, 1, radius)[:, 0] > 0
    out[widened & ~inside] = out.new_tensor([1.0, 0.85, 0.2])
    return out


def contact_sheet(rows: Sequence[Sequence[torch.Tensor]], labels: Sequence[Sequence[str]] | Sequence[str] | None = None, *,
                  title: str = "", tile: int = 320, gap: int = 12) -> torch.Tensor:
    """Lay pictures out in rows with captions under them: ``[H, W, 3]`` float32 0..1 on a light background.

    rows: pictures ``[h, w, 3]`` or masks ``[h, w]`` of any size; each is fitted into a square of ``tile`` pixels and enlarged at most eight
    times. labels: one caption per picture, or one list of captions that every row repeats. gap: pixels between the tiles.
    """
    if not rows or not any(len(row) for row in rows):
        raise FaceLoomError("A contact sheet needs at least one picture.")
    captions: Sequence[Sequence[str]] = labels or ()
    if labels and isinstance(labels[0], str):
        captions = [cast("Sequence[str]", labels)] * len(rows)  # for a type checker words are lists of words too
    columns = max(len(row) for row in rows)
    text = max(11, tile // 20)
    line = math.ceil(text * 1.7) if labels else 0
    head = math.ceil(text * 3) if title else 0
    size = (columns * (tile + gap) + gap, head + len(rows) * (tile + line + gap) + gap)
    sheet = Image.new("RGB", size, (244, 244, 242))
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, gap + text), title, font=_font(text * 1.4), fill=(25, 25, 25), anchor="lm")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            picture = _fit_tile(image, tile)
            x, y = gap + c * (tile + gap), head + gap + r * (tile + line + gap)
            sheet.paste(picture, (x + (tile - picture.width) // 2, y + (tile - picture.height) // 2))
            if captions and c < len(captions[r]):
                draw.text((x + tile // 2, y + tile + line // 2), _shorten(captions[r][c], _font(text), tile), font=_font(text),
                          fill=(60, 60, 60), anchor="mm")
    return from_pil(sheet)


def _fit_tile(image: torch.Tensor, tile: int) -> Image.Image:
    """Resize a picture ``[h, w, 3]`` or mask ``[h, w]`` so that its longer edge is ``tile`` pixels, but enlarge it at most eight times."""
    image = image[..., None].expand(*image.shape, 3) if image.ndim == 2 else image[..., :3]
    picture = to_pil(image)
    scale = min(tile / max(picture.size), 8.0)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Cut text and end it with an ellipsis where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
