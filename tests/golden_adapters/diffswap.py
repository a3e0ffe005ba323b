"""DiffSwap: UNet, sampler, autoencoder and conditioner; its square, alignment and masks; its blending."""

from __future__ import annotations

import re

import numpy as np
import torch
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.diffusion.ddim import ddim_schedule
from faceloom.models.faces import Face, keypoints_from_68
from faceloom.models.networks.diffswap import FaceEmbedder, codes_to_latents, load_vq, nearest_codes, organ_means, unet_form, unet_weights
from faceloom.models.networks.iresnet import iresnet_depth
from faceloom.models.networks.ldm import load_unet
from faceloom.models.pixels.affine import invert, similarity
from faceloom.models.pixels.opencv_like import fill_hull
from faceloom.models.systems.diffswap import ALPHAS, SIZE, Settings, masked_ddim
from faceloom.models.systems.diffswap_picture import RECOGNIZER_SIZE, identity_view, latent_mask, organ_masks
from faceloom.tests.diffswap_as_published import blend_by_bands, cut, halve, laplacian_pyramid, mask_pyramid, put_back, way_back
from faceloom.tests.golden_adapters.base import Adapter, Unmade
from faceloom.tests.golden_adapters.reface import Weights
from faceloom.tests.quad_as_published import quad_of
from torch import nn


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
        assert torch.equal(codec.decode(codes_to_latents(codes, book)), codec.decode(z))
        return {"z_prequant": codec.encode(golden.input("img")), "dec_quant": codec.decode(z), "code_idx": codes[0].int(),
                "dec_noquant": codec.vae.decode(z, force_not_quantize=True, return_dict=False)[0]}


class Condition(Adapter):
    pattern = r"diffswap_cond"

    def build(self, golden):
        shapes = {key.removeprefix("cond_stage_model."): shape for key, shape in golden.shapes[""].items()}
        depth = iresnet_depth([key.removeprefix("face_model.") for key in shapes if key.startswith("face_model.")])
        return nn.ModuleDict({"cond_stage_model": FaceEmbedder(depth, shapes["id_fc.2.weight"][0][0])})

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        net, source, packed = nets["cond_stage_model"], golden.input("image_src"), golden.arrays["mask_organ_packed"]
        masks = np.unpackbits(packed).reshape(len(source), 4, *source.shape[2:])
        organs = organ_means(golden.input("z_src"), torch.from_numpy(masks))
        identity = net.identity(source, torch.tensor(golden.inputs["affine_theta_src"]))
        points = torch.from_numpy(golden.arrays["lm_target"]).reshape(-1, 68, 2).expand(len(source), -1, -1)
        context = net(points.float() / source.shape[-1], identity, organs)
        return {"context": context, "organ_feat": organs, "id_feat512": identity, "lm_target": golden.arrays["lm_target"],
                "lm_source": golden.arrays["lm_source"], "mask_organ_packed": packed}


class Sampler(Adapter):
    pattern = r"diffswap_ddim_masked"

    def build(self, golden):
        return Weights(golden.shapes[""], load_denoiser)

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        inputs = {name.split(" ")[0]: golden.input(name) for name in golden.inputs if not name.startswith("q_sample")}
        fresh = [torch.from_numpy(golden.fill.make_input(recipe)) for recipe in golden.inputs["q_sample noise of step i"]]
        guidance, named = Settings().target_guidance, next(key for key in golden.data["outputs"] if key.endswith("_timesteps"))
        steps = ddim_schedule(int(re.search(r"\d+", named)[0]), ALPHAS)
        net, seen, after = nets.load(nets.tensors), [], []

        def denoise(x, step):
            return net(x, torch.full((len(x),), step.timestep), inputs["cond"])

        def watch(number, picture, x):
            seen.append((x, picture))

        x, replaced = inputs["x_T"], (inputs["face"] >= .5).float()
        told = inputs["z_target"], replaced
        for step, noise in zip(steps, fresh):
            x = masked_ddim(denoise, x, *told, (step,), lambda noise=noise: noise, guidance, watch)
            after.append(x)
        whole = masked_ddim(denoise, inputs["x_T"], *told, steps[:len(fresh)], iter(fresh).__next__, guidance)
        assert torch.equal(whole, x)
        rising = steps[::-1]
        return {"x_in_after_blend": torch.stack([x for x, _ in seen]), "x_after_step": torch.stack(after),
                "pred_x0": torch.stack([picture for _, picture in seen]), "alphas_cumprod_f64": ALPHAS,
                named: np.array([step.timestep for step in rising]),
                named.replace("timesteps", "alphas"): np.array([step.alpha for step in rising]),
                named.replace("timesteps", "alphas_prev"): np.array([step.next_alpha for step in rising])}


class Alignment(Adapter):
    pattern = r"diffswap_align"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        points = np.array(golden.inputs["five_points"])
        template = TEMPLATES["arcface_112_v2"] * RECOGNIZER_SIZE
        return {"reference_points_112": template, "tfm_2x3_f64": invert(similarity(template, points)),
                "theta_2x3_f64": identity_view(points, SIZE)}


class Masks(Adapter):
    pattern = r"diffswap_mask"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        out = {}
        for whose in ("src", "tgt"):
            points = golden.arrays[f"lm_{whose}"]
            mask = fill_hull(points, SIZE)
            keep = 1 - latent_mask(torch.from_numpy(mask)[None].float(), SIZE // 4)[0, 0]
            out |= {f"lm_{whose}": points, f"mask_{whose}": np.packbits(mask), f"organ_{whose}": np.packbits(organ_masks(points, SIZE)),
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
        return {"lm68": points, "crop256": cut(photo, quad, SIZE), "affine_rev_6_f64": way_back(quad, SIZE),
                "pasted_stride2": put_back(photo, swap, quad)[::2, ::2]}


class Blend(Adapter):
    pattern = r"diffswap_blend"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        swap, target = (golden.input(name).float().movedim(-1, 0)[None] for name in ("swap", "target"))
        _, array, _, file, *_ = golden.inputs["mask"].split(" ")
        mask = torch.from_numpy(np.unpackbits(golden.beside(file).arrays[array]).reshape(1, *swap.shape[2:])).float()
        bands, smaller = laplacian_pyramid(swap, True), [swap]
        while smaller[-1].shape[-1] > 4:
            smaller.append(halve(smaller[-1], True))
        masks, out = mask_pyramid(mask, bands), {"joined": blend_by_bands(swap, target, mask, whole_numbers=True)[0].movedim(0, -1)}
        for key in golden.data["outputs"].keys() - out.keys():
            kind = masks if key.startswith("mask") else smaller if "_g1_" in key else bands
            out[key] = kind[int(key[-1])][0].float().movedim(0, -1).squeeze(-1)
        return out
