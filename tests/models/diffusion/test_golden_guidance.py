"""The losses of DiffFace and of Face Swap via Diffusion, their gradients and steps, beside vectors made with the systems' own code."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faceloom.models.diffusion.blending import target_preserving_factor
from faceloom.models.diffusion.guidance import eye_crops, gaze_loss, identity_loss, parser_loss
from faceloom.models.diffusion.text import adam_step
from faceloom.models.networks.arcface_se import ArcFaceSE
from faceloom.models.networks.bisenet import BiSeNet
from faceloom.models.networks.eyenet import EyeNet

FOLDER = Path(os.environ.get("FACELOOM_GOLDEN", Path(__file__).parents[4] / "shared" / "golden"))
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden vectors in {FOLDER} (set FACELOOM_GOLDEN)")]


def vector(name: str) -> SimpleNamespace:
    """inputs by name, outputs by name, and what the json says."""
    data = json.loads((FOLDER / f"{name}.json").read_text())
    fill = _fill()
    inputs = {key: torch.from_numpy(fill.make_input(value)) if isinstance(value, dict) else value for key, value in data["inputs"].items()}
    return SimpleNamespace(data=data, inputs=inputs, outputs=np.load(FOLDER / f"{name}.npz"))


def _fill():
    spec = importlib.util.spec_from_file_location("golden_fill", FOLDER / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nets():
    """The three networks, each with the weights of its own vector."""
    made = {"arcface": ArcFaceSE(), "parser": BiSeNet(), "gaze": EyeNet()}
    for name, net in made.items():
        data = json.loads((FOLDER / f"diffface_{name}.json").read_text())
        have = {key: list(value.shape) for key, value in net.state_dict().items()}
        assert have == {key: shape for key, (shape, _) in data["state_dict"].items()}
        _fill().fill(net, data["fill_rules"])
        net.eval().requires_grad_(False)
    return SimpleNamespace(**made)


def off(got: torch.Tensor, want: np.ndarray) -> float:
    """Root mean square difference over the spread of what is wanted."""
    return float(np.sqrt(np.mean((got.detach().numpy() - want) ** 2)) / want.std())


def tiny(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, (112, 112), mode="nearest")


def test_networks(nets):
    arcface, gaze = vector("diffface_arcface"), vector("diffface_gaze")
    assert off(nets.arcface((arcface.inputs["face01"] - MEAN) / STD), arcface.outputs["emb"]) < 1e-4
    maps, points, looks = nets.gaze(gaze.inputs["eye (grey 0..1)"][:, 0])
    assert off(looks, gaze.outputs["gaze"]) < 1e-4 and off(points, gaze.outputs["landmarks"]) < 1e-4
    assert off(maps.flatten()[::97], gaze.outputs["heatmaps"]) < 1e-4


@pytest.fixture(scope="module")
def losses(nets):
    golden = vector("somuchtome_losses")
    x = golden.inputs["x_in (decoded x0, [-1,1])"].requires_grad_(True)
    mask = (golden.inputs["mask (binarised >0.5, 1 = swap area)"] > 0.5).float()
    source, target, boxes = (golden.inputs[key] for key in ("source", "target", "eye boxes"))

    def scores(picture):
        return nets.parser((picture - 0.5) / 0.5)

    def looks(picture):
        return nets.gaze(eye_crops(picture, (boxes[:4], boxes[4:]))[0])[2][None]

    made = {"id": identity_loss(nets.arcface(tiny(x * mask))[None], nets.arcface(tiny(source))),
            "seg": parser_loss(scores(x), scores(target), squared=True), "gaze": gaze_loss(looks(x), looks(target), squared=True)}
    return golden, x, made


class TestFaceSwapViaDiffusion:
    def test_losses(self, losses):
        golden, _, made = losses
        wanted = golden.outputs["losses[id,seg(sum of 9 MSE),gaze(l+r MSE)]"]
        assert np.allclose([float(value.detach()) for value in made.values()], wanted, rtol=1e-4)

    @pytest.mark.parametrize("name, weight, array, limit", [("id", 1, "grad_id", 1e-3), ("seg", 200, "grad_200seg", 1e-3),
                                                            ("gaze", 1, "grad_gaze", 1e-2)])  # 4e-3 in double precision: kinks
    def test_gradients(self, losses, name, weight, array, limit):
        golden, x, made = losses
        gradient = torch.autograd.grad(weight * made[name].sum(), x, retain_graph=True)[0]
        assert off(gradient[..., ::2, ::2], golden.outputs[array]) < limit

    def test_adam_step(self):
        golden = vector("somuchtome_losses")
        assert off(adam_step(golden.inputs["cond"], golden.inputs["grad"]).flatten()[::7], golden.outputs["cond_after_adam"]) < 1e-6

    def test_the_masked_step(self):
        """Latent blending after a DDIM step: inside the step, outside the target at the next noise level. The swap area is the mask's
        nearest reading at latent size."""
        golden = vector("somuchtome_losses")
        mask = (golden.inputs["mask (binarised >0.5, 1 = swap area)"] > 0.5).float()
        small = F.interpolate(mask, (16, 16), mode="nearest")
        assert np.array_equal(small.numpy(), golden.outputs["mask16_nearest"])
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        level = torch.cumprod(1 - betas, 0)
        now, following = (float(level[int(golden.outputs["ddim50_timesteps"][i])]) for i in (10, 11))
        latents, uncond, cond, start, noise = (golden.inputs[key] for key in ("latents", "eps_uncond", "eps_cond", "init_latents", "noise"))
        eps = uncond + 7.5 * (cond - uncond)
        x0 = (latents - (1 - now) ** 0.5 * eps) / now**0.5
        step = following**0.5 * x0 + (1 - following) ** 0.5 * eps
        blended = step * small + (following**0.5 * start + (1 - following) ** 0.5 * noise) * (1 - small)
        for got, key in ((x0, "pred_x0"), (step, "prev_sample"), (blended, "blended_next")):
            assert off(got, golden.outputs[key]) < 1e-4


class TestDiffFace:
    def test_losses_of_the_guided_step(self, nets):
        golden = vector("diffface_guided_step")
        x = torch.from_numpy(golden.outputs["x_in"])
        target, source = golden.inputs["target"], golden.inputs["source"]
        mask = (golden.inputs["mask (binarised >0.5)"] > 0.5).float()
        boxes = golden.inputs["eye boxes llx lly lrx lry rlx rly rrx rry"]

        def norm(picture):
            return ((picture + 1) / 2 - MEAN) / STD

        def scores(picture):
            large = F.interpolate((norm(picture) - 0.5) / 0.5, (512, 512), mode="bilinear", align_corners=False)
            return F.interpolate(nets.parser(large), (256, 256), mode="bilinear", align_corners=False)

        def looks(picture):
            return nets.gaze(eye_crops((picture + 1) / 2, (boxes[:4], boxes[4:]))[0])[2][None]

        wanted = F.normalize(nets.arcface(tiny(norm(source))))
        assert off(wanted, golden.outputs["src_id"]) < 1e-4
        made = [identity_loss(nets.arcface(tiny(mask * norm(x)))[None], wanted), parser_loss(scores(x), scores(target)),
                200 * gaze_loss(looks(x), looks(target)), (x - target).square().mean()]
        made.append(6000 * made[0] + 200 * made[1] + made[2] + 50 * made[3])
        assert np.allclose([float(value) for value in made], golden.outputs["losses[id,seg,gaze*200,bg,total]"], rtol=1e-4)

    def test_guidance_moves_the_mean(self):
        golden = vector("diffface_guided_step")
        get = {key: torch.from_numpy(golden.outputs[key]) for key in ("mean_unguided", "variance", "log_variance", "grad")}
        guided = get["mean_unguided"] + get["variance"] * get["grad"] + (0.5 * get["log_variance"]).exp() * golden.inputs["noise"]
        assert off(guided, golden.outputs["sample"]) < 1e-6

    def test_target_preserving_blending(self):
        golden = vector("diffface_guided_step")
        factors = [target_preserving_factor(t) for t in range(75)]
        assert np.allclose(factors, golden.outputs["soft_factor_by_t_0_74"], atol=1e-6)
        step = golden.inputs["spaced index t"]
        mask = (golden.inputs["mask (binarised >0.5)"] > 0.5).float() * target_preserving_factor(step)
        level = float(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[404])
        noised = level**0.5 * golden.inputs["target"] + (1 - level) ** 0.5 * golden.inputs["noise for q_sample of target"]
        blended = torch.from_numpy(golden.outputs["sample"]) * mask + noised * (1 - mask)
        assert off(blended, golden.outputs["blended"]) < 1e-4
