"""Pass two of a clip: the frames with new faces, a few at a time."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.clip import swap
from faceloom.models.clip.frames import Patch, swap_frames
from faceloom.models.clip.swap import Box, ClipPlan, ClipSwapper, frames_together, threads_for, track_crop_sizes
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces, Identity
from faceloom.models.options.paste import PasteSettings
from faceloom.models.options.restore import RestoreSettings
from faceloom.models.pipeline import Models, Settings
from faceloom.models.swap.load import load_engine

HEIGHT, WIDTH = 90, 160
PLAIN = Settings(restore=RestoreSettings(amount=0), paste=PasteSettings(keep_unchanged=False))


class Painter:
    """An engine that paints crops in the colour that it is given as the source, and notes how many faces it was given together."""

    name = "painter"

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.prepared: list[str] = []

    def prepare(self, identity):
        self.prepared.append(identity.name)
        return float(identity.name)

    def swap(self, images, faces, source, settings=None, progress=None):
        size = faces.crop_size
        self.batches.append((len(faces), size))
        crops = torch.full((len(faces), size, size, 3), float(source))
        masks = torch.zeros(len(faces), size, size)
        masks[:, size // 4 : -size // 4, size // 4 : -size // 4] = 1
        return crops, masks


def face(frame: int, x: float, track: int, edge: float = 40) -> Face:
    """A face whose crop has this edge, its left side at x."""
    return Face(frame, (x, 20, x + edge, 20 + edge), FFHQ_TEMPLATE * edge + (x, 20), track=track)


def clip(*items: Face, frames: int) -> Faces:
    return Faces(tuple(items), frames, HEIGHT, WIDTH)


def frames(count: int, channels: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(HEIGHT, WIDTH, channels, generator=generator) * .4 for _ in range(count)]


class Shown:
    """A frame that notes of which parts it was asked the colours."""

    def __init__(self, picture: torch.Tensor) -> None:
        self.picture, self.asked = picture, []

    def image(self, box: Box) -> torch.Tensor:
        self.asked.append(box)
        return self.picture[box.slices]

    def after(self, patch: Patch | None) -> torch.Tensor:
        """The frame with its new pixels; itself where there are none."""
        if patch is None:
            return self.picture
        image = self.picture.clone()
        image[patch.box.slices] = patch.pixels
        return image


def swapped(pictures: list[torch.Tensor], work: ClipSwapper, first: int = 0) -> list[torch.Tensor]:
    """The frames after the swap."""
    return [frame.after(patch) for frame, patch in swap_frames(map(Shown, pictures), work, first)]


def swapper(faces: Faces, fade: int = 0, settings: Settings = PLAIN) -> tuple[ClipSwapper, Painter]:
    engine = Painter()
    return ClipSwapper(ClipPlan(faces, .9, Models(engine), settings, fade)), engine


def test_every_frame_comes_out_in_order_and_only_those_with_faces_change():
    pictures = frames(20)
    work, engine = swapper(clip(face(2, 30, 0), face(3, 32, 0), face(3, 100, 1), face(9, 40, 0), frames=20))
    heard = []
    shown = [Shown(picture) for picture in pictures]
    done = list(swap_frames(iter(shown), work, progress=lambda *at: heard.append(at)))
    assert [frame for frame, _ in done] == shown and [patch is not None for _, patch in done] == [i in (2, 3, 9) for i in range(20)]
    assert [bool(frame.asked) for frame in shown] == [i in (2, 3, 9) for i in range(20)] and heard[-1] == (1, 1)
    assert shown[9].asked == [work.box(9, 1)] and shown[2].asked == [work.box(2, 2)]  # frames together, of all of them the same part
    out = [frame.after(patch) for frame, patch in done]
    for i, x in ((2, 50), (3, 52), (3, 120), (9, 60)):
        assert torch.allclose(out[i][38:42, x - 2 : x + 2], torch.tensor(.9), atol=1e-3)
        assert not torch.equal(out[i], pictures[i])
    assert torch.equal(out[2][:, 90:], pictures[2][:, 90:]) and torch.equal(out[9][:, 90:], pictures[9][:, 90:])
    assert engine.batches == [(3, 256), (1, 256)]  # faces of frames that follow each other go in together


def test_what_a_frame_becomes_does_not_depend_on_where_the_work_began():
    faces = clip(*(face(i, 30 + i, 0) for i in range(20)), frames=20)
    pictures = frames(20)
    whole = swapped(pictures, swapper(faces)[0])
    part = swapped(pictures[8:], swapper(faces)[0], first=8)
    assert len(part) == 12 and all(torch.equal(one, other) for one, other in zip(part, whole[8:]))


def test_every_person_is_prepared_once_and_each_face_becomes_its_own():
    anna, bert = (Identity({}, np.zeros((0, 8, 8, 3)), (), name=name) for name in (".5", ".7"))
    faces = clip(*(replace(face(i, x, t), identity=who) for i in range(18) for x, t, who in ((0, 0, anna), (50, 1, None), (100, 2, bert))),
                 frames=18)
    work, engine = swapper(faces)
    for image in swapped(frames(18), work):
        assert [float(image[40, x, 0]) for x in (20, 70, 120)] == pytest.approx([.5, .9, .7], abs=1e-3)
    assert engine.prepared == [".5", ".7"]


def test_faces_that_become_nobody_stay_as_they_are():
    anna = Identity({}, np.zeros((0, 8, 8, 3)), (), name=".5")
    faces = clip(replace(face(0, 0, 0), identity=anna), face(0, 100, 1), face(1, 50, 2), frames=2)
    work = ClipSwapper(ClipPlan(faces, None, Models(Painter()), PLAIN))
    pictures = frames(2)
    one, two = swapped(pictures, work)
    assert float(one[40, 20, 0]) == pytest.approx(.5, abs=1e-3) and torch.equal(one[:, 70:], pictures[0][:, 70:])
    assert two is pictures[1]


def test_a_fading_swap_shows_in_part_and_not_at_all_where_its_weight_is_0():
    pictures = [torch.full((HEIGHT, WIDTH, 3), .1)] * 8
    work, _ = swapper(clip(*(face(i, 30, 0) for i in range(2, 8)), frames=8), fade=3)
    shown = [float(image[40, 50, 0]) for image in swapped(pictures, work)]
    np.testing.assert_allclose(shown, [.1, .1, .3, .5, .7, .9, .9, .9], atol=1e-3)


def test_transparency_and_frames_are_left_alone():
    pictures = frames(3, 4)
    copies = [picture.clone() for picture in pictures]
    out = swapped(pictures, swapper(clip(face(1, 30, 0), frames=3))[0])
    assert all(torch.equal(picture, copy) for picture, copy in zip(pictures, copies))
    assert torch.equal(out[1][..., 3], pictures[1][..., 3]) and not torch.equal(out[1][..., :3], pictures[1][..., :3])


def test_the_crops_of_one_track_have_one_size():
    """Of its largest face, at the frames' resolution, in steps of 64; at least and at most what is useful."""
    faces = clip(face(0, 0, 0, 300), face(0, 0, 1, 90), face(1, 0, 0, 420), face(1, 0, 2, 3000), face(2, 0, None, 500), frames=3)
    np.testing.assert_array_equal(track_crop_sizes(faces), [448, 256, 448, 1024, 512])
    np.testing.assert_array_equal(track_crop_sizes(faces, 512), [512, 512, 512, 1024, 512])
    assert len(track_crop_sizes(clip(frames=1))) == 0


