"""REFace on the canvas: its file becomes ComfyUI's own MODEL and VAE, told and sampled as in this package's own process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

pytestmark = pytest.mark.slow  # a conditioner and a VAE of full size are loaded


@pytest.fixture(scope="module")
def loaded(nodes, models_in, tmp_path_factory):
    """MODEL, VAE and REFACE of a file with SD 1.x's widths and fewer levels, and what the node shows."""
    from faceloom.models.networks.ldm import VaeForm
    from reface_files import CANVAS_UNET, save_reface

    folder = tmp_path_factory.mktemp("models")
    save_reface(folder / "faceloom" / "reface" / "last.ckpt", CANVAS_UNET, VaeForm(), torch.float16)
    with models_in(folder, ".ckpt"):
        options = nodes["LoadREFace"].define_schema().inputs[0].options
        answer = nodes["LoadREFace"].execute(file="last.ckpt")
    return *answer.result, options, answer.ui


@pytest.fixture(scope="module")
def aligned(twins):
    return twins(512)


class FlatVae:
    """Encodes a picture to its mean colours, eight pixels a cell."""

    def encode(self, pictures):
        colors = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), 8)
        return torch.cat([colors, colors.mean(1, keepdim=True)], 1)

    def decode(self, latents):
        raise AssertionError("encoding needs no decoding")


def test_the_file_becomes_comfyuis_own_parts(loaded):
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE
    from comfy.supported_models import SD15

    model, vae, reface, options, shown = loaded
    assert options == ["last.ckpt"] and "CC BY-NC" in shown["text"][0]
    assert isinstance(model, ModelPatcher) and isinstance(model.model.model_config, SD15)
    assert model.model.diffusion_model.input_blocks[0][0].weight.shape == (320, 9, 3, 3)
    assert isinstance(vae, VAE) and vae.latent_channels == 4
    assert isinstance(reface.patcher, ModelPatcher) and reface.patcher.model is reface.model.net
    assert next(reface.model.net.parameters()).dtype == torch.float32


def test_a_file_that_is_not_there_says_where_it_goes(nodes):
    with pytest.raises(ValueError, match=r"last\.ckpt.*models get reface.*faceloom/reface"):
        nodes["LoadREFace"].execute(file="last.ckpt (not downloaded)")
    assert nodes["LoadREFace"].validate_inputs(file="../last.ckpt") is not True


def test_encode_tells_what_prepare_does(nodes, loaded, aligned, source):
    from faceloom.models.systems.reface import latent_mask, prepare

    faces, crops = aligned
    reface = loaded[2]
    answer = nodes["REFaceEncode"].execute(reface=reface, vae=FlatVae(), faces=faces, crops=crops, identity=source, start_from_target=False,
                                           mask_covers="swapped parts")
    positive, negative, latent, mask = answer.result
    told = prepare(reface, crops, faces, source)
    assert torch.equal(positive[0][0], told.tokens) and torch.equal(negative[0][0], told.unconditional.expand(2, 1, 768))
    assert torch.equal(latent["samples"], torch.zeros(2, 4, 64, 64)) and torch.equal(mask, told.swapped)
    for _, extra in (positive[0], negative[0]):
        assert torch.equal(extra["concat_mask"], latent_mask(told.keep)) and set(extra["concat_mask"].unique().tolist()) > {0, 1}
        assert torch.equal(extra["concat_latent_image"], FlatVae().encode(told.masked_targets))
    answer = nodes["REFaceEncode"].execute(reface=reface, vae=FlatVae(), faces=faces, crops=crops, identity=source, start_from_target=True,
                                           mask_covers="whole square")
    assert torch.equal(answer.result[2]["samples"], FlatVae().encode(crops)) and float(answer.result[3].min()) == 1


def test_without_a_face_the_graph_goes_on(nodes, loaded, aligned, source):
    positive, negative, latent, mask = nodes["REFaceEncode"].execute(
        reface=loaded[2], vae=FlatVae(), faces=aligned[0].take([]), crops=torch.zeros(1, 512, 512, 3), identity=source,
        start_from_target=False, mask_covers="whole square").result
    assert positive[0][0].shape == negative[0][0].shape == (1, 1, 768)
    assert latent["samples"].shape == (1, 4, 64, 64) and float(mask.max()) == 0


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_ksampler_follows_the_same_path(loaded, sampler):
    """ComfyUI's KSampler and our DDIM with the same network, fed in REFace's order: two faces, a grey mask, guidance 3.5."""
    from faceloom.models.diffusion.ddim import classifier_free_guidance, ddim_schedule, sample_ddim
    from faceloom.models.networks.ldm import VaeForm

    import nodes as core

    model = loaded[0]
    draw = torch.Generator().manual_seed(3)
    hidden, tokens = torch.randn(2, 4, 16, 16, generator=draw), torch.randn(2, 1, 768, generator=draw)
    keep, nothing = torch.rand(2, 1, 16, 16, generator=draw), torch.randn(1, 1, 768, generator=draw).expand(2, 1, 768)
    told = {"concat_latent_image": hidden, "concat_mask": keep}
    (latent,) = core.common_ksampler(model, 5, 4, 3.5, sampler, "ddim_uniform", [[tokens, told]], [[nothing, told]],
                                     {"samples": torch.zeros(2, 4, 16, 16)})

    scale = VaeForm().scale
    beside, contexts = torch.cat([hidden * scale, keep], 1), torch.cat([nothing, tokens])
    net, steps, pictures = model.model.diffusion_model, ddim_schedule(4), []

    def denoise(x, timestep):
        both = net(torch.cat([x, beside], 1).repeat(2, 1, 1, 1), torch.full((4,), timestep), context=contexts)
        noise = classifier_free_guidance(*both.chunk(2), 3.5)
        pictures.append(next(step for step in steps if step.timestep == timestep).clean(x, noise))
        return noise

    with torch.inference_mode():
        start = torch.randn(2, 4, 16, 16, generator=torch.manual_seed(5)) * (1 - steps[0].alpha) ** .5
        sample_ddim(denoise, start, steps)
    want = pictures[-1] / scale
    assert float((latent["samples"] - want).abs().max()) < 2e-3 * float(want.std())


def test_the_model_asks_for_its_conditioning(loaded):
    import nodes as core

    plain = [[torch.zeros(1, 1, 768), {}]]
    with pytest.raises(ValueError, match="REFace Encode's positive and negative"):
        core.common_ksampler(loaded[0], 0, 1, 1.0, "euler", "ddim_uniform", plain, plain, {"samples": torch.zeros(1, 4, 16, 16)})
    told = [[torch.zeros(1, 1, 768), {"concat_latent_image": torch.zeros(1, 4, 64, 64), "concat_mask": torch.zeros(1, 1, 64, 64)}]]
    with pytest.raises(ValueError, match="512×512"):
        core.common_ksampler(loaded[0], 0, 1, 1.0, "euler", "ddim_uniform", told, told, {"samples": torch.zeros(1, 4, 16, 16)})


def test_variants_of_one_face(loaded):
    """Repeat Latent Batch: three latents under one face's conditioning."""
    import nodes as core

    told = [[torch.zeros(1, 1, 768), {"concat_latent_image": torch.zeros(1, 4, 16, 16), "concat_mask": torch.zeros(1, 1, 16, 16)}]]
    (latent,) = core.common_ksampler(loaded[0], 0, 1, 1.0, "euler", "ddim_uniform", told, told, {"samples": torch.zeros(3, 4, 16, 16)})
    assert latent["samples"].shape == (3, 4, 16, 16) and not torch.equal(latent["samples"][0], latent["samples"][1])
