"""Telling whether a picture in memory still is what it was."""

from __future__ import annotations

import torch

# At most this many pixel values are worked on at once, 512 KiB: larger pieces of memory are fetched from the system each time.
MAX_VALUES = 1 << 17


def checksum(picture: torch.Tensor) -> int:
    """Return a number of 64 bits that depends on every bit and on the place of every value of ``[H, W, C]`` float32.

    The bits of each value are a whole number. Its upper half is added to it (the lower halves of 0, 0.5 and 1 are zeros), and all are
    added up with odd weights, one for each place in a row and one for each row, modulo 2**32 within a row and 2**64 over the rows. So a
    change of a single finite value always changes the result, and any other change (mirrored, rolled, exchanged pixels) keeps it with a
    probability below 1e-6.
    """
    rows = picture.flatten(1).view(torch.int32)
    height, width = rows.shape
    across, down = (_odd_weights(count, picture.device) for count in (width, height))
    across = across.to(torch.int32)
    sums = torch.empty(height, dtype=torch.int32, device=picture.device)
    step = max(1, min(height, MAX_VALUES // max(1, width)))
    buffer = torch.empty((step, width), dtype=torch.int32, device=picture.device)
    for start in range(0, height, step):
        part = rows[start : start + step]
        mixed = torch.bitwise_right_shift(part, 16, out=buffer[: len(part)])
        mixed.add_(part).mul_(across)
        torch.sum(mixed, 1, dtype=torch.int32, out=sums[start : start + step])
    return int((sums * down).sum())


def _odd_weights(count: int, device: torch.device) -> torch.Tensor:
    """``[count]`` int64: numbers of the generator SplitMix64 (Steele, Lea & Flood 2014; here with signed shifts), made odd."""
    values = torch.arange(1, count + 1, dtype=torch.int64, device=device) * -0x61C8864680B583EB
    values = (values ^ values >> 30) * -0x40A7B892E31B1A47
    values = (values ^ values >> 27) * -0x6B2FB644ECCEEE15
    return (values ^ values >> 31) | 1
