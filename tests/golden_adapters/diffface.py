"""DiffFace: its networks, one guided step, and the schedule; Face Swap via Diffusion: its losses, its steps and the order of its LoRA."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from faceloom.models.diffusion import ddim
from faceloom.models.diffusion.blending import target_preserving_factor
from faceloom.models.diffusion.ddpm import ddpm_schedule
from faceloom.models.diffusion.gaze import build_eyenet
from faceloom.models.diffusion.guidance import eye_crops, gaze_loss, identity_loss, parser_loss
from faceloom.models.diffusion.lora import unet_linear_layers
from faceloom.models.diffusion.text import adam_step
from faceloom.models.networks.arcface_se import ArcFaceSE
from faceloom.models.networks.bisenet import BiSeNet
from faceloom.models.networks.eyenet import EyeNet
from faceloom.models.networks.guided_unet import guided_unet_for
from faceloom.models.systems.diffface import (
    LossWeights,
    Networks,
    Settings,
    blend_with_target,
    embed_portraits,
    guided_step,
    make_scene,
    mix_with_prediction,
    normalize,
    shrink_for_recognizer,
    weighted_losses,
)
from faceloom.models.systems.diffface_views import UNCHANGED
from faceloom.tests.golden_adapters.base import Adapter, Unmade, bgr


def empty(shapes):
    """A state dict's tensors without numbers."""
    return {key: torch.empty(shape, device="meta") for key, (shape, _) in shapes.items()}


def unet_of(golden, part=""):
    return guided_unet_for(empty(golden.shapes[part]), golden.name)


