"""Landmarks over a clip, and 106 of them on a crop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faceloom.models.face3d.points106 import Points106
from faceloom.models.select.filters import kalman, running_mean, savitzky_golay


def test_a_run_ends_at_a_jump_and_at_a_missing_face():
    line = [np.full((5, 2), float(i)) for i in range(8)]
    frames = [*line[:4], None, *line[4:6], line[6] + 40, line[7] + 40]
    smooth = running_mean(frames)
    assert smooth[4] is None
    assert np.allclose([s[0, 0] for i, s in enumerate(smooth) if i != 4], [0, 1, 2, 3, 4, 5, 46, 47])  # means of a line lie on it
    wave = [np.full((5, 2), v) for v in (0., 3, 0, 3, 0)]
    assert [s[0, 0] for s in running_mean(wave)] == pytest.approx([0, 1, 6 / 5, 1, 0])
    assert running_mean([None, None]) == [None, None]


def test_the_kalman_filter_settles_at_its_gain():
    step = np.concatenate([np.zeros((1, 1)), np.ones((30, 1))])
    smooth = kalman(step, .01, .01)
    assert smooth[0] == 0 and smooth[1] == pytest.approx(.5)  # variance .01 against .01
    golden = (np.sqrt(5) - 1) / 2  # for equal variances the gain settles where g² + g = 1
    assert (1 - smooth[20]) / (1 - smooth[19]) == pytest.approx(1 - golden)


def test_savitzky_golay_keeps_parabolas():
    t = np.arange(40.)[:, None]
    parabola = .1 * t * t - t + 3
    assert np.allclose(savitzky_golay(parabola, 25, 2), parabola)
    assert np.allclose(savitzky_golay(parabola[:10], 25, 2), parabola[:10])
    assert len(savitzky_golay(parabola[:2], 25, 2)) == 2


@pytest.mark.parametrize("size", [224, 256])
def test_106_points_come_back_to_the_crops_pixels(size):
    def run(feeds):
        picture = feeds["data"]
        assert picture.shape == (1, 3, 192, 192) and picture[0, 0].max() > 200 and picture[0, 2].max() < 60  # RGB, 0 to 255
        weight = picture[0, 0] * (picture[0, 0] > 60)
        y, x = np.mgrid[:192, :192]
        at = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        return [np.tile(at / 96 - 1, 106)[None].astype(np.float32)]

    crops = torch.zeros(1, 3, size, size)
    crops[0, 0, 76:85, 146:155] = 1
    points = Points106(SimpleNamespace(inputs=[SimpleNamespace(name="data")], run=run))(crops)
    assert points.shape == (1, 106, 2) and np.allclose(points[0, 7], (150, 80), atol=.3)
