"""Face-Adapter in this process, from its files to the pasted photograph; its networks' numbers are held by the golden vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrices
from faceloom.models.crops.squares import align_faces
from faceloom.models.detect import detect_faces
from faceloom.models.diffusion.euler import euler_schedule, sample_euler
from faceloom.models.errors import FaceLoomError
from faceloom.models.face3d.basel_model import CAMERA_DISTANCE, FOCAL_LENGTH, FaceModel, load_basel_model
from faceloom.models.faces import Faces, Identity, keypoints_from_68
from faceloom.models.identity import make_identity
from faceloom.models.options.detect import DetectSettings
from faceloom.models.parse import REGIONS
from faceloom.models.pixels.affine import invert, transform
from faceloom.models.systems.face_adapter import TEMPLATE, canvas_matrices, source_crop, split_coefficients
from faceloom.models.systems.face_adapter_diffusers import diffusers_denoiser
from faceloom.models.systems.face_adapter_load import VISION_FOLDER, ClipVision, find_weights_in_folder, load_face_adapter
from faceloom.models.systems.face_adapter_picture import add_pupils, blend_mask, draw_points, rainbow, swap_area
from faceloom.models.systems.face_adapter_swap import BaseModels, FaceAdapterEngine, Settings, paint, sample
from swap_photo import swap_photo
from torch import nn

WIDE = 24  # of the prompt and of CLIP in these tests
STRAIGHT = np.zeros((1, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from face_adapter_files import save_face_adapter

    place = tmp_path_factory.mktemp("faceadapter")
    save_face_adapter(place, WIDE, WIDE)
    return place


@pytest.fixture(scope="module")
def adapter(folder):
    return load_face_adapter(folder / "net_id2token.pth")


@pytest.fixture(scope="module")
def target(collins):
    faces = align_faces(detect_faces(collins), "box", 512)
    return crop_faces(collins, faces), faces


@pytest.fixture(scope="module")
def group(collins):
    """Two faces of the same photograph, side by side, one mirrored and darker."""
    photo = torch.cat([collins[:, :300, 100:400], collins[:, :300, 100:400].flip(2) * 0.8], 2)
    faces = align_faces(detect_faces(photo, settings=DetectSettings(order="left-right")), "box", 512)
    assert len(faces) == 2
    return photo, faces


def look(pictures):
    """A CLIP vision model of five places: the mean colours of stripes."""
    stripes = pictures.unfold(1, 102, 102).mean((2, 4))
    return torch.cat([stripes, 1 - stripes], -1).repeat(1, 1, WIDE // 6) * 3


@pytest.fixture(scope="module")
def made(adapter, target, source):
    """The conditions of a swap."""
    return adapter.conditions(*target, source, look)


class Everything:
    """A parser that calls everything skin but a hat on top."""

    name = "everything"

    def parse(self, crops, progress=None):
        labels = torch.full(crops.shape[:3], REGIONS.index("skin"), dtype=torch.uint8)
        labels[:, :200] = REGIONS.index("hat")
        return labels


def test_euler_goes_straight():
    """With a denoiser that always sees the noise that was put in, nothing of it is left."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(sample_euler(lambda x, time: noise, noise, 25).abs().max()) < 1e-5


def test_euler_is_diffusers_own():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(25)
    times, sigmas = euler_schedule(25)
    assert np.allclose(times, scheduler.timesteps) and np.allclose(sigmas, scheduler.sigmas, rtol=1e-3)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        x = scheduler.step(torch.tanh(scheduler.scale_model_input(x, time) * 2) - time / 1000, time, x).prev_sample
    ours = sample_euler(lambda x, time: torch.tanh(x * 2) - time / 1000, noise, 25)
    torch.testing.assert_close(ours, x, atol=1e-3, rtol=1e-4)