def test_settings_of_their_own_size_hold_for_all():
    work, engine = swapper(clip(face(0, 30, 0), face(0, 90, 1), frames=1), settings=replace(PLAIN, crop_size=128))
    swapped(frames(1), work)
    assert engine.batches == [(2, 128)]


def test_only_the_part_with_faces_is_given_on():
    """Also where a face reaches beyond the frame or lies wholly outside of it."""
    items = (face(0, 30, 0), face(0, 70, 1), face(1, 140, 0), face(2, 300, 0), face(3, -15, 0))
    pictures = frames(4)
    work, _ = swapper(clip(*items, frames=4))
    done = [(frame, patch) for frame, patch in swap_frames(map(Shown, pictures), work)]
    assert [patch.box for _, patch in done] == [Box(16, 64, 24, 120), Box(16, 64, 136, 160), Box(0, 0, 0, 0), Box(16, 64, 0, 32)]
    for picture, (frame, patch) in zip(pictures, done, strict=True):
        assert patch.pixels.shape == (*picture[patch.box.slices].shape[:2], 3)
        assert torch.equal(frame.after(patch), picture) == (not patch.pixels.numel())
    assert swapper(clip(frames=1))[0].box(0, 1) == Box(0, 0, 0, 0)


def test_a_clip_broken_off_at_a_chunk_goes_on_as_if_nothing_had_been():
    """With colours and grain, which are measured in the first frame of each chunk and change evenly in between."""
    settings = Settings(paste=PasteSettings(color="mean-std"))
    pictures = [picture + .02 * i for i, picture in enumerate(frames(28))]
    faces = clip(*(face(i, 30 + i, 0) for i in range(28) if i not in (13, 14)), frames=28)
    whole = swapped(pictures, swapper(faces, settings=settings)[0])
    part = swapped(pictures[16:], swapper(faces, settings=settings)[0], first=16)
    assert len(part) == 12 and all(torch.equal(one, other) for one, other in zip(part, whole[16:], strict=True))


