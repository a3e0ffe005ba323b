"""Pass one of a clip: faces found, followed, and looked for only where they are expected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from faceloom.models.clip.find import ClipSearch, find_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import FFHQ_TEMPLATE, Face
from faceloom.models.options.detect import DetectSettings

HEIGHT, WIDTH, EDGE = 120, 240, 30
BACKGROUND = .1
SHADES = (.5, .75, 1.0)  # who a face is


class Shades:
    """A detector that finds squares of three shades of grey, and a recognizer that tells them by their shade. Counts the pixels it sees."""

    name, space = "shades", "shades"

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def detect(self, images: torch.Tensor, threshold: float, progress=None) -> list[list[Face]]:
        (image,) = images
        self.seen.append((image.shape[1], image.shape[0]))
        found = []
        for shade in SHADES:
            rows, columns = torch.nonzero((image[..., 0] - shade).abs() < .01, as_tuple=True)
            if len(rows) >= EDGE * EDGE // 2:
                box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)
                found.append(Face(0, box, FFHQ_TEMPLATE * (box[2:] - box[:2]) + box[:2], score=shade))
        return [found]

    def embed(self, images: torch.Tensor, faces, progress=None) -> np.ndarray:
        return np.stack([np.eye(3)[SHADES.index(round(face.score, 2))] for face in faces])


def frame(*people: tuple[int, float]) -> torch.Tensor:
    """A frame with squares: x and shade of each."""
    image = torch.full((HEIGHT, WIDTH, 3), BACKGROUND)
    for x, shade in people:
        image[40 : 40 + EDGE, x : x + EDGE] = shade
    return image


def find(frames: Sequence[torch.Tensor], every: int = 1, gap: int = 3, **detect):
    shades = Shades()
    return find_faces(frames, ClipSearch(DetectSettings(**detect), every, gap), shades, shades), shades


def test_people_are_numbered_and_each_frame_keeps_its_own_faces():
    found, _ = find([frame((20 + 2 * i, .5), (180 - 2 * i, 1.0)) for i in range(6)], order="left-right")
    assert [(face.frame, face.track, face.score) for face in found.faces] == [
        (i, track, score) for i in range(6) for track, score in ((0, .5), (1, 1.0))]
    assert (found.faces.frames, found.faces.height, found.faces.width) == (6, HEIGHT, WIDTH)
    np.testing.assert_array_equal([face.embeddings["shades"] for face in found.faces[:2]], np.eye(3)[[0, 2]])
    assert sorted(found.views) == [0, 1] and found.views[0].shape == (128, 128, 3)
    assert [float(found.views[track][64, 64, 0]) for track in (0, 1)] == pytest.approx([.5, 1], abs=1e-3)


def test_between_searches_the_detector_looks_around_the_faces_only():
    """Once the whole frame, then squares three edges wide; in the tenth frame the whole again, and so the second person is found, and
    followed back to where that person came in."""
    frames = [frame((20 + i, .5)) for i in range(3)] + [frame((20 + i, .5), (180, 1.0)) for i in range(3, 12)]
    found, shades = find(frames, every=10)
    assert found.searched == 2 and shades.seen[0] == shades.seen[10] == (WIDTH, HEIGHT)
    assert all(max(size) <= 3 * EDGE + 2 for size in shades.seen[1:10] + shades.seen[11:])  # and two pixels that rounding may add
    assert [face.frame for face in found.faces if face.track == 1] == list(range(3, 12))
    assert [face.frame for face in found.faces if face.track == 0] == list(range(12))
    whole, _ = find(frames)
    for one, other in zip((face for face in found.faces if face.track == 0), (face for face in whole.faces if face.track == 0)):
        np.testing.assert_array_equal(one.box, other.box)
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1e-4)


def test_where_a_face_is_lost_the_whole_frame_is_searched():
    frames = [frame((20, .5)), frame((20, .5)), frame((150, .5)), frame((150, .5))]
    found, _ = find(frames, every=100)
    assert [face.frame for face in found.faces] == [0, 1, 2, 3] and found.searched == 2
    assert [face.track for face in found.faces] == [0, 0, 0, 0]  # by the embedding


def test_nobody_is_followed_back_over_a_cut_or_into_somebody_else():
    stripes = torch.arange(WIDTH).remainder(60).lt(30)[None, :, None].expand(HEIGHT, WIDTH, 3)
    cut_to = torch.where(frame((20, .5)) == .5, .5, stripes * .85)
    second = torch.where(frame((120, 1.0)) == 1, 1, cut_to)
    found, _ = find([frame((120, 1.0))] * 3 + [cut_to] * 2 + [second] * 6, every=5, gap=0)
    assert found.faces.cuts == {3}
    assert [face.frame for face in found.faces if face.score == 1] == [0, 1, 2, *range(5, 11)]
    assert [face.frame for face in found.faces] == sorted(face.frame for face in found.faces)


def test_two_faces_side_by_side_are_not_found_twice():
    found, _ = find([frame((60, .5), (95, 1.0))] * 4, every=4)
    assert len(found.faces) == 8 and sorted(found.views) == [0, 1]


def test_a_person_is_the_same_after_a_cut_and_the_frame_is_searched_whole():
    stripes = torch.arange(WIDTH).remainder(60).lt(30)[None, :, None].expand(HEIGHT, WIDTH, 3)
    cut_to = torch.where(frame((150, .5)) == .5, .5, stripes * .85)
    found, _ = find([frame((20, .5))] * 3 + [cut_to] * 2, every=100)
    assert found.faces.cuts == {3} and found.searched == 2
    assert [(face.frame, face.track) for face in found.faces] == [(i, 0) for i in range(5)]


def test_order_keep_and_least_size_hold_in_every_frame():
    frames = [frame((20, .5), (120, .75), (200, 1.0))] * 2
    found, _ = find(frames, order="right-left", keep="0,2")
    assert [(face.frame, face.score) for face in found.faces] == [(0, 1.0), (0, .5), (1, 1.0), (1, .5)]
    assert len(find(frames, min_size=EDGE + 1)[0].faces) == 0


@pytest.mark.parametrize("search", [ClipSearch(every=0), ClipSearch(gap=-1), ClipSearch(DetectSettings(order="by name"))])
def test_settings_out_of_range_are_refused(search):
    with pytest.raises(FaceLoomError):
        find_faces([frame()], search, Shades(), Shades())


def test_no_frame_and_frames_of_two_sizes_are_refused():
    with pytest.raises(FaceLoomError, match="no frames"):
        find([])
    with pytest.raises(FaceLoomError, match="another size"):
        find([frame(), frame()[:100]])