class TestPoints:
    def test_the_mean_face_lies_on_the_template(self, folder):
        model = load_basel_model(folder / "third_party" / "BFM_model_front.mat")
        points = model.points(np.zeros((1, 80)), np.zeros((1, 64)), STRAIGHT, STRAIGHT)
        assert np.abs(keypoints_from_68(points[0]) - TEMPLATE).max() < 12  # a mean face, and ArcFace's five points
        assert np.abs((keypoints_from_68(points[0]) - TEMPLATE).mean(0)).max() < 3

    def test_turning_and_moving(self):
        flat = FaceModel(np.tile([[1.0, 0.5, 0.0]], (68, 1)), np.ones((68, 3, 1)), np.zeros((68, 3, 1)))
        none = np.zeros((1, 1))

        def where(identity=none, angles=(0, 0, 0), shift=(0, 0, 0)):
            return flat.points(identity, none, np.array([angles]), np.array([shift], float))[0, 0]

        scale = FOCAL_LENGTH / CAMERA_DISTANCE
        assert np.allclose(where(), [128 + scale, 127 - scale / 2])
        assert np.allclose(where(shift=(1, 1, 5)), [128 + 4 * scale, 127 - 3 * scale])  # twice as near, twice as large
        assert np.allclose(where(none + 1), [128 + FOCAL_LENGTH / 9 * 2, 127 - FOCAL_LENGTH / 9 * 1.5])
        assert np.allclose(where(angles=(0, 0, np.pi / 2)), [128 - scale / 2, 127 - scale])
        assert np.allclose(where(angles=(0, np.pi / 2, 0)), [128, 127 - FOCAL_LENGTH / 11 / 2])
        assert np.allclose(where(angles=(np.pi / 2, 0, 0)), [128 + FOCAL_LENGTH / 9.5, 127])

    def test_files_that_are_something_else(self, tmp_path):
        from scipy.io import savemat

        file = tmp_path / "BFM_model_front.mat"
        savemat(file, {"meanshape": np.zeros((1, 9))})
        with pytest.raises(FaceLoomError, match="lacks idBase, exBase, keypoints"):
            load_basel_model(file)
        file.write_bytes(b"<html>not found</html>" * 20)
        with pytest.raises(FaceLoomError, match=r"BFM_model_front\.mat is not a MATLAB file"):
            load_basel_model(file)

    def test_pupils(self):
        points = np.zeros((1, 68, 2))
        points[0, [36, 39, 42, 45]] = [[10, 20], [30, 20], [50, 20], [50, 60]]
        pupils = add_pupils(points, np.array([[0.1, -0.2, 0.5, 0]]))[0, 68:]
        assert np.allclose(pupils, [[20 + 2, 20 - 4], [50 + 20, 40]])

    def test_dots(self):
        """Thirteen pixels each, the later one on top, cut at the edge, and through a matrix to where they belong."""
        same = np.array([[[1.0, 0, 0], [0, 1, 0]]])
        drawn = draw_points(np.array([[[10, 10], [12, 10], [0, 100], [300, 5]]], float), same, 256)[0]
        first, second = (torch.from_numpy(colour).float() / 255 for colour in rainbow(4)[:2])
        assert torch.allclose(drawn[10, 12], second) and torch.allclose(drawn[10, 9], first)
        assert int((drawn.sum(-1) > 0).sum()) == 13 + 13 - 5 + 9
        assert float(drawn[8:13, 8:15].sum(-1).gt(0).sum()) == 21
        moved = draw_points(np.array([[[10, 10]]], float), np.array([[[0.5, 0, 3], [0, 0.5, -1]]]))[0].sum(-1)
        ys, xs = torch.nonzero(moved, as_tuple=True)
        assert abs(float((xs * moved[ys, xs]).sum() / moved.sum()) - 14) < 1e-3  # 0.5 * 14 + 3 = 10
        assert abs(float((ys * moved[ys, xs]).sum() / moved.sum()) - 22) < 1e-3


