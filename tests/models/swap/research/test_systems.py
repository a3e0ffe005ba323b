"""The research systems' engines from original files to crops, on small networks of the same form and on doubles."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faceloom.cli import main
from faceloom.models.crops.crop import crop_faces
from faceloom.models.crops.templates import template_matrix
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.checkpoints import load_parts, load_weights
from faceloom.models.identity import make_identity
from faceloom.models.interop.convert import convert
from faceloom.models.networks.aei import AEINet
from faceloom.models.networks.arcface_se import ArcFaceSE
from faceloom.models.networks.faceshifter import FixerNet
from faceloom.models.networks.iresnet import IResNet
from faceloom.models.networks.keras_net import KerasNet, load_keras
from faceloom.models.networks.simswap import SimSwapNet
from faceloom.models.options.swap import SwapSettings
from faceloom.models.parse import REGIONS
from faceloom.models.paste import paste
from faceloom.models.pixels.sampling import sample_crops
from faceloom.models.pixels.soft_erosion import cone_weights, soft_erosion
from faceloom.models.runtime.devices import TorchModel
from faceloom.models.swap.helpers import LateLandmarker, LateParser
from faceloom.models.swap.load import load_engine
from faceloom.models.swap.pixel_boost import finer
from faceloom.models.swap.research.deepfakes_engine import DeepfakesEngine
from faceloom.models.swap.research.facedancer_engine import rectangle_mask
from faceloom.models.swap.research.fslsd_engine import FSLSDEngine, FSLSDNets, heat_maps
from faceloom.models.swap.research.ghost_engine import GhostEngine, nearest_template
from faceloom.models.swap.research.megafs_engine import MegaFSEngine, MegaFSNets
from faceloom.models.swap.research.parser_engine import ParserEngine
from faceloom.models.swap.research.words import OUTLINE
from faceloom.models.systems.reface import REFaceEngine
from swapping import swapped
from torch import nn


@pytest.fixture(scope="module")
def scene(collins, hopper):
    images = torch.cat([collins, collins.flip(2)])
    identity, _ = make_identity(hopper, detect_faces(hopper))
    return images, detect_faces(images), identity


class Discs:
    """A parser that sees a disc of skin on a background of hair."""

    name = "discs"

    def parse(self, crops, progress=None):
        size = crops.shape[1]
        y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
        disc = torch.where(x**2 + y**2 < .5, REGIONS.index("skin"), REGIONS.index("hair")).to(torch.uint8)
        return disc.expand(len(crops), -1, -1).clone()


def keras_layer(kind, name, sources, **config):
    nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}


def conv(name, source, filters, edge=1, stride=1):
    return keras_layer("Conv2D", name, [source], filters=filters, kernel_size=[edge, edge], strides=[stride, stride], padding="same",
                       use_bias=True)


def keras_generator(identity=8):
    """target + AdaIN of it by the identity, through a 1×1 convolution."""
    layers = [keras_layer("InputLayer", "picture", [], batch_input_shape=[None, 256, 256, 3]),
              keras_layer("InputLayer", "vector", [], batch_input_shape=[None, identity]),
              keras_layer("Addons>InstanceNormalization", "norm", ["picture"], groups=3, epsilon=1e-3),
              keras_layer("AdaIN", "ada_in", ["norm", "vector"]), conv("out", "ada_in", 3), keras_layer("Add", "sum", ["out", "picture"])]
    graph = {"config": {"name": "g", "layers": layers, "input_layers": [["picture", 0, 0], ["vector", 0, 0]],
                        "output_layers": [["sum", 0, 0]]}}
    shapes = {"norm/gamma": (3,), "norm/beta": (3,), "ada_in/dense/kernel": (identity, 3), "ada_in/dense/bias": (3,),
              "ada_in/dense_1/kernel": (identity, 3), "ada_in/dense_1/bias": (3,), "out/kernel": (1, 1, 3, 3), "out/bias": (3,)}
    return graph, shapes


def keras_identity(identity=8):
    layers = [keras_layer("InputLayer", "face", [], batch_input_shape=[None, 112, 112, 3]), conv("c", "face", 4, 5, 2),
              keras_layer("LeakyReLU", "l", ["c"], alpha=.2),
              keras_layer("GlobalAveragePooling2D", "pool", ["l"]), keras_layer("Dense", "d", ["pool"], units=identity)]
    graph = {"config": {"name": "a", "layers": layers, "input_layers": [["face", 0, 0]], "output_layers": [["d", 0, 0]]}}
    return graph, {"c/kernel": (5, 5, 3, 4), "c/bias": (4,), "d/kernel": (4, identity), "d/bias": (identity,)}


def write_h5(path, graph, shapes, seed):
    h5py = pytest.importorskip("h5py", reason="Keras files are read with h5py (the keras extra)")
    random = np.random.default_rng(seed)
    weights = {key: random.normal(size=shape).astype(np.float32) * .1 for key, shape in shapes.items()}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional"} | graph)
        group = file.create_group("model_weights")
        for layer in {key.split("/")[0] for key in weights}:
            names = [key for key in weights if key.startswith(f"{layer}/")]
            group.create_group(layer).attrs["weight_names"] = [f"{key}:0".encode() for key in names]
            for key in names:
                group[layer].create_dataset(f"{key}:0", data=weights[key])
    return weights


@pytest.fixture
def dancer(tmp_path):
    write_h5(tmp_path / "FaceDancer_config_x.h5", *keras_generator(), 0)
    write_h5(tmp_path / "ArcFace-Res50.h5", *keras_identity(), 1)
    return tmp_path / "FaceDancer_config_x.h5"


def test_facedancer_from_its_h5_files(dancer, scene):
    images, faces, identity = scene
    engine = load_engine(dancer)
    crops, masks = swapped(engine, images, faces, identity, 256)
    matrices = template_matrix(faces.keypoints, "arcface_112_v2", 256)
    targets = sample_crops(images, faces.frame_indices, matrices, 256).permute(0, 3, 1, 2)
    weights = load_keras(dancer).weights()
    vector = engine.prepare(identity)
    scale, shift = (vector @ weights[f"ada_in/{name}/kernel"] + weights[f"ada_in/{name}/bias"] for name in ("dense", "dense_1"))
    x = targets * 2 - 1
    normal = nn.functional.instance_norm(x, eps=1e-3) * weights["norm/gamma"][:, None, None] + weights["norm/beta"][:, None, None]
    styled = (normal * scale[..., None, None] + shift[..., None, None]).permute(0, 2, 3, 1)
    right = x + (styled @ weights["out/kernel"][0, 0] + weights["out/bias"]).permute(0, 3, 1, 2)
    answered, own = engine.run(targets.permute(0, 2, 3, 1), vector.expand(len(faces), -1))
    assert torch.allclose(answered, ((right + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1), atol=1e-5)
    assert torch.equal(own[0], rectangle_mask().clamp(0, 1)) and float(own[0, 150, 128]) == pytest.approx(1, abs=1e-3)
    assert torch.equal(crops[masks == 0], crop_faces(images, faces, 256)[masks == 0])
    one, _ = swapped(engine, images, faces.take([1]), identity, 256)
    assert torch.allclose(one[0], crops[1], atol=1e-5)


def test_keras_files_become_safetensors_with_their_graph(dancer, tmp_path):
    assert main(["models", "convert", str(dancer)]) == 0
    net, again = load_keras(dancer), load_keras(dancer.with_suffix(".safetensors"))
    x, z = torch.rand(2, 3, 16, 16), torch.rand(2, 8)
    assert torch.equal(net(x, z), again(x, z))
    assert load_engine(dancer.with_suffix(".safetensors")).name == dancer.stem
    with pytest.raises(FaceLoomError, match="ArcFace-Res50"):
        (tmp_path / "ArcFace-Res50.h5").unlink()
        load_engine(dancer)


def test_files_of_several_networks_keep_them_apart(tmp_path):
    parts = {"e": {"module.fpn.weight": torch.rand(4, 4)}, "s": {}, "optimizer": {"state": {}}, "step": 3}
    torch.save(parts, tmp_path / "lcr_final.pth")
    target = convert(tmp_path / "lcr_final.pth", half=True)
    assert torch.equal(load_parts(target)["e"]["fpn.weight"], parts["e"]["module.fpn.weight"].half())
    with pytest.raises(FaceLoomError, match="already there"):
        convert(tmp_path / "lcr_final.pth")
    torch.save({"state_dict": {"encoder.a": torch.ones(2)}, "latent_avg": torch.zeros(18)}, tmp_path / "psp_ffhq_encode.pt")
    kept = load_parts(convert(tmp_path / "psp_ffhq_encode.pt"))
    assert kept["encoder"]["a"].sum() == 2 and kept[""]["latent_avg"].shape == (18,)
    torch.save({"module.a": torch.ones(2), "module.n": torch.tensor(3)}, tmp_path / "plain.pth")
    plain = load_weights(convert(tmp_path / "plain.pth", half=True))
    assert plain["a"].dtype == torch.float16 and plain["n"] == 3


def test_keras_padding_is_tensorflows():
    """Even pictures under an odd kernel and stride 2: one pixel more after than before."""
    graph, shapes = keras_identity()
    weights = {key: torch.zeros(shape) for key, shape in shapes.items()}
    weights["c/kernel"][0, 0, 0, 0] = 1  # reads what lies two (padded: one) above and left
    net = KerasNet(graph, weights)
    picture = torch.zeros(1, 3, 8, 8)
    picture[0, 0, 1, 1] = 1
    _, seen = net(picture, layers=["c"])
    assert torch.nonzero(seen["c"]).tolist() == [[0, 0, 1, 1]]


def test_unknown_keras_layers_are_named():
    graph, shapes = keras_identity()
    graph["config"]["layers"][2]["class_name"] = "Custom>Spiral"
    with pytest.raises(FaceLoomError, match="Spiral"):
        KerasNet(graph, {key: torch.zeros(shape) for key, shape in shapes.items()})


@pytest.mark.slow
@pytest.mark.parametrize("mouth", [False, True])
def test_simswap_from_its_files(tmp_path, scene, mouth):
    images, faces, identity = scene
    torch.manual_seed(0)
    generator, fixer = SimSwapNet(640 if mouth else 512, 1, matrix=True), FixerNet(depth=18)
    arcface = IResNet(18) if mouth else ArcFaceSE((1, 1, 1, 1))  # without FixerNet it was trained with SimSwap's own
    torch.save(generator.state_dict(), tmp_path / "G_mouth1_st5.pth")
    name = "backbone.pth" if mouth else "arcface_checkpoint.tar"
    torch.save({f"module.{key}": value for key, value in arcface.state_dict().items()}, tmp_path / name)
    if mouth:
        with pytest.raises(FaceLoomError, match="mouth_net_28_56_84_112"):
            load_engine(tmp_path / "G_mouth1_st5.pth")
        torch.save(fixer.state_dict(), tmp_path / "mouth_net_28_56_84_112.pth")
    engine = load_engine(tmp_path / "G_mouth1_st5.pth")
    vector = engine.prepare(identity)
    assert vector.shape == (1, 640 if mouth else 512) and float(vector[:, :512].norm()) == pytest.approx(1, abs=1e-4)
    crops, masks = swapped(engine, images, faces, identity, 256)
    targets = sample_crops(images, faces.frame_indices, template_matrix(faces.keypoints, "ffhq_512", 256), 256).clamp(0, 1)
    with torch.inference_mode():
        right = generator.eval()(targets.permute(0, 3, 1, 2) * 2 - 1, vector.expand(len(faces), -1)).clamp(-1, 1).add(1).div(2)
    answered, _ = engine.run(targets, vector.expand(len(faces), -1))
    assert torch.allclose(answered, right.permute(0, 2, 3, 1), atol=1e-5)
    one, mask = swapped(engine, images, faces.take([1]), identity, 256)
    assert torch.allclose(one[0], crops[1], atol=1e-4) and torch.equal(mask[0], masks[1])


@pytest.mark.slow
def test_ghost_from_its_files(tmp_path, scene):
    images, faces, identity = scene
    torch.manual_seed(0)
    arcface = IResNet(18).eval()
    generator = AEINet("unet", 1).eval()
    with torch.no_grad():
        arcface.features.running_var *= .05  # vectors of about ArcFace's length
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in generator.state_dict().items()},
               tmp_path / "G_unet_1block.pth")
    with pytest.raises(FaceLoomError, match=r"needs GHOST's ArcFace \(backbone\.pth, Apache-2\.0.*models get ghost_arcface_backbone_pth"):
        load_engine(tmp_path / "G_unet_1block.pth")
    torch.save(arcface.state_dict(), tmp_path / "backbone.pth")
    engine = load_engine(tmp_path / "G_unet_1block.pth")
    crops, masks = swapped(engine, images, faces, identity, 256)
    matrices = finer(nearest_template(faces.keypoints)[0], 256 / 224)
    targets = sample_crops(images, faces.frame_indices, matrices, 256).clamp(0, 1)
    vector = engine.prepare(identity).expand(len(faces), -1)
    with torch.inference_mode():
        right = generator.half().float()(targets.permute(0, 3, 1, 2) * 2 - 1, vector)[0].add(1).div(2).permute(0, 2, 3, 1)
    answered, _ = engine.run(targets, vector)
    assert torch.allclose(answered, right, atol=1e-4)
    one, mask = swapped(engine, images, faces.take([1]), identity, 256)
    assert torch.allclose(one[0], crops[1], atol=1e-3) and torch.equal(mask[0], masks[1])
    own = crop_faces(images, faces, 256)
    assert torch.equal(crops[masks == 0], own[masks == 0]) and float((crops - own).abs()[masks > .5].mean()) > .05
    result, area = paste(images, faces, crops, masks)
    assert torch.equal(result[area == 0], images[area == 0]) and not torch.equal(result, images)


def test_files_that_are_no_swap_model_are_refused(tmp_path):
    torch.save(IResNet(18).state_dict(), tmp_path / "other.pth")
    with pytest.raises(FaceLoomError, match=r"other\.pth is no swap model FaceLoom knows"):
        load_engine(tmp_path / "other.pth")


class Encode(nn.Module):
    """Mean colours as latents, structure from the picture."""

    def forward(self, x):
        self.seen = x
        return x.mean((2, 3))[:, None, :1].expand(-1, 18, 512), x[:, :1, :4, :4].expand(-1, 512, -1, -1)


class Draw(nn.Module):
    """A ramp from left to right from -3 to 1, over ``64`` pixels."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.noises = nn.Module()
        self.noises.register_buffer("noise_0", torch.zeros(1, 1, 4, 4))
        self.to_rgbs = nn.ModuleList(nn.Identity() for _ in range(4))

    def forward(self, latents, structure):
        self.given = latents, structure
        return torch.linspace(-3, 1, 64).expand(len(latents), 3, 64, 64), []


