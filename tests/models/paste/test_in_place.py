"""Nodes that change pictures in place, which ComfyUI forbids and some do all the same: nothing is lost, nothing old is used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from faceloom.models.crops.crop import crop_faces, cut_crops
from faceloom.models.crops.squares import align_faces
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.faces import Face, Faces
from faceloom.models.options.paste import PasteSettings
from faceloom.models.paste import paste
from faceloom.models.swap import swap_faces

SIZE = 96


def _shuffled(batch: torch.Tensor) -> torch.Tensor:
    order = torch.randperm(batch.shape[1] * batch.shape[2], generator=torch.Generator().manual_seed(0))
    return batch.flatten(1, 2)[:, order].view_as(batch)


def _exchanged(batch: torch.Tensor) -> torch.Tensor:
    """Two blocks that change places."""
    out, half = batch.clone(), batch.shape[1] // 2
    out[:, half - 16 : half, half - 16 : half], out[:, half : half + 16, half : half + 16] = (
        batch[:, half : half + 16, half : half + 16], batch[:, half - 16 : half, half - 16 : half])
    return out


def _rewritten(batch: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    half = batch.shape[1] // 2
    part = (slice(None), slice(half - 12, half + 12), slice(half - 12, half + 12))
    out = batch.clone()
    out[part] = change(batch[part])
    return out


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mirror": lambda batch: batch.flip(2),
    "upside down": lambda batch: batch.flip(1),
    "half a turn": lambda batch: batch.flip(1, 2),
    "transpose": lambda batch: batch.transpose(1, 2),
    "roll right": lambda batch: batch.roll(1, 2),
    "roll down": lambda batch: batch.roll(7, 1),
    "roll far": lambda batch: batch.roll((31, -11), (1, 2)),
    "rows in another order": lambda batch: batch[:, torch.randperm(batch.shape[1], generator=torch.Generator().manual_seed(1))],
    "pixels in another order": _shuffled,
    "two blocks exchanged": _exchanged,
    "BGR": lambda batch: batch.flip(3),
    "channels rolled": lambda batch: batch.roll(1, 3),
    "part mirrored": lambda batch: _rewritten(batch, lambda part: part.flip(2)),
    "part brighter": lambda batch: _rewritten(batch, lambda part: (part + 0.2).clamp(0, 1)),
    "part grey": lambda batch: _rewritten(batch, lambda part: part.mean(-1, keepdim=True).expand(-1, -1, -1, 3)),
    "brighter": lambda batch: (batch + 0.1).clamp(0, 1),
    "negative": lambda batch: 1 - batch,
    "black": torch.zeros_like,
    "noise": lambda batch: (batch + 0.1 * torch.randn(batch.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1),
}
# Of a batch of crops only: the faces change places. The photographs keep theirs, since another batch could hardly be meant.
CROP_CHANGES = CHANGES | {"faces exchanged": lambda batch: batch.flip(0), "faces rolled": lambda batch: batch.roll(1, 0),
                          "one face mirrored": lambda batch: torch.cat([batch[:1].flip(2), batch[1:]])}
kinds_of_crops = pytest.mark.parametrize("kind", CROP_CHANGES)
kinds_of_photographs = pytest.mark.parametrize("kind", CHANGES)


def write(batch: torch.Tensor, kind: str) -> torch.Tensor:
    """Changes a batch in place, as a node does that knows no better."""
    before = batch.clone()
    batch.copy_(CROP_CHANGES[kind](before))
    assert not torch.equal(batch, before)
    return batch


@pytest.fixture
def mode():
    """ComfyUI runs nodes in inference mode, where tensors count no changes."""
    with torch.inference_mode():
        yield


@pytest.fixture
def scene(collins, hopper, mode, one_thread):
    """Two photographs, three faces in them, and a mask that covers most of a crop."""
    images = torch.stack([collins[0, :320, :320], hopper[0, 40:360, 90:410]])
    points = [TEMPLATES["ffhq_512"] * edge + shift for edge, shift in ((130, (140, 30)), (110, (30, 170)), (180, (60, 40)))]
    items = tuple(Face(frame, [*p.min(0), *p.max(0)], p) for frame, p in zip((0, 0, 1), points, strict=True))
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 6:-6, 6:-6] = 1
    return images, Faces(items, 2, 320, 320, crop_size=SIZE), mask


def pasted_as_edited(images, plain, crops, mask) -> torch.Tensor:
    """What paste gives for crops in memory of their own and faces that know nothing of them."""
    assert plain.cut is None
    return paste(images.clone(), plain, crops.clone(), mask)[0]


@kinds_of_crops
@pytest.mark.parametrize("handed_on", ["the same tensor", "a view of it", "a copy"])
def test_crops_that_are_changed_in_place_are_pasted_as_edited(kind, handed_on, scene):
    images, plain, mask = scene
    faces, crops = cut_crops(images, plain)
    before = crops.clone()
    write(crops, kind)
    given = {"the same tensor": crops, "a view of it": crops[:], "a copy": crops.clone()}[handed_on]
    result = paste(images, faces, given, mask)[0]
    assert torch.equal(result, pasted_as_edited(images, plain, crops, mask))
    wanted, unedited = (paste(images, plain, each, mask, PasteSettings(keep_unchanged=False))[0] for each in (crops.clone(), before))
    changed = (wanted - unedited).abs().amax(-1) > 0.1
    assert int(changed.sum()) > 100 and float((result - wanted).abs().amax(-1)[changed].mean()) < 0.01


@kinds_of_crops
def test_a_copy_that_was_edited_is_pasted_as_edited(kind, scene):
    images, plain, mask = scene
    faces, crops = cut_crops(images, plain)
    edited = write(crops.clone(), kind)
    assert torch.equal(paste(images, faces, edited, mask)[0], pasted_as_edited(images, plain, edited, mask))


@kinds_of_crops
def test_a_copy_that_was_left_alone_changes_nothing_whatever_became_of_the_crops(kind, scene):
    images, plain, mask = scene
    faces, crops = cut_crops(images, plain)
    copy = crops.clone()
    write(crops, kind)
    assert torch.equal(paste(images, faces, copy, mask)[0], images)


@pytest.mark.parametrize("look", [{"color": "mkl"}, {"blend": "multi-band"}, {"blend": "poisson"}, {"opacity": 0.5}])
def test_crops_that_were_left_alone_change_nothing(look, scene):
    """Neither the crops themselves nor a copy, however they are pasted; the mask is told all the same."""
    images, plain, mask = scene
    faces, crops = cut_crops(images, plain)
    for given in (crops, crops.clone()):
        result, covered = paste(images, faces, given, mask, PasteSettings(**look))
        assert torch.equal(result, images)
        assert torch.equal(covered, paste(images, plain, torch.zeros_like(crops), mask)[1])


@kinds_of_photographs
def test_a_photograph_that_is_changed_in_place_is_cut_as_it_is_now(kind, scene):
    images, plain, _ = scene
    faces, crops = cut_crops(images, plain)
    before = crops.clone()
    write(images, kind)
    now = crop_faces(images.clone(), plain)
    assert not torch.equal(now, before)
    assert torch.equal(crop_faces(images, faces), now) and torch.equal(crops, before)
    again, cut = cut_crops(images, faces)
    assert torch.equal(cut, now) and torch.equal(crop_faces(images, again), now)


@kinds_of_photographs
def test_later_stages_see_a_photograph_that_is_changed_in_place_as_it_is_now(kind, scene):
    images, plain, mask = scene
    faces, crops = cut_crops(images, plain)
    write(images, kind)
    copy = images.clone()

    class Bright:
        """A swap engine that makes every crop brighter."""

        name = "bright"

        def swap(self, images, faces, source, settings, progress):
            crops = crop_faces(images, faces, settings.edge(faces))
            return (crops + 0.3).clamp(0, 1), torch.ones(crops.shape[:3])

    both = ((images, faces), (copy, plain))
    for which in ("9", "1", "all"):
        swapped, expected = (swap_faces(*pair, None, Bright(), which=which) for pair in both)
        assert all(torch.equal(*pair) for pair in zip(swapped, expected, strict=True))
    aligned = [cut_crops(picture, align_faces(people, "FFHQ quad", SIZE))[1] for picture, people in both]
    assert torch.equal(*aligned)
    for now in (crops.clone(), crop_faces(copy, plain), swapped[0]):
        assert torch.equal(paste(images, faces, now, mask)[0], paste(copy, plain, now.clone(), mask)[0])


def test_a_change_beside_the_crop_costs_no_new_cut(scene, monkeypatch):
    images, plain, _ = scene
    faces, crops = cut_crops(images, plain)
    images[0, :4] = 0.5
    images[1, -3:, -3:] = 0.25
    monkeypatch.setattr("faceloom.models.pixels.sampling.warp", None)
    assert torch.equal(crop_faces(images, faces), crops)