class TestAreas:
    @staticmethod
    def area(**parts):
        labels = torch.zeros((1, 512, 512), dtype=torch.uint8)
        for name, (y, x, size) in parts.items():
            labels[0, y : y + size, x : x + size] = REGIONS.index(name)
        return swap_area(labels)[0]

    def test_the_face_grows_by_34_and_ears_by_2(self):
        skin = self.area(skin=(256, 256, 1))
        assert float(skin.sum()) == 69**2 and float(skin[256 - 34, 256 + 34]) == 1
        assert float(self.area(left_ear=(256, 256, 1)).sum()) == 25
        assert float(self.area(hair=(100, 100, 50), neck=(300, 300, 50), cloth=(400, 400, 50)).sum()) == 0

    def test_what_is_worn_in_front_stays(self):
        """A pair of glasses of 21 pixels, of which 2 on each side are painted over; they are not of the face themselves."""
        area = self.area(skin=(200, 200, 100), glasses=(240, 240, 21))
        assert float(area[200:300, 200:300].eq(0).sum()) == 17**2
        assert float(self.area(glasses=(240, 240, 21)).sum()) == 0

    def test_the_edge_of_the_mask(self):
        area = torch.zeros(1, 512, 512)
        area[0, 200:300, 200:300] = 1
        mask = blend_mask(area)[0]
        assert abs(float(mask.sum()) - 116**2) < 1e-2 and float(mask[200:300, 200:300].min()) == 1
        assert float(mask[250, 300 + 16]) == 0 and abs(float(mask[250, 300 + 7]) - 9 / 17) < 1e-5
        assert float(blend_mask(torch.ones(1, 512, 512)).min()) == 1