class Swapper(nn.Module):
    def forward(self, source, target):
        return torch.cat((target[:, :4], source[:, 4:]), 1)


@pytest.mark.slow
def test_megafs_takes_latents_from_the_source_and_structure_from_the_target(scene):
    images, faces, identity = scene
    nets = MegaFSNets(Encode(), Swapper(), Draw())
    engine = MegaFSEngine("megafs", TorchModel("megafs", nets), 64, Discs())
    assert engine.size == 64
    crops, masks = swapped(engine, images, faces, identity, 128)
    latents, structure = nets.generator.given
    assert torch.equal(structure[:, 0], nets.encoder.seen[:, 0, :4, :4])
    assert torch.allclose(latents[:, 4:], engine.prepare(identity)[:, 4:]) and not torch.allclose(latents[:, :4], latents[:, 4:8])
    middle = crops[0, 64]
    assert float(middle[64, 0]) == pytest.approx(.5, abs=.02)  # stretched over the whole range, as published
    assert 0 < float(masks.mean()) < .5 and float(masks[0, 64, 64]) == 1
    plain = MegaFSEngine("megafs", TorchModel("megafs", nets), 64, Discs(), stretch=False)
    assert float(swapped(plain, images, faces, identity, 128)[0][0, 64, 64, 0]) == pytest.approx(0, abs=.04)
    with pytest.raises(FaceLoomError, match="strength from 0 to 1"):
        swapped(engine, images, faces, identity, 128, strength=1.5)
    with pytest.raises(FaceLoomError, match="parser"):
        MegaFSEngine("megafs", TorchModel("megafs", nets), 64, refine=True)


