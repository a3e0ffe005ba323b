"""A face's grain follows from its photograph alone, whatever else is in the batch; large photographs are measured at a bounded size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces
from faceloom.models.restore import grain, restore_crops

EDGE = 240


def photo(seed: int) -> torch.Tensor:
    """``[1, 240, 240, 3]``: smooth colours with grain."""
    random = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 5, generator=random) * 0.4 + 0.3, (EDGE, EDGE), mode="bicubic")
    return (smooth.movedim(1, -1) + 0.03 * torch.randn(1, EDGE, EDGE, 3, generator=random)).clamp(0, 1)


def face(frame: int = 0, x: float = 40) -> Face:
    return Face(frame, (x + 20, 60, x + 120, 160), FFHQ_TEMPLATE * 140 + (x, 40))


def grown(images: torch.Tensor, *members: Face) -> torch.Tensor:
    """``[N, 96, 96, 3]``: what restoring adds to crops without any grain."""
    faces = Faces(members, len(images), EDGE, EDGE, crop_size=96)
    crops = torch.full((len(members), 96, 96, 3), 0.5)
    return restore_crops(crops, images=images, faces=faces, masks=torch.ones(1, 96, 96)) - crops


def test_the_place_in_the_batch_and_the_neighbours_do_not_matter():
    alone = grown(photo(1), face())
    assert float(alone.std()) > 0.01
    for before in range(4):
        images = torch.cat([photo(seed) for seed in (2, 3, 4, 5)])
        images[before] = photo(1)[0]
        batch = grown(images, *(face(frame) for frame in range(4)))
        assert torch.equal(batch[before], alone[0])
    assert torch.equal(grown(photo(1), face(x=80), face())[1], alone[0])


def test_no_two_faces_and_no_two_frames_have_the_same_grain():
    """Frames that differ by their own noise only, as those of a still camera."""
    still = torch.cat([(photo(1) + 0.004 * torch.randn(1, EDGE, EDGE, 3, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)
                       for seed in range(3)])
    made = [*grown(still, *(face(frame) for frame in range(3))), grown(photo(1), face(x=80))[0]]
    for i, one in enumerate(made):
        for other in made[:i]:
            assert abs(float(np.corrcoef(one.flatten(), other.flatten())[0, 1])) < 0.1


@pytest.mark.parametrize("edge", [3000, 9000])
def test_a_large_photograph_is_measured_at_a_bounded_size(edge, monkeypatch):
    height, width = edge, edge * 4 // 3
    image = torch.full((1, 1, 1, 3), 0.5).expand(1, height, width, 3)
    large = Face(0, (0.2 * edge, 0.1 * edge, 0.9 * edge, 0.9 * edge), FFHQ_TEMPLATE * 0.8 * edge + 0.1 * edge)
    faces = Faces((large,), 1, height, width, crop_size=128)
    seen = []

    def measure(picture, where):
        seen.append(picture.shape[0] * picture.shape[1])

    monkeypatch.setattr(grain, "measure_noise", measure)
    crops = crop_faces(image[:, :8, :8].contiguous(), replace(faces, height=8, width=8), 128)
    restore_crops(crops, images=image, faces=faces, masks=torch.ones(1, 128, 128))
    assert seen and max(seen) <= (2048 * 1.5) ** 2
