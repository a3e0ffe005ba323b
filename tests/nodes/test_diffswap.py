"""DiffSwap on the canvas: its file becomes a MODEL and a VAE of ComfyUI's own classes, sampled as in this package's own process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="module", autouse=True)
def as_comfyui_runs_nodes():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def path(pack, tmp_path_factory) -> Path:
    from diffswap_files import save_diffswap

    return save_diffswap(tmp_path_factory.mktemp("models") / "faceloom" / "diffswap" / "diffswap.pth")


@pytest.fixture(scope="module")
def loaded(nodes, path, models_in):
    """MODEL, VAE and DIFFSWAP, the list of files, and what the node shows."""
    with models_in(path.parents[2], ".pth"):
        options = nodes["LoadDiffSwap"].define_schema().inputs[0].options
        answer = nodes["LoadDiffSwap"].execute(file="diffswap.pth")
    return *answer.result, options, answer.ui


@pytest.fixture(scope="module")
def aligned(twins):
    return twins(256)


@pytest.fixture(scope="module")
def encoded(nodes, loaded, aligned, source):
    faces, crops = aligned
    return nodes["DiffSwapEncode"].execute(diffswap=loaded[2], vae=loaded[1], faces=faces, crops=crops, identity=source,
                                           shape="2-D release", organ_source="source").result


def sigmas(model, steps: int, denoise: float = 1.0) -> torch.Tensor:
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    return BasicScheduler.execute(model, "ddim_uniform", steps, denoise).result[0]


def sample(nodes, model, encoded, steps: int = 5, seed: int = 7, guidance: float = .01, denoise: float = 1.0, rows=slice(None)):
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    positive, negative, latent, _ = encoded
    (sampler,) = nodes["DiffSwapSampler"].execute(target_guidance=guidance).result
    latent = {"samples": latent["samples"][rows], "noise_mask": latent["noise_mask"][rows]}
    positive, negative = ([[pairs[0][0][rows], {}]] for pairs in (positive, negative))
    return SamplerCustom.execute(model, True, seed, 1.0, positive, negative, sampler, sigmas(model, steps, denoise), latent).result


def followed(model, encoded, steps: int, seed: int, guidance: float = .01):
    """The same by ``masked_ddim`` around the network itself, from the noise that core draws."""
    from faceloom.models.diffusion.ddim import ddim_schedule
    from faceloom.models.diffusion.noise import noise_source
    from faceloom.models.systems.diffswap import ALPHAS, masked_ddim

    (tokens, _), latent = encoded[0][0], encoded[2]
    target, replaced = latent["samples"], latent["noise_mask"]
    draw = noise_source([seed + number for number in range(len(target))], tuple(target.shape[1:]))
    draw()
    noise = torch.randn(target.shape, generator=torch.manual_seed(seed))

    def denoise(x, step):
        return model.model.diffusion_model(x, torch.full((len(x),), step.timestep), context=tokens)

    return masked_ddim(denoise, noise, target, replaced, ddim_schedule(steps, ALPHAS), draw, guidance)


def test_the_file_becomes_comfyuis_own_parts(loaded):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE
    from diffswap_files import SMALL_UNET, unet_weights

    model, vae, diffswap, options, shown = loaded
    assert options == ["diffswap.pth"] and "no licence stated" in shown["text"][0]
    assert isinstance(model, ModelPatcher) and isinstance(model.model.diffusion_model, UNetModel) and isinstance(vae, VAE)
    averaged = unet_weights(SMALL_UNET)["model.diffusion_model.out.2.weight"]
    assert torch.equal(model.model.diffusion_model.out[2].weight, averaged)
    form = model.get_model_object("latent_format")
    assert (form.latent_channels, form.scale_factor, form.spacial_downscale_ratio) == (3, 1.0, 4)
    assert vae.latent_channels == 3 and vae.spacial_compression_encode() == vae.spacial_compression_decode() == 4
    assert isinstance(diffswap.patcher, ModelPatcher) and diffswap.patcher.model is diffswap.model.net
    attention = next(part for part in model.model.diffusion_model.modules() if type(part).__name__ == "CrossAttention")
    assert attention.dim_head == 32


def test_a_file_that_is_not_there_says_where_it_goes(nodes):
    with pytest.raises(ValueError, match=r"diffswap\.pth.*get it from https://cloud\.tsinghua.*faceloom/diffswap"):
        nodes["LoadDiffSwap"].execute(file="diffswap.pth (not downloaded)")
    assert nodes["LoadDiffSwap"].validate_inputs(file="../diffswap.pth") is not True


def test_a_file_of_something_else_says_so(pack):
    from diffswap_files import diffswap_weights
    from faceloom.models.errors import FaceLoomError
    from faceloom.models.networks.diffswap import unet_weights
    from faceloom.nodes._diffswap import make_model, make_vae

    weights = diffswap_weights()
    vae = make_vae(weights, "it")
    with pytest.raises(FaceLoomError, match="no VQ autoencoder"):
        make_vae({"first_stage_model.quant_conv.weight": torch.zeros(1)}, "it")
    with pytest.raises(FaceLoomError, match="no UNet with three"):
        make_model({"a": torch.zeros(1)}, "it", vae)
    unet = unet_weights(weights)
    with pytest.raises(FaceLoomError, match=r"only part of one.*out\.2\.bias"):
        make_model({key: value for key, value in unet.items() if key != "out.2.bias"}, "it", vae)


@pytest.mark.slow
def test_comfyuis_classes_answer_the_golden_vectors(pack, shared):
    """At full size, from the published keys."""
    from faceloom.models.networks.ldm import UNET_PREFIX
    from faceloom.nodes._diffswap import make_model, make_vae
    from golden_adapters.base import Golden

    def filled(golden):
        weights = {key: torch.empty(shape) for key, (shape, _) in golden.shapes[""].items()}
        golden.fill.fill(weights, golden.rules[""])
        return weights

    def off(golden, name, got):
        return golden.fill.compare(got.numpy(), golden.arrays[name])["rel_std"]

    folder = shared / "golden"
    golden = Golden(folder, "diffswap_vq")
    vae = make_vae(filled(golden), "it")
    assert off(golden, "z_prequant", vae.encode((golden.input("img").movedim(1, -1) + 1) / 2)) < 1e-4
    assert off(golden, "dec_quant", vae.first_stage_model.decode(golden.input("z"))) < 1e-4
    golden = Golden(folder, "diffswap_unet")
    model = make_model({key.removeprefix(UNET_PREFIX): value for key, value in filled(golden).items()}, "it", vae).model
    eps = model.diffusion_model(golden.input("x"), torch.tensor(golden.inputs["timesteps"]), context=golden.input("context"))
    assert off(golden, "eps", eps) < 1e-4


def test_encode_tells_what_prepare_does(loaded, aligned, source, encoded):
    from faceloom.models.systems.diffswap import prepare

    vae, diffswap = loaded[1:3]
    faces, crops = aligned
    positive, negative, latent, mask = encoded
    told = prepare(diffswap, lambda pictures: torch.cat([vae.encode(one[None]) for one in pictures]), crops, faces, source)
    assert torch.equal(positive[0][0], told.tokens) and negative[0][0].shape == told.tokens.shape == (2, 5, 64)
    assert torch.equal(latent["samples"], told.latents) and torch.equal(latent["noise_mask"], told.replaced)
    assert torch.equal(mask, told.swapped) and latent["noise_mask"].shape == (2, 1, 64, 64)


def test_shape_organs_and_mask_reach_it(nodes, loaded, aligned, source, encoded):
    faces, crops = aligned
    given = {"diffswap": loaded[2], "vae": loaded[1], "faces": faces, "crops": crops, "identity": source}
    bent, _, _, mask = nodes["DiffSwapEncode"].execute(**given, shape="3-D union", organ_source="source").result
    released = nodes["DiffSwapEncode"].execute(**given, shape="2-D release", organ_source="released").result[0]
    assert float(mask.sum()) > 1.2 * float(encoded[3].sum())
    assert not torch.equal(bent[0][0][:, 0], encoded[0][0][0][:, 0]) and not torch.equal(released[0][0][:, 2:], encoded[0][0][0][:, 2:])
    own = torch.ones(1, 256, 256)
    shown = nodes["DiffSwapEncode"].execute(**given, shape="2-D release", organ_source="source", mask=own).result[3]
    assert torch.equal(shown, own.expand(2, -1, -1))


def test_without_a_face_the_graph_goes_on(nodes, loaded, aligned, source):
    positive, _, latent, mask = nodes["DiffSwapEncode"].execute(
        diffswap=loaded[2], vae=loaded[1], faces=aligned[0].take([]), crops=torch.zeros(1, 256, 256, 3), identity=source,
        shape="2-D release", organ_source="source").result
    assert positive[0][0].shape == (1, 5, 64) and latent["samples"].shape == (1, 3, 64, 64) and float(mask.max()) == 0


def test_the_sampler_follows_masked_ddim(nodes, loaded, encoded):
    model = loaded[0]
    out, pictures = sample(nodes, model, encoded)
    want = followed(model, encoded, 5, 7)
    assert float((out["samples"] - want).abs().max()) < 1e-4 * float(want.std())
    assert pictures["samples"].shape == want.shape
    again = sample(nodes, model, encoded)[0]["samples"]
    assert torch.equal(again, out["samples"]) and not torch.equal(sample(nodes, model, encoded, seed=8)[0]["samples"], again)
    assert not torch.equal(sample(nodes, model, encoded, guidance=.2)[0]["samples"], again)


def test_it_is_what_this_package_samples_by_itself(nodes, loaded, encoded, path, aligned, source):
    pytest.importorskip("diffusers")
    from faceloom.models.systems.diffswap import Settings, load_diffswap, prepare

    model, vae = loaded[:2]
    system = load_diffswap(path)
    faces, crops = aligned[0].take([0]), aligned[1][:1]
    prepared = prepare(system.conditioner, system.encode, crops, faces, source)
    torch.testing.assert_close(prepared.tokens, encoded[0][0][0][:1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prepared.latents, encoded[2]["samples"][:1], atol=1e-4, rtol=1e-4)
    painted = system.paint(prepared, Settings(steps=5, seed=7))
    shown = vae.decode(sample(nodes, model, encoded, rows=slice(0, 1))[0]["samples"])
    assert float((shown - painted).abs().mean()) < 1e-4


def test_a_part_of_the_schedule_begins_with_the_target(nodes, loaded, encoded):
    """With everything kept, a run at half strength that starts from the target stays closer to it than pure noise does."""
    model, target = loaded[0], encoded[2]["samples"]
    whole = (encoded[0], encoded[1], encoded[2] | {"noise_mask": torch.ones_like(encoded[2]["noise_mask"])}, encoded[3])
    seen = []
    net = model.model.diffusion_model
    handle = net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        sample(nodes, model, whole, steps=4)
        sample(nodes, model, whole, steps=4, denoise=.5)
    finally:
        handle.remove()
    noise = torch.randn(target.shape, generator=torch.manual_seed(7))
    torch.testing.assert_close(seen[0], noise, atol=1e-4, rtol=1e-4)
    alpha = 1 / (1 + float(sigmas(model, 4, .5)[0]) ** 2)
    torch.testing.assert_close(seen[4], alpha**.5 * target + (1 - alpha) ** .5 * noise, atol=1e-4, rtol=1e-4)


def test_no_steps_change_nothing(nodes, loaded, encoded):
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    positive, negative, latent, _ = encoded
    (sampler,) = nodes["DiffSwapSampler"].execute(target_guidance=.01).result
    out = SamplerCustom.execute(loaded[0], True, 0, 1.0, positive, negative, sampler, sigmas(loaded[0], 4)[-1:], latent).result[0]
    assert torch.equal(out["samples"], latent["samples"])


def test_ksampler_samples_it_too(loaded, encoded):
    """Stock KSampler keeps the surroundings exactly and paints the face."""
    import nodes as core

    positive, negative, latent, _ = encoded
    (out,) = core.common_ksampler(loaded[0], 3, 4, 1.0, "ddim", "ddim_uniform", positive, negative, latent)
    kept = (1 - latent["noise_mask"]).bool().expand_as(out["samples"])
    torch.testing.assert_close(out["samples"][kept], latent["samples"][kept], atol=1e-4, rtol=1e-4)
    assert torch.isfinite(out["samples"]).all() and float((out["samples"] - latent["samples"])[~kept].abs().mean()) > .1


def test_decoding_goes_through_the_codes(loaded):
    vae = loaded[1]
    book = vae.first_stage_model.post_quant_conv[0].book
    latent = book[torch.arange(64)].T.reshape(1, 3, 8, 8)
    shift = float(torch.cdist(book, book).fill_diagonal_(9).min()) * .2
    assert torch.equal(vae.decode(latent), vae.decode(latent + shift)) and not torch.equal(vae.decode(latent), vae.decode(latent * -1))


def test_previews_and_progress(nodes, loaded, encoded, monkeypatch):
    import comfy.utils
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod

    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Latent2RGB)
    seen = []

    def listen(bar, value, total=None, preview=None):
        seen.append((value, total, preview))

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", listen)
    sample(nodes, loaded[0], encoded, steps=3)
    assert [(value, total) for value, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[0][2][1].size == (64, 64)


def test_cancel_stops_it(nodes, loaded, encoded):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    try:
        with pytest.raises(management.InterruptProcessingException):
            sample(nodes, loaded[0], encoded)
    finally:
        management.interrupt_current_processing(False)