def test_soft_erosion_keeps_the_middle_and_shrinks_the_border():
    mask = torch.zeros(2, 200, 200)
    mask[:, 50:150, 50:150] = 1
    mask[1, 50:150, 50:60] = 0
    soft = soft_erosion(mask)
    assert float(cone_weights(17).sum()) == pytest.approx(1) and float(cone_weights(17)[0, 0]) == 0
    assert torch.equal(soft[:, 90:110, 90:110], torch.ones(2, 20, 20)) and float(soft[0, 100, 51]) < .4
    assert (soft[1] - soft_erosion(mask[1:])[0]).abs().max() < 1e-6  # pictures do not see each other


class Decode(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, maps, source, target, picture, mask):
        self.given = maps, source, target, picture, mask
        return torch.where(mask > 0, -picture, picture)


class Invert(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))[:, :1, None].expand(-1, 18, 512)


def test_fslsd_gives_its_networks_what_they_were_trained_with(scene):
    images, faces, identity = scene
    points = np.stack(np.meshgrid(np.arange(106) % 11 * 10. + 60, [100.]), -1)[0] + [[0, 5]] * np.arange(106)[:, None]
    nets = FSLSDNets(Decode(), Invert(), torch.full((18, 512), .25))
    engine = FSLSDEngine("fslsd", TorchModel("fslsd", nets), lambda crops: np.repeat(points[None], len(crops), 0), Discs())
    engine.size = 64
    _, masks = swapped(engine, images, faces, identity, 128)
    maps, source, _, picture, mask = nets.swapper.given
    assert maps.shape == (1, 212, 256, 256) and torch.equal(maps.sum((2, 3)), torch.ones(1, 212))
    assert torch.nonzero(maps[0, 3]).tolist() == [[int(min(points[3, 1], 255)), int(points[3, 0])]]
    assert torch.allclose(source[:, 0], engine.prepare(identity)[:, :512]) and -1 <= float(picture.min()) < 0
    assert set(mask.unique().tolist()) <= {0., 1.}
    assert float(masks[0, 64, 64]) == 1


