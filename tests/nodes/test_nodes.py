"""Every node by itself, in this process, with real portraits."""

from __future__ import annotations

import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def run(nodes):
    """``run("PasteBack", image=…)`` executes a node with its defaults for what is not given. Returns its outputs."""

    def execute(name, /, **given):
        inputs = {}
        for item in nodes[name].define_schema().inputs:
            if item.id in given:
                inputs[item.id] = given.pop(item.id)
            elif getattr(item, "default", None) is not None and not item.optional:
                inputs[item.id] = item.default
        assert not given, f"{name} has no input {set(given)}"
        return nodes[name].execute(**inputs).args

    return execute


@pytest.fixture(scope="module")
def detected(run, hopper):
    """Faces and crops of Grace Hopper."""
    return run("FaceDetect", image=hopper)[:2]


@pytest.fixture(scope="module")
def eileen(run, collins):
    """Eileen Collins as an identity."""
    faces = run("FaceDetect", image=collins, keep="first")[0]
    return run("ArcFaceEmbed", image=[collins], faces=[faces], how=["average"], name=["Eileen"])[0]


@pytest.fixture(scope="module")
def swapped(run, hopper, detected, eileen):
    """Crops and mask of the built-in swap."""
    return run("OneShotSwap", image=hopper, faces=detected[0], identity=eileen)


@pytest.fixture(scope="module")
def error(pack):
    from faceloom.models.errors import FaceLoomError

    return FaceLoomError