def brightness(cuts: frozenset[int] = frozenset()) -> list[float]:
    """How bright the face is in 24 frames that become brighter by the frame, its colours matched to them."""
    pictures = [torch.full((HEIGHT, WIDTH, 3), .2 + .02 * i) for i in range(24)]
    settings = replace(PLAIN, paste=PasteSettings(color="mean-std"))
    faces = replace(clip(*(face(i, 30, 0) for i in range(24)), frames=24), cuts=cuts)
    return [float(image[40, 50].mean()) for image in swapped(pictures, swapper(faces, settings=settings)[0])]


def test_colours_are_measured_in_every_eighth_frame_and_change_evenly_in_between():
    levels = brightness()
    np.testing.assert_allclose([levels[i] for i in (0, 8, 16)], [.2, .36, .52], atol=.012)
    np.testing.assert_allclose(levels[4], (levels[0] + levels[8]) / 2, atol=.012)
    assert (np.diff(levels[:17]) > .012).all() and np.ptp(levels[16:]) < 1e-6  # after the last there is none to change towards


def test_colours_of_one_shot_are_not_those_of_the_next():
    levels = brightness(frozenset({11}))
    np.testing.assert_allclose([levels[i] for i in (8, 10, 11, 15)], [.36, .36, .42, .42 + 4 / 5 * .1], atol=.012)


@pytest.mark.parametrize("size, count", [((90, 160), 8), ((1080, 1920), 8), ((2160, 3840), 2), ((4320, 7680), 1)])
def test_fewer_large_frames_are_worked_on_together(size, count):
    assert frames_together(*size) == count


def test_settings_that_cannot_be_are_refused_before_a_frame_is_read():
    with pytest.raises(FaceLoomError, match="fade"):
        swapper(clip(frames=1), fade=-1)
    with pytest.raises(FaceLoomError, match="Opacity"):
        swapper(clip(frames=1), settings=replace(PLAIN, paste=PasteSettings(opacity=2)))


# Several chunks at the same time

COUNT = 40  # frames


class InThreads(Painter):
    """A painter that several threads may ask, and that notes whether two ever did and who computed."""

    swap_in_threads = True

    def __init__(self) -> None:
        super().__init__()
        self.together, self.inference = threading.Barrier(2, timeout=20), set()
        self.met = False

    def swap(self, images, faces, source, settings=None, progress=None):
        if not self.met:
            self.together.wait()  # ends only if a second thread comes
            self.met = True
        self.inference.add((threading.current_thread() is threading.main_thread(), torch.is_inference_mode_enabled()))
        return super().swap(images, faces, source)


def long_plan(engine) -> ClipPlan:
    return ClipPlan(clip(*[face(i, 10 + i, 0) for i in range(COUNT) if i % 11], frames=COUNT), .9, Models(engine), PLAIN)


def test_the_same_frames_in_the_same_order(monkeypatch):
    monkeypatch.setattr(swap, "MOST_THREADS", 2)
    monkeypatch.setattr(swap.os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    pictures, engine = [Shown(picture) for picture in frames(COUNT)], InThreads()
    alone = [shown.after(patch) for shown, patch in swap_frames(pictures, ClipSwapper(long_plan(Painter())))]
    with torch.inference_mode():
        swapper = ClipSwapper(long_plan(engine))
        several = [(shown, shown.after(patch)) for shown, patch in swap_frames(pictures, swapper)]
    assert swapper.threads == 2 and engine.met and engine.inference == {(False, True)}
    assert [shown for shown, _ in several] == pictures
    assert all(torch.equal(one, other) for one, (_, other) in zip(alone, several, strict=True))


def test_an_error_of_a_thread_ends_the_work(monkeypatch):
    monkeypatch.setattr(swap.os, "sched_getaffinity", lambda process: {0, 1}, raising=False)

    class Broken(Painter):
        swap_in_threads = True

        def swap(self, images, faces, source, settings=None, progress=None):
            raise FaceLoomError("broken.")

    before = threading.active_count()
    with pytest.raises(FaceLoomError, match="broken"):
        list(swap_frames([Shown(picture) for picture in frames(COUNT)], ClipSwapper(long_plan(Broken()))))
    assert threading.active_count() == before


def test_only_what_takes_one_core_is_drawn_on_several(monkeypatch):
    monkeypatch.setattr(swap.os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    mesh = Models(load_engine("mesh"))
    assert threads_for(mesh) == 4 and threads_for(Models(Painter())) == 1
    for name in ("parser", "occluder", "restorer"):
        assert threads_for(replace(mesh, **{name: object()})) == 1
