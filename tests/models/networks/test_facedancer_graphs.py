"""FaceDancer's generators in every published way of fusing decoder and encoder, beside the architecture written out in torch."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.networks.keras_net import KerasNet, needed_weights
from torch.nn import functional

from bench.keras_graphs import CONFIGURATION_C, PLACES, WAYS, generator

GOLDEN = Path(os.environ.get("FACELOOM_GOLDEN", Path(__file__).parents[4] / "shared" / "golden"))
SMALL = {"width": 8, "size": 64, "vector": 6, "mapping": 10}
# One way at all places, configuration C, one that skips at the finest places only and one with all ways in it.
CONFIGURATIONS = [*((way,) * 6 for way in WAYS), CONFIGURATION_C, ("no_skip",) * 3 + ("affa", "affa", "concat"), WAYS]


def weights_of(graph, seed=0):
    random = torch.Generator().manual_seed(seed)
    shapes, _ = needed_weights(graph)
    scale = {key: shape[-2] ** -.5 if key.endswith("kernel") else .3 for key, shape in shapes.items()}
    return {key: torch.randn(shape, generator=random) * scale[key] for key, shape in shapes.items()}


def inputs(count=2):
    random = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 64, 64, generator=random) * 2 - 1, torch.randn(count, 6, generator=random)


class Reference:
    """The architecture in float64, layer after layer as the paper's code makes them; weights are counted through, not looked up."""

    def __init__(self, weights):
        self.weights = {key: value.double() for key, value in weights.items()}
        self.counts = Counter()

    def name(self, stem):
        number = self.counts[stem]
        self.counts[stem] += 1
        return f"{stem}_{number}" if number else stem

    def conv(self, x, name=None):
        name = name or self.name("conv2d")
        kernel = self.weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, self.weights[f"{name}/bias"], padding=kernel.shape[-1] // 2)

    def linear(self, x, name):
        return x @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]

    def norm(self, x):
        name = self.name("instance_normalization")
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
        scale, shift = (self.weights[f"{name}/{part}"][:, None, None] for part in ("gamma", "beta"))
        return (x - mean) / (variance + .001).sqrt() * scale + shift

    def adain(self, x, vector):
        name = self.name("ada_in")
        scale, shift = (self.linear(vector, f"{name}/{part}")[..., None, None] for part in ("dense", "dense_1"))
        return scale * x + shift

    def half(self, x):
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4

    def twice(self, x):
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def block(self, x, resize, vector=None):
        plain, normal = resize(self.conv(x)), self.norm(x)
        return plain + resize(self.conv(leaky(normal if vector is None else self.adain(normal, vector))))

    def mask(self, both, name):
        return self.conv(self.norm(leaky(self.conv(both))), name).sigmoid()

    def fused(self, way, skip, x, place):
        both = torch.cat((skip, x), 1)
        if way in ("no_skip", "add", "concat"):
            return {"no_skip": x, "add": skip + x, "concat": both}[way]
        if way == "d_affa":
            for name in (f"{place}_0", f"{place}_1"):
                m = self.mask(torch.cat((skip, x), 1), name)
                x = (1 - m) * skip + m * x
            return x
        m = self.mask(both, f"{place}_hat") * self.mask(both, place) if way == "do_affa" else self.mask(both, place)
        return (1 - m) * skip + m * x

    def __call__(self, picture, vector, ways):
        x, z = picture.double(), vector.double()
        for number in range(4):
            z = self.linear(z, self.name("dense"))
            z = leaky(z) if number < 3 else z
        maps = [self.conv(x)]
        for _ in range(5):
            maps.append(self.block(maps[-1], self.half))
        x = self.block(self.block(maps[-1], same), same, z)
        for way, place, skip in zip(ways, PLACES, maps[::-1]):
            x = self.block(self.fused(way, skip, x, place), same if place == "final" else self.twice, z)
        return x


def leaky(x):
    return torch.where(x > 0, x, .2 * x)


def same(x):
    return x