@pytest.fixture(scope="module")
def many(pack, detected):
    """40 faces in five frames: the same one, moved about in a large frame."""
    from faceloom.models.faces import Face, Faces

    one = detected[0][0]
    faces = []
    for i in range(40):
        move = np.array([30 * (i % 8), 20 * (i % 8)], np.float32)
        faces.append(Face(i // 8, one.box + np.tile(move, 2), one.keypoints + move, points68=one.points68 + move))
    return Faces(tuple(faces), 5, 800, 800, crop_size=64)


class TestFaceDetect:
    def test_finds_the_face(self, run, hopper):
        faces, crops, boxes, count = run("FaceDetect", image=hopper, crop_size=256)
        assert count == len(faces) == 1 and crops.shape == (1, 256, 256, 3)
        x0, y0, x1, y1 = faces[0].box.round().astype(int).tolist()
        assert boxes == [[{"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "label": "face", "score": faces[0].score}]]
        # The eyes lie where the FFHQ template puts them, whatever the photograph.
        assert crops.dtype == torch.float32 and crops.min() >= 0 and crops.max() <= 1

    def test_no_face_gives_one_black_crop(self, run):
        faces, crops, boxes, count = run("FaceDetect", image=torch.full((2, 64, 96, 3), 0.5), crop_size=128)
        assert count == len(faces) == 0 and boxes == [[], []]
        assert crops.shape == (1, 128, 128, 3) and not crops.any()

    def test_no_face_can_be_an_error(self, run, error):
        with pytest.raises(error, match=r"image 1 of 2"):
            run("FaceDetect", image=torch.zeros(2, 64, 64, 3), no_face="error")

    @pytest.mark.parametrize("height, width", [(1, 1), (1, 200), (200, 1)])
    def test_tiny_pictures_have_no_face(self, run, height, width):
        _, crops, boxes, count = run("FaceDetect", image=torch.rand(1, height, width, 3), crop_size=64)
        assert (count, boxes, crops.shape) == (0, [[]], (1, 64, 64, 3))

    def test_grey_alpha_half_precision_and_wild_values_find_the_same_face(self, run, hopper, detected):
        grey = hopper.mean(-1, keepdim=True)
        alpha = torch.cat([hopper, torch.zeros_like(hopper[..., :1])], -1)
        wild = torch.where(hopper > 0.98, hopper * 3, hopper) - torch.where(hopper < 0.02, 0.5, 0.0)
        for picture in (grey, alpha, hopper.half(), wild):
            faces, crops, _, count = run("FaceDetect", image=picture)
            assert count == 1 and crops.shape == (1, 512, 512, 3)
            assert np.abs(faces[0].keypoints - detected[0][0].keypoints).max() < 6

    def test_nan_is_refused(self, run, error, hopper):
        picture = hopper.clone()
        picture[0, 3, 4, 1] = float("nan")
        with pytest.raises(error, match="NaN"):
            run("FaceDetect", image=picture)

    def test_a_connected_detector_is_used(self, run, detected, hopper):
        class Detector:
            name = "always"

            def detect(self, images, threshold, progress=None):
                assert images.shape == hopper.shape and threshold == 0.25
                return [[detected[0][0]]]

        faces = run("FaceDetect", image=hopper, detector=Detector(), threshold=0.25)[0]
        assert np.array_equal(faces[0].keypoints, detected[0][0].keypoints)

    def test_connected_boxes_are_used(self, run, detected, hopper):
        x0, y0, x1, y1 = (float(v) for v in detected[0][0].box)
        box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
        faces = run("FaceDetect", image=hopper, bboxes=[[box]])[0]
        assert len(faces) == 1 and np.abs(faces[0].keypoints - detected[0][0].keypoints).max() < 12

    def test_a_box_is_a_place_to_look_in_or_a_face(self, run, hopper, detected):
        person, wall = {"x": 10, "y": 10, "width": 490, "height": 560}, {"x": 400, "y": 500, "width": 90, "height": 90}
        faces = run("FaceDetect", image=hopper, bboxes=[[person, wall]])[0]
        assert len(faces) == 1 and np.abs(faces[0].keypoints - detected[0][0].keypoints).max() < 6
        assert len(run("FaceDetect", image=hopper, bboxes=[[person, wall]], bbox_use="box is the face")[0]) == 2

    def test_boxes_without_a_face_are_counted_in_the_text(self, nodes, hopper, detected):
        x0, y0, x1, y1 = (float(v) for v in detected[0][0].box)
        boxes = [[{"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}, {"x": 400, "y": 500, "width": 90, "height": 90}]]
        answer = nodes["FaceDetect"].EXECUTE_NORMALIZED(image=hopper, threshold=0.5, order="large-small", keep="all", crop_size=64,
                                                        min_size=0, framing=1.0, no_face="pass", bboxes=boxes)
        assert answer.ui["text"] == ("1 face, 1 box without a face",)

    def test_a_face_under_alpha_0_is_not_found(self, run, hopper):
        pair = torch.cat([hopper, hopper.flip(2)], 2)
        alpha = torch.ones_like(pair[..., :1])
        alpha[:, :, :512] = 0
        faces = run("FaceDetect", image=torch.cat([pair, alpha], -1))[0]
        assert len(faces) == 1 and faces[0].center[0] > 512

    def test_a_face_is_found_in_hdr(self, run, hopper, detected):
        faces = run("FaceDetect", image=hopper * 2)[0]
        assert len(faces) == 1 and np.abs(faces[0].keypoints - detected[0][0].keypoints).max() < 6


class TestArcFaceEmbed:
    def test_photos_of_different_sizes(self, run, collins):
        photos = [collins, collins[:, :300, 100:400]]
        faces = [run("FaceDetect", image=photo, keep="first")[0] for photo in photos]
        identity, report = run("ArcFaceEmbed", image=photos, faces=faces, how=["quality-weighted"], name=["Eileen"])
        assert identity.photos == 2 and identity.name == "Eileen"
        assert np.linalg.norm(identity.embeddings["dlib128"]) == pytest.approx(1, abs=1e-5)
        assert "2 photo(s)" in report

    def test_an_odd_photo_is_named(self, run, collins, hopper):
        photos = [collins, collins.flip(2), hopper]
        faces = [run("FaceDetect", image=photo, keep="first")[0] for photo in photos]
        report = run("ArcFaceEmbed", image=photos, faces=faces, how=["quality-weighted"], name=[""])[1]
        assert "Photo 3 looks like another person" in report

    def test_no_face(self, run, error):
        picture = torch.zeros(1, 64, 64, 3)
        faces = run("FaceDetect", image=picture)[0]
        with pytest.raises(error, match="no face"):
            run("ArcFaceEmbed", image=[picture], faces=[faces], how=["average"], name=[""])

    def test_lists_of_different_length(self, run, error, detected, hopper):
        with pytest.raises(error, match=r"2 .* 1"):
            run("ArcFaceEmbed", image=[hopper, hopper], faces=[detected[0]], how=["average"], name=[""])

    def test_a_connected_recognizer_is_used(self, run, detected, hopper):
        class Recognizer:
            space = "test3"

            def embed(self, images, faces, progress=None):
                return np.array([[0.6, 0.0, 0.8]], np.float32)

        identity, _ = run("ArcFaceEmbed", image=[hopper], faces=[detected[0]], how=["average"], name=[""], recognizer=[Recognizer()])
        assert identity.embeddings["test3"] == pytest.approx([0.6, 0.0, 0.8])


class TestFaceParseMask:
    def test_face_covers_the_keypoints(self, run, detected):
        faces, crops = detected
        mask, preview = run("FaceParseMask", crops=crops, regions={"regions": "face"}, faces=faces, feather=0)
        assert mask.shape == (1, 512, 512) and preview.shape == (1, 512, 512, 3)
        # The FFHQ template: eyes at 0.377 and 0.623 of the width, 0.469 of the height; mouth at 0.725.
        for x, y in ((0.377, 0.469), (0.623, 0.469), (0.5, 0.613), (0.5, 0.725)):
            assert mask[0, round(y * 512), round(x * 512)] == 1
        assert mask[0, :8].max() == 0 and 0.1 < mask.mean() < 0.6

    def test_custom_regions_add_up(self, run, detected):
        faces, crops = detected
        one, other, both = (run("FaceParseMask", crops=crops, faces=faces, feather=0,
                                regions={"regions": "custom"} | dict.fromkeys(names, True))[0]
                            for names in (["nose"], ["left_eye"], ["nose", "left_eye"]))
        assert torch.equal(both, torch.maximum(one, other)) and 0 < other.sum() < one.sum()

    def test_nothing_chosen(self, run, detected, error):
        with pytest.raises(error, match="at least one"):
            run("FaceParseMask", crops=detected[1], faces=detected[0], regions={"regions": "custom", "skin": False})

    def test_hair_needs_a_parser(self, run, detected, error):
        with pytest.raises(error, match="hair"):
            run("FaceParseMask", crops=detected[1], faces=detected[0], regions={"regions": "hair"})

    def test_neither_faces_nor_parser(self, run, detected, error):
        with pytest.raises(error, match="faces"):
            run("FaceParseMask", crops=detected[1], regions={"regions": "face"})

    def test_a_connected_parser_is_used(self, run, detected, pack):
        from faceloom.models.parse import REGIONS

        class Parser:
            name = "left half is hair"

            def parse(self, crops, progress=None):
                labels = torch.zeros(crops.shape[:3], dtype=torch.uint8)
                labels[:, :, : crops.shape[2] // 2] = REGIONS.index("hair")
                return labels

        mask = run("FaceParseMask", crops=detected[1], regions={"regions": "hair"}, parser=Parser(), feather=0)[0]
        assert mask[0, :, :256].min() == 1 and mask[0, :, 256:].max() == 0

    def test_what_hides_the_face_is_left_out(self, run, detected):
        faces, crops = detected
        plain = run("FaceParseMask", crops=crops, faces=faces, regions={"regions": "face"})[0]
        hand = torch.zeros(1, 512, 512)
        hand[:, :, :256] = 1
        seen = run("FaceParseMask", crops=crops, faces=faces, regions={"regions": "face"}, occluder=hand)[0]
        assert seen[0, :, :256].max() == 0 and torch.equal(seen[0, :, 256:], plain[0, :, 256:])
        unhidden = run("FaceParseMask", crops=crops, faces=faces, regions={"regions": "face"}, occluder=torch.zeros(1, 64, 64))[0]
        assert torch.equal(unhidden, plain)

    def test_several_masks_of_what_hides_one_face_are_taken_together(self, run, detected):
        """As SAM 3 gives them, one of each thing."""
        faces, crops = detected[0], detected[1]
        given = {"crops": crops, "faces": faces, "regions": {"regions": "face"}, "grow": 0, "feather": 0, "side": "inside"}
        hands = torch.zeros(3, 512, 512)
        hands[0, :200], hands[2, 300:] = 1, 0.5
        apart, together = (run("FaceParseMask", **given, occluder=mask)[0] for mask in (hands, hands.amax(0, keepdim=True)))
        assert torch.equal(apart, together) and float(apart[0, :200].max()) == 0 and 0 < float(apart[0, 300:].max()) <= 0.5

    def test_what_hides_the_face_in_the_photograph(self, run, error, hopper, detected):
        faces, crops = detected
        given = {"crops": crops, "faces": faces, "regions": {"regions": "face"}}
        plain = run("FaceParseMask", **given)[0]

        class Occluder:
            name = "a quarter"

            def visible(self, images, faces, size, progress=None):
                assert images.shape == hopper.shape and size == 512
                return torch.full((len(faces), size, size), 0.25)

        assert run("FaceParseMask", **given, image=hopper, occluder=Occluder())[0] == pytest.approx(plain / 4)

        class CropOccluder:
            name = "a half"

            def visible(self, images, faces, size, progress=None):
                assert torch.equal(images, crops) and faces.frames == 1 and (faces.width, faces.height) == (512, 512)
                assert faces[0].keypoints[0] == pytest.approx((193, 240), abs=12)  # where the FFHQ template has the eye
                return torch.full((len(faces), size, size), 0.5)

        assert run("FaceParseMask", **given, occluder=CropOccluder())[0] == pytest.approx(plain / 2)
        with pytest.raises(error, match="connect the faces"):
            run("FaceParseMask", crops=crops, regions={"regions": "face"}, occluder=Occluder(),
                parser=SimpleNamespace(name="parser", parse=lambda crops: crops))
        middle = float(faces[0].keypoints[2, 0])
        hand = torch.zeros(hopper.shape[:3])
        hand[:, :, :round(middle)] = 1  # all that is left of the nose, in the picture and in the upright crop
        seen = run("FaceParseMask", **given, image=hopper, occluder=hand)[0]
        assert seen[0, 380:420, :200].max() == 0 and torch.equal(seen[0, 200:300, 330:], plain[0, 200:300, 330:])


class TestThreeDLandmarkMask:
    def test_target(self, run, detected):
        mask, drawing, pose = run("ThreeDLandmarkMask", faces=detected[0], crop_size=256, feather=0)
        assert mask.shape == (1, 256, 256) and drawing.shape == (1, 256, 256, 3)
        assert mask[0, 157, 128] == 1 and mask[0, 0, 0] == 0 and drawing.any()
        assert pose.startswith("face 0: yaw ") and pose.count("\n") == 0

    def test_union_holds_both(self, run, detected, eileen):
        target, source, union = (run("ThreeDLandmarkMask", faces=detected[0], shape=shape, identity=eileen, feather=0)[0]
                                 for shape in ("target", "source", "union"))
        assert (union >= torch.maximum(target, source) - 0.02).all() and not torch.equal(target, source)

    def test_source_needs_an_identity(self, run, detected, error):
        with pytest.raises(error, match="identity"):
            run("ThreeDLandmarkMask", faces=detected[0], shape="source")


class TestOneShotSwap:
    def test_only_the_mask_changes(self, swapped, detected):
        crops, mask = swapped
        change = (crops - detected[1]).abs().amax(-1)
        assert crops.shape == (1, 512, 512, 3) and mask.shape == (1, 512, 512)
        assert change[mask > 0.9].mean() > 0.02 and change[mask == 0].max() == 0

    def test_strength_zero_is_the_target(self, run, hopper, detected, eileen):
        crops, _ = run("OneShotSwap", image=hopper, faces=detected[0], identity=eileen, strength=0.0)
        assert torch.equal(crops, detected[1])

    def test_faces_not_chosen_keep_their_crop(self, run, hopper, detected, eileen):
        crops, mask = run("OneShotSwap", image=hopper, faces=detected[0], identity=eileen, which="7")
        assert torch.equal(crops, detected[1]) and not mask.any()

    def test_forty_faces_in_five_frames_and_a_connected_model(self, run, many, eileen):
        class SwapModel:
            name = "white"

            def prepare(self, identity):
                return identity.name

            def swap(self, images, faces, source, settings, progress=None):
                size = settings.edge(faces)
                assert source == "Eileen" and settings.pixel_boost == 2 and settings.strength == 0.5
                return torch.ones(len(faces), size, size, 3), torch.ones(len(faces), size, size)

        images = torch.zeros(5, 800, 800, 3)
        crops, mask = run("OneShotSwap", image=images, faces=many, identity=eileen, swap_model=SwapModel(), strength=0.5, pixel_boost=2)
        assert crops.shape == (40, 64, 64, 3) and mask.shape == (40, 64, 64)
        pasted, where = run("PasteBack", image=images, faces=many, crops=crops, mask=mask)
        assert pasted.shape == images.shape and where.shape == (5, 800, 800)
        assert all(frame.max() > 0.99 for frame in pasted) and torch.equal(pasted[where == 0], images[where == 0])

    def test_faces_of_another_picture(self, run, collins, detected, eileen, error):
        with pytest.raises(error, match="512×600"):
            run("OneShotSwap", image=collins, faces=detected[0], identity=eileen)


class TestRestore:
    def test_amount_zero_changes_nothing(self, run, hopper, detected, swapped):
        assert torch.equal(run("Restore", crops=swapped[0], amount=0.0, image=hopper, faces=detected[0])[0], swapped[0])

    def test_grain_comes_back(self, run, hopper, detected, swapped):
        restored = run("Restore", crops=swapped[0], image=hopper, faces=detected[0], mask=swapped[1])[0]
        assert restored.shape == swapped[0].shape
        assert torch.equal(restored[swapped[1] == 0], swapped[0][swapped[1] == 0]) and not torch.equal(restored, swapped[0])

    def test_needs_the_photograph(self, run, swapped, error):
        with pytest.raises(error, match="image and the faces"):
            run("Restore", crops=swapped[0])

    def test_a_connected_model_is_used(self, run, swapped):
        class RestoreModel:
            name = "invert"

            def restore(self, crops, fidelity, progress=None, points=None):
                assert fidelity == 0.25
                return 1 - crops

        restored = run("Restore", crops=swapped[0], restore_model=RestoreModel(), fidelity=0.25, amount=0.5)[0]
        assert restored == pytest.approx(torch.full_like(restored, 0.5), abs=1e-6)

    def test_core_upscale_model(self, run, swapped):
        import comfy.model_management
        import comfy.model_patcher

        class Descriptor(types.SimpleNamespace):
            def __call__(self, picture):
                assert picture.shape == (1, 3, 512, 512)
                return self.model(picture)

        net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1, bias=False), torch.nn.Upsample(scale_factor=2))
        net[0].weight.data = torch.eye(3)[:, :, None, None]
        cpu = torch.device("cpu")
        descriptor = Descriptor(model=net, scale=2, purpose="FaceSR", input_channels=3,
                                architecture=types.SimpleNamespace(id="test", name="test"),
                                patcher=comfy.model_patcher.CoreModelPatcher(net, load_device=cpu, offload_device=cpu))
        restored = run("Restore", crops=swapped[0], restore_model=descriptor)[0]
        assert restored.shape == swapped[0].shape and (restored - swapped[0]).abs().mean() < 0.01


class TestPasteBack:
    def test_outside_the_mask_nothing_changes(self, run, hopper, detected, swapped):
        image, mask = run("PasteBack", image=hopper, faces=detected[0], crops=swapped[0], mask=swapped[1])
        assert image.shape == hopper.shape and mask.shape == hopper.shape[:3]
        assert torch.equal(image[mask == 0], hopper[mask == 0])
        assert (image - hopper).abs().amax(-1)[mask > 0.9].mean() > 0.02

    @pytest.mark.parametrize("channels", [1, 4])
    def test_channels_are_kept(self, run, hopper, detected, swapped, channels):
        picture = torch.cat([hopper, torch.rand_like(hopper[..., :1])], -1)[..., 4 - channels:]
        image, mask = run("PasteBack", image=picture, faces=detected[0], crops=swapped[0], mask=swapped[1])
        assert image.shape == picture.shape and torch.equal(image[mask == 0], picture[mask == 0])
        if channels == 4:
            assert torch.equal(image[..., 3], picture[..., 3])

    def test_half_precision(self, run, hopper, detected, swapped):
        image, mask = run("PasteBack", image=hopper.half(), faces=detected[0], crops=swapped[0].half(), mask=swapped[1])
        assert torch.equal(image[mask == 0], hopper.half().float()[mask == 0])

    def test_no_face_returns_the_picture(self, run, error):
        picture = torch.rand(3, 64, 96, 4)
        faces, crops, _, _ = run("FaceDetect", image=picture[..., :3] * 0.1, crop_size=64)
        image, mask = run("PasteBack", image=picture, faces=faces, crops=crops, mask=torch.zeros(1, 64, 64))
        assert torch.equal(image, picture) and mask.shape == (3, 64, 96) and not mask.any()

    def test_empty_mask_of_another_size_changes_nothing(self, run, hopper, detected, swapped):
        image, mask = run("PasteBack", image=hopper, faces=detected[0], crops=swapped[0], mask=torch.zeros(1, 64, 64))
        assert torch.equal(image, hopper) and not mask.any()

    def test_mask_may_have_two_dimensions_and_another_size(self, run, hopper, detected, swapped):
        image, mask = run("PasteBack", image=hopper, faces=detected[0], crops=swapped[0], mask=torch.ones(100, 100))
        assert mask.max() == 1 and torch.equal(image[mask == 0], hopper[mask == 0])

    def test_as_many_crops_as_faces(self, run, hopper, detected, swapped, error):
        with pytest.raises(error, match=r"2 crop.* 1 face"):
            run("PasteBack", image=hopper, faces=detected[0], crops=swapped[0].repeat(2, 1, 1, 1))

    def test_three_masks_for_one_face(self, run, hopper, detected, swapped):
        """As a segmentation node gives them, one of each thing it found: they are taken together."""
        masks = torch.zeros(3, 64, 64)
        masks[0, 10:30, 10:50] = 1
        masks[2, 40:50, 10:50] = .5
        given = {"image": hopper, "faces": detected[0], "crops": swapped[0]}
        pasted, covered = run("PasteBack", **given, mask=masks)
        together, _ = run("PasteBack", **given, mask=masks.amax(0))
        assert torch.equal(pasted, together) and float(covered.max()) == 1 and not torch.equal(pasted, hopper)

    def test_faces_of_another_picture(self, run, collins, detected, swapped, error):
        with pytest.raises(error, match="512×600"):
            run("PasteBack", image=collins, faces=detected[0], crops=swapped[0])

    def test_nan_in_the_crops(self, run, hopper, detected, error):
        with pytest.raises(error, match="NaN"):
            run("PasteBack", image=hopper, faces=detected[0], crops=torch.full((1, 64, 64, 3), float("nan")))

    def test_inputs_are_not_written_to(self, run, hopper, detected, swapped):
        before = [value.clone() for value in (hopper, *swapped)]
        run("PasteBack", image=hopper, faces=detected[0], crops=swapped[0], mask=swapped[1], color_match="mkl", blend="multi-band")
        assert all(torch.equal(old, now) for old, now in zip(before, (hopper, *swapped), strict=True))


class TestNoFace:
    def test_every_node_takes_what_stands_for_no_crop(self, run, eileen):
        picture = torch.full((2, 80, 60, 3), 0.3)
        faces, crops, _, _ = run("FaceDetect", image=picture, crop_size=96)
        swapped, mask = run("OneShotSwap", image=picture, faces=faces, identity=eileen)
        region, _ = run("FaceParseMask", crops=swapped, regions={"regions": "face"}, faces=faces)
        outline, drawing, pose = run("ThreeDLandmarkMask", faces=faces, shape="union", identity=eileen)
        restored = run("Restore", crops=swapped, image=picture, faces=faces, mask=mask)[0]
        assert all(value.shape == (1, 96, 96) and not value.any() for value in (mask, region, outline))
        assert all(value.shape == (1, 96, 96, 3) and not value.any() for value in (crops, swapped, drawing, restored)) and pose == ""
        assert torch.equal(run("PasteBack", image=picture, faces=faces, crops=restored, mask=region)[0], picture)
        chosen, rest = run("FaceSelect", faces=faces, rule={"rule": "index", "index": "0"})
        assert len(chosen) == len(rest) == 0


class TestIdentityFiles:
    def test_round_trip(self, run, nodes, eileen):
        kept, file = run("IdentitySave", identity=eileen, filename="eileen")
        assert kept is eileen and file == "eileen.safetensors"
        loaded = run("IdentityLoad", file=file)[0]
        assert np.array_equal(loaded.embeddings["dlib128"], eileen.embeddings["dlib128"]) and np.array_equal(loaded.crops, eileen.crops)
        assert loaded.name == "Eileen"
        assert file in next(item for item in nodes["IdentityLoad"].define_schema().inputs if item.id == "file").options

    def test_nothing_is_overwritten_unless_asked(self, run, eileen):
        modes = ("keep both", "keep both", "overwrite")
        names = [run("IdentitySave", identity=eileen, filename="twice", if_exists=mode)[1] for mode in modes]
        assert names == ["twice.safetensors", "twice_2.safetensors", "twice.safetensors"]

    @pytest.mark.parametrize("name", ["../escape", "/tmp/escape", "a/b", "a\\b", "", " ", "..", "nul", "c:x", "a\nb"])
    def test_names_that_are_not_plain_are_refused(self, run, eileen, error, name):
        with pytest.raises(error, match="file name"):
            run("IdentitySave", identity=eileen, filename=name)

    @pytest.mark.parametrize("name", ["missing.safetensors", "../../input/source.png", "/etc/passwd"])
    def test_files_elsewhere_are_not_read(self, run, error, name):
        with pytest.raises(error, match="no identity file"):
            run("IdentityLoad", file=name)

    def test_damaged_file(self, run, error, base, eileen):
        run("IdentitySave", identity=eileen, filename="damaged", if_exists="overwrite")
        path = base / "models" / "faceloom" / "identities" / "damaged.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(error, match="damaged"):
            run("IdentityLoad", file=path.name)

    def test_a_changed_file_is_read_again(self, nodes, run, eileen, base):
        run("IdentitySave", identity=eileen, filename="changing", if_exists="overwrite")
        path = base / "models" / "faceloom" / "identities" / "changing.safetensors"
        first = nodes["IdentityLoad"].fingerprint_inputs(file=path.name)
        assert first == nodes["IdentityLoad"].fingerprint_inputs(file=path.name)
        path.write_bytes(path.read_bytes() + b" ")
        assert nodes["IdentityLoad"].fingerprint_inputs(file=path.name) != first

    def test_a_folder_that_cannot_be_written(self, run, error, eileen, base, monkeypatch):
        import folder_paths

        (base / "a file").write_text("not a folder")
        monkeypatch.setattr(folder_paths, "get_folder_paths", lambda key: [str(base / "a file")])
        with pytest.raises(error, match="cannot be written"):
            run("IdentitySave", identity=eileen, filename="nowhere")


class TestIdentityBlend:
    def test_only_proportions_count(self, run, eileen, detected, hopper):
        grace = run("ArcFaceEmbed", image=[hopper], faces=[detected[0]], how=["average"], name=["Grace"])[0]
        people = {"identity0": eileen, "identity1": grace}
        one, two = (run("IdentityBlend", identities=people, weights=weights)[0].embeddings["dlib128"] for weights in ("3, 1", "0.75 0.25"))
        assert one == pytest.approx(two, abs=1e-6)
        assert one @ eileen.embeddings["dlib128"] > one @ grace.embeddings["dlib128"]

    @pytest.mark.parametrize("weights, message", [
        ("1", "2 identities"), ("a, b", "numbers"), ("0, 0", "above zero"), ("-1, 2", "negative"),
    ])
    def test_weights_that_make_no_sense(self, run, eileen, error, weights, message):
        with pytest.raises(error, match=message):
            run("IdentityBlend", identities={"identity0": eileen, "identity1": eileen}, weights=weights)


class TestFaceSelect:
    def test_rules(self, run, many):
        chosen, rest = run("FaceSelect", faces=many, rule={"rule": "index", "index": "0,-1"})
        assert len(chosen) == 10 and len(rest) == 30
        chosen, _ = run("FaceSelect", faces=many, rule={"rule": "rightmost", "count": 2})
        assert [round(float(face.center[0] - many[0].center[0])) for face in chosen] == [180, 210] * 5
        mask = torch.zeros(1, 800, 800)
        mask[:, :, : int(many[0].box[2])] = 1
        chosen, rest = run("FaceSelect", faces=many, rule={"rule": "mask", "mask": mask})
        assert len(chosen) + len(rest) == 40 and {many[0].center[0], many[8].center[0]} <= {face.center[0] for face in chosen}

    def test_same_person(self, run, pictures, eileen):
        faces = run("FaceDetect", image=pictures["group"], order="left-right")[0]
        rule = {"rule": "same-person", "identity": eileen, "image": pictures["group"], "similarity": 0.0, "one_per_frame": False,
                "margin": 0.0}
        chosen, rest = run("FaceSelect", faces=faces, rule=rule)
        assert [faces.items.index(face) for face in chosen] == [0, 2] and [faces.items.index(face) for face in rest] == [1]

    def test_what_is_not_known(self, run, detected, error):
        with pytest.raises(error, match="sex"):
            run("FaceSelect", faces=detected[0], rule={"rule": "sex", "sex": "female"})


class TestFaceSmooth:
    @pytest.mark.parametrize("frames, told", [(1, "1 face of 1 track"), (2, "2 faces of 1 track")])
    def test_the_plural(self, nodes, hopper, frames, told):
        clip = hopper.repeat(frames, 1, 1, 1)
        faces = nodes["FaceDetect"].execute(clip, 0.5, "large-small", "all", 64, 0, 1.0, "pass").args[0]
        text = nodes["FaceSmooth"].execute(faces, {"method": "running mean", "reach": 2, "jump": 0.0}, 0, clip).ui["text"]
        assert told in text

    def test_a_trembling_clip_is_steadied_and_cut_anew(self, nodes, hopper):
        shifts = [0, 3, -3, 2, -2, 3, 0]
        clip = torch.cat([hopper.roll(shift, 2) for shift in shifts])
        faces, *_ = nodes["FaceDetect"].execute(clip, 0.5, "large-small", "all", 64, 0, 1.0, "pass").args
        given = {"method": "running mean", "reach": 2, "jump": 0.0}
        result = nodes["FaceSmooth"].execute(faces, given, 0, clip)
        smooth, crops = result.args
        assert len(smooth) == len(faces) == len(shifts) == len(crops) and crops.shape[1:3] == (64, 64)
        assert {face.track for face in smooth} == {0} and "7 faces of 1 track" in result.ui["text"]
        nose = [each.keypoints[:, 2, 0] for each in (faces, smooth)]
        assert np.abs(np.diff(nose[1])).mean() < 0.5 * np.abs(np.diff(nose[0])).mean()
        assert np.allclose(nose[1][3], np.mean(nose[0][1:6]), atol=1e-3)

    def test_steady_faces_are_swapped_and_pasted(self, nodes, hopper, collins):
        clip = torch.cat([hopper.roll(shift, 2) for shift in (0, 3, -3)])
        detect = nodes["FaceDetect"].execute
        faces, *_ = detect(clip, 0.5, "large-small", "all", 128, 0, 1.0, "pass").args
        source, *_ = detect(collins, 0.5, "large-small", "all", 128, 0, 1.0, "pass").args
        identity, *_ = nodes["ArcFaceEmbed"].execute([collins], [source], ["average"], [""]).args
        smooth, _ = nodes["FaceSmooth"].execute(faces, {"method": "running mean", "reach": 1, "jump": 0.0}, 0, clip).args
        crops, mask = nodes["OneShotSwap"].execute(clip, smooth, identity, 1.0, "all", 1).args
        result, area = nodes["PasteBack"].execute(clip, smooth, crops, "none", "feather", 0.0, 1.0, mask).args
        assert torch.equal(result[area == 0], clip[area == 0]) and float((result - clip).abs()[area > 0.9].mean()) > 0.02

    def test_another_clip_is_refused(self, nodes, hopper, pack):
        from faceloom.models.errors import FaceLoomError

        faces, *_ = nodes["FaceDetect"].execute(hopper, 0.5, "large-small", "all", 64, 0, 1.0, "pass").args
        with pytest.raises(FaceLoomError, match="connect the image that went into Face Detect"):
            nodes["FaceSmooth"].execute(faces, {"method": "kalman", "process": .03, "measure": .01}, 0, hopper[:, :300])


def test_cancel_stops_a_node(nodes, run, hopper):
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        run("FaceDetect", image=hopper)