class Crowded:
    """A device manager whose network is put off the card as soon as another one runs."""

    def __init__(self):
        self.there = False

    def adopt(self, net):
        for part in net.children():
            part.register_forward_pre_hook(self.check)
        return net

    def ready(self, handle, memory):
        self.there = True
        return torch.device("cpu")

    def check(self, *_):
        assert self.there, "the network runs where it no longer is"

    def evicting(self, call):
        def run(*given):
            self.there = False
            return call(*given)

        return run


@pytest.mark.slow
def test_networks_are_where_they_run_though_others_needed_the_room(scene):
    images, faces, identity = scene
    crowd, points = Crowded(), np.random.default_rng(0).random((106, 2)) * 200
    parser = Discs()
    parser.parse = crowd.evicting(parser.parse)
    megafs = MegaFSNets(Encode(), Swapper(), Draw())
    fslsd = FSLSDNets(Decode(), Invert(), torch.full((18, 512), .25))
    landmarker = crowd.evicting(lambda crops: np.repeat(points[None], len(crops), 0))
    swapped(MegaFSEngine("megafs", TorchModel("megafs", megafs, crowd), 64, parser), images, faces, identity, 64)
    engine = FSLSDEngine("fslsd", TorchModel("fslsd", fslsd, crowd), landmarker, parser)
    engine.size = 64
    swapped(engine, images, faces, identity, 64)


