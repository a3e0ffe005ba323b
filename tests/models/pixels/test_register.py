"""How a small picture moved."""

from __future__ import annotations

import numpy as np
import pytest
from faceloom.models.pixels.affine import invert, transform
from faceloom.models.pixels.register import register_affine
from scipy import ndimage

SIZE = 96


def scene() -> np.ndarray:
    random = np.random.default_rng(7)
    return ndimage.gaussian_filter(random.random((200, 200)), 2) * 4


def seen_through(matrix: np.ndarray) -> np.ndarray:
    """The scene after every pixel of its part moved by ``matrix``."""
    ys, xs = np.mgrid[:SIZE, :SIZE]
    at = transform(np.stack([xs, ys], -1).reshape(-1, 2), invert(matrix)) + 50
    return ndimage.map_coordinates(scene(), [at[:, 1], at[:, 0]], order=3).reshape(SIZE, SIZE)


STILL = np.array([[1., 0, 0], [0, 1, 0]])
MOTIONS = [STILL, np.array([[1, 0, 1.7], [0, 1, -2.2]]), np.array([[1.01, .012, .4], [-.015, .99, 1.1]])]


@pytest.mark.parametrize("motion", MOTIONS)
def test_motion_is_found_to_a_fraction_of_a_pixel_whatever_the_light_and_the_noise(motion):
    noise = np.random.default_rng(1).normal(0, .01, (SIZE, SIZE))
    found, correlation = register_affine(seen_through(STILL), seen_through(motion) * .8 + .1 + noise, np.ones((SIZE, SIZE)))
    corners = np.array([[10., 10], [85, 10], [10, 85], [85, 85]])
    assert np.abs(transform(corners, found) - transform(corners, motion)).max() < .15 and correlation > .97


def test_what_moves_by_itself_counts_little():
    after = seen_through(MOTIONS[1])
    after[60:80, 20:45] = np.random.default_rng(3).random((20, 25)) * 3
    found, _ = register_affine(seen_through(STILL), after, np.ones((SIZE, SIZE)))
    assert np.abs(found - MOTIONS[1]).max() < .1


def test_another_picture_does_not_correlate():
    other = ndimage.gaussian_filter(np.random.default_rng(9).random((SIZE, SIZE)), 2) * 4
    assert register_affine(seen_through(STILL), other, np.ones((SIZE, SIZE)))[1] < .6


def test_a_picture_without_slopes_stays_where_it_is():
    flat = np.full((SIZE, SIZE), .5)
    found, _ = register_affine(flat, flat, np.ones((SIZE, SIZE)))
    assert np.isfinite(found).all() and np.abs(found - STILL).max() < 1e-6