@pytest.mark.parametrize("ways", CONFIGURATIONS, ids=lambda ways: "-".join(dict.fromkeys(ways)))
def test_every_way_of_fusing_is_run_as_published(ways):
    graph = generator(ways, **SMALL)
    weights = weights_of(graph)
    with torch.inference_mode():
        got = KerasNet(graph, weights)(*inputs())
        want = Reference(weights)(*inputs(), ways)
    off = (got - want).square().mean().sqrt() / want.std()
    assert got.shape == (2, 3, 64, 64) and float(off) < 1e-4


@pytest.mark.parametrize("way", ["affa", "d_affa", "do_affa"])
def test_a_mask_of_ones_leaves_the_encoder_out_and_one_of_zeros_the_decoder(way):
    """Masks are made constant by their last layer's weights; with ones the graph is the one without a skip at this place."""
    plain, graph = generator(("no_skip",) * 6, **SMALL), generator((way, *("no_skip",) * 5), **SMALL)
    weights = weights_of(graph)
    masks = {key.split("/")[0] for key in weights if key.startswith("16x16")}
    assert len(masks) == (1 if way == "affa" else 2)

    def constant(bias):
        return weights | {f"{name}/{part}": torch.full_like(weights[f"{name}/{part}"], value)
                          for name in masks for part, value in (("kernel", 0.), ("bias", bias))}

    names = names_without_fusion(graph, plain)
    alike = {f"{names[key.split('/')[0]]}/{key.split('/', 1)[1]}": value for key, value in weights.items() if key.split("/")[0] in names}
    torch.testing.assert_close(KerasNet(graph, constant(60))(*inputs()), KerasNet(plain, alike)(*inputs()), atol=2e-4, rtol=0)
    last = "adaptive_attention_1" if way == "d_affa" else "adaptive_attention"
    _, seen = KerasNet(graph, constant(-60))(*inputs(), layers=["add_4", last])
    torch.testing.assert_close(seen[last], seen["add_4"], atol=1e-5, rtol=0)  # the encoder's last map


def names_without_fusion(graph, plain):
    """What the layers of ``graph`` are called in ``plain``, which lacks those from the concatenation to the attention."""
    names = [layer["name"] for layer in graph["config"]["layers"]]
    attentions = [index for index, name in enumerate(names) if name.startswith("adaptive_attention")]
    kept = names[: names.index("concatenate")] + names[attentions[-1] + 1 :]
    return dict(zip(kept, (layer["name"] for layer in plain["config"]["layers"]), strict=True))


def test_configuration_c_is_the_published_graph():
    path = GOLDEN / "facedancer_generator_c.model_config.json"
    if not path.is_file():
        pytest.skip(f"no FaceDancer graph in {GOLDEN} (set FACELOOM_GOLDEN)")
    published, ours = json.loads(path.read_text())["config"], generator()["config"]

    def joined(graph):
        return {layer["name"]: (layer["class_name"], [source[:3] for node in layer["inbound_nodes"] for source in node])
                for layer in graph["layers"]}

    settings = ("filters", "kernel_size", "strides", "padding", "units", "groups", "epsilon", "alpha", "pool_size", "size", "interpolation",
                "activation", "axis", "batch_input_shape")
    theirs = {layer["name"]: layer["config"] for layer in published["layers"]}
    assert joined(ours) == joined(published)
    for layer in ours["layers"]:
        for key in settings:
            assert layer["config"].get(key) == theirs[layer["name"]].get(key), (layer["name"], key)


@pytest.mark.parametrize("depth, mapping", [(4, 512), (1, 256), (0, 256)])
def test_other_mappings_of_the_identity(depth, mapping):
    graph = generator(depth=depth, mapping=mapping, width=8, size=64)
    needed, answers = needed_weights(graph)
    assert answers == [(3, 64, 64)]
    assert needed["ada_in/dense/kernel"] == [mapping if depth else 512, 64]
    assert sum(key.startswith("dense") and key.endswith("kernel") for key in needed) == depth


def test_operators_that_are_not_known_are_named():
    graph = generator(("do_affa",) * 6, **SMALL)
    step = next(layer for layer in graph["config"]["layers"] if layer["class_name"] == "TFOpLambda")
    step["config"]["function"] = "linalg.matmul"
    with pytest.raises(FaceLoomError, match=r"layers FaceLoom does not know: linalg\.matmul"):
        KerasNet(graph, {})
