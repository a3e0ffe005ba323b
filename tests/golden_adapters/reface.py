"""REFace: its UNet, sampler, conditioner and identity network, the square it cuts and pastes, and its masks."""

from __future__ import annotations

import re

import numpy as np
import torch
from faceloom.models.diffusion.ddim import SD_ALPHAS, classifier_free_guidance, ddim_schedule, sample_ddim
from faceloom.models.faces import Face, keypoints_from_68
from faceloom.models.networks.ldm import UNetForm, load_unet
from faceloom.models.networks.reface import IRSE50, Conditioner, FaceID, to_clip
from faceloom.models.parse.labels import CELEBA_CLASSES
from faceloom.models.systems.reface import class_table, halve, keep_mask, latent_mask
from faceloom.tests.golden_adapters.base import Adapter, Unmade
from faceloom.tests.quad_as_published import cut, perspective_coefficients, put_back, quad_of
from torch import nn


class Weights(nn.Module):
    """A checkpoint's tensors by their own names; ``net`` is the network that our loader makes of them, sharing their storage."""

    def __init__(self, shapes, load):
        super().__init__()
        self.tensors = {key: torch.empty(shape, dtype=getattr(torch, kind)) for key, (shape, kind) in shapes.items()}
        self.load = load

    def state_dict(self):
        return self.tensors

    def forward(self, *inputs):
        return self.load(self.tensors)(*inputs)


def unet_form(config) -> UNetForm:
    """An LDM configuration in our words."""
    multipliers = tuple(config["channel_mult"])
    heads = tuple(config.get("num_heads") or config["model_channels"] * times // config["num_head_channels"] for times in multipliers)
    attention = tuple(2**level in config["attention_resolutions"] for level in range(len(multipliers)))
    return UNetForm(config["in_channels"], config["out_channels"], config["model_channels"], multipliers, attention, heads,
                    config["context_dim"], config["num_res_blocks"])


class UNet(Adapter):
    pattern = r"reface_unet"

    def build(self, golden):
        return Weights(golden.shapes[""], lambda weights: load_unet(weights, unet_form(golden.data["config"]), golden.name))

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        return {"eps": nets(golden.input("x"), torch.tensor(golden.inputs["timesteps"]), golden.input("context"))}


class Sampler(Adapter):
    pattern = r"reface_ddim"

    def build(self, golden):
        return Weights(golden.shapes[""], lambda weights: load_unet(weights, UNetForm(in_channels=9), golden.name))

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        inputs = {name.split(" ")[0]: golden.input(name) for name in golden.inputs}
        net = nets.load(nets.tensors)
        kept = torch.cat([inputs["inpaint_image_latent"], inputs["inpaint_mask"]], 1)
        context = torch.cat([inputs["uncond"], inputs["cond"]])
        out = {"alphas_cumprod_f64": SD_ALPHAS}
        asked = [re.fullmatch(r"ddim(\d+)(?:_first(\d+))?_x", name) for name in golden.data["outputs"]]
        for name, count, taken in ((each[0][:-2], int(each[1]), each[2] and int(each[2])) for each in asked if each):
            steps = ddim_schedule(count)
            followed = []

            def denoise(x, timestep, steps=steps, followed=followed):
                both = net(torch.cat([x, kept], 1).repeat(2, 1, 1, 1), torch.full((2,), timestep), context)
                noise = classifier_free_guidance(*both.chunk(2), 3.5)
                step = steps[len(followed)]
                followed.append((step.next(step.clean(x, noise), noise), step.clean(x, noise)))
                return noise

            last = sample_ddim(denoise, inputs["x_T"], steps[:taken])
            assert torch.equal(last, followed[-1][0])
            out |= {f"{name}_x": torch.stack([x for x, _ in followed]), f"{name}_pred_x0": torch.stack([x0 for _, x0 in followed])}
            rising = steps[::-1]
            out |= {f"ddim{count}_timesteps": np.array([step.timestep for step in rising]),
                    f"ddim{count}_alphas": np.array([step.alpha for step in rising]),
                    f"ddim{count}_alphas_prev": np.array([step.next_alpha for step in rising])}
        return out


class Identity(Adapter):
    pattern = r"reface_irse50"

    def build(self, golden):
        return nn.ModuleDict({"face_ID_model": FaceID()})

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        net = nets["face_ID_model"].facenet
        assert isinstance(net, IRSE50)
        return {"emb": net(golden.input("face"))}


class Condition(Adapter):
    pattern = r"reface_cond"

    def build(self, golden):
        return Conditioner()

    def run(self, golden, net, mistake=None):
        if mistake:
            raise Unmade(mistake)
        mask = golden.input(next(name for name in golden.inputs if name.startswith("refmask"))) > .5
        source, target = to_clip(golden.input("ref01")) * mask, golden.input("target")
        points = torch.from_numpy(golden.arrays["landmarks"].astype(np.float32)).reshape(-1, 68, 2)  # the json has their formula in words
        encoder, identity, shown = net.cond_stage_model, net.face_ID_model(source), net.for_clip(target)
        tokens = encoder(source), encoder(shown)
        return {
            "cond": net(source, target, points),
            "clip_src_proj768": encoder.embedding(source), "clip_tar_proj768": encoder.embedding(shown),
            "src_tok_after_mapper2_ln2": tokens[0], "tar_tok_after_mapper2_ln2": tokens[1], "c_src": net.proj_out_source(tokens[0]),
            "c_tar": net.proj_out_target(tokens[1]), "id512_l2": identity, "id768": net.ID_proj_out(identity),
            "lmk768": net.landmark_proj_out(points.flatten(1)), "landmarks": points.flatten(1),
        }


class Square(Adapter):
    pattern = r"reface_align"
    limit = 1e-3  # our faces keep single precision; one pixel in 50 000 falls on the other side of a whole number

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        points, photo = golden.arrays["lm68"], golden.fill.make_input(golden.inputs["photo_u8"])
        quad = quad_of(Face(0, [0, 0, 1, 1], keypoints_from_68(points)))
        crop = cut(photo, quad, 1024)
        return {"lm68": points, "quad": quad, "inv_perspective8": perspective_coefficients(quad, 1024), "crop1024_stride4": crop[::4, ::4],
                "pasted_back_stride2": put_back(photo, crop, quad)[::2, ::2]}


class Masks(Adapter):
    pattern = r"reface_mask"

    # CelebAMask-HQ's own numbering, which only the data set has.
    celeba = ("background", "skin", "nose", "glasses", "left_eye", "right_eye", "left_brow", "right_brow", "left_ear", "right_ear", "mouth",
              "upper_lip", "lower_lip", "hair", "hat", "earring", "necklace", "neck", "cloth")

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        y, x = np.mgrid[:512, :512]
        keep = keep_mask(torch.from_numpy(class_table(CELEBA_CLASSES)[(y // 37 + x // 41) % 19])[None])
        impulses = torch.zeros(8, 1, 16, 16)
        impulses[range(8), 0, :, range(3, 11)] = 1  # what each of eight neighbours gives to the middle pixel of the half size
        return {"map_bisenet19_to_12": class_table(CELEBA_CLASSES), "map_celebamask19_to_12": class_table(self.celeba),
                "bicubic_kernel_factor2": halve(impulses)[:, 0, 4, 3], "down2": halve(golden.input("img")), "keep_mask_512": keep[0],
                "keep_mask_64": latent_mask(keep)}
