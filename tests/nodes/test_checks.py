"""What comes into a node is looked at before it works."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

OURS = {"FACES", "FACE_IDENTITY", "FACE_DETECTOR", "FACE_RECOGNIZER", "FACE_PARSER", "FACE_OCCLUDER", "SWAP_MODEL", "RESTORE_MODEL",
        "GAZE_ESTIMATOR", "REFACE", "DIFFFACE", "DIFFSWAP", "FACE_ADAPTER"}  # fmt: skip
FOREIGN = ([torch.zeros(1, 4, 4, 3)], {"vertices": 1}, "faces", 3, np.zeros((2, 4)))


def sockets(nodes, kinds):
    """Every input of our own type: node, input."""
    found = []
    for name, node in sorted(nodes.items()):
        for item in node.inputs():
            if set(str(item.get_io_type()).split(",")) & kinds:
                found.append((name, item))
    return found


@pytest.fixture
def check(pack):
    from faceloom.nodes._checks import check_inputs

    return check_inputs


def test_foreign_values_on_every_socket_of_ours_are_one_sentence(nodes, check, error):
    """Other packs pass lists of pictures as FACES, and meshes."""
    places = sockets(nodes, OURS)
    assert {str(item.get_io_type()).split(",")[0] for _, item in places} == OURS
    for name, item in places:
        for value in FOREIGN:
            with pytest.raises(error, match=f"^The input {item.id} of {name} takes .* from .*, but .* came"):
                check(name, [item], {item.id: value})


@pytest.fixture(scope="module")
def error(pack):
    from faceloom.models.errors import FaceLoomError

    return FaceLoomError


@pytest.mark.parametrize("value", [[torch.zeros(4, 4, 3)], torch.zeros(4), None, "x"])
def test_pictures_that_are_none_are_one_sentence(nodes, error, value):
    with pytest.raises(error, match="The input image of Face Detect takes a picture"):
        nodes["FaceDetect"].execute(value, .5, "large-small", "all", 512, 0, 1.0, "pass")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e9, -5, "0.5", None, torch.zeros(1)])
def test_numbers_out_of_range_are_refused_on_every_node(nodes, check, error, value):
    """NaN passes ComfyUI's own limits, and values from other nodes pass none."""
    tried = 0
    for name, node in nodes.items():
        for item in node.inputs():
            if item.get_io_type() not in ("INT", "FLOAT") or (isinstance(value, float | int) and math.isfinite(value)
                                                              and item.min <= value <= item.max):
                continue
            if value is None:
                check(name, [item], {})  # an input that is left out takes its default
                continue
            tried += 1
            with pytest.raises(error, match=rf"^{item.id} must be (a whole number )?from "):
                check(name, [item], {item.id: value})
    assert tried > 30 or value is None


def test_numbers_inside_dynamic_inputs_are_looked_at_too(nodes, error):
    faces = torch.zeros(1, 64, 64, 3)
    found = nodes["FaceDetect"].execute(faces, .5, "large-small", "all", 64, 0, 1.0, "pass").args[0]
    with pytest.raises(error, match=r"process must be from 0\.0001 to 10, not nan"):
        nodes["FaceSmooth"].execute(found, {"method": "kalman", "process": math.nan, "measure": .01}, 0, faces)


@pytest.fixture
def scene(nodes, hopper):
    faces, crops, _, _ = nodes["FaceDetect"].execute(hopper, .5, "large-small", "all", 512, 0, 1.0, "pass").args
    return hopper, faces, crops


