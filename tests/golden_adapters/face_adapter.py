"""Face-Adapter: token decoders, mask network, D3DFR, ArcFace's feature map, the 3-D face's points, their drawing, areas and alignment."""

from __future__ import annotations

import numpy as np
import torch
from faceloom.models.crops.crop import crop_matrix
from faceloom.models.crops.squares import box_square
from faceloom.models.face3d.basel_model import landmark_model, rotation_matrices
from faceloom.models.faces import Face
from faceloom.models.networks.face_adapter import AreaNet, CoefficientNet, ID2Token, Image2Token, token_decoder_for
from faceloom.models.networks.iresnet import IResNet, iresnet_depth
from faceloom.models.parse import REGIONS
from faceloom.models.parse.labels import CELEBA_CLASSES
from faceloom.models.pixels.affine import similarity
from faceloom.models.systems.face_adapter import TEMPLATE, arcface_features, split_coefficients
from faceloom.models.systems.face_adapter_picture import add_pupils, blend_mask, draw_points, rainbow, swap_area
from faceloom.tests.golden_adapters.base import Adapter, Unmade, bgr


class Tokens(Adapter):
    pattern = r"faceadapter_(id|image)2token"

    def build(self, golden):
        kind = ID2Token if "id_proj.weight" in golden.shapes[""] else Image2Token
        return token_decoder_for(kind, {key: shape for key, (shape, _) in golden.shapes[""].items()})

    def run(self, golden, net, mistake=None):
        if mistake:
            raise Unmade(mistake)
        return {"tokens": net(golden.input("x")), "proj": net.project(golden.input("x"))}


class Area(Adapter):
    pattern = r"faceadapter_seg_unet"

    def build(self, golden):
        return AreaNet()

    def run(self, golden, net, mistake=None):
        if mistake:
            raise Unmade(mistake)
        return {"prob": net(torch.cat([golden.input(name) for name in golden.inputs], 1))}


class Coefficients(Adapter):
    pattern = r"faceadapter_d3dfr"

    def build(self, golden):
        return CoefficientNet()

    def run(self, golden, net, mistake=None):
        if mistake not in (None, "BGR", "BGR input"):
            raise Unmade(mistake)
        crop = golden.input("crop")
        return {"coeff261": net(bgr(crop) if mistake else crop)}


class Features(Adapter):
    pattern = r"faceadapter_arcface_tokens"

    def build(self, golden):
        shapes = golden.shapes[""]
        return IResNet(iresnet_depth(shapes), shapes["fc.weight"][0][0])

    def run(self, golden, net, mistake=None):
        if mistake not in (None, "BGR", "BGR input"):
            raise Unmade(mistake)
        crop = golden.input("crop256")
        return {"tokens": arcface_features(net, bgr(crop) if mistake else crop)}


class Model3D(Adapter):
    pattern = r"faceadapter_bfm"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        coefficients = golden.arrays["coeff261"].astype(np.float64)
        arrays = (golden.input(name).numpy() for name in ("meanshape", "idBase", "exBase"))
        shape = split_coefficients(coefficients)
        points = landmark_model(*arrays, 4 * np.arange(68)).points(shape.identity, shape.expression, shape.angles, shape.shift)
        return {"coeff261": coefficients, "pts68": points, "rot": rotation_matrices(shape.angles)}


class Drawing(Adapter):
    pattern = r"faceadapter_pts70"
    limit = 1e-3  # the reference is rounded to 8 bits

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        points, gaze = golden.arrays["pts68"], np.array(golden.inputs["gaze4"], np.float32)
        size = golden.data["outputs"]["img_u8"]["stats"]["shape"][-1]
        drawn = draw_points(add_pupils(points, gaze), np.array(golden.inputs["warp_mat256"]), size)
        return {"pts68": points, "img_u8": (drawn * 255).round().movedim(-1, 1), "colors_rgb70": rainbow(70)[:, ::-1]}


class Areas(Adapter):
    pattern = r"faceadapter_mask"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        labels = golden.arrays["seg_u8"]
        ours = torch.tensor([REGIONS.index(name) for name in CELEBA_CLASSES])[torch.from_numpy(labels.astype(np.int64))]
        area = swap_area(ours[None])
        return {"seg_u8": labels, "adapt_mask_packed": np.packbits(area.numpy().astype(bool)), "blend_mask": blend_mask(area)[None]}


class Alignment(Adapter):
    pattern = r"faceadapter_align"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        five, box = (np.array(golden.inputs[name]) for name in ("five", "bbox"))
        face = Face(0, box, five)
        crop = crop_matrix(Face(0, box, five, square=box_square(face)), 512)
        edges = np.array([[80, 80], [80, 432], [432, 432], [432, 80]], np.float64)
        linear = np.linalg.inv(crop[:, :2])
        return {"mean5_256": TEMPLATE, "mean4_512": edges, "warp256_f64": similarity(five, TEMPLATE),
                "quad": (edges - crop[:, 2]) @ linear.T, "warpcrop512_f64": crop}
