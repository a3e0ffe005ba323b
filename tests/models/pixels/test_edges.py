import numpy as np
import pytest
import torch
from faceloom.models.pixels.edges import canny


def step(height: float, size: int = 32) -> torch.Tensor:
    """A grey picture whose right half is ``height`` 255ths brighter."""
    picture = torch.full((1, size, size, 3), 100 / 255)
    picture[:, :, size // 2:] = (100 + height) / 255
    return picture


@pytest.mark.parametrize("height, found", [(51, True), (50, False)])
def test_a_step_is_one_line_where_it_is_strong_enough(height, found):
    """Sobel answers four times the step: 204 is above 200, 200 is not."""
    edges = canny(step(height), 100, 200)[0]
    assert edges.sum() == (32 if found else 0)
    assert not found or edges[:, 15].all() or edges[:, 16].all()


def test_weak_edges_live_by_strong_ones():
    """A step that grows downwards: what is above low stays because it hangs together with what is above high."""
    heights = torch.linspace(10, 80, 64).round()
    picture = torch.full((1, 64, 64, 3), 100 / 255)
    picture[0, :, 32:] = ((100 + heights) / 255)[:, None, None]
    both, strong, weak = (canny(picture, *limits)[0].sum() for limits in ((100, 200), (200, 200), (100, 400)))
    assert strong < both and weak == 0


def test_thresholds_may_be_swapped(collins):
    assert torch.equal(canny(collins, 200, 100), canny(collins, 100, 200))


def test_the_colour_that_changes_most_counts():
    picture = step(0)
    picture[:, :, 16:, 2] += 60 / 255
    assert canny(picture)[0].sum() == 32


def test_a_batch_is_its_singles(collins, monkeypatch):
    from faceloom.models.pixels import edges

    batch = torch.cat([collins, collins.flip(2), collins * 0.5])
    whole = canny(batch)
    monkeypatch.setattr(edges, "_PIXELS_AT_A_TIME", 512 * 512)
    reports = []
    assert torch.equal(canny(batch, progress=lambda done, total: reports.append((done, total))), whole)
    assert reports == [(1, 3), (2, 3), (3, 3)]
    assert all(torch.equal(canny(batch[i:i + 1])[0], whole[i]) for i in range(3))


@pytest.mark.parametrize("low, high", [(100, 200), (30, 90), (250, 500)])
def test_equals_opencv(collins, low, high):
    cv2 = pytest.importorskip("cv2")
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 120, 97, 3)).astype(np.float32) / 255)
    for picture in (collins, noise):
        wanted = cv2.Canny((picture[0] * 255).round().byte().numpy(), low, high) > 0
        assert np.array_equal(canny(picture, low, high)[0].bool().numpy(), wanted)
