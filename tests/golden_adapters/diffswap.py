"""DiffSwap: UNet, sampler, autoencoder and conditioner; its square, alignment and masks; its blending."""

from __future__ import annotations

import numpy as np
import torch
from faceloom.models.diffusion.ddim import schedule
from faceloom.models.diffusion.diffswap import ALPHAS, CROP, Settings, masked_ddim
from faceloom.models.diffusion.diffswap_picture import (
    LOOK,
    cut,
    hull_mask,
    identity_view,
    join,
    latent_mask,
    levels,
    organ_masks,
    put_back,
    pyramid,
    reduced,
    way_back,
)
from faceloom.models.diffusion.square import quad_of
from faceloom.models.faces import Face, keypoints_from_68
from faceloom.models.geometry import TEMPLATES, invert, similarity
from faceloom.models.networks.diffswap import FaceEmbedder, as_latents, load_vq, nearest_codes, organ_means, unet_form, unet_weights
from faceloom.models.networks.iresnet import depth_of
from faceloom.models.networks.ldm import load_unet
from torch import nn

from .base import Adapter, Unmade
from .reface import Weights


def load_denoiser(tensors):
    weights = unet_weights(tensors)
    return load_unet(weights, unet_form(weights), "diffswap", prefix="")


class UNet(Adapter):
    pattern = r"diffswap_unet"

    def build(self, golden):
        return Weights(golden.shapes[""], load_denoiser)

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        return {"eps": nets(golden.input("x"), torch.tensor(golden.inputs["timesteps"]), golden.input("context"))}


class Autoencoder(Adapter):
    pattern = r"diffswap_vq"

    def build(self, golden):
        return Weights(golden.shapes[""], lambda tensors: load_vq(tensors, golden.name))

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        codec, z = nets.load(nets.tensors), golden.input("z")
        book = codec.vae.quantize.embedding.weight
        codes = nearest_codes(z, book)
        assert torch.equal(codec.decode(as_latents(codes, book)), codec.decode(z))
        return {"z_prequant": codec.encode(golden.input("img")), "dec_quant": codec.decode(z), "code_idx": codes[0].int(),
                "dec_noquant": codec.vae.decode(z, force_not_quantize=True, return_dict=False)[0]}


class Condition(Adapter):
    pattern = r"diffswap_cond"

    def build(self, golden):
        shapes = {key.removeprefix("cond_stage_model."): shape for key, shape in golden.shapes[""].items()}
        depth = depth_of([key.removeprefix("face_model.") for key in shapes if key.startswith("face_model.")])
        return nn.ModuleDict({"cond_stage_model": FaceEmbedder(depth, shapes["id_fc.2.weight"][0][0])})

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        net, points = nets["cond_stage_model"], golden.arrays["lm_target"]
        masks = np.unpackbits(golden.arrays["mask_organ_packed"]).reshape(1, 4, 256, 256)
        organs = organ_means(golden.input("z_src"), torch.from_numpy(masks))
        identity = net.identity(golden.input("image_src"), torch.tensor(golden.inputs["affine_theta_src"]))
        context = net(torch.from_numpy(points)[None].float() / 256, identity, organs)
        return {"context": context, "organ_feat": organs, "id_feat512": identity, "lm_target": points,
                "lm_source": golden.arrays["lm_source"], "mask_organ_packed": golden.arrays["mask_organ_packed"]}


class Sampler(Adapter):
    pattern = r"diffswap_ddim_masked"

    def build(self, golden):
        return Weights(golden.shapes[""], load_denoiser)

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        inputs = {name.split(" ")[0]: golden.input(name) for name in golden.inputs if not name.startswith("q_sample")}
        fresh = [torch.from_numpy(golden.fill.make_input(recipe)) for recipe in golden.inputs["q_sample noise of step i"]]
        settings = Settings()
        net, steps, seen, after = nets.load(nets.tensors), schedule(settings.steps, ALPHAS), [], []

        def denoise(x, step):
            return net(x, torch.full((len(x),), step.timestep), inputs["cond"])

        def watch(number, picture, x):
            seen.append((x, picture))

        x, replaced = inputs["x_T"], (inputs["face"] >= .5).float()
        told = inputs["z_target"], replaced
        for step, noise in zip(steps, fresh):
            x = masked_ddim(denoise, x, *told, (step,), lambda noise=noise: noise, settings.target_guidance, watch)
            after.append(x)
        whole = masked_ddim(denoise, inputs["x_T"], *told, steps[:len(fresh)], iter(fresh).__next__, settings.target_guidance)
        assert torch.equal(whole, x)
        rising = steps[::-1]
        return {"x_in_after_blend": torch.stack([x for x, _ in seen]), "x_after_step": torch.stack(after),
                "pred_x0": torch.stack([picture for _, picture in seen]), "alphas_cumprod_f64": ALPHAS,
                "ddim200_timesteps": np.array([step.timestep for step in rising]),
                "ddim200_alphas": np.array([step.alpha for step in rising]),
                "ddim200_alphas_prev": np.array([step.after for step in rising])}


class Alignment(Adapter):
    pattern = r"diffswap_align"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        points = np.array(golden.inputs["five_points"])
        template = TEMPLATES["arcface_112_v2"] * LOOK
        return {"reference_points_112": template, "tfm_2x3_f64": invert(similarity(template, points)),
                "theta_2x3_f64": identity_view(points, CROP)}


class Masks(Adapter):
    pattern = r"diffswap_mask"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        out = {}
        for whose in ("src", "tgt"):
            points = golden.arrays[f"lm_{whose}"]
            mask = hull_mask(points, CROP)
            keep = 1 - latent_mask(torch.from_numpy(mask)[None].float(), CROP // 4)[0, 0]
            out |= {f"lm_{whose}": points, f"mask_{whose}": np.packbits(mask), f"organ_{whose}": np.packbits(organ_masks(points, CROP)),
                    f"keep64_{whose}": keep}
        return out


class Square(Adapter):
    pattern = r"diffswap_crop"
    limit = 1e-3  # our faces keep single precision; a few pixels fall on the other side of a whole number

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        points = golden.arrays["lm68"]
        photo, swap = (golden.input(name).numpy() for name in ("photo", "swap256 pasted back"))
        quad = quad_of(Face(0, [0, 0, 1, 1], keypoints_from_68(points)))
        return {"lm68": points, "crop256": cut(photo, quad, CROP), "affine_rev_6_f64": way_back(quad, CROP),
                "pasted_stride2": put_back(photo, swap, quad)[::2, ::2]}


class Blend(Adapter):
    pattern = r"diffswap_blend"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        swap, target = (golden.input(name).float().movedim(-1, 0)[None] for name in ("swap", "target"))
        file, array = golden.inputs["mask"].split(" ")[3], golden.inputs["mask"].split(" ")[1]
        mask = torch.from_numpy(np.unpackbits(golden.beside(file).arrays[array]).reshape(1, CROP, CROP)).float()
        smaller = [swap]
        for _ in range(3):
            smaller.append(reduced(smaller[-1], True))
        bands, masks = pyramid(swap, True), levels(mask, pyramid(swap, True))
        return {"joined": join(swap, target, mask, whole_numbers=True)[0].movedim(0, -1), "pyr_g1_level3": smaller[3][0].movedim(0, -1),
                "pyr_l1_level2": bands[2][0].movedim(0, -1), "mask_lvl3": masks[3][0, 0].float()}