class TestConditions:
    def test_a_swap(self, adapter, target, source):
        crops, faces = target
        made = adapter.conditions(crops, faces, source, look, parser=Everything())
        assert made.tokens.shape == made.image_tokens.shape == (1, 77, WIDE)
        assert torch.equal(made.background, crops)
        area = torch.zeros(512, 512, dtype=torch.bool)
        area[200 - 2 :] = True
        assert torch.equal(made.hint[0, ~area], crops[0, ~area])
        drawn = adapter.draw(crops, faces, adapter.prepare(source).coefficients)
        assert torch.equal(made.hint[0, area], drawn[0, area]) and 500 < int((drawn.sum(-1) > 0).sum()) < 6000
        torch.testing.assert_close(made.mask, blend_mask(area[None].float()))

    def test_dots_lie_on_the_face(self, adapter, target, source):
        crops, faces = target
        drawn = adapter.draw(crops, faces, adapter.prepare(source).coefficients)[0]
        ys, xs = torch.nonzero(drawn.sum(-1) > 0.5, as_tuple=True)
        points = transform(faces[0].points68, crop_matrices(faces)[0])
        dots = np.stack([xs.numpy(), ys.numpy()], -1)
        distance = np.linalg.norm(dots[:, None] - points, axis=-1)
        assert np.median(distance.min(1)) < 8 and np.abs(dots.mean(0) - points.mean(0)).max() < 8

    def test_the_head_is_the_sources_and_moves_as_the_target(self, folder, target, source):
        crops, faces = target
        adapter = load_face_adapter(folder / "net_id2token.pth")
        seen = []

        class Recorder:
            def points(self, *parts):
                seen.append(parts)
                return np.full((1, 68, 2), 128.0)

        adapter.shape = Recorder()
        adapter.model.net.coefficients = Means()
        adapter.conditions(crops, faces, source, look)
        (identity, expression, angles, shift), = seen
        own, other = adapter_means(source), adapter_means(target)
        assert abs(own - other) > 0.02
        assert np.allclose(identity, own, atol=1e-5) and identity.shape == (1, 80)
        assert np.allclose(expression, 1 + other, atol=1e-5) and expression.shape == (1, 64)
        assert np.allclose(angles, 3 + other, atol=1e-5) and np.allclose(shift, 5 + other, atol=1e-5)

    def test_the_parts_of_the_coefficients(self):
        shape = split_coefficients(np.arange(261)[None])
        ends = [(part[0, 0], part[0, -1]) for part in (shape.identity, shape.expression, shape.angles, shape.shift, shape.gaze)]
        assert ends == [(0, 79), (80, 143), (224, 226), (254, 256), (257, 260)]

    def test_a_reenactment(self, adapter, group, source):
        photo, faces = group
        made = adapter.conditions(crop_faces(photo, faces), faces, source, look, mode="reenact")
        own = source_crop(source)
        assert torch.equal(made.background, own.expand(2, -1, -1, -1))
        assert torch.equal(made.image_tokens[0], made.image_tokens[1])
        assert torch.allclose(made.image_tokens[:1], adapter.image_tokens(own, look))
        outside = made.mask == 0
        assert .05 < float(outside.float().mean()) < .999
        assert torch.equal(made.hint[outside], made.background[outside]) and not torch.equal(made.hint, made.background)
        assert not torch.equal(made.hint[0], made.hint[1])

    def test_the_source_lies_in_its_box(self, source):
        """The identity's crop shows the whole head, and the box is cut from it: eyes where the box puts them."""
        face = source.faces[0]
        crop = source_crop(source)
        assert crop.shape == (1, 512, 512, 3)
        half = 0.81 * float(face.box[2] - face.box[0]) * 512 / 352
        picture = torch.from_numpy(np.array(source.crops[:1]))
        x, y = (round(float(v)) for v in face.center)
        around = picture[:, y - 8 : y + 9, x - 8 : x + 9].mean((1, 2))
        reach = round(8 * 256 / half)
        assert torch.allclose(crop[:, 256 - reach : 257 + reach, 256 - reach : 257 + reach].mean((1, 2)), around, atol=0.02)

    @pytest.mark.slow
    def test_the_prompt_is_the_mean_of_the_photos(self, adapter, source, collins):
        other, _ = make_identity(collins, detect_faces(collins))
        one, two = adapter.prepare(source), adapter.prepare(other)
        assert float((one.tokens - two.tokens).abs().max()) > 0.01
        size = min(len(source.crops[0]), len(other.crops[0]))
        both = Identity({}, np.stack([source.crops[0][:size, :size], source.crops[0][:size, :size]]), source.faces * 2)
        same = adapter.prepare(both)
        if size == len(source.crops[0]):
            assert torch.allclose(same.tokens, one.tokens, atol=1e-5) and np.allclose(same.coefficients, one.coefficients)
        assert torch.equal(adapter.prepare(source).tokens, one.tokens) and not np.allclose(one.coefficients, two.coefficients)

    @pytest.mark.slow
    def test_a_batch_is_its_faces(self, adapter, group, source):
        photo, faces = group
        crops = crop_faces(photo, faces)
        both = adapter.conditions(crops, faces, source, look)
        for i in (0, 1):
            alone = adapter.conditions(crops[i : i + 1], faces.take([i]), source, look)
            for name in ("tokens", "image_tokens", "hint", "mask", "background"):
                torch.testing.assert_close(getattr(both, name)[i : i + 1], getattr(alone, name), atol=1e-4, rtol=1e-4)

    def test_crops_of_any_size(self, adapter, target, source, collins, made):
        _, faces = target
        other = adapter.conditions(crop_faces(collins, faces, 1024), faces, source, look)
        assert other.hint.shape == (1, 512, 512, 3) and float((made.background - other.background).abs().mean()) < 0.01

    def test_no_faces(self, adapter, source):
        none = adapter.conditions(torch.zeros(1, 64, 64, 3), Faces((), 1, 64, 64), source, look)
        assert len(none) == 1 and float(none.mask.max()) == 0 and none.tokens.shape == (1, 77, WIDE)

    def test_sentences(self, adapter, folder, target, source):
        crops, faces = target
        with pytest.raises(FaceLoomError, match="swap or reenact"):
            adapter.conditions(crops, faces, source, look, mode="both")
        with pytest.raises(FaceLoomError, match="2 crops for 1 faces"):
            adapter.conditions(crops.repeat(2, 1, 1, 1), faces, source, look)
        with pytest.raises(FaceLoomError, match="24 numbers wide, and this one has 6"):
            adapter.conditions(crops, faces, source, lambda pictures: look(pictures)[..., :6])
        nobody = Identity({}, np.zeros((0, 64, 64, 3)), ())
        for mode in ("swap", "reenact"):
            with pytest.raises(FaceLoomError, match="photo of the source"):
                adapter.conditions(crops, faces, nobody, look, mode=mode)


class Means(nn.Module):
    """Coefficients that tell which picture was looked at: its mean, plus 1 for expression, 3 for angles and 5 for the shift."""

    def forward(self, x):
        values = x.mean((1, 2, 3))[:, None].repeat(1, 261)
        values[:, 80:144] += 1
        values[:, 224:227] += 3
        values[:, 254:257] += 5
        return values


