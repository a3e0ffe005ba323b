"""FaceDancer's published graphs at full size, from the portraits to the pasted result; the weights follow from their names."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.detect import detect_faces
from faceloom.models.identity import make_identity
from faceloom.models.networks.keras_graph import input_shapes
from faceloom.models.networks.keras_net import KerasNet
from faceloom.models.options.swap import SwapSettings
from faceloom.models.paste import paste
from faceloom.models.pixels.affine import similarity
from faceloom.models.pixels.sampling import sample_crops
from faceloom.models.swap import swap_faces
from faceloom.models.swap.research.facedancer_engine import facedancer_engine, rectangle_mask
from golden_adapters.base import Golden

GOLDEN = Path(os.environ.get("FACELOOM_GOLDEN", Path(__file__).parents[5] / "shared" / "golden"))
# The template of facts and paper, in pixels of 112.
TEMPLATE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])


def test_the_rectangle_is_a_blurred_box():
    """Rows 77 to 239 and columns 32 to 223, blurred by 7 pixels: differences of the normal distribution's sums; below, the box's mirror
    image at the picture's end adds a little."""

    def box(first, end):
        near = [(math.erf((end - .5 - i) / 7 / 2**.5) - math.erf((first - .5 - i) / 7 / 2**.5)) / 2 for i in range(256)]
        mirrored = [(math.erf((511.5 - first - i) / 7 / 2**.5) - math.erf((511.5 - end - i) / 7 / 2**.5)) / 2 for i in range(256)]
        return np.add(near, mirrored)

    np.testing.assert_allclose(rectangle_mask().numpy(), np.outer(box(77, 240), box(32, 224)), atol=1e-3)


def net_of(name):
    golden = Golden(GOLDEN, name)
    listed = golden.data["state_dict"].items()
    tensors = {key: torch.from_numpy(golden.fill.value(key, shape, golden.rules[""], kind)) for key, (shape, kind) in listed}
    return KerasNet(json.loads((GOLDEN / f"{name}.model_config.json").read_text()), tensors).eval()


@pytest.fixture(scope="module")
def nets():
    names = [f"facedancer_{part}" for part in ("generator_c", "arcface_res50")]
    if not all((GOLDEN / f"{name}.model_config.json").is_file() for name in names):
        pytest.skip(f"no FaceDancer graphs in {GOLDEN} (set FACELOOM_GOLDEN)")
    return [net_of(name) for name in names]


@pytest.mark.slow
@torch.inference_mode()
def test_from_the_portraits_to_the_pasted_result(nets, collins, hopper):
    generator, arcface = nets
    assert input_shapes(generator.graph) == [(256, 256, 3), (512,)] and input_shapes(arcface.graph) == [(112, 112, 3)]
    faces = detect_faces(collins)
    identity, _ = make_identity(hopper, detect_faces(hopper))
    engine = facedancer_engine(generator, arcface)
    crops, masks = swap_faces(collins, faces, identity, engine, settings=SwapSettings(size=256))

    keypoints = np.stack([face.keypoints for face in identity.faces])
    photos = sample_crops(torch.from_numpy(np.array(identity.crops)), range(len(keypoints)), similarity(keypoints, TEMPLATE), 112)
    vector = arcface(photos.permute(0, 3, 1, 2)).mean(0, keepdim=True)
    torch.testing.assert_close(engine.prepare(identity), vector, atol=1e-3, rtol=0)
    assert abs(float(vector.norm()) - 1) > .1  # as the network gives it, not made unit

    targets = sample_crops(collins, faces.frame_indices, similarity(faces.keypoints, TEMPLATE * 256 / 112), 256)
    want = torch.cat([(generator(each[None] * 2 - 1, vector) + 1) / 2 for each in targets.permute(0, 3, 1, 2)]).clamp(0, 1)
    got, own = engine.run(targets, vector.expand(len(targets), -1))
    off = (got.permute(0, 3, 1, 2) - want).square().mean().sqrt() / want.std()
    assert float(off) < 1e-3
    assert torch.equal(own[0], rectangle_mask().clamp(0, 1))

    assert torch.equal(crops[masks == 0], crop_faces(collins, faces, 256)[masks == 0]) and .2 < float(masks.mean()) < .9
    result, area = paste(collins, faces, crops, masks)
    assert torch.equal(result[area == 0], collins[area == 0])
    assert float((result - collins).abs()[area > .9].mean()) > .05
    again, _ = swap_faces(collins, faces, identity, engine, settings=SwapSettings(size=256))
    assert torch.equal(again, crops)


@pytest.mark.slow
@torch.inference_mode()
def test_half_precision_is_the_same_picture(nets):
    """The generator in float16 as it runs on a graphics card, weights and all; a processor's float16 is exact enough to say."""
    generator, _ = nets
    golden = Golden(GOLDEN, "facedancer_generator_c")
    inputs = [golden.input(key) for key in golden.inputs]
    want = generator(*inputs)
    half = KerasNet(generator.graph, {key: value.half() for key, value in generator.weights().items()})
    got = half(*(each.half() for each in inputs)).float()
    assert bool(got.isfinite().all())
    assert float((got - want).square().mean().sqrt() / want.std()) < .01
