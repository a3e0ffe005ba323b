"""DiffFace with small networks and with ones whose output is known: sampling, guidance, candidates, files, and the pasted result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faceloom.models.crops.crop import crop_faces, crop_matrix
from faceloom.models.detect import detect_faces
from faceloom.models.diffusion.ddpm import ddpm_schedule
from faceloom.models.errors import FaceLoomError
from faceloom.models.identity import make_identity
from faceloom.models.networks.arcface_se import ArcFaceSE
from faceloom.models.networks.bisenet import BiSeNet
from faceloom.models.networks.eyenet import EyeNet
from faceloom.models.networks.guided_unet import GuidedUNet
from faceloom.models.options.detect import DetectSettings
from faceloom.models.paste import paste
from faceloom.models.pixels.affine import transform
from faceloom.models.systems import diffface
from faceloom.models.systems.diffface import (
    PRESETS,
    AttemptRandom,
    LossWeights,
    Networks,
    Scene,
    Settings,
    choose_attempts,
    guided_step,
    make_scene,
    paint,
    weighted_losses,
)
from faceloom.models.systems.diffface_model import DiffFace, DiffFaceNets, cut_portraits, find_eye_boxes, load_diffface
from faceloom.models.systems.diffface_views import UNCHANGED, View, apply_view, homography, random_view

OFF = LossWeights(identity=0, expression=0, gaze=0, keep=0)
SMALL = Settings(steps=3, skip=1, repeats=2, weights=LossWeights(identity=60, expression=2, gaze=2, keep=.5, views=2))


def denoiser() -> GuidedUNet:
    return GuidedUNet((32, 32), (1,))


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    return DiffFaceNets(denoiser(), ArcFaceSE((1, 1, 1, 1)), torch.nn.Conv2d(3, 19, 5, 4, 2), EyeNet(1, 16, 4))


@pytest.fixture(scope="module")
def system(nets):
    return DiffFace("small", nets, size=32)


@pytest.fixture(scope="module")
def material(hopper, collins):
    """Two faces of one frame batch, their crops, masks with an empty rim, and who they become."""
    frames = torch.cat([hopper[:, :512], hopper[:, 40:552].flip(2)])
    faces = detect_faces(frames, settings=DetectSettings(crop_size=96))
    assert len(faces) == 2
    source = detect_faces(collins)
    masks = torch.zeros(2, 96, 96)
    masks[:, 20:80, 24:70] = 1
    return frames, faces, crop_faces(frames, faces), masks, make_identity(collins, source)[0]


def knowing(picture: torch.Tensor):
    """A denoiser that knows the picture under the noise."""
    plan = ddpm_schedule(1000)

    def denoise(x, times, identities):
        level = torch.tensor(plan.alpha_bars[times.long().numpy()])[:, None, None, None].float()
        return torch.cat([(x - level.sqrt() * picture) / (1 - level).sqrt(), torch.zeros_like(x)], 1)

    return denoise


class TestSchedule:
    def test_evenly_spread_over_the_training_schedule(self):
        plan = ddpm_schedule(100)
        assert plan.times[0] == 0 and plan.times[-1] == 999 and plan.times[40] == 404
        assert np.allclose(np.cumprod(1 - plan.betas), plan.alpha_bars) and plan.variances[0] == 0
        for steps in (1, 1001):
            with pytest.raises(FaceLoomError, match=f"from 2 to 1000, not {steps}"):
                ddpm_schedule(steps)

    def test_noise_goes_in_and_out(self):
        plan, clean, noise = ddpm_schedule(50), torch.randn(1, 3, 4, 4).double(), torch.randn(1, 3, 4, 4).double()
        for step in (0, 20, 49):
            assert torch.allclose(plan.clean(plan.noised(clean, step, noise), noise, step), clean)

    def test_a_step_back_has_the_spread_of_the_cleaner_step(self):
        """From x of one level, mean + variance is distributed as x of the next lower level (Ho et al. 2020, eq. 6)."""
        plan, clean = ddpm_schedule(20), torch.full((1, 1, 300, 300), 0.5).double()
        x = plan.noised(clean, 12, torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
        mean, log_variance = plan.step_back(x, clean, torch.full_like(x, -1.0), 12)
        assert float(mean.mean()) == pytest.approx(plan.alpha_bars[11] ** .5 * .5, abs=.01)
        assert float(mean.var() + log_variance.exp()[0, 0, 0, 0]) == pytest.approx(1 - plan.alpha_bars[11], abs=.01)


class TestViews:
    def test_an_unchanged_view_changes_nothing(self):
        picture = torch.rand(3, 16, 16)
        assert apply_view(picture, UNCHANGED) is picture
        assert torch.allclose(apply_view(picture, View(np.eye(3), np.diag([1, 1, 1.0 + 1e-12]))), picture, atol=1e-5)

    def test_a_shift_repeats_the_border_and_a_perspective_does_not(self):
        picture = torch.rand(1, 8, 8)
        turn = np.eye(3)
        turn[0, 2] = 2 / 8
        moved = apply_view(picture, View(np.eye(3), turn))
        assert torch.allclose(moved[..., :6], picture[..., 2:], atol=1e-5)
        assert torch.allclose(moved[..., 6:], picture[..., 7:].expand(1, 8, 2), atol=1e-5)
        half = homography(np.array([[0, 0], [.5, 0], [.5, 1], [0, 1]]), np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float))
        seen = apply_view(torch.ones(1, 8, 8), View(half, np.eye(3)))
        assert bool((seen[..., :4] == 1).all()) and bool((seen[..., 4:] == 0).all())

    def test_corners_stay_within_their_reach(self):
        random, views = np.random.default_rng(3), []
        for _ in range(400):
            views.append(random_view(random))
        slanted = [view for view in views if (view.perspective != np.eye(3)).any()]
        turned = [view for view in views if (view.rotation != np.eye(3)).any()]
        assert len(slanted) / 400 == pytest.approx(.7, abs=.07) and len(turned) / 400 == pytest.approx(.7, abs=.07)
        for view in slanted:
            corners = np.linalg.inv(view.perspective) @ np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1.0]]).T
            apart = np.abs(corners[:2] / corners[2] - np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]]).T)
            assert apart.min() >= -1e-9 and apart.max() <= .35 + 1e-9
        for view in turned:
            assert abs(np.rad2deg(np.arctan2(view.rotation[1, 0], view.rotation[0, 0]))) <= 15
            assert np.abs(view.rotation[:2] @ [.5, .5, 1] - .5).max() <= .1


class TestSampling:
    def test_a_perfect_denoiser_paints_its_picture_inside_the_mask(self):
        targets, picture = torch.rand(1, 3, 16, 16) * 2 - 1, torch.rand(1, 3, 16, 16) * 2 - 1
        masks = torch.zeros(1, 1, 16, 16)
        masks[..., 4:12, 5:13] = 1
        scene, seen = Scene(targets, masks, torch.ones(1, 512)), []
        made = paint(Networks(knowing(picture), None), scene, Settings(20, 5, 1, OFF), [AttemptRandom(0, 0)], lambda *now: seen.append(now))
        assert torch.allclose(made[..., 4:12, 5:13], picture[..., 4:12, 5:13], atol=1e-4)
        assert torch.equal(torch.where(masks > 0, 0.0, made), torch.where(masks > 0, 0.0, targets))
        assert seen == [(i, 15) for i in range(1, 16)]

    def test_blending_lets_the_face_in_slowly(self):
        settings, plan = Settings(100, 25, 1, OFF), ddpm_schedule(100)
        scene = Scene(torch.zeros(1, 3, 2, 2), torch.ones(1, 1, 2, 2), torch.ones(1, 512))
        ones, none = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
        shares = [float(diffface.blend_with_target(plan, scene, ones, step, settings, none)[0, 0, 0, 0]) for step in (74, 51, 29, 0)]
        assert shares == pytest.approx([0, 23 / 45, 1, 1])
        paper = Settings(100, 25, 1, PRESETS["paper"])
        assert float(diffface.blend_with_target(plan, scene, ones, 51, paper, none)[0, 0, 0, 0]) == pytest.approx(23 / 35)

    def test_the_gradient_is_that_of_the_losses(self):
        """Only the keep loss, a denoiser that is a matrix: both gradients in closed form, and each picture has its own."""
        plan, step, k = ddpm_schedule(10), 6, .3
        scene = Scene(torch.rand(2, 3, 4, 4), torch.ones(2, 1, 4, 4), torch.ones(2, 512))
        networks = Networks(lambda x, times, ids: torch.cat([k * x, torch.zeros_like(x)], 1), None)
        x = torch.randn(2, 3, 4, 4)
        level = plan.alpha_bars[step]
        a, b, part = level ** -.5, (1 / level - 1) ** .5, (1 - level) ** .5
        pictures = part * (a * x - b * k * x) + (1 - part) * x
        outer = 2 * 5 * (pictures - scene.targets) / 48
        for through, slope in ((True, part * (a - b * k) + 1 - part), (False, part * a + 1 - part)):
            settings = Settings(10, 2, 1, LossWeights(0, 0, 0, keep=5), through)
            made = guided_step(networks, plan, scene, x, step, settings, [[UNCHANGED]] * 2)
            assert torch.allclose(made.gradient, -outer * slope, atol=1e-5)
            assert torch.allclose(made.sample(None), made.mean + made.log_variance.exp() * made.gradient)

    @pytest.mark.parametrize("weights, sentence", [
        (LossWeights(0, 1, 0, 0), "DiffFace finds the face and holds its expression by a face parser; hand one in"),
        (LossWeights(0, 0, 1, 0), "DiffFace holds the gaze by a gaze estimator and boxes of the eyes; hand both in"),
    ])
    @pytest.mark.parametrize("boxes", [None, np.array([[[0, 0, 8, 8], [8, 0, 16, 8]]])])
    def test_a_scene_says_which_network_its_weights_lack(self, weights, sentence, boxes):
        targets = torch.zeros(1, 3, 16, 16)
        with pytest.raises(FaceLoomError, match=sentence):
            make_scene(Networks(knowing(targets), None), targets, torch.ones(512), weights, torch.ones(1, 1, 16, 16), boxes)

    @pytest.mark.parametrize("weights", [LossWeights(0, 1, 0, 0), LossWeights(0, 0, 1, 0)])
    def test_a_scene_made_with_other_weights_is_said(self, nets, weights):
        targets = torch.zeros(1, 3, 16, 16)
        scene = make_scene(nets.as_functions(), targets, torch.ones(512), OFF, torch.ones(1, 1, 16, 16))
        with pytest.raises(FaceLoomError, match="scene was made with other weights"):
            weighted_losses(nets.as_functions(), scene, targets, 0.3, weights, [[UNCHANGED]])

    def test_gaze_acts_in_its_time_only(self):
        assert [PRESETS["released"].gaze_at(t / 100) for t in (10, 11, 49, 50)] == [0, 200, 200, 0]

    def test_the_papers_weights(self):
        paper, released = PRESETS["paper"], PRESETS["released"]
        assert (released.identity, released.expression, released.gaze, released.keep, released.views) == (6000, 200, 200, 50, 8)
        assert (paper.identity, paper.expression, paper.gaze, paper.squared, paper.full) == (2000, 150, 200, True, .4)
        with pytest.raises(FaceLoomError, match="less than the 10 steps, not 10"):
            Settings(10, 10)


def test_the_most_alike_of_the_tries():
    tries = torch.arange(6.0).reshape(3, 2)
    apart = torch.tensor([[.3, .1], [.1, .2], [.2, .3]])
    assert choose_attempts(tries, apart).tolist() == [2, 1] and choose_attempts(tries, apart, 2).tolist() == [4, 3]
    assert choose_attempts(tries, apart, 9).tolist() == [0, 5]


@pytest.mark.slow
class TestSwap:
    @pytest.fixture(scope="class")
    def swapped(self, system, material):
        _, faces, crops, masks, identity = material
        return system.swap(crops, faces, identity, replace(SMALL, seed=5), masks=masks)

    def test_outside_the_mask_every_pixel_stays(self, material, swapped):
        frames, faces, crops, masks, _ = material
        results, inside = swapped
        assert torch.equal(inside, masks) and results.shape == crops.shape
        assert torch.equal(results[masks == 0], crops[masks == 0])
        assert float((results - crops)[masks == 1].abs().mean()) > .05
        pasted, where = paste(frames, faces, results, inside)
        assert torch.equal(pasted[where == 0], frames[where == 0]) and float((pasted - frames).abs().max()) > .1

    def test_a_batch_is_its_faces_one_by_one(self, system, material, swapped):
        _, faces, crops, masks, identity = material
        one, _ = system.swap(crops[1:], faces.take([1]), identity, replace(SMALL, seed=6), masks=masks[1:])
        assert torch.allclose(one[0], swapped[0][1], atol=1e-5)

    def test_the_seed_decides(self, system, material, swapped):
        _, faces, crops, masks, identity = material
        quick = crops[:1], faces.take([0]), identity
        again, other = (system.swap(*quick, replace(SMALL, seed=seed), masks=masks[:1])[0] for seed in (5, 6))
        assert torch.equal(again[0], swapped[0][0])
        assert float((other[0] - swapped[0][0])[masks[0] == 1].abs().mean()) > .01

    def test_the_place_asks_for_another_try(self, system, material, swapped):
        _, faces, crops, masks, identity = material
        second, _ = system.swap(crops[:1], faces.take([0]), identity, replace(SMALL, seed=5, place=2), masks=masks[:1])
        assert not torch.equal(second[0], swapped[0][0])

    def test_the_parser_finds_the_face_by_itself(self, nets, system, material, monkeypatch):
        """The mask is where the parser sees skin, brows, eyes, nose or mouth; ears, hair and glasses stay."""
        _, faces, crops, _, identity = material
        labels = torch.zeros(64, 64, dtype=torch.int64)
        labels[16:48, 16:32], labels[16:48, 32:48], labels[:8] = 1, 6, 17

        def parse(pictures):
            scores = F.one_hot(F.interpolate(labels[None, None].float(), pictures.shape[2:])[0, 0].long(), 19)
            return scores.permute(2, 0, 1)[None].expand(len(pictures), -1, -1, -1).float()

        monkeypatch.setattr(nets.parser, "forward", parse)
        _, inside = system.swap(crops[:1], faces.take([0]), identity, Settings(3, 1, 1, OFF))
        wanted = F.interpolate((labels == 1).float()[None, None], (96, 96), mode="nearest")[0, 0]
        assert float((inside[0] - wanted).abs().mean()) < .02
        monkeypatch.setattr(nets.parser, "forward", lambda pictures: torch.zeros(len(pictures), 19, *pictures.shape[2:]))
        results, inside = system.swap(crops[:1], faces.take([0]), identity, Settings(3, 1, 1, OFF))
        assert torch.equal(results, crops[:1]) and float(inside.max()) == 0

    def test_progress_previews_and_interruption(self, system, material):
        _, faces, crops, masks, identity = material
        seen, shown = [], []
        system.swap(crops, faces, identity, Settings(4, 1, 2, OFF), masks=masks, progress=lambda *now: seen.append(now),
                    show=shown.append)
        assert seen == [(i, 12) for i in range(1, 13)]
        assert len(shown) == 12 and shown[0].shape == (1, 32, 32, 3) and float(shown[0].min()) >= 0 and float(shown[0].max()) <= 1

        class Stop(Exception):
            pass

        def stop(done, total):
            raise Stop

        with pytest.raises(Stop):
            system.swap(crops, faces, identity, SMALL, masks=masks, progress=stop)

    def test_it_runs_in_inference_mode(self, system, material, swapped):
        _, faces, crops, masks, identity = material
        with torch.inference_mode():
            again, _ = system.swap(crops[:1].clone(), faces.take([0]), identity, replace(SMALL, seed=5), masks=masks[:1].clone())
        assert torch.equal(again[0], swapped[0][0])

    def test_guidance_brings_the_face_nearer(self, nets, system, material):
        """The loss that is pulled on falls: the recognizer's distance with guidance is smaller than without."""
        _, _, crops, masks, identity = material
        networks = nets.as_functions()
        targets = F.interpolate(crops[:1].movedim(-1, 1), (32, 32)) * 2 - 1
        wanted = diffface.embed_portraits(networks, cut_portraits(identity, 32))
        hole = F.interpolate(masks[:1, None], (32, 32))
        apart = []
        for weight in (0, 3000):
            weights = LossWeights(identity=weight, expression=0, gaze=0, keep=0, views=1)
            scene = make_scene(networks, targets, wanted, weights, hole)
            made = paint(networks, scene, Settings(12, 4, 1, weights), [AttemptRandom(1, 0)])
            apart.append(float(diffface.identity_distances(networks, scene, made)))
        assert apart[1] < apart[0] - .02, apart

    def test_what_is_missing_is_said(self, nets, system, material):
        _, faces, crops, _, identity = material
        with pytest.raises(FaceLoomError, match="2 crops but 1 faces"):
            system.swap(crops, faces.take([0]), identity, SMALL)
        blind = DiffFace("blind", DiffFaceNets(nets.denoiser, nets.recognizer, nets.parser), size=32)
        with pytest.raises(FaceLoomError, match=r"GazeEstimator\.pt.*own and gaze_weight to 0"):
            blind.swap(crops, faces, identity, SMALL)
        with pytest.raises(FaceLoomError, match="multiple of 2 pixels, not 33"):
            DiffFace("odd", nets, size=33).swap(crops, faces, identity, SMALL)