def arcface_of(golden, part=""):
    shapes = golden.shapes[part]
    return ArcFaceSE(tuple(len({key.split(".")[1] for key in shapes if key.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4)))


def gaze_of(golden, part=""):
    with torch.device("cpu"):
        net = build_eyenet(empty(golden.shapes[part]), golden.name)
    stacks, (points, width) = len(net.outs), net.outs[0].conv.weight.shape[:2]
    return EyeNet(stacks, width, points)


def starting(golden, words):
    """The input whose name begins so."""
    return golden.input(next(name for name in golden.inputs if name.startswith(words)))


def box_pairs(golden):
    """``[1, 2, 4]``: the boxes of the left and of the right eye."""
    return np.array(next(value for name, value in golden.inputs.items() if name.startswith("eye boxes"))).reshape(1, 2, 4)


class UNet(Adapter):
    pattern = r"diffface_unet"

    def build(self, golden):
        return unet_of(golden)

    def run(self, golden, net, mistake=None):
        x, identity = golden.input("x"), starting(golden, "id")
        time = next(value for name, value in golden.inputs.items() if name.startswith("timestep"))
        if mistake == "BGR":
            x = bgr(x)
        elif mistake == "other identity":
            identity = golden.other(next(name for name in golden.inputs if name.startswith("id")))
        elif mistake:
            raise Unmade(mistake)
        plan = ddpm_schedule(100)
        return {"out": net(x, torch.tensor([time]), identity), "timestep_map100": plan.times, "alphas_cumprod100_f64": plan.alpha_bars,
                "posterior_variance100_f64": plan.variances, "betas100_f64": plan.betas,
                "posterior_log_variance_clipped100_f64": plan.log_variances}


class ArcFace(Adapter):
    pattern = r"diffface_arcface"

    def build(self, golden):
        return arcface_of(golden)

    def run(self, golden, net, mistake=None):
        face = golden.input("face01")
        if mistake == "BGR":
            face = bgr(face)
        elif mistake:
            raise Unmade(mistake)
        return {"emb": net(normalize(face * 2 - 1))}


class Gaze(Adapter):
    pattern = r"diffface_gaze"

    def build(self, golden):
        return gaze_of(golden)

    def run(self, golden, net, mistake=None):
        if mistake:
            raise Unmade(mistake)
        maps, points, looks = net(starting(golden, "eye")[:, 0])
        return {"gaze": looks, "landmarks": points, "heatmaps": maps}


class Parser(Adapter):
    pattern = r"diffface_parser"

    def build(self, golden):
        return BiSeNet(golden.shapes[""]["conv_out.conv_out.weight"][0][0])

    def run(self, golden, net, mistake=None):
        face = golden.input("face01")
        if mistake == "BGR":
            face = bgr(face)
        elif mistake:
            raise Unmade(mistake)
        logits, context = net.heads((normalize(face * 2 - 1) - 0.5) / 0.5, 2)
        return {"logits": logits, "logits16": context}


class Several(Adapter):
    """Vectors of several networks; each is filled by the rules that its own vector has."""

    pattern = r"(?!)"
    ruled = {"Arcface": "layer", "GazeEstimator": "^outs"}

    def rules(self, golden, part):
        return [rule for rule in super().rules(golden, "") if part in self.ruled and rule[0].startswith(self.ruled[part])]

    def build(self, golden):
        makers = {"": unet_of, "Arcface": arcface_of, "GazeEstimator": gaze_of, "FaceParser": lambda *_: BiSeNet()}
        with torch.inference_mode(False):
            return {part: makers[part](golden, part).requires_grad_(False) for part in golden.shapes}

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        with torch.inference_mode(False), torch.no_grad():
            return self.outputs(golden, nets)


class GuidedStep(Several):
    pattern = r"diffface_guided_step"
    limit = 2e-3  # its gradient: inputs that differ by 2e-7 move it by 2e-4

    def outputs(self, golden, nets):
        x, target, source, noise = (golden.input(name) for name in ("x_t", "target", "source", "noise"))
        networks = Networks(nets[""], nets["Arcface"], nets["FaceParser"], lambda eyes: nets["GazeEstimator"](eyes)[2])
        settings, step, plan = Settings(weights=LossWeights(views=1)), golden.inputs["spaced index t"], ddpm_schedule(100)
        masks, identity = (starting(golden, "mask") > 0.5).float(), embed_portraits(networks, source)
        scene = make_scene(networks, target, identity, settings.weights, masks, box_pairs(golden))
        made = guided_step(networks, plan, scene, x, step, settings, [[UNCHANGED]])
        sample, seen = made.sample(noise), mix_with_prediction(plan, made.clean, x, step)
        parts = weighted_losses(networks, scene, seen, step / 100, settings.weights, [[UNCHANGED]])
        parts = [float(parts[name]) for name in ("identity", "expression", "gaze", "keep")]
        listed = [parts[0] / 6000, parts[1] / 200, parts[2], parts[3] / 50, sum(parts)]
        return {"pred_xstart": made.clean, "mean_unguided": made.mean, "log_variance": made.log_variance,
                "variance": made.log_variance.exp(), "x_in": seen, "grad": made.gradient, "sample": sample, "src_id": identity[None],
                "blended": blend_with_target(plan, scene, sample, step, settings, starting(golden, "noise for q_sample")),
                "soft_factor_by_t_0_74": [target_preserving_factor(t) for t in range(75)], "losses[id,seg,gaze*200,bg,total]": listed}


class Losses(Several):
    pattern = r"somuchtome_losses"
    limits = {"grad_gaze": 1e-2}  # kinks: 4e-3 away in double precision, less than 1e-4 on one CPU, 2e-3 on another

    def outputs(self, golden, nets):
        x = starting(golden, "x_in").requires_grad_(True)
        source, target, mask = golden.input("source"), golden.input("target"), (starting(golden, "mask") > 0.5).float()
        (boxes,) = box_pairs(golden)

        def scores(picture):
            return nets["FaceParser"]((picture - 0.5) / 0.5)

        def looks(picture):
            return nets["GazeEstimator"](eye_crops(picture, boxes)[0])[2][None]

        with torch.enable_grad():
            wanted = nets["Arcface"](shrink_for_recognizer(source))
            made = {"id": identity_loss(nets["Arcface"](shrink_for_recognizer(x * mask))[None], wanted),
                    "200seg": 200 * parser_loss(scores(x), scores(target), squared=True),
                    "gaze": gaze_loss(looks(x), looks(target), squared=True)}
            gradients = {f"grad_{name}": torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for name, value in made.items()}
        listed = [float(made["id"]), float(made["200seg"]) / 200, float(made["gaze"])]
        return gradients | {"losses[id,seg(sum of 9 MSE),gaze(l+r MSE)]": listed,
                            "cond_after_adam": adam_step(golden.input("cond"), golden.input("grad")), **self.sampled(golden, mask)}

    @staticmethod
    def sampled(golden, mask):
        steps = ddim.ddim_schedule(50)
        here, following = steps[10:12]
        latents, start, noise = (golden.input(name) for name in ("latents", "init_latents", "noise"))
        eps = ddim.classifier_free_guidance(golden.input("eps_uncond"), golden.input("eps_cond"), 7.5)
        clean = here.clean(latents, eps)
        after = here.next(clean, eps)
        inside = F.interpolate(mask, latents.shape[2:], mode="nearest")
        return {"ddim50_timesteps": [step.timestep for step in steps], "pred_x0": clean, "prev_sample": after, "mask16_nearest": inside,
                "blended_next": after * inside + following.noised(start, noise) * (1 - inside)}


class LoraOrder(Adapter):
    pattern = r"somuchtome_lora_order"

    def run(self, golden, nets, mistake=None):
        assert [[name, inner, outer] for name, inner, outer in unet_linear_layers()] == golden.data["modules"]
        return {}
