"""Pictures of any shape: thin, tall and wide ones neither end the process nor hide their faces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.detect.strips import is_strip, strip_windows
from hypothesis import given
from hypothesis import strategies as st
from scenes import backdrop, batch_of, bytes_of, nearest, place, the_face, turn_and_scale

# Each ended the process once, or came back as C++ text.
SHAPES = [(8, 300), (300, 8), (80, 3000), (3000, 80), (4000, 8), (8, 4000), (15, 900), (9, 9), (8, 8), (8, 33), (17, 300)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape(shape):
    noise = torch.rand(1, *shape, 3, generator=torch.Generator().manual_seed(0))
    assert len(detect_faces(noise)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(24000, 690), (300, 15000)], ids=str)
def test_long_shapes(shape):
    noise = torch.rand(1, *shape, 3, generator=torch.Generator().manual_seed(0))
    assert len(detect_faces(noise)) == 0


@given(st.integers(16, 3000), st.floats(4.01, 60))
def test_windows_cover_a_strip_and_hold_every_face_whole(short, ratio):
    long = int(np.ceil(short * ratio))
    assert is_strip(long, short)
    down, across = strip_windows(long, short), strip_windows(short, long)
    turned = [(w.columns, w.rows, 1 - w.axis, w.first, w.last) for w in across]
    assert turned == [(w.rows, w.columns, w.axis, w.first, w.last) for w in down]
    assert down[0].rows.start == 0
    assert down[-1].rows.stop == long
    assert all(w.columns == slice(0, short) for w in down)
    for middle in np.linspace(0, long, 97):
        owners = [w for w in down if w.owns(np.array([[0, middle]]))]
        assert owners
        low, high = max(0, middle - 0.5 * short), min(long, middle + 0.5 * short)
        assert all(w.rows.start <= low + 1 and high - 1 <= w.rows.stop for w in owners)


def strip_with(people, length, width, middles, scale, down):
    """Portraits in a row, at these places along a strip, each turned upright."""
    canvas = backdrop(length, width) if down else backdrop(width, length)
    truths = []
    for (picture, truth), middle in zip(people, middles, strict=False):
        head = picture[max(0, int(truth.center[1] - truth.size)):int(truth.center[1] + truth.size),
                       max(0, int(truth.center[0] - truth.size)):int(truth.center[0] + truth.size)]
        corner = np.maximum(0, (truth.center - truth.size).astype(int))
        own = scale * width / truth.size
        target = (width / 2, middle) if down else (middle, width / 2)
        matrix = turn_and_scale(head.shape[1], head.shape[0], 0, own, target)
        canvas = place(canvas, head, matrix)
        full = matrix.copy()
        full[:, 2] -= matrix[:, :2] @ corner
        truths.append((truth, full))
    return canvas, truths


@pytest.mark.parametrize("down", [True, False])
@pytest.mark.parametrize(("width", "length", "scale"), [(300, 4000, 0.35), (700, 6000, 0.5), (120, 3000, 0.5), (90, 1000, 0.45)])
def test_every_face_of_a_strip(collins, down, width, length, scale):
    people = [(bytes_of(image), the_face(image)) for image in (collins, collins.flip(2))]
    border = strip_windows(length, width)[0].last if len(strip_windows(length, width)) > 1 else length / 2
    middles = [0.75 * width, border, border + 2 * width, length - 0.75 * width][:3 if length < 2000 else 4]
    picture, truths = strip_with(itertools.cycle(people), length, width, middles, scale, down)
    faces = detect_faces(batch_of(picture))
    assert len(faces) == len(truths)
    for truth, matrix in truths:
        assert nearest(faces, truth, matrix)[1] < 0.12
