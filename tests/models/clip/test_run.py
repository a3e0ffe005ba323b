"""Both passes over a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from faceloom.models.clip.find import ClipSearch
from faceloom.models.clip.run import WHOLE, Section, find_in_clip, swap_clip
from faceloom.models.clip.swap import ClipPlan, ClipSwapper
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces
from faceloom.models.files.video import open_writer, probe, read_frames, tone_mapped
from faceloom.models.options.paste import PasteSettings
from faceloom.models.options.restore import RestoreSettings
from faceloom.models.pipeline import Models, Settings

from ..clips import decoded, equal, make_clip

PLAIN = Settings(restore=RestoreSettings(amount=0), paste=PasteSettings(keep_unchanged=False))


class Gray:
    """An engine that makes every face grey."""

    name = "gray"

    def prepare(self, identity):
        return identity

    def swap(self, images, faces, source, settings=None, progress=lambda done, total: None):
        progress(len(faces), len(faces))
        crops = torch.full((len(faces), faces.crop_size, faces.crop_size, 3), .5)
        return crops, torch.ones(crops.shape[:3])


class Everywhere:
    """A detector that finds the same face in every frame."""

    def detect(self, images, threshold):
        keypoints = FFHQ_TEMPLATE * 30 + (20, 16)
        return [[Face(0, (20, 16, 50, 46), keypoints)] for _ in images]


class NoRecognizer:
    space = "none"

    def embed(self, images, faces):
        return np.ones((len(faces), 2)) / 2**.5


def clip_faces(frames: int, *with_face: int, size=(64, 96)) -> Faces:
    items = tuple(Face(i, (20, 16, 50, 46), FFHQ_TEMPLATE * 30 + (20, 16), track=0) for i in with_face)
    return Faces(items, frames, *size)


def swap(source, out, faces, section=WHOLE, **more) -> None:
    with open_writer(out, source, probe(source), window=(section.start, section.end)) as writer:
        swap_clip(source, writer, ClipSwapper(ClipPlan(faces, "anybody", Models(Gray()), PLAIN)), section=section, **more)


def test_faces_are_found_in_the_frames_of_the_section_with_their_times(tmp_path):
    path = make_clip(tmp_path / "a.mp4")
    heard = []
    found = find_in_clip(path, ClipSearch(), Everywhere(), NoRecognizer(), section=Section(.2, .52),
                         progress=lambda *at: heard.append(at))
    assert found.times == pytest.approx([.2 + i * .04 for i in range(8)]) and found.faces.frames == 8
    assert {face.track for face in found.faces} == {0} and [done for done, _ in heard] == list(range(1, 9))


def test_only_frames_with_a_face_change_and_only_there(tmp_path):
    path = make_clip(tmp_path / "a.mkv", codec="ffv1")
    seen = []
    swap(path, tmp_path / "b.mkv", clip_faces(24, 3, 4, 20), watch=lambda done, total, picture: seen.append((done, total, picture())))
    before, after = decoded(path), decoded(tmp_path / "b.mkv")
    assert [one == other for (one, _), (other, _) in zip(before, after)] == [True] * 24
    assert [equal([one], [other]) for one, other in zip(before, after)] == [i not in (3, 4, 20) for i in range(24)]
    luma, changed = before[3][1][0], after[3][1][0]
    assert abs(changed[28:36, 30:40] - (.5 * 219 + 16.)).max() <= 1.5 and np.array_equal(changed[:, 60:], luma[:, 60:])
    assert [at[:2] for at in seen] == [(i + 1, 24) for i in range(24)]
    assert all(picture.shape == (64, 96, 3) for *_, picture in seen)
    assert abs(float(seen[3][2][32, 35, 0]) - .5) < .01 < abs(float(seen[2][2][32, 35, 0]) - .5)


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_face_in_a_clip_of_high_dynamic_range_is_as_bright_as_it_is_seen(tmp_path, transfer):
    path = make_clip(tmp_path / "a.mkv", codec="ffv1", fmt="yuv420p10le", matrix=9, primaries=9, transfer=transfer)
    swap(path, tmp_path / "b.mkv", clip_faces(24, *range(24)))
    with read_frames(tmp_path / "b.mkv") as after, read_frames(path) as before:
        assert after.info.hdr == before.info.hdr != "" and after.info.marks == before.info.marks
        one, other = next(before).image(), next(after).image()
    assert torch.equal(one[:, 60:], other[:, 60:])
    assert (tone_mapped(other, transfer)[28:36, 30:40] - .5).abs().max() < .012


@pytest.mark.parametrize("faces, message", [
    (clip_faces(23, 3), "more than the 23 frames"), (clip_faces(25, 3), "has 24 frames, but the faces were found in 25"),
    (clip_faces(24, 3, size=(64, 98)), "frames of 98×64, but .*a.mp4 has 96×64")])
def test_faces_of_another_clip_are_one_sentence_and_leave_no_file(tmp_path, faces, message):
    path = make_clip(tmp_path / "a.mp4")
    with pytest.raises(FaceLoomError, match=message):
        swap(path, tmp_path / "b.mp4", faces)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4"]


def test_a_watcher_ends_the_work_within_a_frame(tmp_path):
    path = make_clip(tmp_path / "a.mp4")
    seen = []

    def watch(done, total, picture):
        seen.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swap(path, tmp_path / "b.mp4", clip_faces(24, 3), watch=watch)
    assert seen == [1, 2, 3, 4, 5] and not (tmp_path / "b.mp4").exists()