def test_boxes_of_the_eyes(material):
    _, faces, _, _, _ = material
    boxes = find_eye_boxes(faces, 256)
    points = transform(faces[0].points68, crop_matrix(faces[0], 256, faces.framing))
    assert boxes.shape == (2, 2, 4)
    assert boxes[0, 0].tolist() == [round(float(v)) for v in (
        points[36, 0] - 5, points[36:42, 1].mean() - 9, points[39, 0] + 5, points[36:42, 1].mean() + 9)]
    assert boxes[0, 1, 0] == round(float(points[42, 0] - 5))


class TestFiles:
    @pytest.fixture()
    def folder(self, nets, tmp_path):
        torch.save(nets.denoiser.state_dict(), tmp_path / "Model.pt")
        torch.save({"model": torch.nn.DataParallel(nets.recognizer)}, tmp_path / "Arcface.tar")
        torch.save(BiSeNet().state_dict(), tmp_path / "FaceParser.pth")
        torch.save({"nstack": 1, "model_state_dict": nets.gaze.state_dict()}, tmp_path / "GazeEstimator.pt")
        return tmp_path

    def test_as_the_authors_left_them(self, nets, folder):
        loaded = load_diffface(folder / "Model.pt")
        found, parser = loaded.model.net, torch.load(folder / "FaceParser.pth")
        for mine, wanted in ((found.denoiser, nets.denoiser), (found.recognizer, nets.recognizer), (found.gaze, nets.gaze)):
            assert all(torch.equal(value, wanted.state_dict()[key]) for key, value in mine.state_dict().items())
        assert all(torch.equal(value, parser[key]) for key, value in found.parser.state_dict().items())
        half = load_diffface(folder / "Model.pt", half=True).model.net
        assert half.denoiser.out[2].weight.dtype == torch.float16 and half.recognizer.fc.weight.dtype == torch.float32

    def test_half_precision_answers_nearly_the_same(self, nets):
        x, time, identity = torch.randn(1, 3, 8, 8), torch.tensor([300.0]), F.normalize(torch.randn(1, 512))
        half = denoiser().half()
        half.load_state_dict(nets.denoiser.state_dict())
        with torch.no_grad():
            right, near = nets.denoiser(x, time, identity), half(x, time, identity)
        assert near.dtype == torch.float32 and float((right - near).abs().max()) < .01 * float(right.std())

    @pytest.mark.parametrize("name", ["Arcface.tar", "FaceParser.pth"])
    def test_a_missing_companion_is_named(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(FaceLoomError, match=r"Model\.pt needs .* which is not on this machine: (get it from|run)") as caught:
            load_diffface(folder / "Model.pt")
        assert str(folder) in str(caught.value)

    def test_without_a_gaze_estimator_and_with_converted_files(self, folder):
        from faceloom.models.interop.convert import convert

        for name in ("Model.pt", "Arcface.tar"):
            convert(folder / name)
            (folder / name).unlink()
        (folder / "GazeEstimator.pt").unlink()
        assert load_diffface(folder / "Model.safetensors").model.net.gaze is None

    def test_another_model_is_told_apart(self, nets, folder):
        plain = {key: value for key, value in nets.denoiser.state_dict().items() if not key.startswith("id_embed")}
        for weights, said in ((plain, "takes no identity"), ({"a": torch.ones(1)}, "another model")):
            torch.save(weights, folder / "Model.pt")
            with pytest.raises(FaceLoomError, match=rf"Model\.pt is not DiffFace's network but .*{said}"):
                load_diffface(folder / "Model.pt")