@pytest.mark.parametrize("square", [False, True])
def test_a_bypassed_node_hands_the_whole_picture_on_and_that_is_said(nodes, error, scene, hopper, square):
    """Bypassing One-Shot Swap or Face Smooth connects the photograph to the crops of the node behind it."""
    photo, faces, crops = scene
    if square:
        photo = torch.nn.functional.interpolate(hopper.movedim(-1, 1), (512, 512))[0].movedim(0, -1)[None].contiguous()
        faces, crops, _, _ = nodes["FaceDetect"].execute(photo, .5, "large-small", "all", 512, 0, 1.0, "pass").args
        assert crops.shape == photo.shape
    calls = {"PasteBack": lambda given: nodes["PasteBack"].execute(photo, faces, given, "none", "feather", 0.0, 1.0),
             "Restore": lambda given: nodes["Restore"].execute(given, .5, 1.0, image=photo, faces=faces),
             "FaceParseMask": lambda given: nodes["FaceParseMask"].execute(given, {"regions": "face"}, 0, 0, "inside", faces=faces)}
    for name, call in calls.items():
        assert call(crops).args
        with pytest.raises(error, match="bypassed"):
            call(photo)
            pytest.fail(name)


@pytest.mark.parametrize(("kind", "factor"), [(torch.float32, 1.0), (torch.float16, 1.0), (torch.float32, 3.0), (torch.float16, 6.0)])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_bypassed_node_is_told_from_crops_when_the_photograph_is_not_at_hand(nodes, error, hopper, kind, factor, channels):
    """HDR, half precision and alpha: the photograph that the crops were cut from was a copy, which nobody holds any more."""
    photo = torch.nn.functional.interpolate(hopper.movedim(-1, 1), (512, 512))[0].movedim(0, -1)[None] * factor
    photo = torch.cat([photo, torch.ones_like(photo[..., :1])][: channels - 2], -1).to(kind).contiguous()
    faces, crops, _, _ = nodes["FaceDetect"].execute(photo, .5, "large-small", "all", 512, 0, 1.0, "pass").args
    assert len(faces) == 1
    call = lambda given: nodes["FaceParseMask"].execute(given, {"regions": "face"}, 0, 0, "inside", faces=faces)  # noqa: E731
    assert call(crops).args
    with pytest.raises(error, match="bypassed"):
        call(photo)


def test_a_picture_of_one_colour_is_no_bypassed_node(nodes, error):
    box = [{"x": 100, "y": 100, "width": 200, "height": 200}]
    for colour in ([.0, .0, .0], [.5, .5, .5], [.2, .4, .6]):
        photo = torch.tensor(colour).expand(1, 512, 512, 3).contiguous()
        faces, crops, _, _ = nodes["FaceDetect"].execute(photo, .5, "large-small", "all", 512, 0, 1.0, "pass", bboxes=box,
                                                         bbox_use="box is the face").args
        assert len(faces) == 1
        assert nodes["PasteBack"].execute(photo, faces, crops, "none", "feather", 0.0, 1.0).args
        assert nodes["FaceParseMask"].execute(photo, {"regions": "face"}, 0, 0, "inside", faces=faces).args


def test_crops_that_equal_the_photograph_in_one_channel_are_crops(nodes):
    photo = torch.rand(1, 512, 512, 3, generator=torch.Generator().manual_seed(0))
    box = [{"x": 100, "y": 100, "width": 200, "height": 200}]
    faces, _, _, _ = nodes["FaceDetect"].execute(photo, .5, "large-small", "all", 512, 0, 1.0, "pass", bboxes=box,
                                                 bbox_use="box is the face").args
    painted = torch.cat([photo[..., :1], 1 - photo[..., 1:]], -1)
    assert nodes["PasteBack"].execute(photo, faces, painted, "none", "feather", 0.0, 1.0).args


def test_crops_of_other_faces_are_counted(nodes, error, scene):
    _, faces, crops = scene
    with pytest.raises(error, match="There are 2 crops but 1 faces"):
        nodes["FaceParseMask"].execute(torch.cat([crops, crops]), {"regions": "face"}, 0, 0, "inside", faces=faces)