def test_heat_maps_have_one_pixel_per_landmark():
    maps = heat_maps(torch.tensor([[[3.9, 250.2], [300., -2.]]]))
    assert torch.nonzero(maps).tolist() == [[0, 0, 250, 3], [0, 1, 0, 255]]




def test_a_parser_is_opened_when_it_is_first_asked():
    opened = []
    late = LateParser("discs", lambda: opened.append(1) or Discs())
    assert not opened
    crops = torch.zeros(1, 8, 8, 3)
    assert torch.equal(late.parse(crops), Discs().parse(crops)) and torch.equal(late.parse(crops), Discs().parse(crops))
    assert opened == [1]


@pytest.mark.parametrize("kind", [DeepfakesEngine, FSLSDEngine, ParserEngine, MegaFSEngine, REFaceEngine])
def test_a_damaged_helper_is_found_before_the_pictures(kind):
    def damaged():
        raise FaceLoomError("79999_iter.pth is empty; fetch it again.")

    engine = SimpleNamespace(parser=LateParser("discs", damaged), mask_parser=LateParser("discs", damaged), landmarker=None,
                             options=SimpleNamespace(mask="parsed"))
    with pytest.raises(FaceLoomError, match="79999_iter"):
        kind.open_helpers(engine, SwapSettings())


def test_a_helper_that_is_not_asked_is_not_opened():
    def damaged():
        raise AssertionError("opened")

    outline = SimpleNamespace(options=SimpleNamespace(mask=OUTLINE), landmarker=LateLandmarker(damaged), parser=LateParser("a", damaged))
    GhostEngine.open_helpers(outline, SwapSettings())
    DeepfakesEngine.open_helpers(outline, SwapSettings())
