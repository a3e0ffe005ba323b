"""A network's answer, a square with its own alignment, drawn into the canonical crop."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..geometry import BLOCK, block_numbers, compose, invert, join_blocks, scale_of, split_blocks, transform, warp, warp_blocks

# Share of its square's edge over which an answer fades in, so that a chin cut off by the square shows no line.
FADE = 1 / 16
# As far as a bicubic look-up within the square reaches beyond it, pixels.
RIM = 2


def draw(crop: torch.Tensor, answer: torch.Tensor, to_crop: np.ndarray, outline: torch.Tensor, share: float = 1.0
         ) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ``answer`` ``[E, E, 3]`` into ``crop`` ``[S, S, 3]`` through ``to_crop`` ``[2, 3]``, answer → crop.

    ``outline``: ``[S, S]`` where to (the face), or ``[E, E, 1]`` in the answer's own pixels (the network's mask). ``share``: how much
    of the answer and how much of the crop is shown there. Returns the crop and the mask ``[S, S]``: the outline as far as the answer
    reaches. Where the mask is 0 the crop is as it was. Only blocks that can change are looked at.
    """
    mask = reach(outline, to_crop, answer.shape[0], crop.shape[0])
    blocks = split_blocks(crop.clone())  # of a crop of one block they are a view
    return _mix(blocks, answer, to_crop, mask, block_numbers(mask > 0), share), mask


def draw_on_photo(image: torch.Tensor, matrix: np.ndarray, size: int, answer: torch.Tensor, to_crop: np.ndarray, outline: torch.Tensor,
                  share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """``draw`` into the crop of ``size`` that ``matrix`` cuts from ``image`` ``[H, W, 3]``, read only where it shows."""
    mask = reach(outline, to_crop, answer.shape[0], size)
    drawn = block_numbers(mask > 0)
    blocks = answer.new_empty((-(-size // BLOCK)) ** 2, 3, BLOCK, BLOCK)
    own = block_numbers(mask == 0) if share == 1 else torch.arange(len(blocks), device=mask.device)
    if len(own):
        blocks.index_copy_(0, own, warp_blocks(image, matrix, size, size, own).clamp_(0, 1))
    return _mix(blocks, answer, to_crop, mask, drawn, share), mask


def _mix(blocks: torch.Tensor, answer: torch.Tensor, to_crop: np.ndarray, mask: torch.Tensor, numbers: torch.Tensor, share: float
         ) -> torch.Tensor:
    """The crop of ``blocks`` (written to) with the answer in the numbered ones where ``mask`` ``[S, S]`` is not 0."""
    size = len(mask)
    if len(numbers):
        drawn = _warp_answer(answer, to_crop, size, numbers).clamp_(0, 1)
        own = blocks.index_select(0, numbers)
        if share != 1:
            drawn = torch.lerp(own, drawn, share)
        shown = split_blocks(mask[..., None]).index_select(0, numbers) > 0
        blocks.index_copy_(0, numbers, torch.where(shown, drawn, own))
    return join_blocks(blocks, size, size)


def _warp_answer(answer: torch.Tensor, to_crop: np.ndarray, size: int, numbers: torch.Tensor) -> torch.Tensor:
    """``warp_blocks``; of an answer that is enlarged only what lies within its square, which is faster."""
    if scale_of(to_crop) < 1:
        return warp_blocks(answer, to_crop, size, size, numbers)
    framed = F.pad(answer.permute(2, 0, 1)[None], (RIM,) * 4, mode="replicate")[0].permute(1, 2, 0)
    return warp_blocks(framed, compose(to_crop, np.array([[1, 0, -RIM], [0, 1, -RIM]])), size, size, numbers, "zeros")


def reach(outline: torch.Tensor, to_crop: np.ndarray, edge: int, size: int) -> torch.Tensor:
    """``[size, size]``: an outline as ``draw`` takes it, as far as an answer of ``edge`` pixels reaches, fading at its border."""
    inside = outline.ndim == 3
    corners = transform(np.array([[-.5, -.5], [edge - .5, -.5], [-.5, edge - .5], [edge - .5, edge - .5]]), to_crop)
    low = np.clip(np.floor(corners.min(0)).astype(int), 0, size)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, size)
    if not inside:
        used = [torch.nonzero(outline.amax(dim)).flatten().tolist() for dim in (0, 1)]
        low, high = (np.maximum(low, [u[0] if u else size for u in used]),
                     np.minimum(high, [u[-1] + 1 if u else 0 for u in used]))
    mask = outline.new_zeros((size, size), dtype=torch.float32)
    if (high <= low).any():
        return mask
    width, height = (high - low).tolist()
    matrix = to_crop.copy()
    matrix[:, 2] -= low
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    shown = warp(outline, matrix, height, width).clamp(0, 1)[..., 0] if inside else outline[window]
    mask[window] = fade(shown, invert(matrix), edge)
    return mask


def fade(mask: torch.Tensor, to_square: np.ndarray, edge: int) -> torch.Tensor:
    """``mask`` ``[h, w]``, 0 outside a square of ``edge`` pixels and rising smoothly to what it was within ``FADE`` of the square's edge.

    ``to_square`` ``[2, 3]``: mask → square.
    """
    height, width = mask.shape
    corners = transform(np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]), to_square)
    if min(corners.min() + 0.5, edge - 0.5 - corners.max()) >= edge * FADE:
        return mask
    m = torch.from_numpy(to_square).to(torch.float32).to(mask.device)
    xs = torch.arange(width, dtype=torch.float32, device=mask.device)
    ys = torch.arange(height, dtype=torch.float32, device=mask.device)[:, None]
    half = edge / 2
    inside = [half - ((m[i, 0] * xs + (m[i, 2] + 0.5 - half)) + m[i, 1] * ys).abs() for i in (0, 1)]
    inside = torch.minimum(*inside).div_(edge * FADE).clamp_(0, 1)
    return mask * (inside * inside * (3 - 2 * inside))
