"""Overlays, landmark drawings and contact sheets: that the right pixels are drawn and the others are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect.overlay import draw_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.face3d.drawings import draw_landmarks
from faceloom.models.faces import Face, Faces, keypoints_from_68
from faceloom.models.parse.landmarks import mean_points68
from faceloom.models.pixels.drawing import PALETTE, contact_sheet


def person(frame: int, x: float, y: float, scale: float, **extra) -> Face:
    points = mean_points68() * scale + (x, y)
    return Face(frame, [*points.min(0), *points.max(0)], keypoints_from_68(points), points68=points, **extra)


def test_only_frames_with_faces_are_drawn_on():
    images = torch.rand((3, 240, 320, 3), generator=torch.Generator().manual_seed(0))
    before = images.clone()
    drawn = draw_faces(images, Faces((person(1, 60, 40, 150),), 3, 240, 320))
    assert torch.equal(images, before)
    assert torch.equal(drawn[0], images[0]) and torch.equal(drawn[2], images[2])
    assert (drawn[1] - images[1]).abs().amax(-1).gt(0.01).float().mean() > 0.005


@pytest.mark.parametrize("scale", [0.2, 1, 4])
def test_box_badge_and_keypoints_lie_where_the_face_says(scale):
    height, width = round(400 * scale), round(500 * scale)
    face = person(0, 100 * scale, 90 * scale, 250 * scale, score=0.87, sex="female", age=41.0)
    drawn = draw_faces(torch.zeros(1, height, width, 3), Faces((face,), 1, height, width))[0]
    color = torch.tensor(PALETTE[2]) / 255
    x0, y0, x1, y1 = (round(float(v)) for v in face.box)
    for x, y in ((x0, (y0 + y1) // 2), (x1, (y0 + y1) // 2), ((x0 + x1) // 2, y1)):
        assert (drawn[y, x] - color).abs().max() < 0.02
    for x, y in face.keypoints.round().astype(int).tolist():
        assert drawn[y - 1 : y + 2, x - 1 : x + 2].max() > 0.8
    inside = drawn[y0 + 1 + (y1 - y0) // 4 : y1 - (y1 - y0) // 4, x0 + (x1 - x0) // 4 : x1 - (x1 - x0) // 4]
    assert inside.amax(-1).gt(0).float().mean() < 0.2
    # The badge: a filled box with light text above the face's upper left corner.
    badge = drawn[max(0, y0 - 4) : y0, x0 + 1 : x0 + 4]
    assert (badge - color).abs().amax(-1).lt(0.02).any()


def test_more_is_written_when_more_is_known():
    def badge_width(**extra):
        drawn = draw_faces(torch.zeros(1, 300, 600, 3), Faces((person(0, 50, 40, 60, **extra),), 1, 300, 600))[0]
        return int(drawn.amax(-1).gt(0).any(0).nonzero().max())

    short, sex, both = badge_width(), badge_width(sex="male"), badge_width(sex="male", age=30)
    assert short < sex < both


def test_a_badge_at_the_border_stays_in_the_picture():
    face = person(0, -60, -60, 150)
    drawn = draw_faces(torch.zeros(1, 120, 160, 3), Faces((face,), 1, 120, 160))[0]
    assert (drawn[:10, :20] - torch.tensor(PALETTE[2]) / 255).abs().amax(-1).lt(0.02).float().mean() > 0.3


def test_overlay_refuses_another_image():
    with pytest.raises(FaceLoomError, match="connect the image"):
        draw_faces(torch.zeros(1, 100, 100, 3), Faces((), 1, 240, 320))


def test_landmarks_are_drawn_through_their_points_on_black():
    points = mean_points68() * 256
    drawn = draw_landmarks(points, 256, 256)
    assert drawn.shape == (256, 256, 3)
    at = drawn[tuple(points.round().astype(int).T[::-1])].amax(-1)
    assert at.min() > 0.5
    assert drawn.amax(-1).gt(0).float().mean() < 0.12
    ys, xs = drawn.amax(-1).gt(0.2).nonzero().T
    assert float(xs.float().mean()) == pytest.approx(127.5, abs=1.5)
    assert xs.min() > points[:, 0].min() - 4 and ys.max() < points[:, 1].max() + 4


def test_landmarks_over_a_picture_leave_the_rest_alone():
    image = torch.rand((128, 160, 3), generator=torch.Generator().manual_seed(1))
    both = draw_landmarks(np.stack([mean_points68() * 80, mean_points68() * 80 + (70, 30)]), 128, 160, image)
    one = draw_landmarks(mean_points68() * 80, 128, 160, image)
    changed = (both != image).any(-1)
    assert not changed[:25].any() and 0.02 < changed.float().mean() < 0.3
    assert (both != image).any(-1).sum() > 1.5 * (one != image).any(-1).sum()


def test_contact_sheet_places_every_picture():
    red, green, mask = torch.tensor([1.0, 0, 0]).expand(50, 100, 3), torch.tensor([0, 1.0, 0]).expand(40, 20, 3), torch.ones(30, 30)
    sheet = contact_sheet([[red, green], [mask]], [["red", "green"], ["mask"]], tile=100, gap=10, title="Sheet")
    assert sheet.shape[1] == 2 * 110 + 10 and sheet.dtype == torch.float32
    assert int((sheet == torch.tensor([1.0, 0, 0])).all(-1).sum()) == 100 * 50
    assert int((sheet == torch.tensor([0, 1.0, 0])).all(-1).sum()) == 50 * 100
    assert int((sheet == 1).all(-1).sum()) == 100 * 100
    assert sheet[: sheet.shape[0] // 6].amin() < 0.4  # the title


def test_contact_sheet_headings_repeat_and_long_ones_are_cut():
    picture = torch.zeros(10, 10, 3)
    plain = contact_sheet([[picture, picture]], tile=64)
    headed = contact_sheet([[picture, picture]] * 2, ["one", "a caption much longer than the tile is wide"], tile=64)
    line = headed.shape[0] - 2 * (64 + 12) - 12
    assert plain.shape == (64 + 24, 2 * 76 + 12, 3) and line % 2 == 0 and line > 20
    caption = headed[12 + 64 + 1 : 12 + 64 + line // 2 - 1]
    ink = caption.amax(-1).lt(0.6).any(0).nonzero()[:, 0]
    assert ink.min() >= 12 and ink.max() <= 2 * 76 and ink.max() > 76 + 40
    half = headed.shape[0] // 2
    assert torch.equal(headed[12:half], headed[12 + 64 + 12 + line // 2 :][: half - 12])


def test_an_empty_sheet_is_an_error():
    with pytest.raises(FaceLoomError, match="at least one picture"):
        contact_sheet([[]])
