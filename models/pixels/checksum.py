"""Tells whether a picture in memory still is what it was."""

from __future__ import annotations

from functools import lru_cache

import torch

# A picture is added up in this many bands of rows, or in more where a band would have more than this many values (256 KiB).
BANDS, MAX_VALUES = 16, 1 << 16


def checksum(picture: torch.Tensor) -> int:
    """Return a number of 64 bits that depends on every bit and on the place of every value of ``[H, W, C]`` float32.

    The bits of each value are a whole number. Bands of rows are added up with one odd weight for each band, modulo 2**32, and the values
    of their sum with one odd weight for each row and for each column, modulo 2**64. So a change of one value always changes the result,
    and any other change (mirrored, rolled, exchanged pixels) keeps it only by a coincidence of about 32 bits. Integers have no rounding:
    the same pixels have the same checksum on every device and with any number of threads.
    """
    rows = picture.flatten(1).view(torch.int32)
    height, width = rows.shape
    step = max(1, min(-(-height // BANDS), MAX_VALUES // max(1, width)))
    total = torch.zeros((step, width), dtype=torch.int32, device=picture.device)
    for band, weight in zip(rows.split(step), _band_weights(-(-height // step)), strict=True):
        total[: len(band)].add_(band, alpha=weight)
    weights = _odd_numbers(step + width, picture.device)
    return int((total.to(torch.int64).mul_(weights[step:]).sum(1) * weights[:step]).sum())


@lru_cache
def _band_weights(count: int) -> list[int]:
    """Return odd weights, of which the first 256 differ in their lower nine bits.

    Values such as 0, 0.5 and 1 differ in their upper nine bits alone, and only the lower nine bits of a weight tell such values apart.
    Triangular numbers modulo 256 are all different, and not evenly spaced.
    """
    place = torch.arange(count, dtype=torch.int64)
    low = place * (place + 1) & 511 | 1
    return ((_odd_numbers(count, "cpu") & 0x7FFFFE00) | low).tolist()


def _odd_numbers(count: int, device: torch.device | str) -> torch.Tensor:
    """``[count]`` int64: numbers of the generator SplitMix64 (Steele, Lea & Flood 2014; here with signed shifts), made odd."""
    values = torch.arange(1, count + 1, dtype=torch.int64, device=device) * -0x61C8864680B583EB
    values = (values ^ values >> 30) * -0x40A7B892E31B1A47
    values = (values ^ values >> 27) * -0x6B2FB644ECCEEE15
    return (values ^ values >> 31) | 1