def adapter_means(of) -> float:
    """What ``Means`` says of an identity, or of crops and their faces."""
    from faceloom.models.pixels.affine import similarity
    from faceloom.models.systems.face_adapter import aligned_crops

    if isinstance(of, Identity):
        pictures, matrices = torch.from_numpy(np.array(of.crops)), similarity(np.stack([face.keypoints for face in of.faces]), TEMPLATE)
    else:
        pictures, matrices = of[0], canvas_matrices(of[1])
    return float(aligned_crops(pictures, matrices).mean())


class TestFiles:
    def test_weights_are_single_precision_and_prefixes_gone(self, adapter):
        assert {value.dtype for value in adapter.model.net.state_dict().values()} == {torch.float32, torch.int64}
        assert adapter.model.net.id_tokens.query.shape == (1, 77, WIDE)

    def test_a_missing_file_is_named(self, folder, tmp_path):
        (tmp_path / "net_id2token.pth").symlink_to(folder / "net_id2token.pth")
        with pytest.raises(FaceLoomError, match=rf"insightface_glint360k\.pth .*models get faceadapter_glint360k.*{tmp_path}"):
            load_face_adapter(tmp_path / "net_id2token.pth")

    def test_another_file(self, folder):
        with pytest.raises(FaceLoomError, match=r"net_seg_res18\.pth is not one of Face-Adapter's token networks"):
            load_face_adapter(folder / "net_seg_res18.pth")

    def test_without_the_mask_network_there_is_no_reenactment(self, folder, tmp_path, target, source):
        for file in folder.iterdir():
            if "seg" not in file.name:
                (tmp_path / file.name).symlink_to(file)
        with pytest.raises(FaceLoomError, match=r"put net_seg_res18\.pth beside"):
            load_face_adapter(tmp_path / "net_id2token.pth").conditions(*target, source, look, mode="reenact")

    def test_its_own_parser_sees_pictures_as_the_authors_show_them(self, folder, tmp_path, target, source):
        from faceloom.models.networks.bisenet import BiSeNet

        for file in folder.iterdir():
            (tmp_path / file.name).symlink_to(file)
        torch.manual_seed(0)
        torch.save(BiSeNet().state_dict(), tmp_path / "79999_iter.pth")
        parser = load_face_adapter(tmp_path / "net_id2token.pth").parser
        seen = []
        parser.model.net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0]))
        parser.parse(target[0])
        torch.testing.assert_close(seen[0], target[0].movedim(-1, 1) * 2 - 1)

    def test_clip_as_transformers_keeps_it(self, tmp_path, target):
        transformers = pytest.importorskip("transformers")
        from face_adapter_files import save_vision

        main = tmp_path / "net_id2token.pth"
        assert find_weights_in_folder(main, VISION_FOLDER) is None
        save_vision(tmp_path / VISION_FOLDER, WIDE)
        assert find_weights_in_folder(main, VISION_FOLDER) == tmp_path / VISION_FOLDER / "model.safetensors"
        vision = ClipVision(tmp_path / VISION_FOLDER)
        ours = vision(target[0])
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=56)
        pixels = processor(images=[(target[0][0].numpy() * 255).round().astype(np.uint8)], return_tensors="pt").pixel_values
        with torch.inference_mode():
            output = vision.model.net(pixel_values=pixels)
        assert ours.shape == (1, 17, WIDE)
        torch.testing.assert_close(ours, output.last_hidden_state, atol=0.05, rtol=0)