def test_several_masks_for_one_face_are_taken_together(nodes, scene):
    """SAM gives one mask for each thing that it found."""
    photo, faces, crops = scene
    masks = torch.zeros(3, 512, 512)
    masks[0, 200:300, 200:300] = 1
    masks[2, 250:400, 220:260] = 1
    one = nodes["OneShotSwap"].execute
    given = (photo, faces, None, 0.0, "all", 1)
    with pytest.raises(Exception, match="identity"):
        one(*given, mask=masks)
    pasted = nodes["PasteBack"].execute(photo, faces, torch.ones_like(crops), "none", "feather", 0.0, 1.0, mask=masks).args[1]
    together = nodes["PasteBack"].execute(photo, faces, torch.ones_like(crops), "none", "feather", 0.0, 1.0, mask=masks.amax(0)).args[1]
    assert torch.equal(pasted, together) and float(pasted.max()) == 1


def test_several_masks_of_what_hides_one_face_hide_together(nodes, scene):
    _, faces, crops = scene
    hiding = torch.zeros(2, 512, 512)
    hiding[0, :, :256] = 1
    hiding[1, 256:] = 1
    given = {"crops": crops, "regions": {"regions": "face"}, "grow": 0, "feather": 0, "side": "inside", "faces": faces}
    whole, seen = (nodes["FaceParseMask"].execute(**given, occluder=mask).args[0] for mask in (None, hiding))
    assert float(whole[:, 300:, 200:].sum()) > 1000 and not seen[:, :, :256].any() and not seen[:, 256:].any()
    assert torch.equal(seen[:, :256, 256:], whole[:, :256, 256:]) and seen.any()


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float16])
def test_a_mask_of_what_hides_a_face_may_have_any_type(nodes, scene, kind):
    _, faces, crops = scene
    given = {"crops": crops, "regions": {"regions": "face"}, "grow": 0, "feather": 0, "side": "inside", "faces": faces}
    hiding = torch.zeros(1, 512, 512, dtype=kind)
    hiding[:, :, :256] = 255 if kind == torch.uint8 else 1
    whole, seen = (nodes["FaceParseMask"].execute(**given, occluder=mask).args[0] for mask in (None, hiding))
    assert not seen[:, :, :256].any() and torch.equal(seen[:, :, 256:], whole[:, :, 256:])


MODELS = {"MODEL", "VAE", "CLIP", "CONDITIONING"}


def test_foreign_values_on_comfyuis_model_sockets_are_one_sentence(nodes, check, error):
    places = sockets(nodes, MODELS)
    assert {item.get_io_type() for _, item in places} == MODELS
    for _, item in places:
        for value in (*FOREIGN, None):
            with pytest.raises(error, match=f"^The input {item.id} of X takes .* from .*, but .* came"):
                check("X", [item], {item.id: value})


@pytest.mark.parametrize("value", ["nonsense", "", None, 3, [], {"hint": 1}, torch.zeros(2)])
def test_words_that_are_no_choice_are_one_sentence(nodes, check, error, value):
    """Choices can come from other nodes, and then ComfyUI does not look at them."""
    tried = 0
    for _, item in sockets(nodes, {"COMBO", "COMFY_DYNAMICCOMBO_V3"}):
        if type(item).__name__ != "FileList" and not (value is None and item.optional):
            tried += 1
            with pytest.raises(error, match=f"^{item.id} must be one of "):
                check("X", [item], {item.id: value})
    assert tried > 20


@pytest.mark.parametrize("value", [None, 3, [], b"x", "x" * 200_000])
def test_texts_that_are_none_are_one_sentence(nodes, check, error, value):
    for _, item in sockets(nodes, {"STRING"}):
        with pytest.raises(error, match=f"^{item.id} must be a text of at most"):
            check("X", [item], {item.id: value})


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_pictures_and_masks_are_given_within_0_and_1(pack, kind):
    from faceloom.nodes._runtime import give, place

    pixels = torch.tensor([-1.15e-7, 0.0, 0.5, 1.0, 1 + 2**-7]).to(kind)
    assert give(pixels).tolist() == [0, 0, 0.5, 1, 1]
    assert place(pixels)[-1] > 1
    inside = torch.rand(1, 2, 2)
    assert give(inside) is inside  # Paste Back knows crops by their memory
