"""What guidance tells ComfyUI's memory management, and what it says where something goes wrong. Small models of the real architectures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

_spec = importlib.util.spec_from_file_location("diffusion_doubles", Path(__file__).with_name("diffusion_doubles.py"))
doubles = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(doubles)

SIZE = 64


@pytest.fixture(autouse=True)
def inference():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def given(pack):
    """Everything the node is given for one step that is guided by the gaze."""
    from faceloom.models.diffusion.gaze import GazeEstimator
    from faceloom.models.networks.eyenet import EyeNet

    with torch.inference_mode():
        torch.manual_seed(0)
        net = EyeNet(1, 8, 3)
        torch.nn.init.normal_(net.gaze_fc2.weight, 0, 0.5)
        return {"model": doubles.sd15(), "vae": doubles.vae(), "positive": doubles.conditioning(1), "negative": doubles.conditioning(2),
                "crops": torch.rand(1, SIZE, SIZE, 3), "mask": torch.ones(1, SIZE, SIZE), "size": SIZE, "steps": 1, "cfg": 2.0,
                "denoise": 0.6, "gaze_strength": 1.0, "gaze_estimator": GazeEstimator("GazeEstimator", net)}


@pytest.fixture(scope="module")
def paint(pack, nodes):
    node = nodes["DiffusionInpaintSwap"]
    defaults = {item.id: item.default for item in node.define_schema().inputs if getattr(item, "default", None) is not None}
    return lambda **given: node.execute(**(defaults | given)).args[0]


class TestMemory:
    @pytest.fixture
    def announced(self, monkeypatch):
        """What every sampling asks ComfyUI to keep free: the least it needs, in bytes."""
        import comfy.model_management as mm

        asked, load = [], mm.load_models_gpu

        def listen(models, *args, **kwargs):
            if kwargs.get("minimum_memory_required") is not None:
                asked.append(kwargs["minimum_memory_required"])
            return load(models, *args, **kwargs)

        monkeypatch.setattr(mm, "load_models_gpu", listen)
        return asked

    def test_a_decoding_with_its_gradient_is_asked_for(self, paint, given, announced):
        import comfy.model_management as mm

        for change in ({"gaze_strength": 0.0}, {"guidance_decode": "preview"}, {}):
            paint(**given | change)
        plain, preview, decoded = announced
        copy = mm.module_size(given["vae"].first_stage_model)
        floats = 2178 * SIZE * SIZE  # ComfyUI's own figure for decoding without a gradient
        assert preview == plain
        assert 1.2 * 4 * floats < decoded - plain - copy < 1.7 * 4 * floats

    def test_it_grows_with_the_area_and_the_precision(self, pack, given, monkeypatch):
        from faceloom.nodes import _memory

        copy = _memory.decoding(given["vae"], (1, 4, 0, 0))
        small, large = (_memory.decoding(given["vae"], (1, 4, edge, edge)) - copy for edge in (64, 128))
        assert large == pytest.approx(4 * small)
        assert 2.8e9 < small < 3.3e9  # 2.8 GB are measured for a crop of 512 pixels
        monkeypatch.setattr(given["vae"], "vae_dtype", torch.float16)
        assert _memory.decoding(given["vae"], (1, 4, 64, 64)) - copy == pytest.approx(small / 2)

    def test_the_activations_of_the_denoiser_are_asked_for(self, paint, given, announced):
        for change in ({}, {"guide_through": "denoiser"}, {"guide_through": "text"}, {"guide_through": "denoiser", "cfg": 1.0}):
            paint(**given | change)
        x0, denoiser, text, alone = announced
        assert denoiser == text
        assert denoiser - x0 == pytest.approx(2 * (alone - x0), rel=0.05) and alone - x0 > 264654 * 64 * 4  # counted for SD 1.5

    def test_room_is_made_for_copies(self, paint, given, monkeypatch):
        import comfy.model_management as mm

        asked, free = [], mm.free_memory
        monkeypatch.setattr(mm, "free_memory", lambda needed, *args, **kwargs: asked.append(needed) or free(needed, *args, **kwargs))
        paint(**given | {"gaze_strength": 0.0})
        asked.clear()
        paint(**given | {"guide_through": "denoiser"})
        assert given["model"].loaded_size() > 0
        assert {given["model"].loaded_size(), mm.module_size(given["vae"].first_stage_model)} <= set(asked)

    @pytest.mark.parametrize("where", ["pull", "networks", "copy"])
    def test_too_little_is_one_sentence(self, pack, paint, given, where, monkeypatch):
        import comfy.model_management as mm
        from faceloom.models.diffusion import guidance
        from faceloom.models.errors import FaceLoomError
        from faceloom.nodes import _sampling, diffusion

        def full(*args, **kwargs):
            raise mm.OOM_EXCEPTION("CUDA out of memory. Tried to allocate 2.00 GiB.")

        target = {"pull": (guidance.Guidance, "combined_loss"), "networks": (diffusion, "make_guidance"),
                  "copy": (_sampling.copy, "deepcopy")}[where]
        monkeypatch.setattr(*target, full)
        with pytest.raises(FaceLoomError, match=r"memory.*guidance_decode to preview.*smaller size"):
            paint(**given)

    def test_without_guidance_it_stays_comfyuis_own_error(self, paint, given, monkeypatch):
        import comfy.model_management as mm
        import comfy.sample

        def full(*args, **kwargs):
            raise mm.OOM_EXCEPTION("CUDA out of memory.")

        monkeypatch.setattr(comfy.sample, "sample", full)
        with pytest.raises(mm.OOM_EXCEPTION):
            paint(**given | {"gaze_strength": 0.0})


class TestNaN:
    """The part that answered it is named."""

    @pytest.fixture(autouse=True)
    def error(self, pack):
        from faceloom.models.errors import FaceLoomError

        self.error = FaceLoomError

    @pytest.mark.parametrize("through", ["x0", "denoiser", "text"])
    def test_of_the_model(self, paint, given, through):
        model = given["model"].clone()
        model.set_model_attn2_output_patch(lambda out, options: out * float("nan"))
        with pytest.raises(self.error, match=r"^The model returned NaN"):
            paint(**given | {"model": model, "guide_through": through})

    @pytest.mark.parametrize("through", ["x0", "denoiser", "text"])
    def test_of_the_vae(self, paint, given, through):
        vae = doubles.vae()
        vae.first_stage_model.decoder.conv_out.bias.data.fill_(float("nan"))
        with pytest.raises(self.error, match=r"^The VAE returned NaN during guidance; run ComfyUI with --fp32-vae or set guidance_decode"):
            paint(**given | {"vae": vae, "guide_through": through})

    def test_of_the_vaes_gradient(self, paint, given, monkeypatch):
        """Half precision overflows on the way back."""
        from faceloom.nodes import _sampling

        make = _sampling.vae_decoder

        def overflowing(model, vae):
            look = make(model, vae)

            def pictures(latents):
                shown = look(latents)
                shown.register_hook(lambda gradient: gradient * float("inf"))
                return shown

            return pictures

        monkeypatch.setattr(_sampling, "vae_decoder", overflowing)
        with pytest.raises(self.error, match=r"^The gradient through the VAE is NaN; run ComfyUI with --fp32-vae or set guidance_decode"):
            paint(**given)
        with pytest.raises(self.error, match=r"^The gradient through model and VAE is NaN; set guide_through to x0"):
            paint(**given | {"guide_through": "denoiser"})
        with pytest.raises(self.error, match=r"^The gradient through model and VAE is NaN; set guide_through to x0"):
            paint(**given | {"guide_through": "text"})

    def test_of_a_network_that_looks(self, paint, given):
        from faceloom.models.diffusion.gaze import GazeEstimator
        from faceloom.models.networks.eyenet import EyeNet

        net = EyeNet(1, 8, 3)
        torch.nn.init.constant_(net.gaze_fc2.weight, float("nan"))
        with pytest.raises(self.error, match=r"^The gaze estimator returned NaN; connect another one or set gaze_strength to 0"):
            paint(**given | {"gaze_estimator": GazeEstimator("GazeEstimator", net)})
