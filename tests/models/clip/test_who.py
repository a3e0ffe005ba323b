"""The picture of who is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.clip.find import VIEW_EDGE, FoundFaces
from faceloom.models.clip.who import BAR, MARGIN, ROW, WIDTH, clock, people, who_is_there
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces

TIMES = [i / 4 for i in range(20)]


def found(*sightings: tuple[int, int]) -> FoundFaces:
    """frame and track of every face."""
    items = tuple(Face(frame, (0, 0, 9, 9), FFHQ_TEMPLATE * 9, track=track) for frame, track in sightings)
    views = {track: torch.full((VIEW_EDGE, VIEW_EDGE, 3), .2 + .1 * track) for _, track in sightings}
    return FoundFaces(Faces(items, 20, 90, 160), views, 20)


def test_everybody_with_times_and_share():
    faces = found((0, 0), (1, 0), (2, 0), (2, 3), (7, 3)).faces
    first, second = people(faces, TIMES)
    assert (first.track, first.first, first.last, first.frames, first.share) == (0, 0, .5, 3, .15)
    assert str(second) == "person 3: 0:00.5 to 0:01.8, 10% of the frames"


@pytest.mark.parametrize("seconds, text", [(0, "0:00.0"), (59.96, "1:00.0"), (62.5, "1:02.5"), (3600, "1:00:00.0"), (7325.25, "2:02:05.2")])
def test_times_are_written_as_a_clock(seconds, text):
    assert clock(seconds) == text


def test_each_row_has_the_view_and_a_bar_of_when():
    sheet = who_is_there(found(*((i, 0) for i in range(10)), (15, 2)), TIMES)
    assert sheet.shape == (2 * ROW, WIDTH, 3)
    views = [float(sheet[row * ROW + ROW // 2, MARGIN + VIEW_EDGE // 2, 0]) for row in (0, 1)]
    np.testing.assert_allclose(views, [.2, .4], atol=1 / 255)
    bar = (sheet[MARGIN + 60, VIEW_EDGE + 3 * MARGIN : WIDTH - 3 * MARGIN] * 255).round() == torch.tensor(BAR)
    present = bar.all(-1).float()
    assert float(present[: len(present) // 2].mean()) > .99 and float(present[len(present) // 2 + 1 :].sum()) == 0


def test_nobody_is_said():
    sheet = who_is_there(found(), TIMES)
    assert sheet.shape == (ROW, WIDTH, 3) and float(sheet.max()) > .8