EMPTY = torch.randn(1, 77, WIDE, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def stable_diffusion():
    """A small UNet and ControlNet of Stable Diffusion's kind, and a decoder that shows three channels as colours."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    common = {"block_out_channels": (32, 32), "layers_per_block": 1, "cross_attention_dim": WIDE, "attention_head_dim": 2,
              "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    unet = diffusers.UNet2DConditionModel(up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **common).eval()
    control = diffusers.ControlNetModel(conditioning_embedding_out_channels=(4, 4, 8, 8), **common).eval()
    for parameter in (*control.controlnet_down_blocks.parameters(), control.controlnet_mid_block.weight):
        parameter.data.normal_(0, 0.3)
    control.controlnet_cond_embedding.conv_out.weight.data.normal_(0, 3)
    return BaseModels(diffusers_denoiser(unet, control),
                           lambda latents: nn.functional.interpolate(latents[:, :3] / 4, scale_factor=8), EMPTY, look)


FEW = Settings(steps=2)


class TestSampling:
    def test_who_is_told_what(self, made):
        asked = []

        def denoise(x, time, tokens, image_tokens, hint):
            asked.append(time)
            assert torch.equal(x[:1], x[1:]) and abs(float(x.std()) - 1) < 0.05
            assert torch.equal(tokens, torch.cat([EMPTY, made.tokens])) and torch.equal(image_tokens, torch.cat([EMPTY, made.image_tokens]))
            assert torch.equal(hint, made.hint.movedim(-1, 1).repeat(2, 1, 1, 1) * 2 - 1)
            return torch.stack([x[0] * 0 + 0.1, x[1] * 0 + 0.2])

        noise = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
        latents = sample(made, BaseModels(denoise, None, EMPTY), noise, Settings(steps=1, guidance=5.0))
        sigma = euler_schedule(1)[1][0]
        assert asked == [999] and torch.allclose(latents, (noise - (0.1 + 5 * 0.1)) * float(sigma), atol=1e-4)

    @pytest.mark.slow
    def test_from_the_photograph_to_the_pasted_result(self, adapter, stable_diffusion, collins, source, made):
        faces = detect_faces(collins)
        result, other = (swap_photo(FaceAdapterEngine(adapter, stable_diffusion, settings), collins, faces, source)
                         for settings in (FEW, replace(FEW, seed=1)))
        assert result.shape == collins.shape and not torch.equal(result, other)
        changed = (result != collins).any(-1)[0]
        boxed, mask = align_faces(faces, "box", 512), made.mask[0]
        ys, xs = torch.nonzero(changed, as_tuple=True)
        assert .02 < float(changed.float().mean()) < .3
        inside = transform(np.stack([xs.numpy(), ys.numpy()], -1), crop_matrices(boxed)[0]).round().astype(int)
        near = torch.nn.functional.max_pool2d(mask[None], 7, 1, 3)[0]
        assert bool((near[inside[:, 1], inside[:, 0]] > 0).all())

    @pytest.mark.slow
    def test_a_batch_is_its_faces_one_by_one(self, adapter, stable_diffusion, group, source):
        photo, faces = group
        made = adapter.conditions(crop_faces(photo, faces), faces, source, look)
        both = paint(made, stable_diffusion, FEW)
        second = paint(made.take(1), stable_diffusion, replace(FEW, seed=1))
        torch.testing.assert_close(both[1:], second, atol=1e-5, rtol=0)
        outside = made.mask == 0
        assert torch.equal(both[outside], made.background[outside])
        assert float((both - made.background)[made.mask == 1].abs().mean()) > 0.02

    @pytest.mark.slow
    def test_every_part_counts(self, stable_diffusion, made):
        """Prompt, ControlNet's prompt and hint each change what is painted."""
        right = paint(made, stable_diffusion, FEW)
        assert torch.equal(right, paint(made, stable_diffusion, FEW))
        for name in ("tokens", "image_tokens", "hint"):
            wrong = replace(made, **{name: getattr(made, name).flip(-1)})
            assert float((paint(wrong, stable_diffusion, FEW) - right).abs().max()) > 1e-3, name

    def test_cancel_and_nobody(self, adapter, stable_diffusion, made, source, collins):
        class Stop(Exception):
            pass

        def progress(done, total):
            if done:
                raise Stop

        with pytest.raises(Stop):
            paint(made, stable_diffusion, FEW, progress)
        with pytest.raises(FaceLoomError, match="needs a CLIP vision model; hand one in"):
            FaceAdapterEngine(adapter, replace(stable_diffusion, vision=None))
        nobody = Faces((), 1, *collins.shape[1:3])
        assert swap_photo(FaceAdapterEngine(adapter, stable_diffusion), collins, nobody, source).equal(collins)


def test_the_aligned_picture_is_reached_through_the_crop(target):
    _, faces = target
    points = transform(faces[0].keypoints, crop_matrices(faces)[0])
    assert np.abs(transform(points, canvas_matrices(faces)[0]) - TEMPLATE).max() < 12
    back = transform(TEMPLATE, invert(canvas_matrices(faces)[0]))
    assert np.abs(back - points).max() < 24
