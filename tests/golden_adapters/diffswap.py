"""DiffSwap: UNet, sampler, autoencoder and conditioner; its square, alignment and masks; its blending."""

from __future__ import annotations

import numpy as np
import torch
from faceloom.models.diffusion.ddim import schedule
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
